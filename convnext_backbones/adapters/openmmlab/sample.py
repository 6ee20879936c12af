"""--sample and --shrink for MMDetection and MMSegmentation, by the figures of runs.sample."""

from pathlib import Path

from ...data.records import VOID
from ...errors import UserError
from ...runs import sample
from ...runs.sample_data import OVERLAYS, PALETTE, SEGMENTATION_CLASSES, SHAPES

SEGMENTATION_FOLDERS = {"train": "training", "val": "validation", "test": "validation"}
SHRUNK_GROUPS = 8  # of RTMDet's GroupNorm


def shrink_backbone(cfg) -> list[str]:
    """Change any config in place; returns a line for the change."""
    model, backbone = cfg.model, cfg.model.backbone
    arch = dict(depths=sample.SHRUNK_DEPTHS, dims=sample.SHRUNK_DIMS)
    backbone.update(arch=arch, init_cfg=None)
    channels = [sample.SHRUNK_DIMS[index] for index in backbone.out_indices]
    for part in ("neck", "decode_head", "panoptic_head"):
        if part in model and "in_channels" in model[part]:
            model[part].in_channels = channels
    if model.get("neck", {}).get("type") == "CSPNeXtPAFPN":  # its layers are as wide as the maps
        model.neck.norm_cfg.num_groups = SHRUNK_GROUPS
    if "auxiliary_head" in model:
        model.auxiliary_head.in_channels = channels[model.auxiliary_head.in_index]
    return [sample.SHRUNK]


def shrink_segmentation(cfg, root: Path) -> list[str]:
    """Change an ADE20K config in place; returns a line for each change."""
    crop, iterations = sample.CROP, sample.SEGMENTATION_ITERATIONS
    batch, interval = sample.SEGMENTATION_BATCH, iterations // sample.VALIDATIONS
    warmup = sample.SEGMENTATION_WARMUP
    metainfo = dict(classes=SEGMENTATION_CLASSES, palette=[list(c) for c in PALETTE])
    train = [
        dict(type="LoadImageFromFile"),
        dict(type="LoadAnnotations", reduce_zero_label=True),
        dict(type="RandomResize", scale=(160, 128), ratio_range=(0.75, 1.5), keep_ratio=True),
        dict(type="RandomCrop", crop_size=crop, cat_max_ratio=sample.CATEGORY_AREA),
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
            ann_file="",
            data_prefix=dict(
                img_path=f"images/{SEGMENTATION_FOLDERS[loader]}",
                seg_map_path=f"annotations/{SEGMENTATION_FOLDERS[loader]}",
            ),
            ignore_index=VOID,
            img_suffix=".jpg",
            seg_map_suffix=".png",
            reduce_zero_label=True,
            metainfo=metainfo,
            pipeline=pipeline,
        )
    shrink_heads = _known(_SEGMENTATION_HEADS, cfg.model.decode_head)
    heads = shrink_heads(cfg.model, len(SEGMENTATION_CLASSES))
    cfg.model.data_preprocessor.update(size=crop, seg_pad_val=VOID)
    for part in ("decode_head", "auxiliary_head"):
        if "ignore_index" in cfg.model.get(part, {}):
            cfg.model[part].ignore_index = VOID
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.pop("ignore_index", None)
    cfg.model.test_cfg = dict(mode="whole")
    for transform in cfg.tta_pipeline:
        if transform["type"] == "TestTimeAug":
            transform["transforms"][0] = [
                dict(type="Resize", scale_factor=ratio, keep_ratio=True) for ratio in (1.0, 1.5)
            ]
    cfg.train_cfg = dict(type="IterBasedTrainLoop", max_iters=iterations, val_interval=interval)
    cfg.param_scheduler = [
        dict(
            type="LinearLR", start_factor=sample.SEGMENTATION_WARMUP_FACTOR, by_epoch=False,
            begin=0, end=warmup,
        ),
        dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=warmup, end=iterations),
    ]  # fmt: skip
    cfg.default_hooks.checkpoint.interval = interval
    return [
        f"data: {sample.TRAIN} + {sample.VAL} generated pictures of about 144x144 in {root}, "
        f"{len(SEGMENTATION_CLASSES)} classes",
        f"crop: {crop[0]}x{crop[1]}, whole-picture test instead of sliding windows",
        heads,
        f"schedule: {iterations} iterations of batch {batch}, validation every {interval}",
        *_from_scratch(cfg, batch=batch),
    ]


def shrink_detection(cfg, root: Path) -> list[str]:
    """Change a COCO config in place; returns a line for each change."""
    epochs, batch = sample.EPOCHS, sample.DETECTION_BATCH
    interval = epochs // sample.VALIDATIONS
    metainfo = dict(classes=SHAPES, palette=[OVERLAYS[name] for name in SHAPES])
    size = (sample.LONG_SIDE, sample.LONG_SIDE)
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
        split = "train2017" if loader == "train" else "val2017"
        dataset.update(
            data_root=f"{root}/coco/",
            ann_file=f"annotations/instances_{split}.json",
            data_prefix=dict(img=f"{split}/"),
            metainfo=metainfo,
            pipeline=pipeline,
        )
    for evaluator in (cfg.val_evaluator, cfg.test_evaluator):
        evaluator.ann_file = f"{root}/coco/annotations/instances_val2017.json"
    heads = _known(_DETECTION_HEADS, cfg.model)(cfg.model, len(SHAPES))
    cfg.train_dataloader.sampler = dict(type="DefaultSampler", shuffle=True)
    cfg.train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=epochs, val_interval=interval)
    cfg.param_scheduler = [
        dict(
            type="LinearLR", start_factor=sample.DETECTION_WARMUP_FACTOR, by_epoch=False,
            begin=0, end=sample.DETECTION_WARMUP,
        ),
        dict(
            type="MultiStepLR", by_epoch=True, begin=0, end=epochs, gamma=0.1,
            milestones=[int(epochs * part) for part in sample.DROPS],
        ),
    ]  # fmt: skip
    cfg.default_hooks.logger.log_metric_by_epoch = True
    cfg.default_hooks.checkpoint.update(interval=interval, by_epoch=True)
    cfg.log_processor.by_epoch = True
    dropped = ("EMAHook", "PipelineSwitchHook")
    before = cfg.get("custom_hooks") or []
    cfg.custom_hooks = [hook for hook in before if hook.type not in dropped]
    averaged = len(cfg.custom_hooks) < len(before)
    return [
        f"data: {sample.TRAIN} + {sample.VAL} generated pictures in {root}, {len(SHAPES)} classes",
        f"size: long side {size[0]} * (0.75 to 1.2)",
        *heads,
        *(["no averaged weights, no mosaic, no mix-up"] if averaged else []),
        f"schedule: {epochs} epochs of {sample.TRAIN // batch} iterations, batch {batch}, validation "
        f"every {interval}",
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
    model.test_cfg.max_per_image = sample.DETECTIONS
    model.data_preprocessor.batch_augments = None
    return [_shrink_mask2former(head)]


def _shrink_rcnn(model, classes: int) -> list[str]:
    """Faster, Mask, Cascade or Cascade Mask R-CNN."""
    width = sample.WIDTH
    model.neck.out_channels = width
    model.rpn_head.update(in_channels=width, feat_channels=width)
    model.rpn_head.anchor_generator.scales = [sample.ANCHOR_STRIDES]
    masks = "mask_head" in model.roi_head
    for part in ("bbox", "mask") if masks else ("bbox",):
        extractor = model.roi_head[f"{part}_roi_extractor"]
        extractor.out_channels = width
        extractor.roi_layer.sampling_ratio = sample.POINTS_A_BIN
    heads = model.roi_head.bbox_head
    for head in heads if isinstance(heads, list) else [heads]:
        head.update(in_channels=width, fc_out_channels=sample.BOX_WIDTH, num_classes=classes)
        if "conv_out_channels" in head:
            head.conv_out_channels = width
    if masks:
        model.roi_head.mask_head.update(
            num_convs=sample.MASK_CONVOLUTIONS,
            in_channels=width,
            conv_out_channels=width,
            num_classes=classes,
        )
    stages = model.train_cfg.rcnn
    for stage in stages if isinstance(stages, list) else [stages]:
        stage.sampler.num = sample.SAMPLES
    model.train_cfg.rpn.sampler.num = sample.SAMPLES
    for proposals in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
        proposals.update(nms_pre=sample.CANDIDATES, max_per_img=sample.PROPOSALS)
    model.test_cfg.rcnn.max_per_img = sample.DETECTIONS
    return [
        f"heads: 256 -> {width} channels, box head 1024 -> {sample.BOX_WIDTH}"
        + (f", mask head 4 -> {sample.MASK_CONVOLUTIONS} convolutions" if masks else ""),
        f"anchors: {sample.ANCHOR_STRIDES} strides wide instead of 8; RoIAlign takes "
        f"{sample.POINTS_A_BIN}x{sample.POINTS_A_BIN} points a bin; {sample.SAMPLES} samples a picture in "
        f"RPN and heads, {sample.PROPOSALS} proposals",
    ]


def _shrink_dino(model, classes: int) -> list[str]:
    model.num_queries = 50
    model.encoder.num_layers = 1
    model.decoder.num_layers = 2
    model.bbox_head.num_classes = classes
    model.dn_cfg.group_cfg.num_dn_queries = 20
    model.test_cfg.max_per_img = sample.DETECTIONS
    return ["heads: 900 -> 50 queries, 6 -> 1 encoder layers, 6 -> 2 decoder layers"]


def _shrink_rtmdet(model, classes: int) -> list[str]:
    width = sample.WIDTH
    model.data_preprocessor.pad_size_divisor = 32
    model.neck.update(out_channels=width, num_csp_blocks=1)
    model.bbox_head.update(num_classes=classes, in_channels=width, feat_channels=width)
    for part in (model.neck, model.bbox_head):
        part.norm_cfg.num_groups = SHRUNK_GROUPS
    model.test_cfg.update(nms_pre=1000, max_per_img=sample.DETECTIONS)
    return [f"neck and head: {width} channels, 1 block, GroupNorm of {SHRUNK_GROUPS} groups"]


_SEGMENTATION_HEADS = {
    "UPerHead": _shrink_upernet,
    "Mask2FormerHead": _shrink_semantic_mask2former,
}
_DETECTION_HEADS = {
    "FasterRCNN": _shrink_rcnn,
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


def _from_scratch(cfg, batch: int) -> list[str]:
    """What both tasks need when nothing is pretrained and one process loads the data."""
    cfg.model.backbone.update(init_cfg=None, drop_path_rate=0.0)
    cfg.optim_wrapper.optimizer.lr = sample.LR
    if groups := cfg.optim_wrapper.get("paramwise_cfg"):  # a config of the user's own may have none
        groups.update(decay_rate=1.0)
        groups.custom_keys = {}  # update() would merge and leave them
    for loader in ("train", "val", "test"):
        cfg[f"{loader}_dataloader"].update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader.batch_size = batch
    cfg.default_hooks.logger.interval = 20
    return [
        f"weights: from scratch (init_cfg=None), so lr {sample.LR:g}, no layer decay, no drop path; "
        "the backbone is the config's",
    ]
