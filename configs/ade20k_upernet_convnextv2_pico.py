# ConvNeXt V2-Pico + UPerNet on ADE20K
# Paper    "ConvNeXt V2", arXiv:2301.00808
# Command  torchrun --nproc-per-node 8 tools/train.py configs/ade20k_upernet_convnextv2_pico.py
#          --launcher pytorch
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 1e-4, weight decay 0.05, stage_wise decay 0.9, drop path 0.1, mixed precision
# Data     scale 0.5 to 2.0, crop 512x512, flip, colour
# Schedule 160000 steps * 16 images / 20210 images = 127 epochs; warm-up over 1500 steps from 1e-6
#          of lr; lr falls to 0 with power 1
# Weights  convnextv2_pico.fcmae_ft_in1k, CC-BY-NC-4.0
# Expected no score is published. 38.9 M parameters (counted), 871.3 GFLOPs at 2048x512 (counted)
# Status   untested: lr, layer decay and drop path out of the V2 paper's sweep, stage_wise as V1;
#          the paper has no score of this size. Not trained here
_base_ = [
    "_base_/ade20k_160k.py",
    "_base_/upernet.py",
    "_base_/runtime_mmseg.py",
]
recipe = "ade20k_upernet_convnextv2_pico"  # its row in convnext_backbones.recipes

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        type="ConvNeXtV2",
        arch="pico",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="convnextv2_pico.fcmae_ft_in1k"),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512]),
    auxiliary_head=dict(in_channels=256),
    test_cfg=dict(mode="slide", crop_size=(512, 512), stride=(341, 341)),
)

# lr times: stem 0.531, stage1 0.59, stage2 0.656, stage3 0.729, stage4 0.81, heads 1
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
