# ConvNeXt-Xlarge + Cascade Mask R-CNN on COCO
# Paper    "A ConvNet for the 2020s", arXiv:2201.03545
# Command  python tools/train_detectron2.py
#          configs/detectron2/coco_cascade_mask_rcnn_convnext_xl_22k.py --num-gpus 8
# Hardware 8 GPUs x 2 images = 16
# Recipe   AdamW, lr 1e-4, weight decay 0.05, layer_wise decay 0.7, drop path 0.8, float32
# Data     multi-scale 480 to 800, half of it after DETR's crop, flip
# Schedule 36 epochs * 7330 steps (117266 images / 16) = 263880 steps; warm-up over 1000 steps from
#          0.001 of lr; lr x 0.1 after epochs 27 and 33
# Weights  convnext_xlarge.fb_in22k, MIT
# Expected box AP 55.2, mask AP 47.7 with the published heads. Here Detectron2's heads: one mask
#          head where the published network has three, class-agnostic boxes, gradients averaged over
#          the stages
# Status   the recipe is published: official ConvNeXt README and configs. Not trained here in
#          Detectron2
from detectron2.config import LazyCall as L

from convnext_backbones.adapters.detectron2 import ConvNeXt

from ._base_.cascade_mask_rcnn_fpn import model
from ._base_.coco import dataloader, lr_multiplier, optimizer, train

recipe = "coco_cascade_mask_rcnn_convnext_xl_22k"  # its row in convnext_backbones.recipes

model.backbone.bottom_up = L(ConvNeXt)(
    arch="xlarge",
    out_features=["stage1", "stage2", "stage3", "stage4"],
    drop_path_rate=0.8,
    layer_scale_init_value=1.0,
)
train.init_checkpoint = "convnext_xlarge.fb_in22k"
train.amp.enabled = False

# lr times: stem 0.01, stage1 0.014, stage2 0.02, stage3 0.028..0.49, stage4 0.7, heads 1
optimizer.lr = 1e-4
optimizer.params.decay_rate = 0.7
optimizer.params.decay_type = "layer_wise"
