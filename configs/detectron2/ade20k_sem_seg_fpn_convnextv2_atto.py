# ConvNeXt V2-Atto + SemSegFPN on ADE20K
# Paper    "ConvNeXt V2", arXiv:2301.00808; SemSegFPN, arXiv:1901.02446
# Command  python tools/train_detectron2.py configs/detectron2/ade20k_sem_seg_fpn_convnextv2_atto.py
#          --num-gpus 8
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 1e-4, weight decay 0.05, stage_wise decay 0.9, drop path 0.1, mixed precision
# Data     scale 0.5 to 2.0, crop 512x512, flip, colour
# Schedule 160000 steps * 16 images / 20210 images = 127 epochs; warm-up over 1500 steps from 1e-6
#          of lr; lr falls to 0 with power 1
# Weights  convnextv2_atto.fcmae_ft_in1k, CC-BY-NC-4.0
# Expected no score is published. Here Detectron2's own segmentor; tested on whole pictures
# Status   the recipe is untested: the recipe of ade20k_upernet_convnextv2_atto on Detectron2's own
#          head. Not trained here in Detectron2
from detectron2.config import LazyCall as L

from convnext_backbones.adapters.detectron2 import ConvNeXtV2

from ._base_.ade20k_sem_seg_fpn import dataloader, lr_multiplier, model, optimizer, train

recipe = "ade20k_sem_seg_fpn_convnextv2_atto"  # its row in convnext_backbones.recipes

model.backbone.bottom_up = L(ConvNeXtV2)(
    arch="atto",
    out_features=["stage1", "stage2", "stage3", "stage4"],
    drop_path_rate=0.1,
)
train.init_checkpoint = "convnextv2_atto.fcmae_ft_in1k"
train.amp.enabled = True

# lr times: stem 0.531, stage1 0.59, stage2 0.656, stage3 0.729, stage4 0.81, heads 1
optimizer.lr = 1e-4
optimizer.params.decay_rate = 0.9
optimizer.params.decay_type = "stage_wise"
