"""The keys that YAML configs of this package have beside Detectron2's own."""

from detectron2.config import CfgNode


def add_convnext_config(cfg: CfgNode) -> None:
    """Add all keys that a YAML config of this package may hold: MODEL.CONVNEXT, and the recipes'.

    Call it after get_cfg(), before merging a file. Keys that are there already keep their values, so
    that it may be called twice, and beside the functions of Detectron2's projects.
    """
    if "CONVNEXT" not in cfg.MODEL:
        cfg.MODEL.CONVNEXT = CfgNode()
    _add(cfg.MODEL.CONVNEXT, network_keys())
    add_training_config(cfg)


def network_keys() -> dict:
    """MODEL.CONVNEXT with its defaults."""
    return dict(
        # 1: ConvNeXt, 2: ConvNeXt V2.
        VERSION=1,
        # A published size of that version, "atto" to "huge"; or "custom", which reads the next two.
        ARCH="tiny",
        # Blocks and channels of each stage, any number of stages.
        DEPTHS=[],
        DIMS=[],
        # Kernel and stride of the stem, in pixels.
        PATCH_SIZE=4,
        # Names out of stem, stage1, stage2, ... Empty: what MODEL.FPN.IN_FEATURES names in an FPN
        # backbone, else the last stage.
        OUT_FEATURES=[],
        # Stochastic depth rate of the last block; grows linearly from 0.
        DROP_PATH_RATE=0.0,
        # Initial layer scale of V1; 0.0 for none.
        LAYER_SCALE_INIT_VALUE=1e-6,
        # A LayerNorm for each feature.
        OUTPUT_NORM=True,
        # 8, 16 or 32 caps the stride by dilating the later stages; 0 leaves it.
        OUTPUT_STRIDE=0,
        # Recompute each block in the backward pass instead of keeping its activations.
        WITH_CP=False,
        # Give each image the maps that it has without the padding of its batch.
        IGNORE_PADDING=False,
    )


def add_training_config(cfg: CfgNode) -> None:
    """Add the keys of the published recipes, with defaults that leave Detectron2 as it is.

    add_convnext_config calls it. Names that Detectron2's own projects use already (PointRend, DeepLab,
    Mask2Former) mean what they mean there.
    """
    solver = dict(
        OPTIMIZER="SGD",  # or "ADAMW", with the next two
        LAYER_DECAY_RATE=1.0,  # learning rate of each layer over that of the next one
        LAYER_DECAY_TYPE="layer_wise",  # or "stage_wise"; see layer_decay.py
        POLY_LR_POWER=1.0,  # of LR_SCHEDULER_NAME "WarmupPolyLR"
    )
    # DETR's branch: with PROBABILITY, resize to one of SIZES and crop before the other resizing.
    detr_crop = dict(
        ENABLED=False,
        PROBABILITY=0.5,
        SIZES=(400, 500, 600),  # short sides, in pixels
        CROP=(384, 600),  # least and greatest side of the crop, in pixels
    )
    # Instead of all other resizing: SIZE (height, width) times a factor out of SCALES, cropped to SIZE.
    jitter = dict(ENABLED=False, SCALES=(0.1, 2.0), SIZE=(1024, 1024))
    _add(cfg.SOLVER, solver)
    # COLOR_AUG_SSD: brightness, contrast, saturation, hue, as SSD changes them
    _add(cfg.INPUT, dict(DETR_CROP=CfgNode(), LARGE_SCALE_JITTER=CfgNode(), COLOR_AUG_SSD=False))
    _add(cfg.INPUT.DETR_CROP, detr_crop)
    _add(cfg.INPUT.LARGE_SCALE_JITTER, jitter)
    # Segmentation: INPUT.CROP comes after resizing, and is tried again while one class covers more.
    _add(cfg.INPUT.CROP, dict(SINGLE_CATEGORY_MAX_AREA=1.0))
    # One's own data: entries {name, annotations, images} or {name, images, labels, classes, void};
    # see own_data.py
    _add(cfg.DATASETS, dict(REGISTER=[]))


def _add(node: CfgNode, defaults: dict) -> None:
    for key, value in defaults.items():
        if key not in node:
            node[key] = value
