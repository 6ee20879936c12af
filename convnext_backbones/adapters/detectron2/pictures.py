"""Pictures and label maps of Detectron2's mappers and evaluators, read by the one reader (data.pictures).

Every mapper reads through detection_utils.read_image, by the file's name and a format. DatasetMapper notes
its record for it: the size that a picture was annotated with, and which file is a label map. A mapper of a
user that notes none reads pictures (RGB, BGR, YUV-BT.601) as ours does, and anything else as Detectron2.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from detectron2.data import DatasetMapper, detection_utils
from detectron2.evaluation import SemSegEvaluator, sem_seg_evaluation
from detectron2.utils.file_io import PathManager
from PIL import Image

from ...data.pictures import probe, read_label_map, read_picture
from ...errors import UnreadableFileError, UserError
from ...runs.patching import Patch, Patches, patched_attribute

MOST = 255  # of a label: Detectron2 reads label maps as 8 bits
PICTURE_FORMATS = ("RGB", "BGR", "YUV-BT.601")

# The record that a mapper maps now, with "shape" when its picture was read.
_RECORD: contextvars.ContextVar[dict | None] = contextvars.ContextVar(
    "convnext_backbones_record", default=None
)


def read_labels(filename: str, dtype=None) -> np.ndarray:
    """A label map as (H, W) values, for SemSegEvaluator."""
    with _named(filename):
        return read_label_map(filename, content=_content(filename)).astype(dtype or np.uint8)


def _noting(call):
    @functools.wraps(call)
    def __call__(self, dataset_dict):  # noqa: N807
        token = _RECORD.set(dict(dataset_dict))
        try:
            return call(self, dataset_dict)
        finally:
            _RECORD.reset(token)

    return __call__


def _reading(plain):
    @functools.wraps(plain)
    def read_image(file_name, format=None):
        record = _RECORD.get() or {}
        with _named(file_name):
            if format == "L" and file_name == record.get("sem_seg_file_name"):
                return _label_map(file_name, record)
            own = file_name == record.get("file_name")
            if format not in PICTURE_FORMATS and not (own and format == "L"):
                return plain(file_name, format)
            picture = _picture(file_name, record if own else {})
        record["shape"] = picture.shape[:2]
        return detection_utils.convert_PIL_to_numpy(Image.fromarray(picture), format)

    return read_image


def _picture(path: str, record: dict) -> np.ndarray:
    size = record.get("width"), record.get("height")
    labels = record.get("sem_seg_file_name")
    return read_picture(
        path,
        content=_content(path),
        size=size if all(size) else None,
        label_map=labels if labels and Path(labels).is_file() else None,
    )


def _label_map(path: str, record: dict) -> np.ndarray:
    """(H, W, 1) uint8, as Detectron2 reads it in the format "L"."""
    labels = read_label_map(path, content=_content(path))
    if labels.max(initial=0) > MOST:
        raise UserError(
            f"the label map {path} holds {labels.max()}; labels go up to {MOST} in Detectron2"
        )
    height, width = record.get("shape", labels.shape)
    if labels.shape != (height, width):
        raise UserError(
            f"the label map {path} is {labels.shape[1]}x{labels.shape[0]} pixels and its picture "
            f"{record['file_name']} {width}x{height}: they are not of the same picture"
        )
    return labels.astype(np.uint8)[..., None]


def _content(path: str) -> bytes:
    with PathManager.open(path, "rb") as file:
        return file.read()


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """A sentence with the file's name for what cannot be read."""
    try:
        yield
    except OSError as error:
        if error.strerror:
            said = f"{path} cannot be read: {error.strerror}"
            raise UnreadableFileError(said, str(path)) from error
        probe(path)
        raise UnreadableFileError(f"{path} is damaged: {error}", str(path)) from error


def _checking(plain):
    @functools.wraps(plain)
    def check_image_size(dataset_dict, image):
        try:
            plain(dataset_dict, image)
        except detection_utils.SizeMismatchError as error:
            raise UserError(str(error)) from error

    return check_image_size


def _evaluating(init):
    @functools.wraps(init)
    def __init__(self, *args, **kwargs):  # noqa: N807
        init(self, *args, **kwargs)
        if self.sem_seg_loading_fn is sem_seg_evaluation.load_image_into_numpy_array:
            self.sem_seg_loading_fn = read_labels

    return __init__


def _function(name: str, make) -> Patch:
    return Patch(
        f"detectron2.data.detection_utils.{name}",
        get=lambda: getattr(detection_utils, name),
        put=lambda function: setattr(detection_utils, name, function),
        make=make,
    )


PICTURES = Patches(
    (
        patched_attribute(DatasetMapper, "__call__", _noting),
        _function("read_image", _reading),
        _function("check_image_size", _checking),
        patched_attribute(SemSegEvaluator, "__init__", _evaluating),
    )
)
