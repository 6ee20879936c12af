# ConvNeXt-Base + RTMDet on COCO
# Paper    "A ConvNet for the 2020s", arXiv:2201.03545; RTMDet, arXiv:2212.07784
# Command  torchrun --nproc-per-node 4 tools/train.py configs/coco_rtmdet_convnext_b_22k.py
#          --launcher pytorch
# Hardware 4 GPUs x 32 images = 128
# Recipe   AdamW, lr 0.001, weight decay 0.05, layer_wise decay 0.8, drop path 0.7, float32
# Data     mosaic and mix-up, scale 0.1 to 2.0, crop 640x640, colour, flip; plain in the last 10
#          epochs; averaged weights
# Schedule 100 epochs * 917 steps (117266 images / 128) = 91700 steps; warm-up over 1000 steps from
#          1e-5 of lr; lr falls as a cosine from epoch 50 on, to 5e-5 in every layer
# Weights  convnext_base.fb_in22k_ft_in1k_384, MIT
# Expected box AP 53.1. 113.7 M parameters (counted), 171.2 GFLOPs at 640x640 (counted)
# Status   published: MMDetection, configs/rtmdet. Not trained here
_base_ = [
    "_base_/coco_rtmdet_100e.py",
    "_base_/rtmdet.py",
    "_base_/runtime_mmdet.py",
]
recipe = "coco_rtmdet_convnext_b_22k"  # its row in convnext_backbones.recipes

model = dict(
    backbone=dict(
        type="ConvNeXt",
        arch="base",
        out_indices=(1, 2, 3),
        drop_path_rate=0.7,
        layer_scale_init_value=1.0,
        with_cp=True,
        init_cfg=dict(type="Pretrained", checkpoint="convnext_base.fb_in22k_ft_in1k_384"),
    ),
    neck=dict(in_channels=[256, 512, 1024]),
)

# lr times: stem 0.055, stage1 0.069, stage2 0.086, stage3 0.107..0.64, stage4 0.8, heads 1
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(
        type="AdamW",
        lr=0.001,
        betas=(0.9, 0.999),
        weight_decay=0.05,
    ),
    constructor="ConvNeXtLayerDecay",
    paramwise_cfg=dict(decay_rate=0.8, decay_type="layer_wise"),
)
