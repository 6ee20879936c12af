"""How far the padding of a batch changes a backbone's maps.

A picture's map in a batch as MMDetection and Detectron2 pad it, beside the map that it has alone and
unpadded: the norm of the difference over the norm of the latter, far enough from the padding.
"""

from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.functional import normalize, to_tensor

from ..errors import UserError
from ..network.convnext import ConvNeXt
from ..network.preprocessing import IMAGENET_MEAN, IMAGENET_STD

DIVISOR = 32
GENERATED = ((640, 480), (640, 427), (640, 360))  # width, height: COCO's commonest and a wide one


class Batch(NamedTuple):
    """The short sides of a picture and of the one beside it (None: alone), or of a square canvas.

    For the recipes' short side of 800 and long side of at most 1333.
    """

    name: str
    short: int
    other: int | None = None
    canvas: int | None = None


BATCHES = (
    Batch("both, testing: alone", 800),
    Batch("both, training: 800 beside 800", 800, 800),
    Batch("Detectron2: 640 beside 800", 640, 800),
    Batch("MMDetection: 480 beside 800", 480, 800),
    Batch("both, jitter: 512 in 1024x1024", 512, canvas=1024),
)


def generated() -> list[Image.Image]:
    """Pictures of GENERATED's sizes: soft blots under grain."""
    rng = np.random.default_rng(0)
    images = []
    for width, height in GENERATED:
        blots = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        pixels = np.asarray(blots.resize((width, height), Image.Resampling.BICUBIC))
        grainy = pixels + rng.normal(0, 12, pixels.shape)
        images.append(Image.fromarray(grainy.clip(0, 255).astype(np.uint8)))
    return images


@torch.no_grad()
def measure(
    model: ConvNeXt, images: list[Image.Image], batch: Batch, scale: float, margin: int
) -> tuple[float, Tensor, Tensor]:
    """The mean share of padding in the batch, and each stage's difference, without and with sizes.

    Args:
        scale: of all sides of the pictures.
        margin: pixels between the padding and what is compared.

    Raises:
        UserError: the margin leaves no position.
    """
    share, off, on = 0.0, 0, 0
    for i, image in enumerate(images):
        x = resized(image, batch.short, scale, model)
        height, width = x.shape[2:]
        sides = [(height, width)]
        if batch.other:  # the next one of the same orientation, as both frameworks group them
            wide = image.width >= image.height
            others = [y for y in images[i + 1 :] + images if (y.width >= y.height) == wide]
            sides.append(resized(others[0], batch.other, scale, model).shape[2:])
        if batch.canvas:
            sides.append([round(batch.canvas * scale)] * 2)
        bottom, right = (-(-max(side) // DIVISOR) * DIVISOR for side in zip(*sides, strict=True))
        padded = F.pad(x, (0, right - width, 0, bottom - height))
        share += (1 - height * width / (bottom * right)) / len(images)
        margins = margin * (bottom > height), margin * (right > width)
        alone = model(x)
        off = off + _squares(model(padded), alone, model.strides, margins)
        on = on + _squares(model(padded, [(height, width)]), alone, model.strides, margins)
    return share, *((total[:, 0] / total[:, 1]).sqrt() for total in (off, on))


def _squares(maps, alone, strides, margins: tuple[int, int]) -> Tensor:
    """For each stage the sums of squares of the difference and of the picture's own map."""
    sums = []
    for x, y, stride in zip(maps, alone, strides, strict=True):
        rows, columns = (n - m // stride for n, m in zip(y.shape[2:], margins, strict=True))
        if rows < 1 or columns < 1:
            raise UserError(
                f"no position of stride {stride} is {max(margins)} pixels away from the padding; "
                "give a smaller --margin or a greater --scale"
            )
        y = y[:, :, :rows, :columns].double()
        difference = x[:, :, :rows, :columns].double() - y
        sums.append(torch.stack([difference.square().sum(), y.square().sum()]))
    return torch.stack(sums)


def resized(image: Image.Image, short: int, scale: float, model: ConvNeXt) -> Tensor:
    """(1, 3, H, W) normalised pixels: the short side as given, the long one at most 1333."""
    ratio = scale * min(short / min(image.size), 1333 / max(image.size))
    size = [max(round(side * ratio), DIVISOR) for side in image.size]
    pixels = normalize(to_tensor(image.resize(size)), IMAGENET_MEAN, IMAGENET_STD)
    return pixels[None].to(next(model.parameters()).device)
