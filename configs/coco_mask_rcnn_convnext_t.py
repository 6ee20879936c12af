# ConvNeXt-Tiny + Mask R-CNN on COCO, 36 epochs ("3x"), multi-scale
# Paper    "A ConvNet for the 2020s", arXiv:2201.03545
# Command  python tools/train.py configs/coco_mask_rcnn_convnext_t.py
# Hardware 8 GPUs x 2 images
# Expected box AP 46.2, mask AP 41.7 (official README); MMDetection's rerun: 46.2, 41.7 with 7.3 GB per
#          GPU. 48 M parameters, 262 GFLOPs at 1280x800. Not retrained here.
_base_ = "_base_/coco_mask_rcnn.py"

model = dict(
    backbone=dict(
        type="ConvNeXt",
        arch="tiny",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        init_cfg=dict(type="Pretrained", checkpoint="convnext_tiny.fb_in1k_no_ema"),
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
