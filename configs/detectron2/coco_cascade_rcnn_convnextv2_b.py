# ConvNeXt V2-Base + Cascade R-CNN on COCO
# Paper    "ConvNeXt V2", arXiv:2301.00808; Cascade R-CNN, arXiv:1712.00726
# Command  python tools/train_detectron2.py configs/detectron2/coco_cascade_rcnn_convnextv2_b.py
#          --num-gpus 8
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 1e-4, weight decay 0.05, layer_wise decay 0.9, drop path 0.4, mixed precision
# Data     multi-scale 480 to 800, half of it after DETR's crop, flip
# Schedule 36 epochs * 7330 steps (117266 images / 16) = 263880 steps; warm-up over 1000 steps from
#          0.001 of lr; lr x 0.1 after epochs 27 and 33
# Weights  convnextv2_base.fcmae, CC-BY-NC-4.0
# Expected no score is published. Here Detectron2's heads: class-agnostic boxes, gradients averaged
#          over the stages
# Status   the recipe is untested: the recipe of coco_cascade_mask_rcnn_convnextv2_b without masks.
#          Not trained here in Detectron2
from detectron2.config import LazyCall as L

from convnext_backbones.adapters.detectron2 import ConvNeXtV2

from ._base_.cascade_rcnn_fpn import model
from ._base_.coco_boxes import dataloader, lr_multiplier, optimizer, train

recipe = "coco_cascade_rcnn_convnextv2_b"  # its row in convnext_backbones.recipes

model.backbone.bottom_up = L(ConvNeXtV2)(
    arch="base",
    out_features=["stage1", "stage2", "stage3", "stage4"],
    drop_path_rate=0.4,
)
train.init_checkpoint = "convnextv2_base.fcmae"
train.amp.enabled = True

# lr times: stem 0.254, stage1 0.282, stage2 0.314, stage3 0.349..0.81, stage4 0.9, heads 1
optimizer.lr = 1e-4
optimizer.params.decay_rate = 0.9
optimizer.params.decay_type = "layer_wise"
