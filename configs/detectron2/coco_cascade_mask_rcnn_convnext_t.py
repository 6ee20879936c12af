# ConvNeXt-Tiny + Cascade Mask R-CNN on COCO, 36 epochs ("3x"), multi-scale
# Paper    "A ConvNet for the 2020s", arXiv:2201.03545
# Command  python tools/train_detectron2.py configs/detectron2/coco_cascade_mask_rcnn_convnext_t.py --num-gpus 8
# Hardware 8 GPUs x 2 images
# Expected box AP 50.4, mask AP 43.7 (official README, MMDetection's heads; MMDetection's rerun
#          50.3, 43.6; 86 M parameters). The same recipe on Detectron2's heads, 80 M parameters
#          (one mask head where MMDetection has three, class-agnostic boxes); not trained here.
from detectron2.config import LazyCall as L

from convnext_backbones.adapters.detectron2 import ConvNeXt

from ._base_.cascade_mask_rcnn_fpn import model
from ._base_.coco import dataloader, lr_multiplier, optimizer, train

model.backbone.bottom_up = L(ConvNeXt)(
    arch="tiny",
    out_features=["stage1", "stage2", "stage3", "stage4"],
    drop_path_rate=0.4,
    layer_scale_init_value=1.0,
)
train.init_checkpoint = "https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224.pth"

# layer_wise, 0.7: 8 levels, the stem trains at 0.7 ** 7 = 0.082 of lr, the heads at 1
optimizer.lr = 2e-4
optimizer.params.decay_rate = 0.7
