# ConvNeXt-Tiny + UPerNet on ADE20K, 160k iterations
# Paper    "A ConvNet for the 2020s", arXiv:2201.03545
# Command  python tools/train.py configs/ade20k_upernet_convnext_t.py
# Hardware 8 GPUs x 2 images
# Expected mIoU 46.0 single scale, 46.7 multi-scale (official README); MMSegmentation's rerun: 46.11,
#          46.62. 60 M parameters, 939 GFLOPs at 512x2048. Not retrained here.
_base_ = "_base_/ade20k_upernet.py"

model = dict(
    backbone=dict(
        type="ConvNeXt",
        arch="tiny",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        layer_scale_init_value=1.0,
        init_cfg=dict(type="Pretrained", checkpoint="convnext_tiny.fb_in1k"),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)

# stage_wise, 0.9: the stem and downsampling train at 0.478 of lr, stages 1..4 at 0.531 0.590 0.656
# 0.729, the heads at 1
optim_wrapper = dict(
    type="AmpOptimWrapper",
    loss_scale="dynamic",
    optimizer=dict(type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    constructor="LearningRateDecayOptimizerConstructor",
    paramwise_cfg=dict(decay_rate=0.9, decay_type="stage_wise", num_layers=6),
)
