# ConvNeXt-Small + SemSegFPN on ADE20K
# Paper    "A ConvNet for the 2020s", arXiv:2201.03545; SemSegFPN, arXiv:1901.02446
# Command  python tools/train_detectron2.py configs/detectron2/ade20k_sem_seg_fpn_convnext_s.py
#          --num-gpus 8
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 1e-4, weight decay 0.05, stage_wise decay 0.9, drop path 0.3, mixed precision
# Data     scale 0.5 to 2.0, crop 512x512, flip, colour
# Schedule 160000 steps * 16 images / 20210 images = 127 epochs; warm-up over 1500 steps from 1e-6
#          of lr; lr falls to 0 with power 1
# Weights  convnext_small.fb_in1k_no_ema, MIT
# Expected no score is published. Here Detectron2's own segmentor; tested on whole pictures
# Status   the recipe is untested: the recipe of ade20k_upernet_convnext_s on Detectron2's own head.
#          Not trained here in Detectron2
from detectron2.config import LazyCall as L

from convnext_backbones.adapters.detectron2 import ConvNeXt

from ._base_.ade20k_sem_seg_fpn import dataloader, lr_multiplier, model, optimizer, train

recipe = "ade20k_sem_seg_fpn_convnext_s"  # its row in convnext_backbones.recipes

model.backbone.bottom_up = L(ConvNeXt)(
    arch="small",
    out_features=["stage1", "stage2", "stage3", "stage4"],
    drop_path_rate=0.3,
    layer_scale_init_value=1.0,
)
train.init_checkpoint = "convnext_small.fb_in1k_no_ema"
train.amp.enabled = True

# lr times: stem 0.254, stage1 0.282, stage2 0.314, stage3 0.349, stage4 0.387, heads 1
optimizer.lr = 1e-4
optimizer.params.decay_rate = 0.9
optimizer.params.decay_type = "stage_wise"
