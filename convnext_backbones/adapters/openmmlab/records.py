"""The pictures and labels of an MMDetection or MMSegmentation config, for convnext_backbones.data.checks."""

import contextlib
import copy
import io
import math
import os.path
from collections.abc import Callable, Iterator, Mapping

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ...data.records import VOID, Evaluation, Record, Records
from ...errors import UserError
from ...runs.preparation import CONFIG_ERRORS

STRIDE = 32  # of the last stage
OWN_CLASSES = (
    "rpn_head",
    "semantic_head",
    "backbone",
    "teacher",
)  # parts that number others than the data
COCO_ITEMS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
IOU_ITEMS = {
    "mIoU": ("aAcc", "mIoU", "mAcc"),
    "mDice": ("aAcc", "mDice", "mAcc"),
    "mFscore": ("aAcc", "mFscore", "mPrecision", "mRecall"),
}


def records(cfg: Config, split: str, *, most: int | None = None) -> Records | None:
    """What the data set of a split holds; None for a split that the config does not have, that is the
    validation's over again, or whose annotation file has more than `most` bytes."""
    settings = _data_set(cfg, split)
    if settings is None or (split == "test" and settings == _data_set(cfg, "val")):
        return None
    init_default_scope(cfg.default_scope)
    parts = list(_leaves(settings))
    if most is not None and any(_bytes(part) > most for part in parts):
        return None
    found = [_records_of(cfg, split, part) for part in parts]
    first = found[0]
    for other in found[
        1:
    ]:  # of a ConcatDataset; what is said of annotation files is said of the first
        first.records += other.records
        first.error = first.error or other.error
    if len(found) > 1:
        first.annotations = None
    return first


def _data_set(cfg: Config, split: str) -> Mapping | None:
    return (cfg.get(f"{split}_dataloader") or {}).get("dataset")


def _leaves(settings: Mapping) -> Iterator[Mapping]:
    """The data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    if "datasets" in settings:
        for part in settings["datasets"]:
            yield from _leaves(part)
    elif "dataset" in settings:
        yield from _leaves(settings["dataset"])
    else:
        yield settings


def _bytes(settings: Mapping) -> int:
    """Of the annotation file."""
    file = os.path.join(settings.get("data_root") or "", settings.get("ann_file") or "")
    return os.path.getsize(file) if os.path.isfile(file) else 0


def _records_of(cfg: Config, split: str, settings: Mapping) -> Records:
    pipeline = list(settings.get("pipeline") or ())
    boxes = cfg.default_scope == "mmdet"
    masks = _gives_masks(cfg.model)
    root, prefix = settings.get("data_root") or "", settings.get("data_prefix") or {}
    annotations = settings.get("ann_file") or ""
    data = Records(
        split,
        "boxes" if boxes else "label maps",
        _classes(settings),
        annotations=os.path.join(root, annotations) if annotations.endswith(".json") else None,
        images=os.path.join(root, prefix.get("img") or prefix.get("img_path") or ""),
        heads=dict(class_counts(cfg.model)),
        needs_masks=boxes and any(t.get("with_mask") for t in _transforms(pipeline)),
        gives_masks=masks,
        resized=_resizing(pipeline),
        least=1 if (cfg.model.get("data_preprocessor") or {}).get("pad_size_divisor") else STRIDE,
        evaluations=tuple(_evaluations(cfg, split)),
        save_best=_save_best(cfg) if split == "val" else (),
        setting=_BOXES_SETTING if boxes else _MAPS_SETTING,
    )
    if split != "train":
        data.setting += _EVALUATOR_SETTING * boxes
    if not boxes:
        data.voids = dict(_voids(cfg, split))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # pycocotools tells of its index
            dataset = DATASETS.build({**copy.deepcopy(dict(settings)), "pipeline": []})
            infos = [dataset.get_data_info(k) for k in range(len(dataset))]
    except UserError as error:
        data.error = str(error)
        return data
    except (*CONFIG_ERRORS, OSError) as error:
        data.error = f"{type(error).__name__}: {error}"
        return data
    data.classes = dataset.metainfo.get("classes") or ()
    data.classes = data.classes if isinstance(data.classes, str) else tuple(data.classes)
    data.palette = dataset.metainfo.get("palette")
    data.records = [_record(info) for info in infos]
    if not boxes:
        data.renumber = _renumbering(dataset, pipeline)
    return data


_BOXES_SETTING = (
    '{split}_dataloader = dict(dataset=dict(data_root="", ann_file="{annotations}", '
    'data_prefix=dict(img="{images}/")))\n'
)
_EVALUATOR_SETTING = '{split}_evaluator = dict(ann_file="{annotations}")\n'
_MAPS_SETTING = (
    '{split}_dataloader = dict(dataset=dict(data_root="", data_prefix=dict(img_path="{images}", '
    'seg_map_path="{labels}")))\n'
)


def _classes(settings: Mapping) -> tuple[str, ...]:
    """As the config has them, for a data set that cannot be built."""
    classes = (settings.get("metainfo") or {}).get("classes")
    if classes is None:
        kind = DATASETS.get(settings.get("type")) if isinstance(settings.get("type"), str) else None
        classes = (getattr(kind, "METAINFO", None) or {}).get("classes") or ()
    return classes if isinstance(classes, str) else tuple(classes)


def _record(info: Mapping) -> Record:
    instances = info.get("instances") or ()
    size = (info["width"], info["height"]) if {"width", "height"} <= info.keys() else None
    return Record(
        info["img_path"],
        size,
        tuple(tuple(instance["bbox"]) for instance in instances),
        tuple(instance["bbox_label"] for instance in instances),
        tuple(instance.get("mask") for instance in instances),
        tuple(bool(instance.get("ignore_flag")) for instance in instances),
        info.get("seg_map_path"),
    )


def _renumbering(dataset, pipeline: list[Mapping]) -> dict[int, int]:
    """LoadAnnotations' changes of a label map's values: reduce_zero_label, then the classes' own."""
    reduces = dataset.reduce_zero_label or any(
        transform.get("reduce_zero_label") for transform in _transforms(pipeline)
    )
    changed = {}
    for value in range(256):
        label = value
        if reduces:
            label = VOID if value in (0, VOID) else value - 1
        label = (dataset.label_map or {}).get(label, label)
        if label != value:
            changed[value] = label
    return changed


# ---- what the config says ------------------------------------------------------------------------
def class_counts(node, place: str = "model") -> Iterator[tuple[str, int]]:
    """How many classes each part of a model has, by its place in the config."""
    if isinstance(node, list | tuple):
        for k, part in enumerate(node):
            yield from class_counts(part, f"{place}[{k}]")
    if not isinstance(node, Mapping):
        return
    for key, part in node.items():
        if key == "num_classes" and isinstance(part, int):
            yield f"{place}.{key}", part
        elif key == "num_things_classes" and isinstance(part, int):
            yield f"{place}.{key}", part + (node.get("num_stuff_classes") or 0)
        elif key not in OWN_CLASSES:
            yield from class_counts(part, f"{place}.{key}")
    if node.get("type") in ("Mask2FormerHead", "MaskFormerHead"):
        weights = (node.get("loss_cls") or {}).get("class_weight")
        if isinstance(weights, list | tuple):  # the last one is of "no object"
            yield f"len({place}.loss_cls.class_weight) - 1", len(weights) - 1


def _gives_masks(model: Mapping) -> bool:
    """Whether a detector predicts masks."""
    heads = [model, model.get("roi_head") or {}]
    return any(head.get(name) for head in heads for name in ("mask_head", "panoptic_head")) or (
        "Ins" in str((model.get("bbox_head") or {}).get("type"))  # RTMDet-Ins
    )


def _voids(cfg: Config, split: str) -> Iterator[tuple[str, int]]:
    """The label that counts for no class, by the places that say it."""
    for name in ("decode_head", "auxiliary_head"):
        heads = cfg.model.get(name) or ()
        for k, head in enumerate(heads if isinstance(heads, list | tuple) else [heads]):
            place = f"{name}[{k}]" if isinstance(heads, list | tuple) else name
            yield f"model.{place}.ignore_index", head.get("ignore_index", VOID)
    for evaluator in _evaluators(cfg, "val" if split == "train" else split):
        if evaluator.get("type") == "IoUMetric":
            yield "IoUMetric.ignore_index", evaluator.get("ignore_index", VOID)


def _evaluators(cfg: Config, split: str) -> list[Mapping]:
    found = cfg.get(f"{split}_evaluator") or []
    return list(found) if isinstance(found, list | tuple) else [found]


def _evaluations(cfg: Config, split: str) -> Iterator[Evaluation]:
    for evaluator in _evaluators(cfg, split) if split != "train" else ():
        kind = str(evaluator.get("type")).rpartition(".")[2]
        names = evaluator.get("metric") or evaluator.get("iou_metrics") or ()
        names = [names] if isinstance(names, str) else list(names)
        annotations = evaluator.get("ann_file") if kind == "CocoMetric" else None
        gives = set(_given(kind, evaluator, names, _classes_of(cfg, split)))
        yield Evaluation(
            kind, annotations, kind == "CocoMetric" and "segm" in names, frozenset(gives)
        )


def _classes_of(cfg: Config, split: str) -> tuple[str, ...]:
    return next((_classes(part) for part in _leaves(_data_set(cfg, split) or {})), ())


def _given(kind: str, evaluator: Mapping, names: list[str], classes) -> Iterator[str]:
    """The metrics of an evaluator; none for one that is not known here."""
    prefix = evaluator.get("prefix")
    if kind == "CocoMetric" and not any("proposal" in name for name in names):
        prefix = prefix or "coco"
        for item in evaluator.get("metric_items") or COCO_ITEMS:
            yield from (f"{prefix}/{name}_{item}" for name in names or ["bbox"])
        yield from (f"{prefix}/{name}_precision" for name in classes if evaluator.get("classwise"))
    elif kind == "VOCMetric":
        thresholds = evaluator.get("iou_thrs", 0.5)
        for threshold in thresholds if isinstance(thresholds, list | tuple) else [thresholds]:
            yield f"{prefix or 'pascal_voc'}/AP{round(threshold * 100):02d}"
        yield f"{prefix or 'pascal_voc'}/mAP"
    elif kind == "IoUMetric":
        for name in names or ["mIoU"]:
            yield from (f"{prefix}/{item}" if prefix else item for item in IOU_ITEMS.get(name, ()))


def _save_best(cfg: Config) -> tuple[str, ...]:
    best = ((cfg.get("default_hooks") or {}).get("checkpoint") or {}).get("save_best") or ()
    return (best,) if isinstance(best, str) else tuple(best)


# ---- pipelines -----------------------------------------------------------------------------------
def _transforms(pipeline) -> Iterator[Mapping]:
    """The transforms of a pipeline, those inside others too."""
    for transform in pipeline or ():
        if isinstance(transform, list | tuple):
            yield from _transforms(transform)
        elif isinstance(transform, Mapping):
            yield transform
            inner = transform.get("transforms")
            yield from _transforms(inner if isinstance(inner, list | tuple) else ())


def _resizing(pipeline: list[Mapping]) -> Callable[[int, int], tuple[float, float]]:
    """A picture's size to the one that a pipeline resizes it to; of several scales the middle one."""
    steps = list(_resizes(pipeline))

    def resized(width: int, height: int) -> tuple[float, float]:
        for scale, factor, keeps_ratio in steps:
            if scale is None:
                width, height = width * factor, height * factor
            elif keeps_ratio:
                factor = min(max(scale) / max(width, height), min(scale) / min(width, height))
                width, height = width * factor, height * factor
            else:
                width, height = scale
        return width, height

    return resized


def _resizes(pipeline) -> Iterator[tuple[tuple[float, float] | None, float, bool]]:
    """Scale, or else factor, and whether the ratio is kept, of each step that resizes; of a choice the
    first."""
    for transform in pipeline:
        kind = transform.get("type") if isinstance(transform, Mapping) else None
        inner = transform.get("transforms") if isinstance(transform, Mapping) else None
        if kind in (
            "Mosaic",
            "CachedMosaic",
        ):  # each of four is so large; what follows is of all four
            yield transform.get("img_scale", (640, 640)), 1.0, True
            return
        if kind == "RandomChoice" and inner:
            yield from _resizes(inner[0])
        elif kind == "TestTimeAug" and inner:
            yield from _resizes([inner[0][0]])
        elif kind in ("Resize", "RandomResize", "RandomChoiceResize", "FixScaleResize"):
            scales = transform.get("scales") or [transform.get("scale")]
            scale = scales[len(scales) // 2]
            if isinstance(scale, list | tuple) and isinstance(scale[0], list | tuple):
                scale = scale[0]  # RandomResize between two
            factor = transform.get("scale_factor") or 1.0
            factor = factor[0] if isinstance(factor, list | tuple) else factor
            if isinstance(scale, int):  # of the shorter side
                yield (scale, math.inf), 1.0, True
            else:
                yield scale, factor, bool(transform.get("keep_ratio", kind == "FixScaleResize"))
