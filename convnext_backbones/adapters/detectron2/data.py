"""Pictures, labels and evaluators, for both of Detectron2's config systems.

    train_augmentations, build_train_loader, build_test_loader, build_evaluator
                                    what the YAML keys mean (yaml_keys.py)
    SemSegMapper, load_label_map    ADE20K as it is distributed, without converted label maps
    register_data_sets              the data sets that configs of this package name

Data lie below $DETECTRON2_DATASETS, ./datasets without it, as Detectron2 has it.
"""

import functools
import logging
import os
from pathlib import Path

import detectron2.data.transforms as T
import numpy as np
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.datasets import load_sem_seg, register_coco_instances
from detectron2.data.datasets.builtin_meta import ADE20K_SEM_SEG_CATEGORIES
from detectron2.evaluation import (
    COCOEvaluator,
    DatasetEvaluator,
    PascalVOCDetectionEvaluator,
    SemSegEvaluator,
)
from detectron2.projects.point_rend import ColorAugSSDTransform

from ...errors import UserError
from ...runs.sample import SAMPLE_ROOT
from ...runs.sample_data import OVERLAYS, PALETTE, SEGMENTATION_CLASSES, SHAPES
from .pictures import read_labels

LOGGER = logging.getLogger("detectron2.convnext_backbones")

IGNORE = 255  # pixels that have no class
# The evaluator_type of label maps that hold k + 1 for class k. Detectron2's train_net.py knows no such
# evaluator, and says so; as "sem_seg" it would compare class k with k + 1 in silence.
LABELS_FROM_1 = "sem_seg_labels_from_1"


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


def build_evaluator(dataset: str, output_dir: str) -> DatasetEvaluator:
    """COCO's box and mask AP, VOC's AP, or segmentation's IoU, by what the data set's metadata say."""
    kind = evaluator_type(dataset)
    if kind == "coco":
        return COCOEvaluator(dataset, **coco_options(dataset, output_dir))
    if kind == "pascal_voc":
        return PascalVOCDetectionEvaluator(dataset)
    shifted = ignored_label(dataset) == 0
    loading = load_label_map if shifted else read_labels
    return SemSegEvaluator(dataset, sem_seg_loading_fn=loading)


def coco_options(dataset: str, output_dir: str) -> dict:
    """What COCOEvaluator needs for a data set that a function gives: a place for the JSON which it
    makes of it, anew in each run."""
    if MetadataCatalog.get(dataset).get("json_file"):
        return {}
    return dict(output_dir=os.path.join(output_dir, "inference"), allow_cached_coco=False)


def evaluator_type(dataset: str) -> str:
    """The data set's evaluator_type; UserError for one that build_evaluator does not know."""
    kind = MetadataCatalog.get(dataset).get("evaluator_type")
    if kind not in ("coco", "pascal_voc", "sem_seg", LABELS_FROM_1):
        raise UserError(
            f"the data set {dataset!r} has evaluator_type={kind!r}; YAML configs here evaluate 'coco', "
            "'pascal_voc' and 'sem_seg'. For others write a LazyConfig, which names its own evaluator"
        )
    return kind


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
    labels = read_labels(filename) - np.uint8(1)  # 0 becomes 255
    return labels.astype(dtype or np.uint8)


def ignored_label(dataset: str) -> int:
    """The value that means "no class" in the data set's files."""
    return MetadataCatalog.get(dataset).get("label_of_no_class", IGNORE)


def _mapper_class(dataset: str) -> type[DatasetMapper]:
    return SemSegMapper if ignored_label(dataset) == 0 else DatasetMapper


# ---- data sets -----------------------------------------------------------------------------------
def register_data_sets(*names: str) -> None:
    """Register the data sets of this package among the names: ade20k_*, sample_ade20k_*, sample_coco_*,
    each train and val. Their files need not be there yet.

    A name that somebody else has registered, or described in the metadata, stays theirs, with a warning.
    """
    for name in names:
        prefix, _, split = name.rpartition("_")
        if prefix not in _OWN or split not in ("train", "val"):
            continue
        if name in DatasetCatalog.list() or len(MetadataCatalog.get(name).as_dict()) > 1:
            if DatasetCatalog.data.get(name) is not REGISTERED.get(name, name):
                _say_taken(name)
            continue
        _OWN[prefix](name, split)
        REGISTERED[name] = DatasetCatalog.data[name]


@functools.cache
def _say_taken(name: str) -> None:
    LOGGER.warning(
        f"the data set {name!r} was registered by somebody else and is taken as it is. This package's "
        "would have been read as it is distributed; ADE20K's label maps hold 0 for no class and k + 1 "
        "for class k, which SemSegMapper takes out"
    )


def _register_ade20k(name: str, split: str) -> None:
    datasets = Path(os.environ.get("DETECTRON2_DATASETS", "datasets")).expanduser()
    classes = list(ADE20K_SEM_SEG_CATEGORIES)
    _register_labels_from_1(name, split, datasets / "ADEChallengeData2016", classes)


def _register_sample_ade20k(name: str, split: str) -> None:
    root = SAMPLE_ROOT / "ade/ADEChallengeData2016"
    _register_labels_from_1(name, split, root, list(SEGMENTATION_CLASSES), PALETTE)


def _register_sample_coco(name: str, split: str) -> None:
    register_coco_instances(
        name,
        {"thing_classes": list(SHAPES), "thing_colors": [OVERLAYS[shape] for shape in SHAPES]},
        str(SAMPLE_ROOT / f"coco/annotations/instances_{split}2017.json"),
        str(SAMPLE_ROOT / f"coco/{split}2017"),
    )


def _register_labels_from_1(name: str, split: str, root: Path, classes, palette=None) -> None:
    """An ADEChallengeData2016 folder as it is distributed."""
    folder = {"train": "training", "val": "validation"}[split]
    images, labels = str(root / "images" / folder), str(root / "annotations" / folder)
    DatasetCatalog.register(name, lambda: load_sem_seg(labels, images))
    MetadataCatalog.get(name).set(
        stuff_classes=classes, stuff_colors=palette, image_root=images, sem_seg_root=labels,
        evaluator_type=LABELS_FROM_1, ignore_label=IGNORE, label_of_no_class=0,
    )  # fmt: skip


_OWN = {
    "ade20k": _register_ade20k,
    "sample_ade20k": _register_sample_ade20k,
    "sample_coco": _register_sample_coco,
}
REGISTERED: dict[str, object] = {}  # what this package put into DatasetCatalog
