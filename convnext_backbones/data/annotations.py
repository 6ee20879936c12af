"""COCO JSON against what its format says, and against the classes of a config."""

import difflib
import json
import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from .findings import STOPS, TELLS, WARNS, Findings
from .records import Record, Records

CORNERS = 0.05  # of boxes that must reach far over their picture before all are taken for corners
FAR = 1.1  # times the picture's side
MOST = 0.99  # of boxes that a guess about all has to explain
LISTS = ("images", "annotations", "categories")
IDS, NAMES, SIZES = (
    ("id", "image_id", "category_id"),
    ("file_name", "name"),
    ("width", "height", "area"),
)
POINTS = 6  # least numbers of a polygon
SLACK = 1  # pixel that a box may reach over its picture


class Annotations(NamedTuple):
    """A COCO JSON: its pictures and categories by id, and its boxes."""

    file: str
    images: dict[Any, dict]
    categories: dict[Any, dict]
    boxes: list[dict]


def read_annotations(file: str, found: Findings) -> Annotations | None:
    """The annotation file; None, and a finding, where it is none."""
    try:
        content = json.loads(Path(file).read_text())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        found.add("annotation file cannot be read", f"{file}: {reason}")
        return None
    if not isinstance(content, dict):
        found.add(
            "annotation file cannot be read", f"{file} holds no object with {', '.join(LISTS)}"
        )
        return None
    images, boxes, categories = (_entries(content.get(name), name, file, found) for name in LISTS)
    _check_pictures(images, found)
    _check_categories(categories, found)
    for number, count in Counter(box.get("id") for box in boxes).items():
        if count > 1:
            found.add("annotation id twice", f"{number} {count} times", count=count - 1)
    return Annotations(
        file,
        {image.get("id"): image for image in images},
        {category.get("id"): category for category in categories},
        boxes,
    )


def _entries(entries: Any, name: str, file: str, found: Findings) -> list[dict]:
    """The entries of a list of the file, those that are objects: with ids that can be compared, and
    without names and sizes that are none, which count as lacking."""
    if not isinstance(entries, list):
        found.add("annotation file lacks entries", f"{file} has no list {name!r}")
        return []
    kept = []
    for entry in entries:
        if not isinstance(entry, dict):
            found.add(
                "annotation file lacks entries", f"in {name} of {file}, {str(entry)[:40]!r} is none"
            )
            continue
        kept.append(
            {
                key: _comparable(value) if key in IDS else value
                for key, value in entry.items()
                if not (key in NAMES and not isinstance(value, str))
                and not (key in SIZES and not is_number(value))
            }
        )
    return kept


def _check_pictures(images: list[dict], found: Findings) -> None:
    ids, names = Counter(), Counter()
    for image in images:
        lacking = [key for key in ("id", "file_name", "width", "height") if key not in image]
        if lacking:
            name = image.get("file_name", image.get("id"))
            found.add(
                "annotation file lacks entries", f"picture {name} has no {', '.join(lacking)}"
            )
        ids[image.get("id")] += 1
        names[image.get("file_name")] += 1
    for number, count in ids.items():
        if count > 1:
            found.add("picture id twice", f"{number} {count} times", count=count - 1)
    for name, count in names.items():
        if name is not None and count > 1:
            found.add("file name twice", f"{name} {count} times", count=count - 1)


def _check_categories(categories: list[dict], found: Findings) -> None:
    for category in categories:
        if "id" not in category or "name" not in category:
            found.add("annotation file lacks entries", f"category {category} has no id or no name")
    ids = Counter(category.get("id") for category in categories)
    names = Counter(category.get("name") for category in categories)
    for number, count in ids.items():
        if count > 1:
            found.add("category id twice", f"{number}", count=count - 1)
    for name, count in names.items():
        if count > 1:
            found.add("category name twice", f"{name!r}", count=count - 1)
    numbers = sorted(number for number in ids if isinstance(number, int))
    if numbers and numbers != list(range(1, len(numbers) + 1)):
        shown = ", ".join(map(str, numbers[:8])) + ", .." * (len(numbers) > 8)
        found.add("category ids with gaps", f"{shown}" if numbers[0] else f"{shown}, from 0")


# ---- against the config --------------------------------------------------------------------------
def check_classes(content: Annotations, data: Records, found: Findings) -> None:
    """Categories against classes by name: what is left out for it."""
    counts = Counter(box.get("category_id") for box in content.boxes)
    boxes = Counter()  # by name
    for number, category in content.categories.items():
        boxes[category.get("name")] += counts[number]
    left = {name: count for name, count in boxes.items() if name not in data.classes}
    for name in data.classes:
        if name in boxes:
            continue
        near = nearest_name(name, list(left))
        vanish = near is not None and left[near] > 0
        hint = f": {left[near]} boxes are named {near!r}" if vanish else ""
        found.add("no category has a class's name", f"{name!r}{hint}",
                  severity=STOPS if vanish else None)  # fmt: skip
    if content.boxes and sum(left.values()) == sum(boxes.values()):
        names = ", ".join(repr(name) for name in boxes)
        found.add("no annotations", f"no box is of a class; the categories are {names}",
                  advice="Set the classes by these names")  # fmt: skip
    for name, count in left.items():
        if count:
            found.add("boxes of categories that are no class", f"{count} of {name!r}", count=count)


def nearest_name(name: str, names: Sequence[str]) -> str | None:
    """The name most like it, whatever the case and the words' separators."""
    plain = {plain_name(other): other for other in names}
    close = difflib.get_close_matches(plain_name(name), plain, n=1, cutoff=0.6)
    return plain[close[0]] if close else None


def plain_name(name: str) -> str:
    return str(name).casefold().replace("_", " ").replace("-", " ").strip()


def check_boxes(content: Annotations, data: Records, found: Findings) -> None:
    """Each annotation: what is wrong, and which the data set leaves out."""
    layout = layout_of(content)
    if layout:
        check = {"corners": "boxes look like corners", "normalised": "boxes look normalised"}[
            layout
        ]
        found.add(check, f"such as {content.boxes[0].get('bbox')} in {content.file}",
                  count=len(content.boxes))  # fmt: skip
    classes = {number for number, c in content.categories.items() if c.get("name") in data.classes}
    masks = Counter(bool(box.get("segmentation")) for box in content.boxes)
    explained = 0
    for box in content.boxes:
        image = content.images.get(box.get("image_id"))
        name = f"annotation {box.get('id')} of {(image or {}).get('file_name', 'no picture')}"
        if image is None:
            found.add("boxes of an unknown picture", f"{name}: image_id {box.get('image_id')!r}")
            explained += 1
            continue
        picture = path_of(image, data)
        number = box.get("category_id")
        if number not in content.categories:
            found.add(
                "boxes of an unknown category", f"{name}: category_id {number!r}", picture=picture
            )
        if box.get("ignore"):
            found.add("boxes marked ignore", name, picture=picture)
        wrong = None if layout else what_is_wrong(box, image)
        if wrong:
            found.add(wrong, f"{name}: {box.get('bbox')}", picture=picture)
        left = number not in classes or box.get("ignore") or wrong in LEFT_OUT
        explained += bool(left)
        _check_entries(box, name, data, found)
        _check_mask(box, image, name, data, masks, found)
    handed = sum(len(record.boxes) for record in data.records)
    if data.error is None and data.records:
        kept = {record.picture for record in data.records}
        _check_left_out_pictures(content, data, kept, found)
        if not layout and (rest := len(content.boxes) - explained - handed) > 0:
            found.add("boxes left out by the data set", count=rest)


# What of check_boxes the frameworks leave out.
LEFT_OUT = ("box is not four numbers", "box is empty or negative", "box is outside its picture")


def what_is_wrong(box: dict, image: dict) -> str | None:
    """The name of the check that an annotation's bbox fails, in the picture of its entry."""
    if not is_box(box.get("bbox")):
        return "box is not four numbers"
    left, top, width, height = box["bbox"]
    if width < 1 or height < 1:
        return "box is empty or negative"
    wide, high = image.get("width"), image.get("height")
    if not (is_number(wide) and is_number(high)):
        return None
    if min(left + width, wide) <= max(left, 0) or min(top + height, high) <= max(top, 0):
        return "box is outside its picture"
    over = (-left, -top, left + width - wide, top + height - high)
    return "box reaches over its picture" if max(over) > SLACK else None


def layout_of(content: Annotations) -> str | None:
    """What all boxes seem to be instead of left, top, width, height in pixels: "corners", "normalised"."""
    boxes = []
    for box in content.boxes:
        image = content.images.get(_comparable(box.get("image_id")), {})
        wide, high = image.get("width"), image.get("height")
        if is_box(box.get("bbox")) and is_number(wide) and is_number(high):
            boxes.append((*box["bbox"], wide, high))
    if not boxes:
        return None
    if _share(max(x + w, y + h) <= 1.01 and min(x, y, w, h) >= 0 and min(wide, high) > 16
              for x, y, w, h, wide, high in boxes) >= MOST:  # fmt: skip
        return "normalised"
    fits = _share(w > x and h > y and w <= wide + SLACK and h <= high + SLACK
                  for x, y, w, h, wide, high in boxes)  # fmt: skip
    over = _share(x + w > FAR * wide or y + h > FAR * high for x, y, w, h, wide, high in boxes)
    return "corners" if fits >= MOST and over >= CORNERS else None


def _share(answers) -> float:
    answers = list(answers)
    return sum(answers) / len(answers)


def _check_entries(box: dict, name: str, data: Records, found: Findings) -> None:
    area = box.get("area")
    if area is None:
        found.add("box without an area", name)
    elif is_number(area) and area <= 0 and is_box(box.get("bbox")) and min(box["bbox"][2:]) >= 1:
        found.add("box with an area of 0", name)
    if "iscrowd" not in box:
        # pycocotools' metric reads it of every annotation
        judged = data.split != "train" and data.evaluations
        found.add("annotation without iscrowd", name, severity=STOPS if judged else None)
    elif box["iscrowd"]:
        found.add("crowd", name)


def _check_mask(
    box: dict, image: dict, name: str, data: Records, masks: Counter, found: Findings
) -> None:
    mask = box.get("segmentation")
    if not mask:
        if data.needs_masks:
            found.add("object without a mask", name)
    elif isinstance(mask, list):
        if not any(is_polygon(polygon) for polygon in mask):
            found.add("mask of fewer than three points", f"{name}: {str(mask)[:40]}",
                      severity=WARNS if data.needs_masks else TELLS)  # fmt: skip
    elif isinstance(mask, dict) and list(mask.get("size") or ()) != [
        image.get("height"), image.get("width"),
    ]:  # fmt: skip
        found.add("mask of another size than its picture", f"{name}: {mask.get('size')}",
                  severity=STOPS if data.needs_masks else TELLS)  # fmt: skip


def _check_left_out_pictures(
    content: Annotations, data: Records, kept: set[str], found: Findings
) -> None:
    with_boxes = Counter(box.get("image_id") for box in content.boxes)
    for number, image in content.images.items():
        path = path_of(image, data)
        if path not in kept and not with_boxes[number]:
            found.add("picture without a box is left out", str(image.get("file_name")))
        elif path not in kept:
            found.add("picture left out by the data set", str(image.get("file_name")))


def records_of(content: Annotations, data: Records) -> list[Record]:
    """The pictures of the file with the boxes of the classes, for a split whose data set cannot be made."""
    numbers = {
        number: data.classes.index(category["name"])
        for number, category in content.categories.items()
        if category.get("name") in data.classes
    }
    of_picture: dict[Any, list[dict]] = {}
    for box in content.boxes:
        image = content.images.get(box.get("image_id"))
        usable = image and box.get("category_id") in numbers
        if usable and what_is_wrong(box, image) not in LEFT_OUT:
            of_picture.setdefault(box.get("image_id"), []).append(box)
    records = []
    for number, image in content.images.items():
        boxes = of_picture.get(number, [])
        size = (image.get("width"), image.get("height"))
        records.append(
            Record(
                path_of(image, data),
                size if all(map(is_number, size)) else None,
                tuple((x, y, x + w, y + h) for x, y, w, h in (box["bbox"] for box in boxes)),
                tuple(numbers[box.get("category_id")] for box in boxes),
                tuple(box.get("segmentation") for box in boxes),
                tuple(bool(box.get("iscrowd")) for box in boxes),
            )
        )
    return records


def path_of(image: dict, data: Records) -> str:
    """Where the picture of an entry lies."""
    return os.path.join(data.images or "", str(image.get("file_name")))


# ---- small judgements ----------------------------------------------------------------------------
def is_box(box: Any) -> bool:
    """Four finite numbers."""
    return isinstance(box, list | tuple) and len(box) == 4 and all(map(is_number, box))


def is_polygon(polygon: Any) -> bool:
    """The x and y of three points or more."""
    return isinstance(polygon, list) and len(polygon) >= POINTS and len(polygon) % 2 == 0


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _comparable(value: Any) -> Any:
    return value if isinstance(value, int | float | str | type(None)) else str(value)
