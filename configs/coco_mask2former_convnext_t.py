# ConvNeXt-Tiny + Mask2Former on COCO
# Paper    "A ConvNet for the 2020s", arXiv:2201.03545; Mask2Former, arXiv:2112.01527
# Command  torchrun --nproc-per-node 8 tools/train.py configs/coco_mask2former_convnext_t.py
#          --launcher pytorch
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 1e-4, weight decay 0.05, 0.1 of lr in the backbone, drop path 0.3, gradient
#          norm <= 0.01, float32
# Data     large-scale jitter 0.1 to 2.0, crop 1024x1024, flip
# Schedule 368750 steps * 16 images / 117266 images = 50 epochs; lr x 0.1 after steps 327778 and
#          355092
# Weights  convnext_tiny.fb_in1k_no_ema, MIT
# Expected no score is published. 47.7 M parameters (counted), 257.3 GFLOPs at 1280x800 (counted)
# Status   untested: Mask2Former's own recipe; the backbone at a tenth of lr, as there and in
#          OneFormer with ConvNeXt; drop path as for its Swin-T. Not trained here
_base_ = [
    "_base_/coco_mask2former_50e.py",
    "_base_/mask2former_coco.py",
    "_base_/runtime_mmdet.py",
]
recipe = "coco_mask2former_convnext_t"  # its row in convnext_backbones.recipes

model = dict(
    backbone=dict(
        type="ConvNeXt",
        arch="tiny",
        out_indices=(0, 1, 2, 3),
        drop_path_rate=0.3,
        layer_scale_init_value=1.0,
        init_cfg=dict(type="Pretrained", checkpoint="convnext_tiny.fb_in1k_no_ema"),
    ),
    panoptic_head=dict(in_channels=[96, 192, 384, 768]),
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
