"""Predictions and ground truth drawn over pictures, for any framework (torchvision does the work)."""

import itertools
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

FONT = str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf")
FONT_SIZE = 15
SHORT_SIDE = 320  # smaller pictures are enlarged to this, so that names can be read
NO_CLASS = 255  # in label maps
TRIED = 8  # pictures of a part of the data, to find one with objects

Colour = tuple[int, int, int]


def palette_of(count: int) -> list[Colour]:
    """Distinct colours, for data sets that bring none."""
    hues = np.linspace(0, 1, max(count, 1), endpoint=False)
    rgb = matplotlib.colormaps["hsv"](hues)[:, :3]
    return [tuple(int(255 * v) for v in colour) for colour in rgb]


def full_palette(
    palette: Sequence[Colour] | None, names: Sequence[str], labels: np.ndarray | Sequence[int]
) -> Sequence[Colour]:
    """The palette, or where it is none or lacks a colour for a class or a label, one that has them."""
    numbers = np.asarray(labels, int)
    numbers = numbers[numbers != NO_CLASS]
    count = max(len(names), int(numbers.max(initial=-1)) + 1)
    if palette is not None and len(palette) >= count:
        return [tuple(int(v) for v in colour) for colour in palette]
    return palette_of(count)


def class_name(names: Sequence[str], number: int) -> str:
    """The name of a class; its number, where it has none."""
    return str(names[number]) if number < len(names) else str(number)


def enlarged(image: np.ndarray) -> tuple[np.ndarray, int]:
    """The picture, enlarged by a whole factor if it is small, and the factor."""
    factor = max(1, -(-SHORT_SIDE // min(image.shape[:2])))
    if factor == 1:
        return image, 1
    size = (image.shape[1] * factor, image.shape[0] * factor)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)), factor


def draw_label_map(
    image: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Colour],
    confidence: np.ndarray | None = None,
) -> np.ndarray:
    """A segmentation over its picture, with a legend of the classes that occur.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) class numbers; 255 and numbers without a name stay undrawn.
        classes: the names; none where nobody knows them.
        confidence: (H, W) probability of the drawn class; its mean stands in the legend.
    """
    present = [k for k in np.unique(labels) if k < len(classes or palette) and k != NO_CLASS]
    legend = []
    for k in present:
        inside = labels == k
        text = f"{class_name(classes, k)} {100 * inside.mean():.0f} %"
        if confidence is not None:
            text += f", score {confidence[inside].mean():.2f}"
        legend.append((tuple(palette[k]), text))
    canvas, factor = enlarged(image)
    if not present:
        return canvas
    masks = np.stack([labels == k for k in present]).repeat(factor, axis=1).repeat(factor, axis=2)
    drawn = draw_segmentation_masks(
        _tensor(canvas), torch.from_numpy(masks), alpha=0.55, colors=[c for c, _ in legend]
    )
    return _with_legend(_array(drawn), legend)


def draw_instances(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    palette: Sequence[Colour],
    scores: np.ndarray | None = None,
    masks: np.ndarray | None = None,
    nothing: str = "",
) -> np.ndarray:
    """Boxes with names (and scores) and masks over a picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (n, 4) left, top, right, bottom in pixels.
        labels: (n,) class numbers.
        scores: (n,) in 0..1.
        masks: (n, H, W) bool.
        nothing: what stands below a picture without boxes.
    """
    canvas, factor = enlarged(image)
    if len(boxes) == 0:
        return _with_legend(canvas, [(None, nothing)]) if nothing else canvas
    tensor = _tensor(canvas)
    colours = [tuple(palette[k]) for k in labels]
    names = [class_name(classes, k) for k in labels]
    if scores is not None:
        names = [f"{name} {score:.2f}" for name, score in zip(names, scores, strict=True)]
    if masks is not None:
        masks = torch.from_numpy(np.asarray(masks, bool).repeat(factor, 1).repeat(factor, 2))
        for mask, colour in zip(masks.flip(0), reversed(colours), strict=True):  # the best on top
            tensor = draw_segmentation_masks(tensor, mask, alpha=0.45, colors=colour)
    boxes = np.asarray(boxes, np.float32) * factor
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    drawn = draw_bounding_boxes(
        tensor, torch.from_numpy(boxes), labels=names, colors=colours, width=2,
        font=FONT, font_size=FONT_SIZE, label_colors="white", label_background_colors=colours,
        fill_labels=True,
    )  # fmt: skip
    return _array(drawn)


def spread(total: int, count: int, holds_objects: Callable[[int], bool]) -> list[int]:
    """The numbers of `count` pictures out of `total`, one out of each part of the data, those that hold
    objects first. The same data give the same ones."""
    count = min(count, total)
    bounds = [total * k // max(count, 1) for k in range(count + 1)]
    chosen = []
    for start, end in itertools.pairwise(bounds):
        candidates = random.Random(start).sample(range(start, end), min(TRIED, end - start))
        found = next((k for k in candidates if holds_objects(k)), None)
        chosen.append((found is None, candidates[0] if found is None else found))
    return [number for _, number in sorted(chosen)]


def save_grid(rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], path: Path) -> Path:
    """Rows of pictures under column titles, as one PNG."""
    gap, head = 8, 28
    width = max(image.shape[1] for row in rows for image in row)
    heights = [max(image.shape[0] for image in row) for row in rows]
    sheet = Image.new(
        "RGB", (len(titles) * (width + gap), head + sum(h + gap for h in heights)), "white"
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(FONT, FONT_SIZE)
    for column, title in enumerate(titles):
        draw.text((column * (width + gap) + 4, 5), title, fill="black", font=font)
    top = head
    for row, height in zip(rows, heights, strict=True):
        for column, image in enumerate(row):
            sheet.paste(Image.fromarray(image), (column * (width + gap), top))
        top += height + gap
    sheet.save(path)
    return path


def side_by_side(row: Sequence[np.ndarray], largest: int = 480) -> np.ndarray:
    """Pictures of a row, (H_i, W_i, 3) uint8 each, as one; white where one is lower. Those with a side of more
    than `largest` pixels are reduced to it."""
    row = [_reduced(image, largest) for image in row]
    height = max(image.shape[0] for image in row)
    below = [((0, height - image.shape[0]), (0, 4), (0, 0)) for image in row]
    padded = [
        np.pad(image, pad, constant_values=255) for image, pad in zip(row, below, strict=True)
    ]
    return np.concatenate(padded, axis=1)


def _reduced(image: np.ndarray, largest: int) -> np.ndarray:
    picture = Image.fromarray(image)
    picture.thumbnail((largest, largest))
    return np.asarray(picture)


def _with_legend(image: np.ndarray, legend) -> np.ndarray:
    font = ImageFont.truetype(FONT, FONT_SIZE)
    line = FONT_SIZE + 6
    lines, x = [[]], 6
    for colour, text in legend:
        advance = 22 + int(font.getlength(text)) + 12
        if x + advance > image.shape[1] and lines[-1]:
            lines.append([])
            x = 6
        lines[-1].append((x, colour, text))
        x += advance
    sheet = Image.new("RGB", (image.shape[1], image.shape[0] + line * len(lines)), "white")
    sheet.paste(Image.fromarray(image), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for row, entries in enumerate(lines):
        y = image.shape[0] + row * line
        for x, colour, text in entries:
            if colour is not None:
                draw.rectangle((x, y + 4, x + 14, y + 17), fill=colour)
            draw.text((x + 20 * (colour is not None), y + 2), text, fill="black", font=font)
    return np.asarray(sheet)


def _tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)


def _array(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).contiguous().numpy()
