"""--sample: the same config on the generated sample data, small enough for two CPU cores.

The backbone stays as the config has it; heads, pictures, schedule and class count shrink.
"""

import json
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from ..sample_data import OVERLAYS, PALETTE, SEGMENTATION_CLASSES, SHAPES, make_sample_data

SAMPLE_ROOT = Path("data/sample")
TRAIN, VAL, SEED = 128, 32, 0


def ensure_sample_data(root: Path = SAMPLE_ROOT) -> Path:
    """The sample data at `root`, written now unless it is there whole."""
    made_of = {"train": TRAIN, "val": VAL, "seed": SEED, "version": 1}
    stamp = root / "sample.json"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):  # several processes may start at once
        if not stamp.exists() or json.loads(stamp.read_text()) != made_of:
            make_sample_data(
                root, train=TRAIN, val=VAL, seed=SEED,
                progress=lambda jobs: tqdm(jobs, desc=f"writing sample data to {root}"),
            )  # fmt: skip
            stamp.write_text(json.dumps(made_of))
    return root


def shrink_segmentation(cfg, root: Path) -> list[str]:
    """Change an ADE20K config in place; returns a line for each change."""
    crop, iterations = (96, 96), 240
    metainfo = dict(classes=SEGMENTATION_CLASSES, palette=[list(c) for c in PALETTE])
    train = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", reduce_zero_label=True),
        dict(type="RandomResize", scale=(160, 128), ratio_range=(0.75, 1.5), keep_ratio=True),
        dict(type="RandomCrop", crop_size=crop, cat_max_ratio=0.9),
        dict(type="RandomFlip", prob=0.5),
        dict(type="PackSegInputs"),
    ]
    test = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", reduce_zero_label=True),
        dict(type="PackSegInputs"),
    ]
    for loader, pipeline in (("train", train), ("val", test), ("test", test)):
        dataset = cfg[f"{loader}_dataloader"].dataset
        dataset.update(
            type="BaseSegDataset",
            data_root=str(root / "ade" / "ADEChallengeData2016"),
            img_suffix=".jpg",
            seg_map_suffix=".png",
            reduce_zero_label=True,
            metainfo=metainfo,
            pipeline=pipeline,
        )
    heads = cfg.model.decode_head, cfg.model.auxiliary_head
    for head, channels in zip(heads, (128, 64), strict=True):
        head.update(channels=channels, num_classes=len(SEGMENTATION_CLASSES))
    cfg.model.data_preprocessor.size = crop
    cfg.model.test_cfg = dict(mode="whole")
    for transform in cfg.tta_pipeline:
        if transform["type"] == "TestTimeAug":
            transform["transforms"][0] = [
                dict(type="Resize", scale_factor=ratio, keep_ratio=True) for ratio in (1.0, 1.5)
            ]
    cfg.train_cfg = dict(
        type="IterBasedTrainLoop", max_iters=iterations, val_interval=iterations // 4
    )
    cfg.param_scheduler = [
        dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
        dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=20, end=iterations),
    ]
    cfg.default_hooks.checkpoint.interval = iterations // 4
    return [
        f"data: {TRAIN} + {VAL} generated pictures of about 144x144 in {root}, "
        f"{len(SEGMENTATION_CLASSES)} classes",
        f"crop: {crop[0]}x{crop[1]}, whole-picture test instead of sliding windows",
        "heads: UPerHead 512 -> 128 channels, FCNHead 256 -> 64",
        f"schedule: {iterations} iterations of batch 8, validation every {iterations // 4}",
        *_from_scratch(cfg, batch=8, lr=5e-4),
    ]


def shrink_detection(cfg, root: Path) -> list[str]:
    """Change a COCO Mask R-CNN config in place; returns a line for each change."""
    epochs, batch, width = 16, 4, 64
    metainfo = dict(classes=SHAPES, palette=[OVERLAYS[name] for name in SHAPES])
    size = (192, 192)
    train = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
        dict(type="RandomFlip", prob=0.5),
        dict(type="RandomResize", scale=size, ratio_range=(0.75, 1.2), keep_ratio=True),
        dict(type="PackDetInputs"),
    ]
    test = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=size, keep_ratio=True),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
        cfg.val_dataloader.dataset.pipeline[-1],
    ]
    for loader, pipeline in (("train", train), ("val", test), ("test", test)):
        dataset = cfg[f"{loader}_dataloader"].dataset
        dataset.update(data_root=f"{root}/coco/", metainfo=metainfo, pipeline=pipeline)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = f"{root}/coco/annotations/instances_val2017.json"
    model = cfg.model
    model.neck.out_channels = width
    model.rpn_head.update(in_channels=width, feat_channels=width)
    model.rpn_head.anchor_generator.scales = [4]
    for extractor in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
        extractor.out_channels = width
        extractor.roi_layer.sampling_ratio = 2
    model.roi_head.bbox_head.update(in_channels=width, fc_out_channels=256, num_classes=len(SHAPES))
    model.roi_head.mask_head.update(
        num_convs=2, in_channels=width, conv_out_channels=width, num_classes=len(SHAPES)
    )
    model.train_cfg.rpn.sampler.num = 64
    model.train_cfg.rpn_proposal.update(nms_pre=300, max_per_img=100)
    model.train_cfg.rcnn.sampler.num = 64
    model.test_cfg.rpn.update(nms_pre=300, max_per_img=100)
    model.test_cfg.rcnn.max_per_img = 30
    cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=epochs, val_interval=epochs // 4)
    cfg.param_scheduler = [
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
        dict(
            type="MultiStepLR", by_epoch=True, begin=0, end=epochs, gamma=0.1,
            milestones=[epochs * 3 // 4, epochs * 7 // 8],
        ),
    ]  # fmt: skip
    cfg.default_hooks.checkpoint.interval = epochs // 4
    return [
        f"data: {TRAIN} + {VAL} generated pictures in {root}, {len(SHAPES)} classes",
        f"size: long side {size[0]} * (0.75 to 1.2) instead of 1333",
        f"heads: 256 -> {width} channels, box head 1024 -> 256, mask head 4 -> 2 convolutions",
        "anchors: 4 strides wide instead of 8; RoIAlign takes 2x2 points a bin; 64 samples a picture in "
        "RPN and heads, 100 proposals",
        f"schedule: {epochs} epochs of {TRAIN // batch} iterations, batch {batch}, validation every "
        f"{epochs // 4}",
        *_from_scratch(cfg, batch=batch, lr=5e-4),
    ]


def _from_scratch(cfg, batch: int, lr: float) -> list[str]:
    """What both tasks need when nothing is pretrained and one process loads the data."""
    cfg.model.backbone.update(init_cfg=None, drop_path_rate=0.0)
    cfg.optim_wrapper.optimizer.lr = lr
    cfg.optim_wrapper.paramwise_cfg.decay_rate = 1.0
    for loader in ("train", "val", "test"):
        cfg[f"{loader}_dataloader"].update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = batch
    cfg.default_hooks.logger.interval = 20
    return [
        f"weights: from scratch (init_cfg=None), so lr {lr:g}, no layer decay, no drop path; "
        "the backbone is the config's",
    ]
