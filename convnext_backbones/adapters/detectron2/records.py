"""The pictures and labels of a Detectron2 config, for convnext_backbones.data.checks."""

import contextlib
import io
import logging
import os
import statistics
from collections.abc import Callable, Iterator

import detectron2.data.transforms as T
from detectron2.data import DatasetCatalog, MetadataCatalog, get_detection_dataset_dicts
from detectron2.structures import BoxMode
from omegaconf import DictConfig, OmegaConf

from ...data.records import VOID, Evaluation, Record, Records
from ...errors import UserError
from ...network.variants import nearest
from ...runs.preparation import CONFIG_ERRORS
from . import data as data_sets
from .configs import LazyRun, Run, YamlRun

_BOXES_SETTING = "{{name: NAME_{split}, annotations: {annotations}, images: {images}}}\n"
_MAPS_SETTING = "{{name: NAME_{split}, images: {images}, labels: {labels}, classes: [..]}}\n"


def records(run: Run, split: str, *, most: int | None = None) -> Records | None:
    """What the data sets of a split hold; None for "test", which is the validation's over again.
    An annotation file of more than `most` bytes is left `unread`."""
    settings = run.settings
    names = {"train": settings.train_data, "val": settings.test_data}.get(split)
    if not names:
        return None
    for name in names:
        if name not in DatasetCatalog.list():
            raise UserError(
                f"no data set {name!r} is registered; {nearest(name, DatasetCatalog.list())}"
            )
    files = [MetadataCatalog.get(name).get("json_file") or "" for name in names]
    for file in files:
        if most is not None and os.path.isfile(file) and (size := os.path.getsize(file)) > most:
            return Records(split, "boxes", (), annotations=file, unread=size)
    meta = MetadataCatalog.get(names[0])
    maps = bool(meta.get("sem_seg_root")) and not meta.get("json_file")
    one = len(names) == 1
    masks = run.without_masks() is not None
    found = Records(
        split,
        "label maps" if maps else "boxes",
        (),
        annotations=meta.get("json_file") if one else None,
        images=meta.get("image_root"),
        needs_masks=masks and not maps,
        gives_masks=masks,
        resized=_resizing(run, split),
        setting=_MAPS_SETTING if maps else _BOXES_SETTING,
    )
    if maps:
        found.voids = dict(_voids(run, names[0]))
        found.renumber = {}
        if data_sets.ignored_label(names[0]) == 0:
            found.renumber = {value: (value - 1) % 256 for value in range(256)}
    elif split == "val" and one:
        found.evaluations = (Evaluation("COCOEvaluator", _annotations_of_evaluator(run, names[0])),)
    try:
        with _quiet():
            dicts = _dicts(run, split, names)
    except UserError as error:
        found.error = str(error)
    except (*CONFIG_ERRORS, OSError) as error:
        found.error = f"{type(error).__name__}: {error}"
    else:
        found.records = [_record(record) for record in dicts]
    found.classes = tuple(meta.get("stuff_classes" if maps else "thing_classes") or ())
    found.palette = meta.get("stuff_colors" if maps else "thing_colors")
    return found


def _dicts(run: Run, split: str, names: list[str]) -> list[dict]:
    """Detectron2's own dictionaries, with what it leaves out left out."""
    if isinstance(run, YamlRun):
        filters = split == "train" and run.cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS
    else:
        loader = run.cfg.dataloader[{"train": "train", "val": "test"}[split]]
        filters = OmegaConf.select(loader, "dataset.filter_empty", default=True)
    return get_detection_dataset_dicts(list(names), filter_empty=filters)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """pycocotools prints of its index; what Detectron2 warns of, checks say with counts."""
    logger = logging.getLogger("detectron2")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def _record(entry: dict) -> Record:
    boxes = entry.get("annotations") or ()
    size = (entry["width"], entry["height"]) if {"width", "height"} <= entry.keys() else None
    return Record(
        entry["file_name"],
        size,
        tuple(
            tuple(BoxMode.convert(list(box["bbox"]), box["bbox_mode"], BoxMode.XYXY_ABS))
            for box in boxes
        ),
        tuple(box["category_id"] for box in boxes),
        tuple(box.get("segmentation") for box in boxes),
        tuple(bool(box.get("iscrowd")) for box in boxes),
        entry.get("sem_seg_file_name"),
    )


# ---- what the config says ------------------------------------------------------------------------
def _voids(run: Run, name: str) -> Iterator[tuple[str, int]]:
    """The label that counts for no class, by the places that say it."""
    yield f"ignore_label of {name}", MetadataCatalog.get(name).get("ignore_label", VOID)
    void = run.get(run.IGNORE_KEY)
    if void is not None:
        yield run.IGNORE_KEY, void


def _annotations_of_evaluator(run: Run, name: str) -> str | None:
    if isinstance(run, LazyRun):
        name = OmegaConf.select(run.cfg.dataloader, "evaluator.dataset_name", default=name)
    return MetadataCatalog.get(name).get("json_file") if isinstance(name, str) else None


def _resizing(run: Run, split: str) -> Callable[[int, int], tuple[float, float]] | None:
    """A picture's size to the one that the config resizes it to; of several the middle one."""
    if isinstance(run, YamlRun):
        node = run.cfg.INPUT
        sides = node.MIN_SIZE_TRAIN if split == "train" else (node.MIN_SIZE_TEST,)
        longest = node.MAX_SIZE_TRAIN if split == "train" else node.MAX_SIZE_TEST
    else:
        loader = run.cfg.dataloader["train" if split == "train" else "test"]
        steps = OmegaConf.select(loader, "mapper.augmentations", default=None) or ()
        step = next((s for s in steps if _is_resize(s)), None)
        if step is None:
            return None
        sides, longest = step.short_edge_length, step.get("max_size", 1333)
    sides = [sides] if isinstance(sides, int) else list(sides)
    side = statistics.median(sides)

    def resized(width: int, height: int) -> tuple[float, float]:
        factor = min(side / min(width, height), longest / max(width, height)) if side else 1.0
        return width * factor, height * factor

    return resized


def _is_resize(step) -> bool:
    target = step.get("_target_") if isinstance(step, DictConfig) else None
    return target is T.ResizeShortestEdge or str(target).endswith("ResizeShortestEdge")
