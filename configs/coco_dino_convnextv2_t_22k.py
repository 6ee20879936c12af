# ConvNeXt V2-Tiny + DINO on COCO
# Paper    "ConvNeXt V2", arXiv:2301.00808; DINO, arXiv:2203.03605
# Command  torchrun --nproc-per-node 8 tools/train.py configs/coco_dino_convnextv2_t_22k.py
#          --launcher pytorch
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 1e-4, weight decay 1e-4, 0.1 of lr in the backbone, drop path 0, gradient norm
#          <= 0.1, float32
# Data     multi-scale 480 to 800, half of it after DETR's crop, flip
# Schedule 12 epochs * 7393 steps (118287 images / 16) = 88716 steps; lr x 0.1 after epochs 11
# Weights  convnextv2_tiny.fcmae_ft_in22k_in1k_384, CC-BY-NC-4.0
# Expected no score is published. 48.5 M parameters (counted), 282.2 GFLOPs at 1280x800 (counted)
# Status   untested: detrex's recipe for ConvNeXt's DINO with V2's weights of the same training
#          data. Not trained here
_base_ = [
    "_base_/coco_dino_12e.py",
    "_base_/dino.py",
    "_base_/runtime_mmdet.py",
]
recipe = "coco_dino_convnextv2_t_22k"  # its row in convnext_backbones.recipes

model = dict(
    backbone=dict(
        type="ConvNeXtV2",
        arch="tiny",
        out_indices=(1, 2, 3),
        drop_path_rate=0.0,
        init_cfg=dict(type="Pretrained", checkpoint="convnextv2_tiny.fcmae_ft_in22k_in1k_384"),
    ),
    neck=dict(in_channels=[192, 384, 768]),
)

# lr times: stem 0.1, stage1 0.1, stage2 0.1, stage3 0.1, stage4 0.1, heads 1
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(
        type="AdamW",
        lr=1e-4,
        betas=(0.9, 0.999),
        weight_decay=1e-4,
    ),
    clip_grad=dict(max_norm=0.1, norm_type=2),
    constructor="ConvNeXtLayerDecay",
    paramwise_cfg=dict(
        custom_keys={
            "backbone": dict(lr_mult=0.1),
        },
    ),
)
