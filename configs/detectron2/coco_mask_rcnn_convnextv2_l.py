# ConvNeXt V2-Large + Mask R-CNN on COCO
# Paper    "ConvNeXt V2", arXiv:2301.00808
# Command  python tools/train_detectron2.py configs/detectron2/coco_mask_rcnn_convnextv2_l.py
#          --num-gpus 8
# Hardware 8 GPUs x 4 images = 32
# Recipe   AdamW, lr 1e-4, weight decay 0.05, layer_wise decay 0.95, drop path 0.5, mixed precision
# Data     large-scale jitter 0.1 to 2.0, crop 1024x1024, flip
# Schedule 36 epochs * 3665 steps (117266 images / 32) = 131940 steps; warm-up over 1000 steps from
#          0.001 of lr; lr x 0.1 after epochs 27 and 33
# Weights  convnextv2_large.fcmae, CC-BY-NC-4.0
# Expected box AP 54.4, mask AP 47.7 with the published heads. Here Detectron2's heads, of the same
#          size; no soft-NMS, which Detectron2 does not have
# Status   the recipe is untested: the V2 paper's recipe, layer decay and drop path out of its
#          sweep; the score is the paper's, which does not say what it took. Not trained here in
#          Detectron2
from detectron2.config import LazyCall as L

from convnext_backbones.adapters.detectron2 import ConvNeXtV2

from ._base_.coco_lsj import dataloader, lr_multiplier, optimizer, train
from ._base_.mask_rcnn_fpn import model

recipe = "coco_mask_rcnn_convnextv2_l"  # its row in convnext_backbones.recipes

model.backbone.bottom_up = L(ConvNeXtV2)(
    arch="large",
    out_features=["stage1", "stage2", "stage3", "stage4"],
    drop_path_rate=0.5,
)
train.init_checkpoint = "convnextv2_large.fcmae"
train.amp.enabled = True

# lr times: stem 0.513, stage1 0.54, stage2 0.569, stage3 0.599..0.902, stage4 0.95, heads 1
optimizer.lr = 1e-4
optimizer.params.decay_rate = 0.95
optimizer.params.decay_type = "layer_wise"
