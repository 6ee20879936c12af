# COCO, 36 epochs ("3x"), large-scale jitter: coco.py with other pictures and a batch of 32. The figures
# are those of the protocol coco_lsj_3x, but for soft-NMS, which Detectron2 does not have.
import detectron2.data.transforms as T
from detectron2.config import LazyCall as L

from convnext_backbones.recipes import protocol_of

from .coco import dataloader, lr_multiplier, optimizer, train

protocol = protocol_of("coco_lsj_3x")

# ---- data ----------------------------------------------------------------------------------------
smallest, largest = protocol["ratio_range"]  # 0.1, 2.0
height, width = protocol["crop_size"]  # 1024, 1024
dataloader.train.mapper.augmentations = [
    L(T.ResizeScale)(
        min_scale=smallest, max_scale=largest, target_height=height, target_width=width
    ),
    L(T.FixedSizeCrop)(crop_size=[height, width], pad=False),
    L(T.RandomFlip)(horizontal=True),
]
dataloader.train.total_batch_size = protocol["batch"]  # 32: 8 GPUs * 4 images

# ---- schedule ------------------------------------------------------------------------------------
# 36 epochs * 3665 steps (117266 training images with objects / 32) = 131940 iterations
iterations = protocol["iterations"]
epoch = iterations // protocol["epochs"]
lr_multiplier.scheduler.milestones = [*(epoch * end for end in protocol["milestones"]), iterations]
lr_multiplier.warmup_length = protocol["warmup_iterations"] / iterations
train.max_iter = iterations
train.checkpointer.period = train.eval_period = epoch
