"""--sample: the same config on the generated sample data, small enough for two CPU cores.

The backbone stays as the config has it; heads, pictures, schedule and class count shrink. --shrink
makes the backbone small too: for a look at whether a config runs, in seconds, whatever its size.
"""

import json
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from ...errors import UserError
from ...runs.sample_data import OVERLAYS, PALETTE, SEGMENTATION_CLASSES, SHAPES, make_sample_data

SAMPLE_ROOT = Path("data/sample")
TRAIN, VAL, SEED = 128, 32, 0
SHRUNK_DEPTHS, SHRUNK_DIMS = (1, 1, 1, 1), (16, 32, 64, 128)
SHRUNK = f"backbone: depths {SHRUNK_DEPTHS}, dims {SHRUNK_DIMS}, random weights"


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


def shrink_backbone(cfg) -> list[str]:
    """Change any config in place; returns a line for the change."""
    model, backbone = cfg.model, cfg.model.backbone
    backbone.update(arch=dict(depths=SHRUNK_DEPTHS, dims=SHRUNK_DIMS), init_cfg=None)
    channels = [SHRUNK_DIMS[index] for index in backbone.out_indices]
    for part in ("neck", "decode_head", "panoptic_head"):
        if part in model and "in_channels" in model[part]:
            model[part].in_channels = channels
    if "auxiliary_head" in model:
        model.auxiliary_head.in_channels = channels[model.auxiliary_head.in_index]
    return [SHRUNK]


def shrink_segmentation(cfg, root: Path) -> list[str]:
    """Change an ADE20K config in place; returns a line for each change."""
    crop, iterations, batch = (96, 96), 240, 8
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
    shrink_heads = _known(_SEGMENTATION_HEADS, cfg.model.decode_head)
    heads = shrink_heads(cfg.model, len(SEGMENTATION_CLASSES))
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
        heads,
        f"schedule: {iterations} iterations of batch {batch}, validation every {iterations // 4}",
        *_from_scratch(cfg, batch=batch),
    ]


def shrink_detection(cfg, root: Path) -> list[str]:
    """Change a COCO config in place; returns a line for each change."""
    epochs, batch = 16, 4
    metainfo = dict(classes=SHAPES, palette=[OVERLAYS[name] for name in SHAPES])
    size = (192, 192)
    masks = "segm" in cfg.val_evaluator.metric
    train = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=masks),
        dict(type="RandomFlip", prob=0.5),
        dict(type="RandomResize", scale=size, ratio_range=(0.75, 1.2), keep_ratio=True),
        dict(type="PackDetInputs"),
    ]
    test = [
        dict(type="LoadImageFromFile"),
        dict(type="Resize", scale=size, keep_ratio=True),
        dict(type="LoadAnnotations", with_bbox=True, with_mask=masks),
        cfg.val_dataloader.dataset.pipeline[-1],
    ]
    for loader, pipeline in (("train", train), ("val", test), ("test", test)):
        dataset = cfg[f"{loader}_dataloader"].dataset
        dataset.update(data_root=f"{root}/coco/", metainfo=metainfo, pipeline=pipeline)
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = f"{root}/coco/annotations/instances_val2017.json"
    heads = _known(_DETECTION_HEADS, cfg.model)(cfg.model, len(SHAPES))
    cfg.train_dataloader.sampler = dict(type="DefaultSampler", shuffle=True)
    cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=epochs, val_interval=epochs // 4)
    cfg.param_scheduler = [
        dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
        dict(
            type="MultiStepLR", by_epoch=True, begin=0, end=epochs, gamma=0.1,
            milestones=[epochs * 3 // 4, epochs * 7 // 8],
        ),
    ]  # fmt: skip
    cfg.default_hooks.logger.log_metric_by_epoch = True
    cfg.default_hooks.checkpoint.update(interval=epochs // 4, by_epoch=True)
    cfg.log_processor.by_epoch = True
    dropped = ("EMAHook", "PipelineSwitchHook")
    hooks = [hook for hook in cfg.custom_hooks if hook.type not in dropped]
    averaged = len(hooks) < len(cfg.custom_hooks)
    cfg.custom_hooks = hooks
    return [
        f"data: {TRAIN} + {VAL} generated pictures in {root}, {len(SHAPES)} classes",
        f"size: long side {size[0]} * (0.75 to 1.2)",
        *heads,
        *(["no averaged weights, no mosaic, no mix-up"] if averaged else []),
        f"schedule: {epochs} epochs of {TRAIN // batch} iterations, batch {batch}, validation every "
        f"{epochs // 4}",
        *_from_scratch(cfg, batch=batch),
    ]


# ---- heads ---------------------------------------------------------------------------------------
def _shrink_upernet(model, classes: int) -> str:
    heads = model.decode_head, model.auxiliary_head
    for head, channels in zip(heads, (128, 64), strict=True):
        head.update(channels=channels, num_classes=classes)
    return "heads: UPerHead 512 -> 128 channels, FCNHead 256 -> 64"


def _shrink_mask2former(head) -> str:
    """Of both hosts."""
    head.num_queries = 20
    head.pixel_decoder.encoder.num_layers = 1
    head.transformer_decoder.num_layers = 3
    return (
        "head: 100 -> 20 queries, 6 -> 1 encoder layers, 9 -> 3 decoder layers, 256 points a mask"
    )


def _shrink_semantic_mask2former(model, classes: int) -> str:
    head = model.decode_head
    head.num_classes = classes
    head.loss_cls.class_weight = [1.0] * classes + [0.1]
    head.train_cfg.num_points = 256
    return _shrink_mask2former(head)


def _shrink_instance_mask2former(model, classes: int) -> list[str]:
    head = model.panoptic_head
    for part in (head, model.panoptic_fusion_head):
        part.num_things_classes = classes
    head.loss_cls.class_weight = [1.0] * classes + [0.1]
    model.train_cfg.num_points = 256
    model.test_cfg.max_per_image = 30
    model.data_preprocessor.batch_augments = None
    return [_shrink_mask2former(head)]


def _shrink_rcnn(model, classes: int) -> list[str]:
    """Mask R-CNN or Cascade Mask R-CNN."""
    width = 64
    model.neck.out_channels = width
    model.rpn_head.update(in_channels=width, feat_channels=width)
    model.rpn_head.anchor_generator.scales = [4]
    for extractor in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
        extractor.out_channels = width
        extractor.roi_layer.sampling_ratio = 2
    heads = model.roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.update(in_channels=width, fc_out_channels=256, num_classes=classes)
        if "conv_out_channels" in head:
            head.conv_out_channels = width
    model.roi_head.mask_head.update(
        num_convs=2, in_channels=width, conv_out_channels=width, num_classes=classes
    )
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = 64
    model.train_cfg.rpn.sampler.num = 64
    model.train_cfg.rpn_proposal.update(nms_pre=300, max_per_img=100)
    model.test_cfg.rpn.update(nms_pre=300, max_per_img=100)
    model.test_cfg.rcnn.max_per_img = 30
    return [
        f"heads: 256 -> {width} channels, box head 1024 -> 256, mask head 4 -> 2 convolutions",
        "anchors: 4 strides wide instead of 8; RoIAlign takes 2x2 points a bin; 64 samples a picture in "
        "RPN and heads, 100 proposals",
    ]


def _shrink_dino(model, classes: int) -> list[str]:
    model.num_queries = 50
    model.encoder.num_layers = 1
    model.decoder.num_layers = 2
    model.bbox_head.num_classes = classes
    model.dn_cfg.group_cfg.num_dn_queries = 20
    model.test_cfg.max_per_img = 30
    return ["heads: 900 -> 50 queries, 6 -> 1 encoder layers, 6 -> 2 decoder layers"]


def _shrink_rtmdet(model, classes: int) -> list[str]:
    width = 64
    model.data_preprocessor.pad_size_divisor = 32
    model.neck.update(out_channels=width, num_csp_blocks=1)
    model.bbox_head.update(num_classes=classes, in_channels=width, feat_channels=width)
    for part in (model.neck, model.bbox_head):
        part.norm_cfg.num_groups = 8
    model.test_cfg.update(nms_pre=1000, max_per_img=30)
    return [f"neck and head: {width} channels, 1 block, GroupNorm of 8 groups"]


_SEGMENTATION_HEADS = {
    "UPerHead": _shrink_upernet,
    "Mask2FormerHead": _shrink_semantic_mask2former,
}
_DETECTION_HEADS = {
    "MaskRCNN": _shrink_rcnn,
    "CascadeRCNN": _shrink_rcnn,
    "DINO": _shrink_dino,
    "RTMDet": _shrink_rtmdet,
    "Mask2Former": _shrink_instance_mask2former,
}


def _known(table: dict, part):
    if part.type not in table:
        raise UserError(f"--sample knows {', '.join(table)}, not {part.type}; leave out --sample")
    return table[part.type]


def _from_scratch(cfg, batch: int, lr: float = 5e-4) -> list[str]:
    """What both tasks need when nothing is pretrained and one process loads the data."""
    cfg.model.backbone.update(init_cfg=None, drop_path_rate=0.0)
    cfg.optim_wrapper.optimizer.lr = lr
    cfg.optim_wrapper.paramwise_cfg.update(decay_rate=1.0)
    cfg.optim_wrapper.paramwise_cfg.custom_keys = {}  # update() would merge and leave them
    for loader in ("train", "val", "test"):
        cfg[f"{loader}_dataloader"].update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = batch
    cfg.default_hooks.logger.interval = 20
    return [
        f"weights: from scratch (init_cfg=None), so lr {lr:g}, no layer decay, no drop path; "
        "the backbone is the config's",
    ]
