# COCO: what the configs of the protocol coco_boxes_3x share
# Data     multi-scale 480 to 800, half of it after DETR's crop, flip
# Batch    8 GPUs x 2 images = 16
# Schedule 36 epochs * 7330 steps (117266 images / 16) = 263880 steps; warm-up over 1000 steps from
#          0.001 of lr; lr x 0.1 after epochs 27 and 33
# A config adds the model's backbone, learning rate, layer decay and initial weights.
import detectron2.data.transforms as T
import torch
from detectron2.config import LazyCall as L
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import COCOEvaluator
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from convnext_backbones.adapters.detectron2 import layer_decay_groups

# ---- data ----------------------------------------------------------------------------------------
# $DETECTRON2_DATASETS/coco (datasets/coco without it): train2017, val2017, annotations
dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomFlip)(horizontal=True),
                # multi-scale, or DETR's resize, crop and resize again
                L(T.RandomApply)(
                    tfm_or_aug=L(T.AugmentationList)(
                        augs=[
                            L(T.ResizeShortestEdge)(
                                short_edge_length=[400, 500, 600],
                                max_size=1333,
                                sample_style="choice",
                            ),
                            L(T.RandomCrop)(crop_type="absolute_range", crop_size=[384, 600]),
                        ]
                    ),
                    prob=0.5,
                ),
                L(T.ResizeShortestEdge)(
                    short_edge_length=[480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800],
                    max_size=1333,
                    sample_style="choice",
                ),
            ],
            image_format="RGB",
            use_instance_mask=False,
        ),
        total_batch_size=16,  # 8 GPUs x 2 images
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_val", filter_empty=False),
        mapper=L(DatasetMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=800, max_size=1333)],
            image_format="RGB",
        ),
        num_workers=4,
    ),
    evaluator=L(COCOEvaluator)(dataset_name="${..test.dataset.names}"),
)

# ---- optimizer: lr, decay_rate and decay_type come from the config ------------------------------
# betas (0.9, 0.999) are torch's defaults. No gradient clipping: the recipe has none.
optimizer = L(torch.optim.AdamW)(
    params=L(layer_decay_groups)(lr="${..lr}", weight_decay="${..weight_decay}", decay_rate=1.0),
    lr=1e-4,
    weight_decay=0.05,
)

# ---- schedule ------------------------------------------------------------------------------------
# 36 epochs * 7330 steps (117266 images / 16) = 263880 steps
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01],
        milestones=[197910, 241890, 263880],  # epochs 27, 33 and the end
    ),
    warmup_length=1000 / 263880,
    warmup_method="linear",
    warmup_factor=0.001,
)

# ---- runtime -------------------------------------------------------------------------------------
train = dict(
    output_dir="./output",
    init_checkpoint="",
    max_iter=263880,
    amp=dict(enabled=True),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=7330, max_to_keep=3),
    eval_period=7330,
    log_period=20,
    device="cuda",
    seed=0,
)
