"""What a training run in Detectron2 needs and Detectron2 lacks, for both of its config systems.

    layer_decay_groups                  the optimizer's parameter groups, as a LazyConfig names them
    add_training_config                 the keys by which a YAML file says the same
    build_optimizer, build_lr_scheduler, build_train_loader, build_test_loader, build_evaluator
                                        what the YAML keys mean; for a train_net.py of your own too
    ade20k_train, ade20k_val            ADE20K as it is distributed, without converted label maps

Data lie below $DETECTRON2_DATASETS, ./datasets without it, as Detectron2 has it.
"""

import os
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.datasets import load_sem_seg
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, SemSegEvaluator
from detectron2.evaluation.sem_seg_evaluation import load_image_into_numpy_array
from detectron2.projects.point_rend import ColorAugSSDTransform
from detectron2.solver import LRMultiplier, LRScheduler, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

from ...errors import UserError
from ...network.convnext import Trunk
from ...network.variants import nearest
from ...recipes.layer_decay import parameter_groups

IGNORE = 255  # pixels that have no class


# ---- optimizer -----------------------------------------------------------------------------------
def layer_decay_groups(
    model: torch.nn.Module,
    *,
    lr: float,
    weight_decay: float,
    decay_rate: float,
    decay_type: str = "layer_wise",
) -> list[dict]:
    """The parameter groups of a model with one ConvNeXt or ConvNeXtV2 in it; see layer_decay.py."""
    trunks = [module for module in model.modules() if isinstance(module, Trunk)]
    if len(trunks) != 1:
        raise UserError(
            f"layer decay needs a model with one ConvNeXt backbone, this one has {len(trunks)}; "
            "take another optimizer"
        )
    return parameter_groups(
        model.named_parameters(), trunks[0].depths, lr=lr, weight_decay=weight_decay,
        decay_rate=decay_rate, decay_type=decay_type,
    )  # fmt: skip


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZER: AdamW with layer decay, or Detectron2's SGD."""
    solver = cfg.SOLVER
    if solver.OPTIMIZER == "SGD":
        return build_detectron2_optimizer(cfg, model)
    if solver.OPTIMIZER != "ADAMW":
        raise UserError(
            f"SOLVER.OPTIMIZER={solver.OPTIMIZER!r}; {nearest(solver.OPTIMIZER, ['ADAMW', 'SGD'])}"
        )
    groups = layer_decay_groups(
        model, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY,
        decay_rate=solver.LAYER_DECAY_RATE, decay_type=solver.LAYER_DECAY_TYPE,
    )  # fmt: skip
    adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return adamw(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """SOLVER.LR_SCHEDULER_NAME: WarmupPolyLR, or any of Detectron2's."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return build_detectron2_lr_scheduler(cfg, optimizer)
    multiplier = WarmupParamScheduler(
        PolynomialDecayParamScheduler(1.0, solver.POLY_LR_POWER),
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_length=min(solver.WARMUP_ITERS, solver.MAX_ITER - 1) / solver.MAX_ITER,
        warmup_method=solver.WARMUP_METHOD,
        rescale_interval=solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier, max_iter=solver.MAX_ITER)


# ---- YAML ----------------------------------------------------------------------------------------
def add_training_config(cfg: CfgNode) -> None:
    """Add the keys of the published recipes, with defaults that leave Detectron2 as it is.

    Call it, like add_convnext_config, before merging a file. Names that Detectron2's own projects
    use already (PointRend, DeepLab, Mask2Former) mean what they mean there.
    """
    cfg.SOLVER.OPTIMIZER = "SGD"  # or "ADAMW", with the next two
    cfg.SOLVER.LAYER_DECAY_RATE = 1.0  # learning rate of each layer over that of the next one
    cfg.SOLVER.LAYER_DECAY_TYPE = "layer_wise"  # or "stage_wise"; see layer_decay.py
    cfg.SOLVER.POLY_LR_POWER = 1.0  # of LR_SCHEDULER_NAME "WarmupPolyLR"
    # DETR's branch: with PROBABILITY, resize to one of SIZES and crop before the other resizing.
    cfg.INPUT.DETR_CROP = CfgNode()
    cfg.INPUT.DETR_CROP.ENABLED = False
    cfg.INPUT.DETR_CROP.PROBABILITY = 0.5
    cfg.INPUT.DETR_CROP.SIZES = (400, 500, 600)  # short sides, in pixels
    cfg.INPUT.DETR_CROP.CROP = (384, 600)  # least and greatest side of the crop, in pixels
    # Instead of all other resizing: SIZE (height, width) times a factor out of SCALES, cropped to SIZE.
    cfg.INPUT.LARGE_SCALE_JITTER = CfgNode()
    cfg.INPUT.LARGE_SCALE_JITTER.ENABLED = False
    cfg.INPUT.LARGE_SCALE_JITTER.SCALES = (0.1, 2.0)
    cfg.INPUT.LARGE_SCALE_JITTER.SIZE = (1024, 1024)
    # Segmentation: INPUT.CROP comes after resizing, and is tried again while one class covers more.
    cfg.INPUT.CROP.SINGLE_CATEGORY_MAX_AREA = 1.0
    cfg.INPUT.COLOR_AUG_SSD = False  # brightness, contrast, saturation, hue, as SSD changes them


def train_augmentations(cfg: CfgNode) -> list[T.Augmentation | T.Transform]:
    """INPUT's augmentations of training pictures, in the order of the OpenMMLab recipes."""
    node = cfg.INPUT
    resize = T.ResizeShortestEdge(
        node.MIN_SIZE_TRAIN, node.MAX_SIZE_TRAIN, node.MIN_SIZE_TRAIN_SAMPLING
    )
    flip = {
        "none": [],
        "horizontal": [T.RandomFlip(horizontal=True)],
        "vertical": [T.RandomFlip(horizontal=False, vertical=True)],
    }[node.RANDOM_FLIP]
    if cfg.MODEL.META_ARCHITECTURE == "SemanticSegmentor":
        crop, colour = [], []
        if node.CROP.ENABLED:
            crop = [
                T.RandomCrop_CategoryAreaConstraint(
                    node.CROP.TYPE, node.CROP.SIZE, node.CROP.SINGLE_CATEGORY_MAX_AREA,
                    ignored_category=ignored_label(cfg.DATASETS.TRAIN[0]),
                )
            ]  # fmt: skip
        if node.COLOR_AUG_SSD:
            colour = [ColorAugSSDTransform(img_format=node.FORMAT)]
        return [resize, *crop, *flip, *colour]
    if node.LARGE_SCALE_JITTER.ENABLED:
        size = node.LARGE_SCALE_JITTER.SIZE
        return [
            T.ResizeScale(*node.LARGE_SCALE_JITTER.SCALES, *size),
            T.FixedSizeCrop(size, pad=False),
            *flip,
        ]
    first = []
    if node.DETR_CROP.ENABLED:
        branch = T.AugmentationList(
            [
                T.ResizeShortestEdge(node.DETR_CROP.SIZES, node.MAX_SIZE_TRAIN, "choice"),
                T.RandomCrop("absolute_range", node.DETR_CROP.CROP),
            ]
        )
        first = [T.RandomApply(branch, prob=node.DETR_CROP.PROBABILITY)]
    elif node.CROP.ENABLED:
        first = [T.RandomCrop(node.CROP.TYPE, node.CROP.SIZE)]
    return [*flip, *first, resize]


def build_train_loader(cfg: CfgNode):
    """Detectron2's training loader with train_augmentations."""
    mapper = _mapper_class(cfg.DATASETS.TRAIN[0])(cfg, True, augmentations=train_augmentations(cfg))
    return build_detection_train_loader(cfg, mapper=mapper)


def build_test_loader(cfg: CfgNode, dataset: str):
    """Detectron2's test loader."""
    return build_detection_test_loader(cfg, dataset, mapper=_mapper_class(dataset)(cfg, False))


def build_evaluator(dataset: str) -> DatasetEvaluator:
    """COCO's box and mask AP, or segmentation's IoU, by what the data set's metadata say."""
    if evaluator_type(dataset) == "coco":
        return COCOEvaluator(dataset)
    shifted = ignored_label(dataset) == 0
    loading = load_label_map if shifted else load_image_into_numpy_array
    return SemSegEvaluator(dataset, sem_seg_loading_fn=loading)


def evaluator_type(dataset: str) -> str:
    """The data set's evaluator_type; UserError for one that build_evaluator does not know."""
    kind = MetadataCatalog.get(dataset).get("evaluator_type")
    if kind not in ("coco", "sem_seg"):
        raise UserError(
            f"the data set {dataset!r} has evaluator_type={kind!r}; YAML configs here evaluate 'coco' "
            "and 'sem_seg'. For others write a LazyConfig, which names its own evaluator"
        )
    return kind


# ---- data ----------------------------------------------------------------------------------------
class SemSegMapper(DatasetMapper):
    """Detectron2's mapper for label maps that hold 0 for "no class" and class k as k + 1.

    So are ADE20K's. What comes out holds k, and 255 for no class.
    """

    def __call__(self, dataset_dict: dict) -> dict:
        mapped = super().__call__(dataset_dict)
        if "sem_seg" in mapped:
            mapped["sem_seg"] = (mapped["sem_seg"] - 1) % 256
        return mapped


def load_label_map(filename: str, dtype=None) -> np.ndarray:
    """Such a label map as an (H, W) array of class numbers, for SemSegEvaluator."""
    labels = load_image_into_numpy_array(filename, dtype=np.uint8) - np.uint8(1)  # 0 becomes 255
    return labels.astype(dtype or np.uint8)


def ignored_label(dataset: str) -> int:
    """The value that means "no class" in the data set's files."""
    return MetadataCatalog.get(dataset).get("label_of_no_class", IGNORE)


def _mapper_class(dataset: str) -> type[DatasetMapper]:
    return SemSegMapper if ignored_label(dataset) == 0 else DatasetMapper


def register_ade20k(prefix: str, root: Path, classes: list[str], palette=None) -> None:
    """{prefix}_train and {prefix}_val of an ADEChallengeData2016 folder as it is distributed."""
    for split, folder in (("train", "training"), ("val", "validation")):
        images, labels = str(root / "images" / folder), str(root / "annotations" / folder)
        name = f"{prefix}_{split}"
        DatasetCatalog.register(
            name, lambda images=images, labels=labels: load_sem_seg(labels, images)
        )
        MetadataCatalog.get(name).set(
            stuff_classes=classes, stuff_colors=palette, image_root=images, sem_seg_root=labels,
            evaluator_type="sem_seg", ignore_label=IGNORE, label_of_no_class=0,
        )  # fmt: skip


_DATASETS = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
register_ade20k("ade20k", _DATASETS / "ADEChallengeData2016", list(ADE20K_SEM_SEG_CATEGORIES))
