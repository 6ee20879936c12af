"""What is known of a data set: its classes, its splits, what keep() has yet to write."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

VOID = 255  # the value of pixels without a class in the label maps that keep() writes

TASKS = ("detection", "instance", "semantic")
KINDS = ("coco", "voc", "yolo", "label maps")


@dataclass(frozen=True)
class Split:
    """One split of a data set, as a config names it.

    name: "train", "val" or "test".
    images: the folder to which the pictures' names are relative.
    annotations: the COCO JSON file, or the folder of the label maps; None where keep() has yet to write it.
    count: how many pictures with labels; objects: how many boxes, 0 for label maps.
    listing: label maps only: a text file with one name a line, a picture's path below `images` without
        the suffix, which is its label map's below `annotations` too; None where the split is the whole
        folder.
    suffixes: label maps only: what follows a name in the picture's and in the label map's path, e.g.
        (".jpg", "_mask.png").
    """

    name: str
    images: Path
    annotations: Path | None
    count: int
    objects: int = 0
    listing: Path | None = None
    suffixes: tuple[str, str] = ("", "")


@dataclass(frozen=True)
class Range:
    """Smallest, median and largest of something measured in pixels."""

    smallest: float
    median: float
    largest: float


@dataclass(frozen=True)
class Sizes:
    """Widths and heights of the pictures as they are shown (EXIF turned); `boxes`: the square roots of
    the areas of the boxes, None for label maps. In pixels."""

    width: Range
    height: Range
    boxes: Range | None = None


class Plan(NamedTuple):
    """What keep() writes. files: a relative path to what makes its bytes. annotations, listings: of a
    split, the relative paths of what its config names, a folder or a file."""

    files: Mapping[str, Callable[[], bytes]]
    annotations: Mapping[str, str]
    listings: Mapping[str, str] = {}


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    folder: what was looked at.
    task: "detection" (boxes), "instance" (boxes with masks) or "semantic".
    kind: "coco", "voc", "yolo" or "label maps".
    classes: their names; class k of a label map has the value k once keep() is through.
    palette: a colour (red, green, blue) of 0 to 255 for each class, where the data have one.
    void: the value of pixels without a class in the label maps, None where they have none; 255 in those
        that keep() writes, whatever it was in the data.
    splits: "train" and "val", and "test" where the data have one.
    sizes: of the pictures and the boxes.
    notes: sentences on what was found, assumed and dropped, with counts.
    as_it_lies: whether frameworks can read it so; else keep() writes what is missing, by `plan`.
    """

    folder: Path
    task: str
    kind: str
    classes: tuple[str, ...]
    palette: tuple[tuple[int, int, int], ...] | None
    void: int | None
    splits: Mapping[str, Split]
    sizes: Sizes
    notes: tuple[str, ...] = ()
    as_it_lies: bool = True
    plan: Plan | None = field(default=None, repr=False, compare=False)
