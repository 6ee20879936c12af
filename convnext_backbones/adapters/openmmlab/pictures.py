"""Pictures and label maps of every pipeline of OpenMMLab, read by the one reader (data.pictures).

mmcv's LoadImageFromFile and LoadAnnotations, and what MMDetection and MMSegmentation make of them, decode
through mmcv.imfrombytes, which knows neither the file's name nor what is read for what. So the transforms
note what they read, and mmcv.imfrombytes reads that as ours does; whatever else calls it gets mmcv's own.

What is read otherwise than by color_type="color" (grey, unchanged, tifffile) stays mmcv's, too.
"""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from pathlib import Path

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, LoadAnnotations, LoadImageFromFile

from ...data.pictures import read_label_map, read_picture
from ...errors import UnreadableFileError, UserError
from ...runs.patching import Patch, Patches, patched_attribute

MOST = 255  # of a label: the hosts keep label maps in 8 bits

# The transform that reads now, and the picture's record.
_READING: contextvars.ContextVar[tuple[BaseTransform, dict] | None] = contextvars.ContextVar(
    "convnext_backbones_reading", default=None
)


def _noting(call):
    """BaseTransform.__call__, which notes what is read, and names the file that cannot be."""

    @functools.wraps(call)
    def __call__(self, results):  # noqa: N807
        if not isinstance(self, (LoadImageFromFile, LoadAnnotations)):
            return call(self, results)
        with _noted(self, results):
            return call(self, results)

    return __call__


@contextlib.contextmanager
def _noted(transform: BaseTransform, results: dict) -> Iterator[None]:
    token = _READING.set((transform, results))
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise
        said = f"{error.filename} cannot be read: {error.strerror}"
        raise UnreadableFileError(said, str(error.filename)) from error
    finally:
        _READING.reset(token)


def _decoding(plain):
    @functools.wraps(plain)
    def imfrombytes(content, flag="color", channel_order="bgr", backend=None):
        transform, results = _READING.get() or (None, {})
        if isinstance(transform, LoadImageFromFile) and flag == "color" and backend != "tifffile":
            picture = _picture(content, results)
            return picture if channel_order == "rgb" else mmcv.rgb2bgr(picture)
        if isinstance(transform, LoadAnnotations) and flag == "unchanged":
            return _label_map(content, results)
        found = plain(content, flag, channel_order, backend)
        if found is None and isinstance(transform, LoadImageFromFile):
            path = results["img_path"]
            raise UnreadableFileError(f"{path} is no picture that can be read", str(path))
        return found

    return imfrombytes


def _picture(content: bytes, results: dict) -> np.ndarray:
    size = results.get("width"), results.get("height")
    labels = results.get("seg_map_path")
    return read_picture(
        results["img_path"],
        content=content,
        size=tuple(map(int, size)) if all(size) else None,
        label_map=labels if labels and Path(labels).is_file() else None,
    )


def _label_map(content: bytes, results: dict) -> np.ndarray:
    path = results["seg_map_path"]
    labels = read_label_map(path, content=content)
    if labels.max(initial=0) > MOST:
        raise UserError(
            f"the label map {path} holds {labels.max()}; labels go up to {MOST} in OpenMMLab"
        )
    shape = results.get("ori_shape", labels.shape)
    if labels.shape != tuple(shape[:2]):
        raise UserError(
            f"the label map {path} is {labels.shape[1]}x{labels.shape[0]} pixels and its picture "
            f"{results.get('img_path')} {shape[1]}x{shape[0]}: they are not of the same picture"
        )
    return labels


PICTURES = Patches(
    (
        patched_attribute(BaseTransform, "__call__", _noting),
        Patch(
            "mmcv.imfrombytes",
            get=lambda: mmcv.imfrombytes,
            put=lambda function: setattr(mmcv, "imfrombytes", function),
            make=_decoding,
        ),
    )
)
