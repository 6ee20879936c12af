# COCO: data, schedule and hooks of the recipes of this name
# Data     mosaic and mix-up, scale 0.1 to 2.0, crop 640x640, colour, flip; plain in the last 10
#          epochs; averaged weights
# Batch    4 GPUs x 32 images = 128
# Schedule 100 epochs * 917 steps (117266 images / 128) = 91700 steps; warm-up over 1000 steps from
#          1e-5 of lr; lr falls as a cosine from epoch 50 on, to 5e-5 in every layer

# ---- data ----------------------------------------------------------------------------------------
# One knob: set it in a config or by --cfg-options data_root=..., and every data set follows.
data_root = "data/coco/"
crop_size = (640, 640)
random_resize = dict(
    type="RandomResize",
    scale=(2 * crop_size[0], 2 * crop_size[1]),  # of the mosaic, 2 x 2 pictures
    ratio_range=(0.1, 2.0),
    keep_ratio=True,
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="CachedMosaic", img_scale=crop_size, pad_val=114.0),
    random_resize,
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="YOLOXHSVRandomAug"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Pad", size=crop_size, pad_val=dict(img=(114, 114, 114))),
    dict(
        type="CachedMixUp",
        img_scale=crop_size,
        ratio_range=(1.0, 1.0),
        max_cached_images=20,
        pad_val=(114, 114, 114),
    ),
    dict(type="PackDetInputs"),
]
last_epochs_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(random_resize, scale=crop_size),
    dict(type="RandomCrop", crop_size=crop_size),
    dict(type="YOLOXHSVRandomAug"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Pad", size=crop_size, pad_val=dict(img=(114, 114, 114))),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(640, 640), keep_ratio=True),
    dict(type="Pad", size=(640, 640), pad_val=dict(img=(114, 114, 114))),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=10,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=5,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset",
        data_root=data_root,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="CocoMetric",
    ann_file=data_root + "annotations/instances_val2017.json",
    metric="bbox",
    format_only=False,
    proposal_nums=(100, 1, 10),
)
test_evaluator = val_evaluator

# ---- schedule ------------------------------------------------------------------------------------
param_scheduler = [
    dict(
        type="LinearLR",
        start_factor=1e-5,
        by_epoch=False,
        begin=0,
        end=1000,
    ),
    dict(
        type="CosineAnnealingLR",
        by_epoch=True,
        begin=50,
        end=100,
        T_max=50,  # 100 - 50
        eta_min=5e-5,
        convert_to_iter_based=True,
    ),
]
plain_from = 90  # 100 - 10: without mosaic and mix-up
train_cfg = dict(
    type="EpochBasedTrainLoop",
    max_epochs=100,
    val_interval=10,
    dynamic_intervals=[(plain_from, 1)],
)
auto_scale_lr = dict(enable=False, base_batch_size=128)

# ---- hooks ---------------------------------------------------------------------------------------
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        type="CheckpointHook",
        interval=10,
        max_keep_ckpts=3,
        save_best="coco/bbox_mAP",
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="DetVisualizationHook"),
)
custom_hooks = [
    dict(
        type="EMAHook",
        ema_type="ExpMomentumEMA",
        momentum=2e-4,
        update_buffers=True,
        priority=49,
    ),
    dict(
        type="PipelineSwitchHook",
        switch_epoch=plain_from,
        switch_pipeline=last_epochs_pipeline,
    ),
]
log_processor = dict(type="LogProcessor", window_size=50, by_epoch=True)
