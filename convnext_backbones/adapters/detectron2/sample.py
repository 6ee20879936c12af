"""--sample and --shrink for Detectron2, by the figures of runs.sample."""

import detectron2.data.transforms as T
from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from omegaconf import DictConfig, OmegaConf

from ...errors import UserError
from ...runs import sample
from ...runs.sample import BOX_WIDTH, CROP, DETECTION_ITERATIONS, SEGMENTATION_ITERATIONS, WIDTH
from .data import register_data_sets

COCO, ADE20K = "sample_coco", "sample_ade20k"

STEPS = tuple(int(DETECTION_ITERATIONS * part) for part in sample.DROPS)
TRAIN_SHORT_SIDES, TRAIN_LONG_SIDE = (128, 144, 160, 176, 192, 208), 230  # pixels
SEGMENTATION_SIDES = (96, 192)
ANCHORS = [[sample.ANCHOR_STRIDES * stride] for stride in (4, 8, 16, 32, 64)]


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
            f"--sample does not fit this config ({error}); it knows the R-CNNs "
            "and SemSegFPN of configs/detectron2"
        ) from error
    register_data_sets(*(f"{COCO if detection else ADE20K}_{split}" for split in ("train", "val")))
    iterations = DETECTION_ITERATIONS if detection else SEGMENTATION_ITERATIONS
    batch = sample.DETECTION_BATCH if detection else sample.SEGMENTATION_BATCH
    changes = {
        True: [
            f"data: {sample.TRAIN} + {sample.VAL} generated pictures in {sample.SAMPLE_ROOT}, "
            f"{sample.CLASSES} classes",
            f"size: short side {TRAIN_SHORT_SIDES[0]} to {TRAIN_SHORT_SIDES[-1]}; no crop, no scale jitter",
            f"heads: 256 -> {WIDTH} channels, box head 1024 -> {BOX_WIDTH}, mask head (if any) 4 -> "
            f"{sample.MASK_CONVOLUTIONS} convolutions",
            f"anchors: {sample.ANCHOR_STRIDES} strides wide instead of 8; RoIAlign takes "
            f"{sample.POINTS_A_BIN}x{sample.POINTS_A_BIN} points a bin; {sample.SAMPLES} samples a "
            f"picture in RPN and heads, {sample.PROPOSALS} proposals",
        ],
        False: [
            f"data: {sample.TRAIN} + {sample.VAL} generated pictures of about 144x144 in "
            f"{sample.SAMPLE_ROOT}, {sample.LABELS} classes",
            f"crop: {CROP[0]}x{CROP[1]}; short side {SEGMENTATION_SIDES[0]} to "
            f"{SEGMENTATION_SIDES[1]} in training, own size in validation",
            f"heads: FPN 256 -> {WIDTH} channels, SemSegFPNHead 128 -> {WIDTH}",
        ],
    }[detection]
    return [
        *changes,
        f"schedule: {iterations} iterations of batch {batch}, validation every "
        f"{iterations // sample.VALIDATIONS}",
        f"weights: from scratch, so lr {sample.LR:g}, no layer decay, no drop path; the backbone is the "
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
        node.ARCH = "custom"
        node.DEPTHS, node.DIMS = list(sample.SHRUNK_DEPTHS), list(sample.SHRUNK_DIMS)
        cfg.MODEL.WEIGHTS = ""
    else:
        arch = dict(depths=list(sample.SHRUNK_DEPTHS), dims=list(sample.SHRUNK_DIMS))
        cfg.model.backbone.bottom_up.arch = arch
        cfg.train.init_checkpoint = ""
    return [sample.SHRUNK]


def _detection_yaml(cfg: CfgNode) -> None:
    _both_yaml(cfg, COCO, sample.DETECTION_BATCH, DETECTION_ITERATIONS)
    cfg.SOLVER.STEPS = STEPS
    cfg.SOLVER.WARMUP_ITERS = sample.DETECTION_WARMUP
    cfg.SOLVER.WARMUP_FACTOR = sample.DETECTION_WARMUP_FACTOR
    cfg.INPUT.DETR_CROP.ENABLED = cfg.INPUT.LARGE_SCALE_JITTER.ENABLED = False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN = TRAIN_SHORT_SIDES, TRAIN_LONG_SIDE
    cfg.INPUT.MIN_SIZE_TEST = cfg.INPUT.MAX_SIZE_TEST = sample.LONG_SIDE
    model = cfg.MODEL
    model.ANCHOR_GENERATOR.SIZES = ANCHORS
    model.RPN.BATCH_SIZE_PER_IMAGE = model.ROI_HEADS.BATCH_SIZE_PER_IMAGE = sample.SAMPLES
    model.RPN.PRE_NMS_TOPK_TRAIN = model.RPN.PRE_NMS_TOPK_TEST = sample.CANDIDATES
    model.RPN.POST_NMS_TOPK_TRAIN = model.RPN.POST_NMS_TOPK_TEST = sample.PROPOSALS
    model.ROI_HEADS.NUM_CLASSES = sample.CLASSES
    model.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO = model.ROI_MASK_HEAD.POOLER_SAMPLING_RATIO = (
        sample.POINTS_A_BIN
    )
    model.ROI_BOX_HEAD.NUM_CONV = min(model.ROI_BOX_HEAD.NUM_CONV, 1)
    model.ROI_BOX_HEAD.CONV_DIM, model.ROI_BOX_HEAD.FC_DIM = WIDTH, BOX_WIDTH
    model.ROI_MASK_HEAD.NUM_CONV = sample.MASK_CONVOLUTIONS
    model.ROI_MASK_HEAD.CONV_DIM = WIDTH
    cfg.TEST.DETECTIONS_PER_IMAGE = sample.DETECTIONS


def _detection_lazy(cfg: DictConfig) -> None:
    _both_lazy(cfg, COCO, sample.DETECTION_BATCH, DETECTION_ITERATIONS)
    cfg.lr_multiplier.scheduler.milestones = [*STEPS, DETECTION_ITERATIONS]
    cfg.lr_multiplier.warmup_length = sample.DETECTION_WARMUP / DETECTION_ITERATIONS
    cfg.lr_multiplier.warmup_factor = sample.DETECTION_WARMUP_FACTOR
    cfg.dataloader.train.mapper.augmentations = [
        L(T.RandomFlip)(horizontal=True),
        L(T.ResizeShortestEdge)(
            short_edge_length=list(TRAIN_SHORT_SIDES),
            max_size=TRAIN_LONG_SIDE,
            sample_style="choice",
        ),
    ]
    cfg.dataloader.test.mapper.augmentations = [
        L(T.ResizeShortestEdge)(short_edge_length=sample.LONG_SIDE, max_size=sample.LONG_SIDE)
    ]
    rpn, heads = cfg.model.proposal_generator, cfg.model.roi_heads
    rpn.anchor_generator.sizes = ANCHORS
    rpn.head.in_channels = WIDTH
    rpn.batch_size_per_image = heads.batch_size_per_image = sample.SAMPLES
    rpn.pre_nms_topk, rpn.post_nms_topk = [sample.CANDIDATES] * 2, [sample.PROPOSALS] * 2
    heads.num_classes = sample.CLASSES
    heads.box_pooler.sampling_ratio = sample.POINTS_A_BIN
    for head in heads.box_heads if "box_heads" in heads else [heads.box_head]:  # cascade or one
        head.input_shape.channels = WIDTH
        head.conv_dims = [WIDTH] * min(len(head.conv_dims), 1)
        head.fc_dims = [BOX_WIDTH] * len(head.fc_dims)
    for predictor in heads.get("box_predictors", [heads.get("box_predictor")]):
        predictor.input_shape.channels = BOX_WIDTH
        predictor.test_topk_per_image = sample.DETECTIONS
    if "mask_head" in heads:
        heads.mask_pooler.sampling_ratio = sample.POINTS_A_BIN
        heads.mask_head.input_shape.channels = WIDTH
        heads.mask_head.conv_dims = [WIDTH] * (sample.MASK_CONVOLUTIONS + 1)  # and the upsampling


def _segmentation_yaml(cfg: CfgNode) -> None:
    _both_yaml(cfg, ADE20K, sample.SEGMENTATION_BATCH, SEGMENTATION_ITERATIONS)
    cfg.SOLVER.WARMUP_ITERS = sample.SEGMENTATION_WARMUP
    cfg.SOLVER.WARMUP_FACTOR = sample.SEGMENTATION_WARMUP_FACTOR
    cfg.INPUT.MIN_SIZE_TRAIN = SEGMENTATION_SIDES
    cfg.INPUT.MIN_SIZE_TEST = 0  # as it is
    cfg.INPUT.CROP.SIZE, cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = list(CROP), sample.CATEGORY_AREA
    cfg.INPUT.COLOR_AUG_SSD = False
    head = cfg.MODEL.SEM_SEG_HEAD
    head.NUM_CLASSES, head.CONVS_DIM = sample.LABELS, WIDTH


def _segmentation_lazy(cfg: DictConfig) -> None:
    _both_lazy(cfg, ADE20K, sample.SEGMENTATION_BATCH, SEGMENTATION_ITERATIONS)
    cfg.lr_multiplier.warmup_length = sample.SEGMENTATION_WARMUP / SEGMENTATION_ITERATIONS
    cfg.lr_multiplier.warmup_factor = sample.SEGMENTATION_WARMUP_FACTOR
    resize, crop, flip, _ = cfg.dataloader.train.mapper.augmentations
    resize.short_edge_length = list(SEGMENTATION_SIDES)
    crop.crop_size, crop.single_category_max_area = list(CROP), sample.CATEGORY_AREA
    cfg.dataloader.train.mapper.augmentations = [resize, crop, flip]
    cfg.dataloader.test.mapper.augmentations[0].short_edge_length = 0  # as it is
    head = cfg.model.sem_seg_head
    head.num_classes, head.conv_dims = sample.LABELS, WIDTH


def _both_yaml(cfg: CfgNode, data: str, batch: int, iterations: int) -> None:
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (f"{data}_train",), (f"{data}_val",)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.MODEL.WEIGHTS = ""
    cfg.MODEL.CONVNEXT.DROP_PATH_RATE = 0.0
    cfg.MODEL.FPN.OUT_CHANNELS = WIDTH
    cfg.SOLVER.BASE_LR, cfg.SOLVER.LAYER_DECAY_RATE = sample.LR, 1.0
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.MAX_ITER = batch, iterations
    cfg.SOLVER.CHECKPOINT_PERIOD = cfg.TEST.EVAL_PERIOD = iterations // sample.VALIDATIONS


def _both_lazy(cfg: DictConfig, data: str, batch: int, iterations: int) -> None:
    cfg.dataloader.train.dataset.names = f"{data}_train"
    cfg.dataloader.test.dataset.names = f"{data}_val"
    cfg.dataloader.train.num_workers = cfg.dataloader.test.num_workers = 0
    cfg.dataloader.train.total_batch_size = batch
    cfg.model.backbone.bottom_up.drop_path_rate = 0.0
    cfg.model.backbone.out_channels = WIDTH
    cfg.optimizer.lr, cfg.optimizer.params.decay_rate = sample.LR, 1.0
    cfg.train.init_checkpoint = ""
    cfg.train.max_iter = iterations
    cfg.train.checkpointer.period = cfg.train.eval_period = iterations // sample.VALIDATIONS
