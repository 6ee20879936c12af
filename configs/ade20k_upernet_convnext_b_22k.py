# ConvNeXt-Base + UPerNet on ADE20K
# Paper    "A ConvNet for the 2020s", arXiv:2201.03545
# Command  torchrun --nproc-per-node 8 tools/train.py configs/ade20k_upernet_convnext_b_22k.py
#          --launcher pytorch
# Hardware 8 GPUs x 2 images = 16; 8.53 GB a GPU
# Recipe   AdamW, lr 1e-4, weight decay 0.05, stage_wise decay 0.9, drop path 0.4, mixed precision
# Data     scale 0.5 to 2.0, crop 640x640, flip, colour
# Schedule 160000 steps * 16 images / 20210 images = 127 epochs; warm-up over 1500 steps from 1e-6
#          of lr; lr falls to 0 with power 1
# Weights  convnext_base.fb_in22k, MIT
# Expected mIoU 52.6, multi-scale 53.1. 122 M parameters, 1828 GFLOPs at 2560x640
# Status   published: official ConvNeXt README and configs; MMSegmentation got mIoU 52.13,
#          multi-scale 52.66. Not trained here
_base_ = [
    "_base_/ade20k_640_160k.py",
    "_base_/upernet.py",
    "_base_/runtime_mmseg.py",
]
recipe = "ade20k_upernet_convnext_b_22k"  # its row in convnext_backbones.recipes

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        type="ConvNeXt",
        arch="base",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        init_cfg=dict(type="Pretrained", checkpoint="convnext_base.fb_in22k"),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
    test_cfg=dict(mode="slide", crop_size=(640, 640), stride=(426, 426)),
)

# lr times: stem 0.254, stage1 0.282, stage2 0.314, stage3 0.349, stage4 0.387, heads 1
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale="dynamic",
    optimizer=dict(
        type="AdamW",
        lr=1e-4,
        betas=(0.9, 0.999),
        weight_decay=0.05,
    ),
    constructor="ConvNeXtLayerDecay",
    paramwise_cfg=dict(decay_rate=0.9, decay_type="stage_wise"),
)
