# ConvNeXt-Tiny + DINO on COCO
# Paper    "A ConvNet for the 2020s", arXiv:2201.03545; DINO, arXiv:2203.03605
# Command  torchrun --nproc-per-node 8 tools/train.py configs/coco_dino_convnext_t_22k.py --launcher
#          pytorch
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 1e-4, weight decay 1e-4, 0.1 of lr in the backbone, drop path 0, gradient norm
#          <= 0.1, float32
# Data     multi-scale 480 to 800, half of it after DETR's crop, flip
# Schedule 12 epochs * 7393 steps (118287 images / 16) = 88716 steps; lr x 0.1 after epochs 11
# Weights  convnext_tiny.fb_in22k_ft_in1k_384, MIT
# Expected box AP 52.4. 48.5 M parameters (counted), 282.2 GFLOPs at 1280x800 (counted)
# Status   published: detrex, projects/dino (Detectron2), whose DINO has other position embeddings.
#          Not trained here
_base_ = [
    "_base_/coco_dino_12e.py",
    "_base_/dino.py",
    "_base_/runtime_mmdet.py",
]
recipe = "coco_dino_convnext_t_22k"  # its row in convnext_backbones.recipes

model = dict(
    backbone=dict(
        type="ConvNeXt",
        arch="tiny",
        out_indices=(1, 2, 3),
        drop_path_rate=0.0,
        layer_scale_init_value=1.0,
        init_cfg=dict(type="Pretrained", checkpoint="convnext_tiny.fb_in22k_ft_in1k_384"),
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
