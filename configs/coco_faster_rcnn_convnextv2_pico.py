# ConvNeXt V2-Pico + Faster R-CNN on COCO
# Paper    "ConvNeXt V2", arXiv:2301.00808; Faster R-CNN, arXiv:1506.01497
# Command  torchrun --nproc-per-node 8 tools/train.py configs/coco_faster_rcnn_convnextv2_pico.py
#          --launcher pytorch
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 1e-4, weight decay 0.05, layer_wise decay 0.95, drop path 0.1, mixed precision
# Data     multi-scale 480 to 800, half of it after DETR's crop, flip
# Schedule 36 epochs * 7330 steps (117266 images / 16) = 263880 steps; warm-up over 1000 steps from
#          0.001 of lr; lr x 0.1 after epochs 27 and 33
# Weights  convnextv2_pico.fcmae, CC-BY-NC-4.0
# Expected no score is published. 26.1 M parameters (counted), 145.0 GFLOPs at 1280x800 (counted)
# Status   untested: the recipe of coco_mask_rcnn_convnextv2_pico without masks. Not trained here
_base_ = [
    "_base_/coco_boxes_3x.py",
    "_base_/faster_rcnn.py",
    "_base_/runtime_mmdet.py",
]
recipe = "coco_faster_rcnn_convnextv2_pico"  # its row in convnext_backbones.recipes

model = dict(
    backbone=dict(
        type="ConvNeXtV2",
        arch="pico",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="convnextv2_pico.fcmae"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)

# lr times: stem 0.735, stage1 0.774, stage2 0.815, stage3 0.857..0.902, stage4 0.95, heads 1
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
    paramwise_cfg=dict(decay_rate=0.95, decay_type="layer_wise"),
)
