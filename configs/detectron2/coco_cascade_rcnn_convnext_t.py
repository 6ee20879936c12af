# ConvNeXt-Tiny + Cascade R-CNN on COCO
# Paper    "A ConvNet for the 2020s", arXiv:2201.03545; Cascade R-CNN, arXiv:1712.00726
# Command  python tools/train_detectron2.py configs/detectron2/coco_cascade_rcnn_convnext_t.py
#          --num-gpus 8
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 2e-4, weight decay 0.05, layer_wise decay 0.7, drop path 0.4, mixed precision
# Data     multi-scale 480 to 800, half of it after DETR's crop, flip
# Schedule 36 epochs * 7330 steps (117266 images / 16) = 263880 steps; warm-up over 1000 steps from
#          0.001 of lr; lr x 0.1 after epochs 27 and 33
# Weights  convnext_tiny.fb_in1k_no_ema, MIT
# Expected no score is published. Here Detectron2's heads: class-agnostic boxes, gradients averaged
#          over the stages
# Status   the recipe is untested: the recipe of coco_cascade_mask_rcnn_convnext_t without masks.
#          Not trained here in Detectron2
from detectron2.config import LazyCall as L

from convnext_backbones.adapters.detectron2 import ConvNeXt

from ._base_.cascade_rcnn_fpn import model
from ._base_.coco_boxes import dataloader, lr_multiplier, optimizer, train

recipe = "coco_cascade_rcnn_convnext_t"  # its row in convnext_backbones.recipes

model.backbone.bottom_up = L(ConvNeXt)(
    arch="tiny",
    out_features=["stage1", "stage2", "stage3", "stage4"],
    drop_path_rate=0.4,
    layer_scale_init_value=1.0,
)
train.init_checkpoint = "convnext_tiny.fb_in1k_no_ema"
train.amp.enabled = True

# lr times: stem 0.082, stage1 0.118, stage2 0.168, stage3 0.24..0.49, stage4 0.7, heads 1
optimizer.lr = 2e-4
optimizer.params.decay_rate = 0.7
optimizer.params.decay_type = "layer_wise"
