"""show-data, for any framework that fulfils runs.host.Host: a page of training samples as the network is
given them, with what their labels count."""

import io
from argparse import Namespace
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from ..data.records import VOID, Records
from ..errors import UnreadableFileError, UserError
from .data_check import LARGEST
from .data_page import SHEET_WIDTH, check_page, save_picture, sheet
from .host import Classes, Host, Result, Sample
from .results import draw
from .visualize import FONT, FONT_SIZE, class_name, full_palette

GREY = (128, 128, 128)
HATCH = 12  # pixels between two of the lines over padding
MEDIUM, LARGE = 32, 96  # pixels across, where COCO's medium and large objects begin
BARS = 20  # classes in the chart
CHART_HEIGHT, DOTS = 300, 100  # pixels; an inch


def show_data(host: Host, args: Namespace) -> None:
    """Write the page that args asks for, and say what is on it.

    Raises:
        UserError: the config has no training data, or they cannot be read.
    """
    out = args.out or Path(f"{Path(args.config).stem}_data.png")
    check_page(out, "--out")
    host.quiet_warnings()
    config = host.load_config(
        args.config, sample=args.sample, shrink=args.shrink, options=host.overrides(args)
    )
    host.check_data(config, ("train",))
    try:
        samples = host.samples(config, args.pictures, args.seed)
    except UnreadableFileError as error:
        raise UserError(
            f"{error}; convnext-backbones check-data {args.config} names all such files; another --seed draws "
            "other samples"
        ) from error
    data = host.records(config, "train", most=LARGEST)
    lines = _lines(samples, data, args.config)
    head = _head(lines, samples, data)
    captions = [_caption(sample) for sample in samples]
    save_picture(sheet(captions, map(drawn, samples), head), out)
    print(*lines, sep="\n")
    print(f"page: {out}")


# ---- a sample ------------------------------------------------------------------------------------
def drawn(sample: Sample) -> np.ndarray:
    """A sample with its labels: what is ignored grey, padding hatched; (H, W, 3) uint8 RGB."""
    return draw(_hatched(sample), _with_ignored(sample), "no object is annotated")


def _hatched(sample: Sample) -> np.ndarray:
    """The picture, with lines over its padding and, the other way, over pixels that count for no class."""
    height, width = sample.size
    rows, columns = np.indices(sample.image.shape[:2])
    padded = (rows >= height) | (columns >= width)
    image = sample.image.copy()
    if sample.truth.label_map is not None:
        image[(sample.truth.label_map == VOID) & ((rows - columns) % HATCH < 2)] = 255
    image[padded] = 255
    image[padded & ((rows + columns) % HATCH < 2)] = GREY
    return image


def _with_ignored(sample: Sample) -> Result:
    """The labels, with one more class for what nothing is learned of."""
    truth, classes = sample.truth, sample.truth.classes
    numbers = truth.labels if truth.label_map is None else truth.label_map
    names = classes.names or _numbered(numbers)
    palette = full_palette(classes.palette, names, ())[: len(names)]
    classes = Classes((*names, "ignored"), (*palette, GREY))
    if truth.label_map is not None:
        height, width = sample.size
        labels = truth.label_map.astype(np.int64)
        inside = np.zeros(labels.shape, bool)
        inside[:height, :width] = True
        labels[inside & (labels == VOID)] = len(names)
        labels[~inside] = VOID
        return truth._replace(classes=classes, label_map=labels)
    if truth.boxes is None:
        return truth
    if not len(sample.ignored):
        return truth._replace(classes=classes)
    masks = truth.masks
    if masks is not None:
        nothing = np.zeros((len(sample.ignored), *masks.shape[1:]), bool)
        masks = np.concatenate([masks, nothing])
    return truth._replace(
        classes=classes,
        boxes=np.concatenate([truth.boxes, sample.ignored]),
        labels=np.concatenate([truth.labels, np.full(len(sample.ignored), len(names))]),
        masks=masks,
    )


def _numbered(numbers: np.ndarray | None) -> tuple[str, ...]:
    known = numbers[numbers != VOID] if numbers is not None else np.zeros(0, int)
    return tuple(map(str, range(int(known.max(initial=-1)) + 1)))


def _caption(sample: Sample) -> tuple[str, str]:
    (height, width), (all_rows, all_columns) = sample.size, sample.image.shape[:2]
    size = f"{width}x{height}"
    if (height, width) != (all_rows, all_columns):
        size += f", padded to {all_columns}x{all_rows}"
    return f"{sample.note}: {size}" if sample.note else size, Path(sample.file).name


# ---- what is counted -----------------------------------------------------------------------------
def _lines(samples: Sequence[Sample], data: Records | None, config: str) -> list[str]:
    """The page in words."""
    total = f" of {len(data.records)}" if data and data.records else ""
    said = [
        f"{Path(config).name}: {len(samples)} training samples{total} pictures, as the network is given them"
    ]
    mean, std = np.mean([sample.values for sample in samples], axis=0)
    channels = samples[0].channels
    said.append(
        f"channels {channels}; values with mean {mean:.2f} and standard deviation {std:.2f}"
    )
    if channels != "RGB":
        said.append(
            "WARNING: published ConvNeXt weights know pictures in RGB: set bgr_to_rgb=True in data_preprocessor, in "
            "Detectron2 INPUT.FORMAT=RGB"
        )
    if abs(mean) > 3 or not 0.1 < std < 10:
        said.append(
            "WARNING: published ConvNeXt weights know values with about mean 0 and standard deviation 1: mean and "
            "std of the data preprocessor do not fit the pictures"
        )
    if _of_boxes(samples):
        sides = _sides(samples)
        sizes = np.searchsorted([MEDIUM, LARGE], sides, side="right")
        small, medium, large = (int((sizes == k).sum()) for k in range(3))
        empty = sum(not len(s.truth.boxes) for s in samples if s.truth.boxes is not None)
        said.append(
            f"{len(sides)} objects: {small} small, {medium} medium, {large} large; {empty} samples without any"
        )
        crowds = sum(map(sum, (record.crowd for record in data.records))) if data else 0
        if crowds:
            said.append(
                f"{crowds} crowd regions in the training data: no objects are learned there"
            )
    else:
        void = np.mean([_share_of_void(sample) for sample in samples])
        said.append(f"{100 * void:.1f} % of the pixels count for no class (grey, hatched)")
    return said


def _of_boxes(samples: Sequence[Sample]) -> bool:
    return all(sample.truth.label_map is None for sample in samples)


def _sides(samples: Sequence[Sample]) -> np.ndarray:
    """Square root of the area of each box, in pixels as the network sees them."""
    boxes = [s.truth.boxes for s in samples if s.truth.boxes is not None and len(s.truth.boxes)]
    if not boxes:
        return np.zeros(0)
    left, top, right, bottom = np.concatenate(boxes).T
    return np.sqrt(np.maximum(right - left, 0) * np.maximum(bottom - top, 0))


def _picture_labels(sample: Sample) -> np.ndarray:
    height, width = sample.size
    return sample.truth.label_map[:height, :width]


def _share_of_void(sample: Sample) -> float:
    return float((_picture_labels(sample) == VOID).mean())


def _amounts(samples: Sequence[Sample], data: Records | None) -> tuple[Counter, str]:
    """Of each class: boxes in all training data, where they are known, else in the samples; pixels of the
    samples in percent."""
    counts: Counter = Counter()
    if not _of_boxes(samples):
        for sample in samples:
            labels = _picture_labels(sample)
            found, amounts = np.unique(labels[labels != VOID], return_counts=True)
            for number, amount in zip(found.tolist(), amounts.tolist(), strict=True):
                counts[number] += 100 * amount / labels.size / len(samples)
        return counts, "% of the pixels of these samples"
    if data and data.records:
        for record in data.records:
            counts.update(number for number in record.labels if number >= 0)
        return counts, f"objects in {len(data.records)} training pictures"
    for sample in samples:
        counts.update(sample.truth.labels.tolist() if sample.truth.labels is not None else ())
    return counts, "objects in these samples"


# ---- the head of the page ------------------------------------------------------------------------
def _head(lines: Sequence[str], samples: Sequence[Sample], data: Records | None) -> Image.Image:
    font = ImageFont.truetype(FONT, FONT_SIZE)
    chart = _chart(samples, data)
    row = FONT_SIZE + 6
    head = Image.new("RGB", (SHEET_WIDTH, row * len(lines) + chart.height + 12), "white")
    pen = ImageDraw.Draw(head)
    for k, line in enumerate(lines):
        colour = "firebrick" if line.startswith("WARNING") else "black"
        pen.text((10, 6 + k * row), line, fill=colour, font=font)
    head.paste(chart, (0, row * len(lines) + 12))
    return head


def _chart(samples: Sequence[Sample], data: Records | None) -> Image.Image:
    """Each class's amount, and beside it sizes of boxes or the samples that have it."""
    counts, what = _amounts(samples, data)
    classes = next((s.truth.classes for s in samples if s.truth.classes.names), Classes())
    palette = full_palette(classes.palette, classes.names, list(counts))
    shown = [number for number, _ in counts.most_common(BARS)]
    names = [class_name(classes.names, number) for number in shown]
    colours = [np.array(palette[number]) / 255 for number in shown]
    figure = Figure(
        figsize=(SHEET_WIDTH / DOTS, CHART_HEIGHT / DOTS), dpi=DOTS, layout="constrained"
    )
    left, right = figure.subplots(1, 2)
    left.barh(
        names, [counts[number] for number in shown], color=colours, edgecolor="black", linewidth=0.4
    )
    more = f", the {BARS} largest of {len(counts)} classes" if len(counts) > BARS else ""
    left.set_xlabel(what + more)
    if _of_boxes(samples):
        _draw_sizes(right, _sides(samples))
    else:
        having = [
            sum(bool((_picture_labels(s) == number).any()) for s in samples) for number in shown
        ]
        right.barh(names, having, color=colours, edgecolor="black", linewidth=0.4)
        right.set_xlabel("samples that have it")
    for axes in (left, right) if not _of_boxes(samples) else (left,):
        axes.invert_yaxis()
        axes.tick_params(axis="y", labelsize=7 if len(shown) > 10 else 9)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")


def _draw_sizes(axes, sides: np.ndarray) -> None:
    axes.set_xlabel("objects in these samples: square root of the area, pixels")
    if not len(sides):
        return
    edges = 2.0 ** np.arange(
        np.floor(np.log2(max(sides.min(), 1))), np.ceil(np.log2(sides.max() + 1)) + 0.5, 0.5
    )
    axes.hist(sides, bins=edges, color="steelblue", edgecolor="black", linewidth=0.4)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:g}")
    for border, name in ((MEDIUM, "medium from 32"), (LARGE, "large from 96")):
        axes.axvline(border, color="firebrick", linestyle="--", linewidth=1)
        axes.annotate(name, (border, 0.97), xycoords=("data", "axes fraction"), rotation=90, fontsize=8,
                      verticalalignment="top", horizontalalignment="right")  # fmt: skip
