# COCO, 36 epochs ("3x"), multi-scale: data, optimizer and schedule that coco_* configs share. The
# figures are those of the protocol coco_3x. A config adds the model's backbone, learning rate, layer
# decay and initial weights.
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

from convnext_backbones.adapters.detectron2.training import layer_decay_groups
from convnext_backbones.recipes import protocol_of

protocol = protocol_of("coco_3x")

# ---- data ----------------------------------------------------------------------------------------
# $DETECTRON2_DATASETS/coco (datasets/coco without it): train2017, val2017, annotations
short_sides = list(protocol["short_sides"])  # 480 to 800, with a long side <= 1333
dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="coco_2017_train"),
        mapper=L(DatasetMapper)(
            is_train=True,
            augmentations=[
                L(T.RandomFlip)(horizontal=True),
                # multi-scale, or in half of the cases DETR's resize, crop and resize again
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
                    short_edge_length=short_sides, max_size=1333, sample_style="choice"
                ),
            ],
            image_format="RGB",
            use_instance_mask=True,
        ),
        total_batch_size=protocol["batch"],  # 16: 8 GPUs * 2 images
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

# ---- optimizer: lr and decay_rate come from the config -------------------------------------------
# betas (0.9, 0.999) are torch's defaults. No gradient clipping: the recipe has none.
optimizer = L(torch.optim.AdamW)(
    params=L(layer_decay_groups)(
        lr="${..lr}", weight_decay="${..weight_decay}", decay_rate=1.0, decay_type="layer_wise"
    ),
    lr=1e-4,
    weight_decay=protocol["weight_decay"],  # 0.05
)

# ---- schedule ------------------------------------------------------------------------------------
# 36 epochs * 7330 steps (117266 training images with objects / 16) = 263880 iterations
iterations = protocol["iterations"]
epoch = iterations // protocol["epochs"]
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01],
        milestones=[*(epoch * end for end in protocol["milestones"]), iterations],  # 27, 33 epochs
    ),
    warmup_length=protocol["warmup_iterations"] / iterations,  # 1000 iterations
    warmup_method="linear",
    warmup_factor=protocol["warmup_factor"],  # 0.001
)

# ---- runtime -------------------------------------------------------------------------------------
train = dict(
    output_dir="./output",
    init_checkpoint="",
    max_iter=iterations,
    amp=dict(enabled=True),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=epoch, max_to_keep=3),
    eval_period=epoch,
    log_period=20,
    device="cuda",
    seed=0,
)
