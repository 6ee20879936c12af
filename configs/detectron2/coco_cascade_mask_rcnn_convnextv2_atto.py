# ConvNeXt V2-Atto + Cascade Mask R-CNN on COCO, 36 epochs ("3x"), multi-scale
# Paper    "ConvNeXt V2", arXiv:2301.00808
# Command  python tools/train_detectron2.py configs/detectron2/coco_cascade_mask_rcnn_convnextv2_atto.py --num-gpus 8
# Hardware 8 GPUs x 2 images
# Expected unknown: no recipe for this size is published and this one was not run. Its figures are
#          the V1-T recipe's (lr, layer decay) with drop path 0.1, as so small a network underfits;
#          V2's author advises no weight decay on GRN.
# Weights  FCMAE pre-trained, CC-BY-NC 4.0 (non-commercial)
from detectron2.config import LazyCall as L

from convnext_backbones.adapters.detectron2 import ConvNeXtV2

from ._base_.cascade_mask_rcnn_fpn import model
from ._base_.coco import dataloader, lr_multiplier, optimizer, train

model.backbone.bottom_up = L(ConvNeXtV2)(
    arch="atto",
    out_features=["stage1", "stage2", "stage3", "stage4"],
    drop_path_rate=0.1,
)
train.init_checkpoint = (
    "https://dl.fbaipublicfiles.com/convnext/convnextv2/pt_only/convnextv2_atto_1k_224_fcmae.pt"
)

# layer_wise, 0.7: 7 levels, the stem trains at 0.7 ** 6 = 0.118 of lr, the heads at 1
optimizer.lr = 2e-4
optimizer.params.decay_rate = 0.7
