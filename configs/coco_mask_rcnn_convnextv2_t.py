# ConvNeXt V2-Tiny + Mask R-CNN on COCO, 36 epochs ("3x"), multi-scale
# Paper    "ConvNeXt V2", arXiv:2301.00808
# Command  python tools/train.py configs/coco_mask_rcnn_convnextv2_t.py
# Hardware 8 GPUs x 2 images
# Expected unknown: no recipe for this size is published and this one was not run. Its figures are the
#          V1-T recipe's (lr, layer decay, also those of MMDetection's Mask R-CNN V2-B)
#          with its drop path; V2's author advises no weight decay on GRN.
# Weights  FCMAE pre-trained, CC-BY-NC 4.0 (non-commercial)
_base_ = "_base_/coco_mask_rcnn.py"

model = dict(
    backbone=dict(
        type="ConvNeXtV2",
        arch="tiny",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        init_cfg=dict(type="Pretrained", checkpoint="convnextv2_tiny.fcmae"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)

# layer_wise, 0.95: 8 levels, the stem trains at 0.95 ** 7 = 0.698 of lr, the heads at 1
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale="dynamic",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor="LearningRateDecayOptimizerConstructor",
    paramwise_cfg=dict(decay_rate=0.95, decay_type="layer_wise", num_layers=6),
)
