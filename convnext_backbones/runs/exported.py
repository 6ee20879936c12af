"""An exported file in the place of a framework, for predict: pictures to what is in them.

Pictures are prepared as the file's metadata say; results are scaled back and masks pasted as the frameworks do it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.pictures import read_picture
from ..errors import UserError
from ..export.opened import Opened, open_exported
from ..export.pictures import Prepared, as_input, prepared
from .host import Classes, Result


class Model(NamedTuple):
    """An opened file, and its metadata where predict looks for those of a model."""

    file: Opened
    dataset_meta: dict


class Found(NamedTuple):
    """What the file says of a picture: the picture's height and width, how it was prepared, the outputs."""

    size: tuple[int, int]
    picture: Prepared
    outputs: dict[str, np.ndarray]


def load(path: str | Path, *, throughput: bool = False) -> Model:
    """Open a file for `infer`.

    Raises:
        UserError: no file of export, or of a network that finds neither a label map nor instances.
    """
    file = open_exported(path, throughput=throughput)
    if file.about["task"] not in ("label map", "instances"):
        raise UserError(
            f"{path} gives {', '.join(file.about['outputs'])}: nothing that can be drawn. predict takes exported "
            "detectors and segmentors"
        )
    return Model(file, file.about)


def infer(model: Model, files: Sequence[Path]) -> list[Found]:
    """What is in picture files; those of one size go through the file together."""
    about = model.dataset_meta
    images = [read_picture(file) for file in files]
    if "windows" in about:
        return [_by_windows(model, image) for image in images]
    pictures = [prepared(image, about) for image in images]
    sizes: dict[tuple, list[int]] = {}
    for k, picture in enumerate(pictures):
        sizes.setdefault(tuple(picture.pixels.shape), []).append(k)
    found = {}
    for numbers in sizes.values():
        pixels = torch.cat([pictures[k].pixels for k in numbers])
        outputs = _run(model, pixels)
        for row, k in enumerate(numbers):
            own = {name: y[row] for name, y in outputs.items()}
            found[k] = Found(images[k].shape[:2], pictures[k], own)
    return [found[k] for k in range(len(files))]


def _run(model: Model, pixels: Tensor) -> dict[str, np.ndarray]:
    """Outputs of any number of images, also by a file of one batch size."""
    about = model.dataset_meta
    batch, count = about["batch"] or len(pixels), len(pixels)
    missing = -count % batch
    pixels = torch.cat((pixels, pixels[-1:].expand(missing, -1, -1, -1)))
    parts = [model.file.run(as_input(part, about)) for part in pixels.split(batch)]
    return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}


def _by_windows(model: Model, image: np.ndarray) -> Found:
    """The mean logits of windows that overlap, as the config's test has it."""
    about = model.dataset_meta
    whole = prepared(image, {**about, "size": None, "multiple": 1, "least": 1})
    total = count = 0
    for top, left, bottom, right in _windows(about["windows"], whole.height, whole.width):
        part = whole.pixels[:, :, top:bottom, left:right]
        picture = prepared(part[0].permute(1, 2, 0).numpy(), {**about, "resize": None, "pad": None})
        logits = torch.from_numpy(_run(model, picture.pixels)["logits"])
        logits = logits[:, :, : bottom - top, : right - left]
        around = (left, whole.width - right, top, whole.height - bottom)
        total = total + F.pad(logits, around)
        count = count + F.pad(torch.ones_like(logits[:, :1]), around)
    return Found(image.shape[:2], whole, {"logits": (total / count)[0].numpy()})


def _windows(windows: dict, height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Top, left, bottom, right, the last ones moved back into the picture."""
    (high, wide), (down, across) = windows["size"], windows["stride"]
    for row in range(max(height - high + down - 1, 0) // down + 1):
        for column in range(max(width - wide + across - 1, 0) // across + 1):
            bottom, right = min(row * down + high, height), min(column * across + wide, width)
            yield max(bottom - high, 0), max(right - wide, 0), bottom, right


def result_of(found: Found, about: dict, score: float) -> Result:
    """What is in a picture, with the instances of at least that score."""
    classes = Classes(about["classes"], [tuple(c) for c in about["palette"]] or None)
    height, width = found.size
    if about["task"] == "label map":
        logits = torch.from_numpy(found.outputs["logits"])[None]
        logits = logits[:, :, : found.picture.height, : found.picture.width]
        logits = F.interpolate(logits, size=found.size, mode="bilinear", align_corners=False)[0]
        confidence, labels = logits.softmax(dim=0).max(dim=0)
        return Result(classes, label_map=labels.numpy(), confidence=confidence.numpy())
    outputs = found.outputs
    kept = outputs["scores"] >= max(score, 0.0)
    by = np.array([width / found.picture.width, height / found.picture.height] * 2, np.float32)
    boxes = outputs["boxes"] * by
    if about.get("clip"):  # as Detectron2 does, which also leaves out what is outside
        boxes = np.clip(boxes, 0, np.array([width, height] * 2, np.float32))
        kept &= (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
    boxes = boxes[kept]
    masks = None
    if "masks" in outputs:
        masks = _pasted(outputs["masks"][kept], boxes, found.size, about["mask_threshold"])
    return Result(
        classes, boxes=boxes, labels=outputs["labels"][kept], scores=outputs["scores"][kept],
        masks=masks,
    )  # fmt: skip


def _pasted(
    masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float
) -> np.ndarray:
    """(n, m, m) probabilities in their boxes to (n, H, W) bool, as Detectron2 and MMDetection paste them."""
    pasted = np.zeros((len(masks), *size), bool)
    for k, (mask, (left, top, right, bottom)) in enumerate(zip(masks, boxes, strict=True)):
        x = (torch.arange(size[1]) + 0.5 - left) / max(right - left, 1e-6) * 2 - 1
        y = (torch.arange(size[0]) + 0.5 - top) / max(bottom - top, 1e-6) * 2 - 1
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None].float()
        values = F.grid_sample(torch.from_numpy(mask)[None, None], grid, align_corners=False)
        pasted[k] = values[0, 0].numpy() >= threshold
    return pasted
