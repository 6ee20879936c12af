"""--sample for Detectron2: the same config on the generated sample data, small enough for two CPU cores.

The backbone stays as the config has it; heads, pictures, schedule and class count shrink, by the
figures that sample.py found for the OpenMMLab frameworks. --shrink makes the backbone small too, as
there: for a look at whether a config runs, in seconds, whatever its size.
"""

from pathlib import Path

import detectron2.data.transforms as T
from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from detectron2.data.datasets import register_coco_instances
from omegaconf import DictConfig, OmegaConf

from ...errors import UserError
from ...runs.sample_data import OVERLAYS, PALETTE, SEGMENTATION_CLASSES, SHAPES
from ..openmmlab.sample import SAMPLE_ROOT, SHRUNK, SHRUNK_DEPTHS, SHRUNK_DIMS, TRAIN, VAL
from .training import register_ade20k

LR = 5e-4  # from scratch
WIDTH = 64  # channels of FPN and heads
COCO, ADE20K = "sample_coco", "sample_ade20k"
CLASSES, LABELS = len(SHAPES), len(SEGMENTATION_CLASSES)

DETECTION_BATCH, EPOCHS = 4, 16
DETECTION_ITERATIONS = EPOCHS * TRAIN // DETECTION_BATCH
STEPS = (DETECTION_ITERATIONS * 3 // 4, DETECTION_ITERATIONS * 7 // 8)
SHORT_SIDES, LONG_SIDE, TEST_SIDE = (128, 144, 160, 176, 192, 208), 230, 192  # pixels
ANCHORS = [[16], [32], [64], [128], [256]]  # 4 strides wide
SAMPLES, CANDIDATES, PROPOSALS, DETECTIONS = 64, 300, 100, 30  # per picture
BOX_WIDTH = 256

SEGMENTATION_BATCH, SEGMENTATION_ITERATIONS = 8, 240
CROP, SEGMENTATION_SIDES = (96, 96), (96, 192)


def register_sample_data(root: Path = SAMPLE_ROOT) -> None:
    """sample_coco_{train,val} and sample_ade20k_{train,val}, which need not be there yet."""
    for split in ("train", "val"):
        register_coco_instances(
            f"{COCO}_{split}",
            {"thing_classes": list(SHAPES), "thing_colors": [OVERLAYS[name] for name in SHAPES]},
            str(root / f"coco/annotations/instances_{split}2017.json"),
            str(root / f"coco/{split}2017"),
        )
    ade20k = root / "ade/ADEChallengeData2016"
    register_ade20k(ADE20K, ade20k, list(SEGMENTATION_CLASSES), PALETTE)


register_sample_data()


def use_sample(cfg: DictConfig | CfgNode) -> list[str]:
    """Change a COCO R-CNN or ADE20K SemSegFPN config in place; returns a line for each change.

    Raises:
        UserError: it is built otherwise than the configs in configs/detectron2.
    """
    try:
        if isinstance(cfg, CfgNode):
            kinds = {"GeneralizedRCNN": True, "SemanticSegmentor": False}
            detection = kinds[cfg.MODEL.META_ARCHITECTURE]
            (_detection_yaml if detection else _segmentation_yaml)(cfg)
        else:
            detection = "roi_heads" in cfg.model
            (_detection_lazy if detection else _segmentation_lazy)(cfg)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"--sample does not fit this config ({error}); it knows the Mask R-CNN, Cascade Mask R-CNN "
            "and SemSegFPN of configs/detectron2"
        ) from error
    iterations = DETECTION_ITERATIONS if detection else SEGMENTATION_ITERATIONS
    batch = DETECTION_BATCH if detection else SEGMENTATION_BATCH
    changes = {
        True: [
            f"data: {TRAIN} + {VAL} generated pictures in {SAMPLE_ROOT}, {CLASSES} classes",
            f"size: short side {SHORT_SIDES[0]} to {SHORT_SIDES[-1]}; no crop, no scale jitter",
            f"heads: 256 -> {WIDTH} channels, box head 1024 -> {BOX_WIDTH}, mask head 4 -> 2 "
            "convolutions",
            f"anchors: 4 strides wide instead of 8; RoIAlign takes 2x2 points a bin; {SAMPLES} samples "
            f"a picture in RPN and heads, {PROPOSALS} proposals",
        ],
        False: [
            f"data: {TRAIN} + {VAL} generated pictures of about 144x144 in {SAMPLE_ROOT}, "
            f"{LABELS} classes",
            f"crop: {CROP[0]}x{CROP[1]}; short side {SEGMENTATION_SIDES[0]} to "
            f"{SEGMENTATION_SIDES[1]} in training, own size in validation",
            f"heads: FPN 256 -> {WIDTH} channels, SemSegFPNHead 128 -> {WIDTH}",
        ],
    }[detection]
    return [
        *changes,
        f"schedule: {iterations} iterations of batch {batch}, validation every {iterations // 4}",
        f"weights: from scratch, so lr {LR:g}, no layer decay, no drop path; the backbone is the "
        "config's",
    ]


def shrink_backbone(cfg: DictConfig | CfgNode) -> list[str]:
    """Change a config with one of our backbones below an FPN in place; returns a line for the change.

    Raises:
        UserError: it has another backbone.
    """
    if isinstance(cfg, CfgNode):
        found = cfg.MODEL.BACKBONE.NAME
    else:
        found = OmegaConf.select(cfg, "model.backbone.bottom_up._target_")
    if "convnext" not in str(found).lower():
        raise UserError(f"--shrink needs a ConvNeXt below an FPN, this config has {found}")
    if isinstance(cfg, CfgNode):
        node = cfg.MODEL.CONVNEXT
        node.ARCH, node.DEPTHS, node.DIMS = "custom", list(SHRUNK_DEPTHS), list(SHRUNK_DIMS)
        cfg.MODEL.WEIGHTS = ""
    else:
        arch = dict(depths=list(SHRUNK_DEPTHS), dims=list(SHRUNK_DIMS))
        cfg.model.backbone.bottom_up.arch = arch
        cfg.train.init_checkpoint = ""
    return [SHRUNK]


def _detection_yaml(cfg: CfgNode) -> None:
    _both_yaml(cfg, COCO, DETECTION_BATCH, DETECTION_ITERATIONS)
    cfg.SOLVER.STEPS = STEPS
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR = 50, 0.01
    cfg.INPUT.DETR_CROP.ENABLED = cfg.INPUT.LARGE_SCALE_JITTER.ENABLED = False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = SHORT_SIDES, LONG_SIDE
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = TEST_SIDE
    model = cfg.MODEL
    model.ANCHOR_GENERATOR.SIZES = ANCHORS
    model.RPN.BATCH_SIZE_PER_IMAGE = model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = SAMPLES
    model.RPN.PRE_NMS_TOPK_TRAIN = model.RPN.PRE_NMS_TOPK_TEST = CANDIDATES
    model.RPN.POST_NMS_TOPK_TRAIN = model.RPN.POST_NMS_TOPK_TEST = PROPOSALS
    model.ROI_HEADS.NUM_CLASSES = CLASSES
    model.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = model.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO = 2
    model.ROI_BOX_HEAD.NUM_CONV = min(model.ROI_BOX_HEAD.NUM_CONV, 1)
    model.ROI_BOX_HEAD.CONV_DIM, model.ROI_BOX_HEAD.FC_DIM = WIDTH, BOX_WIDTH
    model.ROI_MASK_HEAD.NUM_CONV, model.ROI_MASK_HEAD.CONV_DIM = 2, WIDTH
    cfg.TEST.DETECTIONS_PER_IMAGE = DETECTIONS


def _detection_lazy(cfg: DictConfig) -> None:
    _both_lazy(cfg, COCO, DETECTION_BATCH, DETECTION_ITERATIONS)
    cfg.lr_multiplier.scheduler.milestones = [*STEPS, DETECTION_ITERATIONS]
    cfg.lr_multiplier.warmup_length = 50 / DETECTION_ITERATIONS
    cfg.lr_multiplier.warmup_factor = 0.01
    cfg.dataloader.train.mapper.augmentations = [
        L(T.RandomFlip)(horizontal=True),
        L(T.ResizeShortestEdge)(
            short_edge_length=list(SHORT_SIDES), max_size=LONG_SIDE, sample_style="choice"
        ),
    ]
    cfg.dataloader.test.mapper.augmentations = [
        L(T.ResizeShortestEdge)(short_edge_length=TEST_SIDE, max_size=TEST_SIDE)
    ]
    rpn, heads = cfg.model.proposal_generator, cfg.model.roi_heads
    rpn.anchor_generator.sizes = ANCHORS
    rpn.head.in_channels = WIDTH
    rpn.batch_size_per_image = heads.batch_size_per_image = SAMPLES
    rpn.pre_nms_topk, rpn.post_nms_topk = [CANDIDATES] * 2, [PROPOSALS] * 2
    heads.num_classes = CLASSES
    heads.box_pooler.sampling_ratio = heads.mask_pooler.sampling_ratio = 2
    for head in heads.box_heads if "box_heads" in heads else [heads.box_head]:  # cascade or one
        head.input_shape.channels = WIDTH
        head.conv_dims = [WIDTH] * min(len(head.conv_dims), 1)
        head.fc_dims = [BOX_WIDTH] * len(head.fc_dims)
    for predictor in heads.get("box_predictors", [heads.get("box_predictor")]):
        predictor.input_shape.channels = BOX_WIDTH
        predictor.test_topk_per_image = DETECTIONS
    heads.mask_head.input_shape.channels = WIDTH
    heads.mask_head.conv_dims = [WIDTH] * 3  # two convolutions and the upsampling


def _segmentation_yaml(cfg: CfgNode) -> None:
    _both_yaml(cfg, ADE20K, SEGMENTATION_BATCH, SEGMENTATION_ITERATIONS)
    cfg.SOLVER.WARMUP_ITERS, cfg.SOLVER.WARMUP_FACTOR = 20, 0.05
    cfg.INPUT.MIN_SIZE_TRAIN = SEGMENTATION_SIDES
    cfg.INPUT.MIN_SIZE_TEST = 0  # as it is
    cfg.INPUT.CROP.SIZE, cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = list(CROP), 0.9
    cfg.INPUT.COLOR_AUG_SSD = False
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NUM_CLASSES, head.CONVS_DIM = LABELS, WIDTH


def _segmentation_lazy(cfg: DictConfig) -> None:
    _both_lazy(cfg, ADE20K, SEGMENTATION_BATCH, SEGMENTATION_ITERATIONS)
    cfg.lr_multiplier.warmup_length = 20 / SEGMENTATION_ITERATIONS
    cfg.lr_multiplier.warmup_factor = 0.05
    resize, crop, flip, _ = cfg.dataloader.train.mapper.augmentations
    resize.short_edge_length = list(SEGMENTATION_SIDES)
    crop.crop_size, crop.single_category_max_area = list(CROP), 0.9
    cfg.dataloader.train.mapper.augmentations = [resize, crop, flip]
    cfg.dataloader.test.mapper.augmentations[0].short_edge_length = 0  # as it is
    head = cfg.model.sem_seg_head
    head.num_classes, head.conv_dims = LABELS, WIDTH


def _both_yaml(cfg: CfgNode, data: str, batch: int, iterations: int) -> None:
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (f"{data}_train",), (f"{data}_val",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.CONVNEXT.DROP_PATH_RATE = 0.0
    cfg.MODEL.FPN.OUT_CHANNELS = WIDTH
    cfg.SOLVER.BASE_LR, cfg.SOLVER.LAYER_DECAY_RATE = LR, 1.0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = batch, iterations
    cfg.SOLVER.CHECKPOINT_PERIOD = cfg.TEST.EVAL_PERIOD = iterations // 4


def _both_lazy(cfg: DictConfig, data: str, batch: int, iterations: int) -> None:
    cfg.dataloader.train.dataset.names = f"{data}_train"
    cfg.dataloader.test.dataset.names = f"{data}_val"
    cfg.dataloader.train.num_workers = cfg.dataloader.test.num_workers = 0
    cfg.dataloader.train.total_batch_size = batch
    cfg.model.backbone.bottom_up.drop_path_rate = 0.0
    cfg.model.backbone.out_channels = WIDTH
    cfg.optimizer.lr, cfg.optimizer.params.decay_rate = LR, 1.0
    cfg.train.init_checkpoint = ""
    cfg.train.max_iter = iterations
    cfg.train.checkpointer.period = cfg.train.eval_period = iterations // 4
