"""What data sets of boxes have in common, whatever their format: classes, task, sizes, COCO JSON."""

import difflib
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..console import counted
from ..errors import UserError
from .described import Found, Plan, Range, Sizes, Split
from .tree import Tree, some, stem

CLASS_FILES = ("classes", "labels", "class_names", "label_names", "names", "categories", "obj")


class Entry(NamedTuple):
    """A picture and its boxes.

    file: its path in the tree. width, height: in pixels, those that the boxes refer to.
    annotations: as COCO's, but with `category`, the class's name, in place of ids; bbox is left, top,
    width, height in pixels.
    """

    file: str
    width: int
    height: int
    annotations: list[dict[str, Any]]


def class_file(tree: Tree) -> tuple[str, list[str]] | None:
    """A file of class names, one a line, and what it says."""
    for file in sorted(tree.ending(".txt", ".names"), key=lambda f: (f.count("/"), f)):
        if stem(file).lower() in CLASS_FILES:
            lines = tree.path(file).read_text(encoding="utf-8-sig", errors="replace").splitlines()
            names = [line.strip() for line in lines if line.strip()]
            if names and not any(_all_numbers(name) for name in names):
                return file, names
    return None


def _all_numbers(line: str) -> bool:
    """A box's line, or a number; a class may be called "1" only in the data themselves."""
    try:
        return bool([float(word) for word in line.split()])
    except ValueError:
        return False


def chosen_classes(
    counts: Mapping[str, int], order: Sequence[str], wanted: Sequence[str] | None, notes: list[str]
) -> tuple[str, ...]:
    """The classes to learn.

    Args:
        counts: how many boxes each name in the data has.
        order: all names of the data in their order.
        wanted: those asked for, None for all.

    Raises:
        UserError: an asked one has no box and is not in the data, or is named twice.
    """
    if wanted is None:
        empty = [name for name in order if not counts.get(name)]
        if empty:
            notes.append(f"Without a box: {some(map(repr, empty), 6)}.")
        return tuple(order)
    wanted = tuple(wanted)
    known = list(order)
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" (nearest: {near[0]!r})" if near else ""
            raise UserError(
                f"--classes names {name!r}, which no label has{hint}; the labels' classes are "
                f"{', '.join(map(repr, known)) or 'none'}"
            )
    if len(set(wanted)) < len(wanted):
        raise UserError(f"--classes names a class twice: {', '.join(wanted)}")
    left = {name: counts.get(name, 0) for name in known if name not in wanted}
    if left:
        said = ", ".join(f"{count} of {name!r}" for name, count in left.items())
        notes.append(f"Left out, as --classes does not name them: {said} boxes.")
    return wanted


def task_of(masks: int, boxes: int, wanted: str | None, notes: list[str]) -> str:
    """ "instance" where every box has a mask, else "detection".

    Raises:
        UserError: masks are wanted and none is there.
    """
    if wanted == "instance" and not masks:
        raise UserError(
            f"--task instance needs the outline of every object, and of {counted(boxes, 'box')} none has "
            "one; take --task detection"
        )
    if wanted == "instance" and masks < boxes:
        notes.append(f"Left out, having no mask: {counted(boxes - masks, 'box')} of {boxes}.")
    elif wanted is None and 0 < masks < boxes:
        notes.append(
            f"{masks} of {counted(boxes, 'box')} have masks, so the task is detection; with --task "
            f"instance the other {boxes - masks} are left out."
        )
    return wanted or ("instance" if masks and masks == boxes else "detection")


def picture_sizes(
    widths: Iterable[float], heights: Iterable[float], areas: Iterable[float]
) -> Sizes:
    sides = [math.sqrt(area) for area in areas if area > 0]
    return Sizes(spread(widths), spread(heights), spread(sides) if sides else None)


def spread(values: Iterable[float]) -> Range:
    values = np.asarray(list(values), dtype=float)
    if not values.size:
        return Range(0.0, 0.0, 0.0)
    return Range(float(values.min()), float(np.median(values)), float(values.max()))


def clipped(box: Sequence[float], width: int, height: int) -> tuple[list[float] | None, bool]:
    """left, top, width, height of what of a left, top, right, bottom box is in its picture, None where
    nothing is; and whether more than a pixel was cut."""
    left, top, right, bottom = box
    inside = [max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)]
    cut = max(abs(a - b) for a, b in zip(inside, box, strict=True)) > 1
    wide, high = inside[2] - inside[0], inside[3] - inside[1]
    if wide <= 0 or high <= 0:
        return None, True
    return [round(float(v), 3) for v in (inside[0], inside[1], wide, high)], cut


def polygon_area(polygon: Sequence[float]) -> float:
    x, y = np.asarray(polygon[::2], float), np.asarray(polygon[1::2], float)
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


def to_keep(
    tree: Tree,
    kind: str,
    splits: Mapping[str, Sequence[Entry]],
    classes: tuple[str, ...],
    task: str,
    notes: Sequence[str],
) -> Found:
    """What was found, where COCO JSON has yet to be written of it."""
    placed, files, annotations = {}, {}, {}
    for split, entries in splits.items():
        entries = [Entry(e.file, e.width, e.height, _of(e, classes, task)) for e in entries]
        folder = common_folder(entry.file for entry in entries)
        name = f"annotations/{split}.json"
        files[name] = _writer(folder, entries, classes)
        objects = sum(len(entry.annotations) for entry in entries)
        placed[split] = Split(split, tree.path(folder), None, len(entries), objects)
        annotations[split] = name
    everything = [entry for entries in splits.values() for entry in entries]
    sizes = picture_sizes(
        (e.width for e in everything),
        (e.height for e in everything),
        (a["bbox"][2] * a["bbox"][3] for e in everything for a in _of(e, classes, task)),
    )
    return Found(
        tree.root, task, kind, classes, None, None, placed, sizes, tuple(notes), False,
        Plan(files, annotations),
    )  # fmt: skip


def _of(entry: Entry, classes: Sequence[str], task: str) -> list[dict]:
    """Those of its annotations that the task and the classes take."""
    known = set(classes)
    taken = [a for a in entry.annotations if a["category"] in known]
    if task == "instance":
        return [a for a in taken if a.get("segmentation")]
    return [{k: v for k, v in a.items() if k != "segmentation"} for a in taken]


def common_folder(files: Iterable[str]) -> str:
    """The innermost folder of all the files, "" for the tree's own."""
    folders = {os.path.dirname(file) for file in files}
    return os.path.commonpath(folders) if folders and "" not in folders else ""


def _writer(folder: str, entries: Sequence[Entry], classes: Sequence[str]) -> Callable[[], bytes]:
    def write() -> bytes:
        numbers = {name: k + 1 for k, name in enumerate(classes)}
        images, annotations = [], []
        for entry in entries:
            image = dict(id=len(images) + 1, file_name=os.path.relpath(entry.file, folder or "."),
                         width=entry.width, height=entry.height)  # fmt: skip
            image["file_name"] = image["file_name"].replace(os.sep, "/")
            images.append(image)
            for annotation in entry.annotations:
                left = {
                    k: v for k, v in annotation.items() if k not in ("category", "id", "image_id")
                }
                left.setdefault("area", left["bbox"][2] * left["bbox"][3])
                left.setdefault("iscrowd", 0)
                left["category_id"] = numbers[annotation["category"]]
                annotations.append(dict(id=len(annotations) + 1, image_id=image["id"], **left))
        categories = [dict(id=number, name=name) for name, number in numbers.items()]
        content = dict(images=images, annotations=annotations, categories=categories)
        return (json.dumps(content, ensure_ascii=False) + "\n").encode()

    return write


def count_classes(entries: Iterable[Entry]) -> Counter:
    """Boxes by class."""
    return Counter(a["category"] for entry in entries for a in entry.annotations)


def count_masks(entries: Iterable[Entry], classes: Iterable[str]) -> tuple[int, int]:
    """Masks and boxes of the classes."""
    known = set(classes)
    taken = [a for entry in entries for a in entry.annotations if a["category"] in known]
    return sum(bool(a.get("segmentation")) for a in taken), len(taken)
