# ConvNeXt V2-Nano + Faster R-CNN on COCO
# Paper    "ConvNeXt V2", arXiv:2301.00808; Faster R-CNN, arXiv:1506.01497
# Command  python tools/train_detectron2.py configs/detectron2/coco_faster_rcnn_convnextv2_nano.py
#          --num-gpus 8
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 1e-4, weight decay 0.05, layer_wise decay 0.95, drop path 0.2, mixed precision
# Data     multi-scale 480 to 800, half of it after DETR's crop, flip
# Schedule 36 epochs * 7330 steps (117266 images / 16) = 263880 steps; warm-up over 1000 steps from
#          0.001 of lr; lr x 0.1 after epochs 27 and 33
# Weights  convnextv2_nano.fcmae, CC-BY-NC-4.0
# Expected no score is published. Here Detectron2's heads, of the same size
# Status   the recipe is untested: the recipe of coco_mask_rcnn_convnextv2_nano without masks. Not
#          trained here in Detectron2
from detectron2.config import LazyCall as L

from convnext_backbones.adapters.detectron2 import ConvNeXtV2

from ._base_.coco_boxes import dataloader, lr_multiplier, optimizer, train
from ._base_.faster_rcnn_fpn import model

recipe = "coco_faster_rcnn_convnextv2_nano"  # its row in convnext_backbones.recipes

model.backbone.bottom_up = L(ConvNeXtV2)(
    arch="nano",
    out_features=["stage1", "stage2", "stage3", "stage4"],
    drop_path_rate=0.2,
)
train.init_checkpoint = "convnextv2_nano.fcmae"
train.amp.enabled = True

# lr times: stem 0.698, stage1 0.735, stage2 0.774, stage3 0.815..0.902, stage4 0.95, heads 1
optimizer.lr = 1e-4
optimizer.params.decay_rate = 0.95
optimizer.params.decay_type = "layer_wise"
