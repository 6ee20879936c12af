# ADE20K: what the configs of the protocol ade20k_160k share
# Data     scale 0.5 to 2.0, crop 512x512, flip, colour
# Batch    8 GPUs x 2 images = 16
# Schedule 160000 steps * 16 images / 20210 images = 127 epochs; warm-up over 1500 steps from 1e-6
#          of lr; lr falls to 0 with power 1
# A config adds the backbone, learning rate, layer decay and initial weights.
import detectron2.data.transforms as T
import torch
from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.evaluation import SemSegEvaluator
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, SemanticSegmentor
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.projects.point_rend import ColorAugSSDTransform
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

from convnext_backbones.adapters.detectron2 import (
    SemSegMapper,
    layer_decay_groups,
    load_label_map,
    register_data_sets,
)

register_data_sets("ade20k_train", "ade20k_val")  # a name that is taken stays as it is

# ---- data ----------------------------------------------------------------------------------------
# $DETECTRON2_DATASETS/ADEChallengeData2016 (datasets/... without it), as distributed: the label maps
# hold 0 for "no class", which SemSegMapper and load_label_map take out
dataloader = dict(
    train=L(build_detection_train_loader)(
        dataset=L(get_detection_dataset_dicts)(names="ade20k_train"),
        mapper=L(SemSegMapper)(
            is_train=True,
            augmentations=[
                # 512 * (0.5 to 2.0), with a long side <= 2048 * 2.0
                L(T.ResizeShortestEdge)(
                    short_edge_length=[256, 1024], max_size=4096, sample_style="range"
                ),
                L(T.RandomCrop_CategoryAreaConstraint)(
                    crop_type="absolute",
                    crop_size=[512, 512],
                    single_category_max_area=0.75,
                    ignored_category=0,
                ),
                L(T.RandomFlip)(horizontal=True),
                L(ColorAugSSDTransform)(img_format="RGB"),
            ],
            image_format="RGB",
        ),
        total_batch_size=16,  # 8 GPUs x 2 images
        num_workers=4,
    ),
    test=L(build_detection_test_loader)(
        dataset=L(get_detection_dataset_dicts)(names="ade20k_val", filter_empty=False),
        mapper=L(SemSegMapper)(
            is_train=False,
            augmentations=[L(T.ResizeShortestEdge)(short_edge_length=512, max_size=2048)],
            image_format="RGB",
        ),
        num_workers=4,
    ),
    evaluator=L(SemSegEvaluator)(
        dataset_name="${..test.dataset.names}", sem_seg_loading_fn=load_label_map
    ),
)

# ---- model ---------------------------------------------------------------------------------------
model = L(SemanticSegmentor)(
    backbone=L(FPN)(in_features="${.bottom_up.out_features}", out_channels=256),
    sem_seg_head=L(SemSegFPNHead)(
        input_shape={
            name: L(ShapeSpec)(channels="${....backbone.out_channels}", stride=stride)
            for name, stride in (("p2", 4), ("p3", 8), ("p4", 16), ("p5", 32))
        },
        num_classes=150,
        conv_dims=128,
        common_stride=4,
        norm="GN",
        ignore_value=255,
        loss_weight=1.0,
    ),
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)

# ---- optimizer: lr, decay_rate and decay_type come from the config ------------------------------
# betas (0.9, 0.999) are torch's defaults. No gradient clipping: the recipe has none.
optimizer = L(torch.optim.AdamW)(
    params=L(layer_decay_groups)(lr="${..lr}", weight_decay="${..weight_decay}", decay_rate=1.0),
    lr=1e-4,
    weight_decay=0.05,
)

# ---- schedule ------------------------------------------------------------------------------------
# 160000 steps * 16 images / 20210 images = 127 epochs
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(PolynomialDecayParamScheduler)(base_value=1.0, power=1.0),  # to 0
    warmup_length=1500 / 160000,
    warmup_method="linear",
    warmup_factor=1e-6,
    rescale_interval=True,  # the decay begins when the warm-up ends
)

# ---- runtime -------------------------------------------------------------------------------------
train = dict(
    output_dir="./output",
    init_checkpoint="",
    max_iter=160000,
    amp=dict(enabled=True),
    ddp=dict(broadcast_buffers=False, find_unused_parameters=False, fp16_compression=False),
    checkpointer=dict(period=16000, max_to_keep=3),
    eval_period=16000,
    log_period=20,
    device="cuda",
    seed=0,
)
