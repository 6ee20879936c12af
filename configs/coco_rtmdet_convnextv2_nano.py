# ConvNeXt V2-Nano + RTMDet on COCO
# Paper    "ConvNeXt V2", arXiv:2301.00808; RTMDet, arXiv:2212.07784
# Command  torchrun --nproc-per-node 4 tools/train.py configs/coco_rtmdet_convnextv2_nano.py
#          --launcher pytorch
# Hardware 4 GPUs x 32 images = 128
# Recipe   AdamW, lr 0.001, weight decay 0.05, layer_wise decay 0.8, drop path 0, float32
# Data     mosaic and mix-up, scale 0.1 to 2.0, crop 640x640, colour, flip; plain in the last 10
#          epochs; averaged weights
# Schedule 100 epochs * 917 steps (117266 images / 128) = 91700 steps; warm-up over 1000 steps from
#          1e-5 of lr; lr falls as a cosine from epoch 50 on, to 5e-5 in every layer
# Weights  convnextv2_nano.fcmae_ft_in1k, CC-BY-NC-4.0
# Expected no score is published. 21.3 M parameters (counted), 31.3 GFLOPs at 640x640 (counted)
# Status   untested: MMDetection's recipe for RTMDet-l with ConvNeXt-B; drop path, neck and head as
#          for V2-Pico. Not trained here
_base_ = [
    "_base_/coco_rtmdet_100e.py",
    "_base_/rtmdet.py",
    "_base_/runtime_mmdet.py",
]
recipe = "coco_rtmdet_convnextv2_nano"  # its row in convnext_backbones.recipes

model = dict(
    backbone=dict(
        type="ConvNeXtV2",
        arch="nano",
        out_indices=(1, 2, 3),
        drop_path_rate=0.0,
        init_cfg=dict(type="Pretrained", checkpoint="convnextv2_nano.fcmae_ft_in1k"),
    ),
    neck=dict(
        in_channels=[160, 320, 640],
        out_channels=128,
        num_csp_blocks=1,
        norm_cfg=dict(num_groups=16),  # 32 do not divide its narrowest layer, 80 channels
    ),
    bbox_head=dict(in_channels=128, feat_channels=128, exp_on_reg=False),
)

# lr times: stem 0.21, stage1 0.262, stage2 0.328, stage3 0.41..0.64, stage4 0.8, heads 1
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
