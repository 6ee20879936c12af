"""Small data sets of every kind for the tests: the same few pictures as COCO, VOC, YOLO and label maps.

A picture has one to three rectangles, each of a class with its own colour, on a gray ground. The
same number gives the same picture.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

CLASSES = ("red", "green", "blue")
COLOURS = ((200, 40, 40), (40, 180, 60), (50, 70, 210))
SPLITS = {"train": range(8), "val": range(8, 11)}


class Scene(NamedTuple):
    """pixels: (H, W, 3) uint8. boxes: left, top, right, bottom in pixels, whole numbers; labels: a class
    number for each. label_map: (H, W) uint8, 0 for the ground and class + 1."""

    pixels: np.ndarray
    boxes: list[tuple[int, int, int, int]]
    labels: list[int]
    label_map: np.ndarray


def scene(number: int, width: int = 64, height: int = 48) -> Scene:
    rng = np.random.default_rng(number)
    pixels = rng.integers(90, 130, (height, width, 3)).astype(np.uint8)
    label_map = np.zeros((height, width), np.uint8)
    boxes, labels = [], []
    for place in range(1 + number % 3):  # side by side, so that none hides another
        label = (number + place) % 3
        left = place * width // 3 + int(rng.integers(1, 4))
        top = int(rng.integers(2, height // 3))
        right, bottom = left + int(rng.integers(8, 16)), top + int(rng.integers(10, 20))
        noise = rng.integers(-20, 20, (bottom - top, right - left, 3))
        pixels[top:bottom, left:right] = np.clip(COLOURS[label] + noise, 0, 255)
        label_map[top:bottom, left:right] = label + 1
        boxes.append((left, top, right, bottom))
        labels.append(label)
    return Scene(pixels, boxes, labels, label_map)


def write(path: Path, pixels: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)
    return path


def pictures(folder: Path, numbers: Iterable[int], suffix: str = ".jpg") -> None:
    for number in numbers:
        write(folder / f"{number:04d}{suffix}", scene(number).pixels)


def coco_json(numbers: Iterable[int], *, masks: bool = False, prefix: str = "") -> dict:
    """What a COCO JSON of these pictures holds; `prefix` stands before the files' names."""
    images, annotations = [], []
    for number in numbers:
        one = scene(number)
        height, width = one.label_map.shape
        name = f"{prefix}{number:04d}.jpg"
        images.append(dict(id=number, file_name=name, width=width, height=height))
        for (left, top, right, bottom), label in zip(one.boxes, one.labels, strict=True):
            box = [left, top, right - left, bottom - top]
            annotations.append(
                dict(id=len(annotations) + 1, image_id=number, category_id=label + 1, bbox=box,
                     area=box[2] * box[3], iscrowd=0)
            )  # fmt: skip
            if masks:
                corners = [left, top, right, top, right, bottom, left, bottom]
                annotations[-1]["segmentation"] = [corners]
    categories = [dict(id=k + 1, name=name) for k, name in enumerate(CLASSES)]
    return dict(images=images, annotations=annotations, categories=categories)


def coco(root: Path, *, masks: bool = False, splits=SPLITS) -> Path:
    """root/{train,val}/*.jpg and root/annotations/{train,val}.json."""
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for split, numbers in splits.items():
        pictures(root / split, numbers)
        content = json.dumps(coco_json(numbers, masks=masks))
        (root / "annotations" / f"{split}.json").write_text(content)
    return root


def voc(root: Path, *, splits=SPLITS, lists: bool = True) -> Path:
    """root/JPEGImages, root/Annotations and, with `lists`, root/ImageSets/Main/{train,val}.txt."""
    for split, numbers in splits.items():
        pictures(root / "JPEGImages", numbers)
        for number in numbers:
            one = scene(number)
            height, width = one.label_map.shape
            objects = "".join(
                f"<object><name>{CLASSES[label]}</name><difficult>0</difficult><bndbox>"
                f"<xmin>{left + 1}</xmin><ymin>{top + 1}</ymin>"  # VOC counts pixels from 1
                f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
                for (left, top, right, bottom), label in zip(one.boxes, one.labels, strict=True)
            )
            file = root / "Annotations" / f"{number:04d}.xml"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(
                f"<annotation><filename>{number:04d}.jpg</filename><size><width>{width}</width>"
                f"<height>{height}</height><depth>3</depth></size>{objects}</annotation>"
            )
        if lists:
            file = root / "ImageSets" / "Main" / f"{split}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("".join(f"{number:04d}\n" for number in numbers))
    return root


def yolo_lines(number: int, *, masks: bool = False) -> str:
    one = scene(number)
    height, width = one.label_map.shape
    lines = []
    for (left, top, right, bottom), label in zip(one.boxes, one.labels, strict=True):
        if masks:
            corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
            values = [v for x, y in corners for v in (x / width, y / height)]
        else:
            values = [(left + right) / 2 / width, (top + bottom) / 2 / height,
                      (right - left) / width, (bottom - top) / height]  # fmt: skip
        lines.append(" ".join([str(label), *(f"{v:.6f}" for v in values)]))
    return "\n".join(lines) + "\n"


def yolo(root: Path, *, masks: bool = False, splits=SPLITS, yaml: str | None = None) -> Path:
    """root/images/{train,val}, root/labels/{train,val} and root/data.yaml, whose text `yaml` replaces."""
    for split, numbers in splits.items():
        pictures(root / "images" / split, numbers)
        (root / "labels" / split).mkdir(parents=True, exist_ok=True)
        for number in numbers:
            file = root / "labels" / split / f"{number:04d}.txt"
            file.write_text(yolo_lines(number, masks=masks))
    names = ", ".join(CLASSES)
    default = f"path: .\ntrain: images/train\nval: images/val\nnc: 3\nnames: [{names}]\n"
    (root / "data.yaml").write_text(default if yaml is None else yaml)
    return root


def label_maps(
    root: Path,
    *,
    splits=SPLITS,
    layout: Sequence[str] = ("images/{split}", "labels/{split}"),
    suffixes: tuple[str, str] = (".jpg", ".png"),
    values: Callable[[np.ndarray], np.ndarray] = lambda label_map: label_map,
    palette: Sequence[Sequence[int]] | None = None,
) -> Path:
    """Pictures and label maps in two folders of any names.

    Args:
        layout: the folders of the pictures and of the label maps.
        suffixes: of the pictures and of the label maps, e.g. (".jpg", "_mask.png").
        values: what a label map (0 for the ground, class + 1) is written as: other values, 16 bit, or
            (H, W, 3) colours.
        palette: write PNGs of mode P with these colours.
    """
    for split, numbers in splits.items():
        images, labels = (root / part.format(split=split) for part in layout)
        pictures(images, numbers, suffixes[0])
        for number in numbers:
            picture = Image.fromarray(values(scene(number).label_map))
            if palette is not None:
                picture.putpalette([v for colour in palette for v in colour])
            labels.mkdir(parents=True, exist_ok=True)
            picture.save(labels / f"{number:04d}{suffixes[1]}")
    return root


def in_colours(label_map: np.ndarray) -> np.ndarray:
    """(H, W, 3): black for the ground, and COLOURS."""
    return np.array([(0, 0, 0), *COLOURS], np.uint8)[label_map]
