"""The written file run by its runtime, and compared with PyTorch: what differs, and whether it may."""

import copy
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UserError
from .exportable import INSTANCES, Exportable, Graph
from .opened import Opened

# The greatest difference, as a part of an output's greatest value; of boxes, of the longer side.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 8e-2}
# How many of a picture's instances may be missing or new: near a limit of score or overlap, a rounding
# error decides.
UNMATCHED = {"fp32": 0.02, "fp16": 0.1, "bf16": 0.2}


class Row(NamedTuple):
    """A comparison: images, an output, its greatest absolute value in PyTorch, the greatest difference, and
    that as a part of what it is measured by."""

    images: str
    output: str
    greatest: float
    difference: float
    relative: float

    def __str__(self) -> str:
        return (
            f"{self.images:18} {self.output:9} greatest {self.greatest:9.4g}   difference "
            f"{self.difference:9.3g}   relative {self.relative:8.2g}"
        )


class Expected(NamedTuple):
    """Images as the file takes them, what they are, and PyTorch's outputs for them; its masks in given
    regions, where the outputs have some: boxes and labels to masks."""

    title: str
    images: Tensor
    outputs: tuple[Tensor, ...]
    masks: Callable[[Tensor, Tensor], Tensor] | None


def expected(
    model: Exportable,
    graph: Graph,
    shapes: Sequence[tuple[int, int, int]],
    pictures: Sequence[Tensor],
) -> list[Expected]:
    """PyTorch's outputs for generated images of these shapes and for pictures, (1, 3, H, W) in 0..255."""
    generator = torch.Generator().manual_seed(0)
    given = [(f"{n} of {h}x{w}", _noise(model, (n, h, w), generator)) for n, h, w in shapes]
    given += [(f"picture {k} {x.shape[2]}x{x.shape[3]}", x) for k, x in enumerate(pictures, 1)]
    found = []
    masks_in = copy.deepcopy(model.masks)  # with its network, which is changed for the graph
    with torch.no_grad():
        for title, pixels in given:
            images = pixels if graph.pixels else _normalised(model, pixels)
            normalised = graph.normalised(images)
            outputs = model.reference(normalised)
            outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
            outputs = tuple(y.detach().clone() for y in outputs)
            masks = functools.partial(masks_in, normalised) if masks_in else None
            found.append(Expected(title, images, outputs, masks))
    return found


def _noise(model: Exportable, shape: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """Pixels in 0..255: coarse patches with a little noise, each image another."""
    n, height, width = shape
    coarse = torch.rand(n, model.channels, max(2, height // 16), max(2, width // 16), generator=generator)  # fmt: skip
    fine = torch.rand(n, model.channels, height, width, generator=generator)
    patches = F.interpolate(coarse, size=(height, width), mode="nearest")
    return (255 * (0.8 * patches + 0.2 * fine)).round()


def _normalised(model: Exportable, pixels: Tensor) -> Tensor:
    if model.mean is None:
        return pixels / 127.5 - 1
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (model.mean, model.std))
    images = (pixels - mean) / std
    return images[:, [2, 1, 0]] if model.bgr else images


def root_mean_square_off(y: np.ndarray, x: np.ndarray) -> float:
    """The root mean square of x - y by that of y."""
    return float(np.sqrt(((x - y) ** 2).mean() / max((y**2).mean(), 1e-12)))


def compare(
    opened: Opened,
    wanted: Sequence[Expected],
    model: Exportable,
    precision: str,
    tolerance: float | None,
) -> list[Row]:
    """The report of differences. Without a tolerance they are not judged, and instances, whose order then
    says nothing, are not compared.

    Raises:
        UserError: an output differs by more than the tolerance, or in its shape, or is no number; or the
            runtime fails.
    """
    rows = []
    for title, images, outputs, masks_in in wanted:
        try:
            found = opened.run(images.numpy())
        except Exception as error:
            raise UserError(
                f"the written file fails for {title}: {' '.join(str(error).split())[:300]}"
            ) from error
        pairs = {
            name: (y.float().numpy(), np.asarray(found[name], np.float32))
            for name, y in zip(model.outputs, outputs, strict=True)
        }
        for name, (y, x) in pairs.items():
            if y.shape != x.shape:
                raise UserError(
                    f"the written file gives {name} of shape {x.shape} for {title}, PyTorch {y.shape}"
                )
            if not np.isfinite(x).all():
                raise UserError(f"the written file gives {name} that is no number for {title}")
        if model.task == INSTANCES and tolerance is None:
            continue
        if model.task == INSTANCES:
            masks = _masks(masks_in, found) if masks_in else None
            side = max(images.shape[2:])
            rows += _instances(title, pairs, masks, side, UNMATCHED[precision], tolerance)
        else:
            rows += [_dense(title, name, y, x) for name, (y, x) in pairs.items()]
    if tolerance is None:
        return rows
    worst = max(rows, key=lambda row: row.relative)
    if not worst.relative <= tolerance:  # not a number, too
        raise UserError(
            f"the written file differs from PyTorch by {worst.relative:.2g} of {worst.output}'s greatest "
            f"value for {worst.images}, more than the {tolerance:g} that {precision} may"
        )
    return rows


def _dense(title: str, name: str, y: np.ndarray, x: np.ndarray) -> Row:
    greatest = float(np.abs(y).max(initial=0))
    difference = float(np.abs(y - x).max(initial=0))
    return Row(title, name, greatest, difference, difference / max(greatest, 1e-6))


# ---- instances -----------------------------------------------------------------------------------
def _masks(masks_in: Callable, found: dict) -> np.ndarray:
    """PyTorch's masks in the file's own regions. A mask is what its region makes of it: compared in another,
    it would say once more how far the boxes are apart, which is a figure of its own."""
    boxes, labels = (torch.from_numpy(np.asarray(found[name])) for name in ("boxes", "labels"))
    with torch.no_grad():
        return masks_in(boxes, labels.long()).numpy()


def _instances(
    title: str,
    pairs: dict,
    masks: np.ndarray | None,
    side: int,
    unmatched: float,
    tolerance: float,
) -> list[Row]:
    """Each instance beside its nearest of the same class; masks, (N, k, m, m), beside the file's at their
    place. Order may differ where scores are equal, and a few may be in one list alone."""
    worst = dict.fromkeys(pairs, 0.0)
    lost = total = 0
    for n in range(len(pairs["scores"][0])):
        one, other = ({name: both[k][n] for name, both in pairs.items()} for k in (0, 1))
        here, there = (np.flatnonzero(found["scores"] >= 0) for found in (one, other))
        total += max(len(here), len(there))
        nearest = _matched(one, other, here, there, side, tolerance)
        lost += max(len(here), len(there)) - len(nearest)
        for a, b in nearest:
            for name in pairs:
                wanted = masks[n][b] if name == "masks" else one[name][a]
                apart = float(np.abs(wanted - other[name][b]).max(initial=0))
                worst[name] = max(worst[name], apart)
    if lost > max(unmatched * total, 1 if total > 1 else 0):
        raise UserError(
            f"{lost} of {total} instances for {title} are in the written file's results or in PyTorch's "
            "alone"
        )
    measure = {"boxes": float(side)}
    return [
        Row(f"{title}, {total - lost} of {total}", name, measure.get(name, 1.0), difference,
            difference / measure.get(name, 1.0))
        for name, difference in worst.items() if name != "labels"
    ]  # fmt: skip


def _matched(one, other, here, there, side: int, tolerance: float) -> list[tuple[int, int]]:
    """Pairs of instances of one class whose boxes and scores are within the tolerance, each once."""
    pairs, free = [], set(there.tolist())
    for a in here:
        same = [b for b in free if one["labels"][a] == other["labels"][b]]
        if not same:
            continue
        boxes = np.abs(other["boxes"][same] - one["boxes"][a]).max(axis=1) / side
        scores = np.abs(other["scores"][same] - one["scores"][a])
        apart = np.maximum(boxes, scores)
        if apart.min() <= tolerance:
            b = same[int(apart.argmin())]
            free.discard(b)
            pairs.append((int(a), b))
    return pairs
