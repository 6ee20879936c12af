"""How far the padding of a batch changes a backbone's maps, with and without ignore_padding.

    python tools/padding_effect.py
    python tools/padding_effect.py convnextv2_base --weights FILE_OR_NAME --images FOLDER

MMDetection and Detectron2 pad the normalised pixels with zeros to the largest picture of the batch
and up to a multiple of 32. The table gives the difference between a picture's map in such a batch
and the map that it has alone, unpadded: its norm over the norm of the latter, over the positions at
least --margin pixels away from the padding. What is left there of V1, which has no GRN, its
convolutions carried that far.

Without --weights the weights are random, GRN's too, so that GRN matters; how much it matters in a
trained network, only trained weights tell.
"""

import argparse
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import normalize, to_tensor

from .. import VARIANTS, ConvNeXt, create_backbone
from ..checkpoints import load_pretrained
from ..errors import UserError
from ..network.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ..network.variants import nearest
from .predict import pictures

NETWORKS = ("convnext_tiny", "convnextv2_atto", "convnextv2_tiny", "convnextv2_base")
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


def parse_args():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("networks", nargs="*", help=f"default: {' '.join(NETWORKS)}")
    parser.add_argument("--weights", help="of the one network: file, folder, URL or name")
    parser.add_argument("--images", help="folder of pictures; default: generated ones")
    parser.add_argument("--limit", type=int, default=3, help="most pictures taken; default 3")
    parser.add_argument("--scale", type=float, default=1.0, help="of all sides; default 1")
    parser.add_argument("--margin", type=int, default=128, help="in pixels; default 128")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    args.networks = args.networks or list(NETWORKS)
    if args.weights and len(args.networks) != 1:
        parser.error("--weights needs the name of its one network, e.g. convnextv2_base")
    if args.limit < 1 or args.scale <= 0 or args.margin < 0:
        parser.error("--limit begins at 1, --scale above 0, --margin at 0")
    for name in args.networks:
        if name not in VARIANTS:
            parser.error(f"unknown network {name!r}; {nearest(name, VARIANTS)}")
    return args


def main() -> None:
    args = parse_args()
    images = read(args.images, args.limit) if args.images else generated()[: args.limit]
    for name in args.networks:
        model = create_backbone(name, out_indices=(0, 1, 2, 3)).eval()
        print(f"\n{name}: {weights_of(model, args.weights)}")
        stages = "".join(f"{stage:>9}" for stage in model.out_features)
        print(f"{'batch':32}{'padding':>8}  ignore_padding{stages}")
        model.to(args.device)
        for batch in BATCHES:
            padding, off, on = measure(model, images, batch, args.scale, args.margin)
            print(f"{batch.name:32}{padding:8.0%}  {'off':14}{_columns(off)}")
            print(f"{'':42}{'on':14}{_columns(on)}", flush=True)


def _columns(differences: Tensor) -> str:
    return "".join(f"{difference:9.2g}" for difference in differences)


def weights_of(model: ConvNeXt, source: str | None) -> str:
    """Load the weights, or draw some under which every layer matters; what they are, in words."""
    if source:
        return str(load_pretrained(model, source))
    torch.manual_seed(0)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
            elif isinstance(module, nn.LayerNorm) and parameter is module.weight:
                nn.init.normal_(parameter, mean=1, std=0.2)
            else:  # biases, layer scale, GRN's gamma and beta
                nn.init.normal_(parameter, std=0.3)
    return "random weights"


def read(source: str, limit: int) -> list[Image.Image]:
    images = []
    for path in pictures(source)[:limit]:
        try:
            images.append(Image.open(path).convert("RGB"))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error}; take it out of the folder") from error
    return images


def generated() -> list[Image.Image]:
    """Soft blots under grain."""
    rng = np.random.default_rng(0)
    images = []
    for width, height in GENERATED:
        blots = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        pixels = np.asarray(blots.resize((width, height), Image.Resampling.BICUBIC))
        grainy = pixels + rng.normal(0, 12, pixels.shape)
        images.append(Image.fromarray(grainy.clip(0, 255).astype(np.uint8)))
    return images


@torch.no_grad()
def measure(model: ConvNeXt, images: list[Image.Image], batch: Batch, scale: float, margin: int):
    """The mean share of padding in the batch, and each stage's difference, without and with sizes."""
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


def resized(image: Image.Image, short: int, scale: float, model) -> Tensor:
    """(1, 3, H, W) normalised pixels: the short side as given, the long one at most 1333."""
    ratio = scale * min(short / min(image.size), 1333 / max(image.size))
    size = [max(round(side * ratio), DIVISOR) for side in image.size]
    pixels = normalize(to_tensor(image.resize(size)), IMAGENET_MEAN, IMAGENET_STD)
    return pixels[None].to(next(model.parameters()).device)
