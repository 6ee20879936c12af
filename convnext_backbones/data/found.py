"""What lies in a folder of pictures and labels: look() says it, keep() writes what frameworks lack.

found = look("BCCD", task="detection")            # reads, writes nothing
for sentence in found.notes:
    print(sentence)
found = keep(found, "bccd_data")                  # COCO JSON, beside the config
found.splits["train"].annotations                 # bccd_data/annotations/train.json
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class Found:
    """What a folder holds.

    folder: what was looked at.
    task: "detection" (boxes), "instance" (boxes with masks) or "semantic".
    kind: "coco", "voc", "yolo" or "label maps".
    classes: their names; class k of a label map has the value k once keep() is through.
    palette: a colour (red, green, blue) of 0 to 255 for each class, where the data have one.
    void: the value of pixels without a class in the label maps, None where they have none. Where
        keep() writes the label maps, it is 255.
    splits: "train" and "val", and "test" where the data have one.
    sizes: of the pictures and the boxes.
    notes: sentences on what was found, assumed and dropped, with counts.
    as_it_lies: whether frameworks can read it so; else keep() writes what is missing.
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
    plan: Any = field(default=None, repr=False, compare=False)  # what keep() writes


def look(
    folder: str | Path,
    *,
    task: str | None = None,
    classes: Sequence[str] | None = None,
    void: int | None = None,
    kind: str | None = None,
) -> Found:
    """Say what a folder of pictures and labels holds. Writes nothing.

    Args:
        folder: pictures and labels lie somewhere below it.
        task: "detection", "instance" or "semantic"; default: as the labels are.
        classes: names of the classes; for boxes those to take of the data, in the order of their
            numbers; for label maps the names of the values 0, 1, .. but `void`, or "name=#rrggbb" for
            label maps of colours. Default: as the data say.
        void: the value of pixels without a class in label maps; default: 255 where it occurs, or a
            class of that name.
        kind: "coco", "voc", "yolo" or "label maps", where a folder holds several.

    Raises:
        UserError: there is nothing of the kind, or it is too damaged to be read; names the file.
    """
    raise NotImplementedError


def keep(found: Found, folder: str | Path) -> Found:
    """Write what frameworks need and the data lack: COCO JSON of VOC and YOLO, a seeded split, label
    maps by class number of colours or of values with gaps. The originals stay as they are.

    Writing the same twice changes nothing. A file that is there and was not written by this function,
    or was changed since, is not overwritten.

    Returns the splits with paths to what was written; `found` itself where nothing has to be written.

    Raises:
        UserError: the folder cannot be written to, or holds another's file of a name that is needed.
    """
    raise NotImplementedError
