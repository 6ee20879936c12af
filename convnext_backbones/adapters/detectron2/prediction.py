"""What Detectron2's models say of picture files, by the mapper of their test data."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from ...console import say
from ...data.pictures import probe, read_label_map
from ...errors import UserError
from ...runs.host import Classes, Result
from ...runs.results import filled
from .data import IGNORE


def infer(model: torch.nn.Module, files: Sequence[Path]) -> list[dict]:
    """The model's outputs for picture files, as one batch."""
    return _outputs(model, [dict(file_name=str(file), image_id=k) for k, file in enumerate(files)])


def output_of(model: torch.nn.Module, record: dict) -> dict:
    """The model's output for a record of a data set."""
    return _outputs(model, [record])[0]


def _outputs(model: torch.nn.Module, records: Sequence[dict]) -> list[dict]:
    inputs = []
    for record in records:
        entry = model.test_mapper(record)
        if "height" not in entry:  # a mapper of a user's, which leaves it to the data set
            header = probe(record["file_name"])
            entry |= dict(height=header.height, width=header.width)
        inputs.append(entry)
    with torch.no_grad():
        return model(inputs)


# ---- classes -------------------------------------------------------------------------------------
def metadata_of(dataset: str | None):
    """The metadata of the test data, which name the classes. What a data set tells of itself only when it
    is read, as those of register_coco_instances do, is read; numbers stand for what nobody names."""
    meta = MetadataCatalog.get(dataset or "__unnamed")
    if not _named(meta) and dataset in DatasetCatalog.list():
        try:
            DatasetCatalog.get(dataset)
        except (UserError, OSError, AssertionError, ValueError, KeyError) as error:
            say(f"the data set {dataset!r} cannot be read ({error})")
    if not _named(meta):
        say(
            f"nothing names the classes: numbers stand for them. MetadataCatalog.get({meta.name!r})"
            ".set(thing_classes=[..]), or stuff_classes for segmentation, names them"
        )
    return meta


def _named(meta) -> bool:
    return bool(meta.get("thing_classes") or meta.get("stuff_classes"))


def classes_of(meta, kind: str) -> Classes:
    return Classes(meta.get(f"{kind}_classes") or (), meta.get(f"{kind}_colors") or None)


# ---- results -------------------------------------------------------------------------------------
def result_of(output: dict, meta, score: float) -> Result:
    """A model's output, with the instances of at least that score."""
    if "instances" not in output:
        confidence, labels = output["sem_seg"].softmax(dim=0).cpu().max(dim=0)
        return Result(
            classes_of(meta, "stuff"), label_map=labels.numpy(), confidence=confidence.numpy()
        )
    found = output["instances"].to("cpu")
    found = found[found.scores >= score]
    return Result(
        classes_of(meta, "thing"), boxes=found.pred_boxes.tensor.numpy(),
        labels=found.pred_classes.numpy(), scores=found.scores.numpy(),
        masks=found.pred_masks.numpy() if found.has("pred_masks") else None,
    )  # fmt: skip


def truth_of(record: dict, meta, image: np.ndarray) -> Result:
    """A data set's record."""
    if "annotations" not in record:
        if "sem_seg_file_name" not in record:
            return Result()
        return Result(classes_of(meta, "stuff"), label_map=_label_map(record, meta))
    truth = [entry for entry in record["annotations"] if not entry.get("iscrowd")]
    boxes = [BoxMode.convert(t["bbox"], t["bbox_mode"], BoxMode.XYXY_ABS) for t in truth]
    masks = None
    if truth and all(t.get("segmentation") for t in truth):
        masks = np.stack([filled(t["segmentation"], *image.shape[:2]) for t in truth])
    return Result(
        classes_of(meta, "thing"), boxes=np.array(boxes, float).reshape(-1, 4),
        labels=np.array([t["category_id"] for t in truth], int), masks=masks,
    )  # fmt: skip


def holds_objects(record: dict, meta) -> bool:
    """Whether a record of a data set is annotated with anything."""
    if "annotations" in record:
        return any(not entry.get("iscrowd") for entry in record["annotations"])
    return "sem_seg_file_name" in record and bool((_label_map(record, meta) != IGNORE).any())


def _label_map(record: dict, meta) -> np.ndarray:
    """(H, W) class numbers, 255 for none."""
    labels = read_label_map(record["sem_seg_file_name"])
    if meta.get("label_of_no_class") == 0:
        return labels.astype(np.uint8) - np.uint8(1)  # 0 becomes 255
    return np.where(labels == meta.get("ignore_label", IGNORE), IGNORE, labels)
