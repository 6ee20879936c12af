# ConvNeXt V2-Tiny + UPerNet on ADE20K, 160k iterations
# Paper    "ConvNeXt V2", arXiv:2301.00808
# Command  python tools/train.py configs/ade20k_upernet_convnextv2_t.py
# Hardware 8 GPUs x 2 images
# Expected unknown: no recipe for ConvNeXt V2 on ADE20K is published and this one was not run. Its
#          figures: the V1-T recipe (V2's paper sweeps layer decay 0.9, 0.95 and drop path 0.2..0.5)
#          with its drop path; V2's author advises no weight decay on GRN.
# Weights  CC-BY-NC 4.0 (non-commercial)
_base_ = "_base_/ade20k_upernet.py"

model = dict(
    backbone=dict(
        type="ConvNeXtV2",
        arch="tiny",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        init_cfg=dict(type="Pretrained", checkpoint="convnextv2_tiny.fcmae_ft_in1k"),
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
