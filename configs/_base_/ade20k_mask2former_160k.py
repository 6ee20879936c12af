# ADE20K: data, schedule and hooks of the recipes of this name
# Data     short side 256 to 1024, crop 512x512, flip, colour
# Batch    8 GPUs x 2 images = 16
# Schedule 160000 steps * 16 images / 20210 images = 127 epochs; lr falls to 0 with power 0.9
# An empty _base_ comes first, as MMEngine takes a file that begins with an import for another
# kind of config.
_base_ = []
from convnext_backbones.recipes import protocol_of

protocol = protocol_of("ade20k_mask2former_160k")

# ---- data ----------------------------------------------------------------------------------------
data_root = "data/ade/ADEChallengeData2016"
crop_size = protocol["crop_size"]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(
        type="RandomChoiceResize",
        scales=list(protocol["short_sides"]),
        resize_type="ResizeShortestEdge",
        max_size=protocol["scale"][0],
    ),
    dict(type="RandomCrop", crop_size=crop_size, cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=protocol["scale"], keep_ratio=True),
    dict(type="LoadAnnotations", reduce_zero_label=True),  # after Resize: labels keep their size
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    batch_size=protocol["images_per_gpu"],
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(
        type="ADE20KDataset",
        data_root=data_root,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="ADE20KDataset",
        data_root=data_root,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator

# multi-scale testing: tools/test.py --tta
tta_model = dict(type="SegTTAModel")
tta_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(
        type="TestTimeAug",
        transforms=[
            [
                dict(type="Resize", scale_factor=ratio, keep_ratio=True)
                for ratio in (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
            ],
            [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0)],
            [dict(type="LoadAnnotations", reduce_zero_label=True)],
            [dict(type="PackSegInputs")],
        ],
    ),
]

# ---- schedule ------------------------------------------------------------------------------------
param_scheduler = [
    dict(
        type="PolyLR",
        power=protocol["power"],
        eta_min=0.0,
        by_epoch=False,
        begin=0,
        end=protocol["iterations"],
    ),
]
train_cfg = dict(type="IterBasedTrainLoop", max_iters=protocol["iterations"], val_interval=5000)
auto_scale_lr = dict(enable=False, base_batch_size=protocol["batch"])

# ---- hooks ---------------------------------------------------------------------------------------
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook", by_epoch=False, interval=5000, max_keep_ckpts=3, save_best="mIoU"
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
custom_hooks = [dict(type="DropStoredConfigHook")]
log_processor = dict(by_epoch=False)
