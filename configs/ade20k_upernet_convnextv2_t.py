# ConvNeXt V2-Tiny + UPerNet on ADE20K
# Paper    "ConvNeXt V2", arXiv:2301.00808
# Command  torchrun --nproc-per-node 8 tools/train.py configs/ade20k_upernet_convnextv2_t.py
#          --launcher pytorch
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 1e-4, weight decay 0.05, stage_wise decay 0.9, drop path 0.4, mixed precision
# Data     scale 0.5 to 2.0, crop 512x512, flip, colour
# Schedule 160000 steps * 16 images / 20210 images = 127 epochs; warm-up over 1500 steps from 1e-6
#          of lr; lr falls to 0 with power 1
# Weights  convnextv2_tiny.fcmae_ft_in1k, CC-BY-NC-4.0
# Expected no score is published. 60.3 M parameters (counted), 938.9 GFLOPs at 2048x512 (counted)
# Status   untested: lr, layer decay and drop path out of the V2 paper's sweep, stage_wise as V1;
#          the paper has no score of this size. Not trained here
_base_ = [
    "_base_/ade20k_160k.py",
    "_base_/upernet.py",
    "_base_/runtime_mmseg.py",
]
recipe = "ade20k_upernet_convnextv2_t"  # its row in convnext_backbones.recipes

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        type="ConvNeXtV2",
        arch="tiny",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        init_cfg=dict(type="Pretrained", checkpoint="convnextv2_tiny.fcmae_ft_in1k"),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)

# lr times: stem 0.478, stage1 0.531, stage2 0.59, stage3 0.656, stage4 0.729, heads 1
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
