# ConvNeXt V2-Tiny + SemSegFPN on ADE20K, 160k iterations
# Paper    "ConvNeXt V2", arXiv:2301.00808
# Command  python tools/train_detectron2.py configs/detectron2/ade20k_sem_seg_fpn_convnextv2_t.py --num-gpus 8
# Hardware 8 GPUs x 2 images
# Expected unknown: no recipe for this size is published and this one was not run. Its figures are
#          the V1-T recipe of UPerNet (lr, layer decay) with its drop path; V2's author advises no
#          weight decay on GRN.
# Weights  CC-BY-NC 4.0 (non-commercial)
from detectron2.config import LazyCall as L

from convnext_backbones.adapters.detectron2 import ConvNeXtV2

from ._base_.ade20k_sem_seg_fpn import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = L(ConvNeXtV2)(
    arch="tiny",
    out_features=["stage1", "stage2", "stage3", "stage4"],
    drop_path_rate=0.4,
)
train.init_checkpoint = (
    "https://dl.fbaipublicfiles.com/convnext/convnextv2/im1k/convnextv2_tiny_1k_224_ema.pt"
)

# stage_wise, 0.9: the stem and downsampling train at 0.478 of lr, stages 1..4 at
# 0.531 0.590 0.656 0.729, the heads at 1
optimizer.lr = 1e-4
optimizer.params.decay_rate = 0.9
