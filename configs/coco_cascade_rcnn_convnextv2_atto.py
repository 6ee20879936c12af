# ConvNeXt V2-Atto + Cascade R-CNN on COCO
# Paper    "ConvNeXt V2", arXiv:2301.00808; Cascade R-CNN, arXiv:1712.00726
# Command  torchrun --nproc-per-node 8 tools/train.py configs/coco_cascade_rcnn_convnextv2_atto.py
#          --launcher pytorch
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 1e-4, weight decay 0.05, layer_wise decay 0.9, drop path 0.1, mixed precision
# Data     multi-scale 480 to 800, half of it after DETR's crop, flip
# Schedule 36 epochs * 7330 steps (117266 images / 16) = 263880 steps; warm-up over 1000 steps from
#          0.001 of lr; lr x 0.1 after epochs 27 and 33
# Weights  convnextv2_atto.fcmae, CC-BY-NC-4.0
# Expected no score is published. 53.4 M parameters (counted), 500.3 GFLOPs at 1280x800 (counted)
# Status   untested: the recipe of coco_cascade_mask_rcnn_convnextv2_atto without masks. Not trained
#          here
_base_ = [
    "_base_/coco_boxes_3x.py",
    "_base_/cascade_rcnn.py",
    "_base_/runtime_mmdet.py",
]
recipe = "coco_cascade_rcnn_convnextv2_atto"  # its row in convnext_backbones.recipes

model = dict(
    backbone=dict(
        type="ConvNeXtV2",
        arch="atto",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="convnextv2_atto.fcmae"),
    ),
    neck=dict(in_channels=[40, 80, 160, 320]),
)

# lr times: stem 0.531, stage1 0.59, stage2 0.656, stage3 0.729..0.81, stage4 0.9, heads 1
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
    paramwise_cfg=dict(decay_rate=0.9, decay_type="layer_wise"),
)
