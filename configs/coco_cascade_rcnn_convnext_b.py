# ConvNeXt-Base + Cascade R-CNN on COCO
# Paper    "A ConvNet for the 2020s", arXiv:2201.03545; Cascade R-CNN, arXiv:1712.00726
# Command  torchrun --nproc-per-node 8 tools/train.py configs/coco_cascade_rcnn_convnext_b.py
#          --launcher pytorch
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 2e-4, weight decay 0.05, layer_wise decay 0.8, drop path 0.7, mixed precision
# Data     multi-scale 480 to 800, half of it after DETR's crop, flip
# Schedule 36 epochs * 7330 steps (117266 images / 16) = 263880 steps; warm-up over 1000 steps from
#          0.001 of lr; lr x 0.1 after epochs 27 and 33
# Weights  convnext_base.fb_in1k_no_ema, MIT
# Expected no score is published. 137.9 M parameters (counted), 805.2 GFLOPs at 1280x800 (counted)
# Status   untested: the recipe of coco_cascade_mask_rcnn_convnext_b without masks. Not trained here
_base_ = [
    "_base_/coco_boxes_3x.py",
    "_base_/cascade_rcnn.py",
    "_base_/runtime_mmdet.py",
]
recipe = "coco_cascade_rcnn_convnext_b"  # its row in convnext_backbones.recipes

model = dict(
    backbone=dict(
        type="ConvNeXt",
        arch="base",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.7,
        layer_scale_init_value=1.0,
        init_cfg=dict(type="Pretrained", checkpoint="convnext_base.fb_in1k_no_ema"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)

# lr times: stem 0.055, stage1 0.069, stage2 0.086, stage3 0.107..0.64, stage4 0.8, heads 1
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale="dynamic",
    optimizer=dict(
        type="AdamW",
        lr=2e-4,
        betas=(0.9, 0.999),
        weight_decay=0.05,
    ),
    constructor="ConvNeXtLayerDecay",
    paramwise_cfg=dict(decay_rate=0.8, decay_type="layer_wise"),
)
