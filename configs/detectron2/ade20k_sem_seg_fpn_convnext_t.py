# ConvNeXt-Tiny + SemSegFPN on ADE20K, 160k iterations
# Paper    "A ConvNet for the 2020s", arXiv:2201.03545
# Command  python tools/train_detectron2.py configs/detectron2/ade20k_sem_seg_fpn_convnext_t.py --num-gpus 8
# Hardware 8 GPUs x 2 images
# Expected unknown: no score of this head is published and it was not trained here. The recipe
#          is UPerNet's, which gives mIoU 46.0 (official README).
from detectron2.config import LazyCall as L

from convnext_backbones.adapters.detectron2 import ConvNeXt

from ._base_.ade20k_sem_seg_fpn import dataloader, lr_multiplier, model, optimizer, train

model.backbone.bottom_up = L(ConvNeXt)(
    arch="tiny",
    out_features=["stage1", "stage2", "stage3", "stage4"],
    drop_path_rate=0.4,
    layer_scale_init_value=1.0,
)
train.init_checkpoint = "https://dl.fbaipublicfiles.com/convnext/convnext_tiny_1k_224_ema.pth"

# stage_wise, 0.9: the stem and downsampling train at 0.478 of lr, stages 1..4 at
# 0.531 0.590 0.656 0.729, the heads at 1
optimizer.lr = 1e-4
optimizer.params.decay_rate = 0.9
