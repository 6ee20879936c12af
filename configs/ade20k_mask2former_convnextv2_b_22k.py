# ConvNeXt V2-Base + Mask2Former on ADE20K
# Paper    "ConvNeXt V2", arXiv:2301.00808; Mask2Former, arXiv:2112.01527
# Command  torchrun --nproc-per-node 8 tools/train.py configs/ade20k_mask2former_convnextv2_b_22k.py
#          --launcher pytorch
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 1e-4, weight decay 0.05, 0.1 of lr in the backbone, drop path 0.4, gradient
#          norm <= 0.01, float32
# Data     short side 256 to 1024, crop 512x512, flip, colour
# Schedule 160000 steps * 16 images / 20210 images = 127 epochs; lr falls to 0 with power 0.9
# Weights  convnextv2_base.fcmae_ft_in22k_in1k_384, CC-BY-NC-4.0
# Expected no score is published. 107.7 M parameters (counted), 508.0 GFLOPs at 2048x512 (counted)
# Status   untested: Mask2Former's own recipe; the backbone at a tenth of lr, as there and in
#          OneFormer with ConvNeXt; drop path as in OneFormer's ConvNeXt-L. Not trained here
_base_ = [
    "_base_/ade20k_mask2former_160k.py",
    "_base_/mask2former_ade20k.py",
    "_base_/runtime_mmseg.py",
]
recipe = "ade20k_mask2former_convnextv2_b_22k"  # its row in convnext_backbones.recipes

custom_imports = dict(
    imports=["convnext_backbones.adapters.openmmlab", "mmdet.models"], allow_failed_imports=False
)

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        type="ConvNeXtV2",
        arch="base",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.4,
        init_cfg=dict(type="Pretrained", checkpoint="convnextv2_base.fcmae_ft_in22k_in1k_384"),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
)

# lr times: stem 0.1, stage1 0.1, stage2 0.1, stage3 0.1, stage4 0.1, heads 1
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(
        type="AdamW",
        lr=1e-4,
        betas=(0.9, 0.999),
        weight_decay=0.05,
    ),
    clip_grad=dict(max_norm=0.01, norm_type=2),
    constructor="ConvNeXtLayerDecay",
    paramwise_cfg=dict(
        custom_keys={
            "backbone": dict(lr_mult=0.1),
            "query_embed": dict(decay_mult=0.0),
            "query_feat": dict(decay_mult=0.0),
            "level_embed": dict(decay_mult=0.0),
        },
    ),
)
