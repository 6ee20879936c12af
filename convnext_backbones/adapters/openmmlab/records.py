"""The pictures and labels of an MMDetection or MMSegmentation config, for convnext_backbones.data.checks."""

import contextlib
import copy
import io
import logging
import math
import os.path
from collections.abc import Callable, Iterator, Mapping

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from ...data.records import VOID, Evaluation, Record, Records
from ...errors import UserError
from ...runs.preparation import CONFIG_ERRORS
from .config_mistakes import classes_in, data_sets
from .signatures import classes_of

STRIDE = 32  # of the last stage


def records(cfg: Config, split: str, *, most: int | None = None) -> Records | None:
    """What the data set of a split holds; None for a split that the config does not have, that is the
    validation's over again. An annotation file of more than `most` bytes is left `unread`."""
    settings = _data_set(cfg, split)
    if settings is None or (split == "test" and settings == _data_set(cfg, "val")):
        return None
    init_default_scope(cfg.default_scope)
    parts = [part for _, part in data_sets(cfg, split)]
    if most is not None and (largest := max(parts, key=_bytes)) and _bytes(largest) > most:
        return Records(split, "boxes", (), annotations=largest["ann_file"], unread=_bytes(largest))
    found = [_records_of(cfg, split, part) for part in parts]
    first = found[0]
    for other in found[1:]:  # of a ConcatDataset: annotation files are read of a single one
        first.records += other.records
        first.error = first.error or other.error
    if len(found) > 1:
        first.annotations = None
    return first


def _data_set(cfg: Config, split: str) -> Mapping | None:
    return (cfg.get(f"{split}_dataloader") or {}).get("dataset")


def _is_coco(settings: Mapping, scope: str) -> bool:
    """Whether the data set reads its annotation file as CocoDataset does."""
    if scope != "mmdet":
        return False
    from mmdet.datasets import CocoDataset  # here: MMSegmentation runs without

    return any(
        all(getattr(made, name, None) is getattr(CocoDataset, name)
            for name in ("load_data_list", "parse_data_info"))
        for made in classes_of(settings.get("type"), scope)
    )  # fmt: skip


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
        tuple(classes_in(settings, cfg.default_scope) or ()),
        annotations=os.path.join(root, annotations)
        if _is_coco(settings, cfg.default_scope)
        else None,
        images=os.path.join(root, prefix.get("img") or prefix.get("img_path") or ""),
        needs_masks=boxes and any(t.get("with_mask") for t in _transforms(pipeline)),
        gives_masks=masks,
        resized=_resizing(pipeline),
        least=1 if (cfg.model.get("data_preprocessor") or {}).get("pad_size_divisor") else STRIDE,
        evaluations=tuple(_evaluations(cfg, split)),
        setting=_BOXES_SETTING if boxes else _MAPS_SETTING,
    )
    if split != "train":
        data.setting += _EVALUATOR_SETTING * boxes
    if not boxes:
        data.voids = dict(_voids(cfg, split))
    try:
        with _quiet():
            dataset = DATASETS.build({**copy.deepcopy(dict(settings)), "pipeline": []})
            infos = [dataset.get_data_info(k) for k in range(len(dataset))]
    except UserError as error:
        data.error = str(error)
        return data
    except (*CONFIG_ERRORS, OSError) as error:
        data.error = f"{type(error).__name__}: {error}"
        return data
    data.classes = tuple(dataset.metainfo.get("classes") or ())
    data.palette = dataset.metainfo.get("palette")
    data.records = [_record(info) for info in infos]
    if not boxes:
        data.renumber = _renumbering(dataset, pipeline)
    return data


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """pycocotools prints of its index; what this package's readers warn of, the checks say with counts."""
    logger = logging.getLogger("convnext_backbones")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


_BOXES_SETTING = (
    '{split}_dataloader = dict(dataset=dict(data_root="", ann_file="{annotations}", '
    'data_prefix=dict(img="{images}/")))\n'
)
_EVALUATOR_SETTING = '{split}_evaluator = dict(ann_file="{annotations}")\n'
_MAPS_SETTING = (
    '{split}_dataloader = dict(dataset=dict(data_root="", data_prefix=dict(img_path="{images}", '
    'seg_map_path="{labels}")))\n'
)


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
        yield Evaluation(kind, annotations, kind == "CocoMetric" and "segm" in names)


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
            numbers = [factor, *(scale if isinstance(scale, list | tuple) else [scale or 0])]
            if not all(isinstance(number, int | float) for number in numbers):
                continue  # the run names it: data_places.try_pipeline
            if isinstance(scale, int):  # of the shorter side
                yield (scale, math.inf), 1.0, True
            else:
                yield scale, factor, bool(transform.get("keep_ratio", kind == "FixScaleResize"))
