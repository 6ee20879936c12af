"""A picture as MMDetection's and MMSegmentation's models see it, to look inside (looking/)."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from mmengine.dataset import pseudo_collate
from mmseg.models.segmentors import EncoderDecoder

from ...errors import UserError
from ...network.padding import note_image_sizes
from ...runs.host import Classes, View

_TAKES = "select_single_mlvl"


def view(model: torch.nn.Module, file: Path) -> View:
    """By the pipeline of the test data; a segmentor sees the whole picture, also where it slides in testing.

    Raises:
        UserError: the model neither segments as EncoderDecoder does nor finds instances.
    """
    data = model.test_pipeline(dict(img_path=str(file), img_id=0, seg_fields=[]))
    given = model.data_preprocessor(pseudo_collate([data]), False)
    pixels, sample = given["inputs"], given["data_samples"][0]
    size = tuple(int(side) for side in sample.metainfo["img_shape"][:2])

    def segment(pixels: torch.Tensor) -> list[torch.Tensor]:
        note_image_sizes(pixels, [size] * len(pixels))
        return list(model.encode_decode(pixels, [sample.metainfo] * len(pixels)))

    def detect(pixels: torch.Tensor) -> list[dict]:
        note_image_sizes(pixels, [size] * len(pixels))
        samples = [sample.clone() for _ in range(len(pixels))]
        with _not_detached(getattr(model, "bbox_head", None)):
            found = [s.pred_instances for s in model.predict(pixels, samples, rescale=False)]
        return [dict(boxes=f.bboxes.detach(), labels=f.labels, scores=f.scores) for f in found]

    meta = model.dataset_meta
    classes = Classes(meta.get("classes") or (), meta.get("palette") or None)
    if isinstance(model, EncoderDecoder):
        return View(pixels, size, segment, False, classes)
    if model.cfg.default_scope != "mmdet":
        raise UserError(
            f"visualize knows MMSegmentation's EncoderDecoder, not {type(model).__name__}"
        )
    return View(pixels, size, detect, True, classes)


@contextlib.contextmanager
def _not_detached(head: torch.nn.Module | None) -> Iterator[None]:
    """Inside, a dense head's predictions (RetinaNet's, RTMDet's and their like) follow from its maps by autograd:
    MMDetection takes each picture's maps by a function that detaches them."""
    modules = [sys.modules[cls.__module__] for cls in type(head).__mro__ if head is not None]
    places = [module for module in dict.fromkeys(modules) if hasattr(module, _TAKES)]
    plain = [getattr(module, _TAKES) for module in places]
    for module, function in zip(places, plain, strict=True):
        setattr(module, _TAKES, lambda maps, k, detach=True, f=function: f(maps, k, detach=False))
    try:
        yield
    finally:
        for module, function in zip(places, plain, strict=True):
            setattr(module, _TAKES, function)
