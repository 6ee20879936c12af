"""A repaired copy of a config's data, in a folder of its own; the originals stay as they are."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from .annotations import (
    LEFT_OUT,
    Annotations,
    is_box,
    is_number,
    is_polygon,
    layout_of,
    path_of,
    plain_name,
    read_annotations,
    what_is_wrong,
)
from .facts import Facts
from .findings import Findings
from .pictures import EXCHANGED, read_picture
from .records import VOID, Record, Records

JPEG = (".jpg", ".jpeg")
AllFacts = Mapping[tuple[str, str], Facts]


def check_copy(folder: Path) -> None:
    """Refuse a folder with something in it, with UserError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not empty; name a new folder for the repaired copy")


def repair(
    splits: Sequence[Records],
    facts: AllFacts,
    folder: Path,
    progress: Callable[..., Iterable] = lambda items, total: items,
) -> tuple[list[str], list[str]]:
    """Write a repaired copy of each split.

    Pictures: turned by EXIF (not where the labels are of the unturned one), 8-bit RGB; unreadable and missing ones are left out. COCO JSON: boxes in
    pixels and clipped, empty ones left out, ids made unique, categories numbered from 1 in the order of
    the classes. Label maps: PNG of the picture's size, values beyond the classes void.

    Args:
        folder: new or empty.
        progress: shows the writing, as tqdm does.

    Returns:
        What was done, a line a split; and the lines of the config that put it on the copy.

    Raises:
        UserError: the folder has something in it, or cannot be written.
    """
    check_copy(folder)
    done, lines = [], []
    try:
        for data in splits:
            did, places = (_detection if data.task == "boxes" else _segmentation)(
                data, facts, folder, progress
            )
            said = "; ".join(f"{count} {what}" for what, count in did.items() if count)
            done.append(f"{data.split}: {said}")
            lines += data.setting.format(split=data.split, **places).splitlines()
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error}") from error
    return done, lines


# ---- detection -----------------------------------------------------------------------------------
def _detection(data: Records, facts: AllFacts, folder: Path, progress) -> tuple[Counter, dict]:
    content = data.annotations and read_annotations(data.annotations, Findings(data.split))
    if not content:
        raise UserError(
            f"the {data.split} data is in no COCO JSON that can be read, and is not repaired"
        )
    pictures = folder / data.split
    annotations = folder / "annotations" / f"{data.split}.json"
    images, sizes, did = [], {}, Counter()
    owner: dict[str, Any] = {}  # the entry that a file's boxes go to, by its name
    for number, image in progress(content.images.items(), total=len(content.images)):
        record = Record(path_of(image, data), (image.get("width"), image.get("height")))
        if owner.setdefault(record.picture, number) != number:
            did["entries merged"] += 1
            continue
        size = _write_picture(record, facts, pictures / _inside(record.picture, data), did)
        if size:
            sizes[number] = size
            images.append({**image, "id": number, "width": size[0], "height": size[1],
                           "file_name": _inside(record.picture, data)})  # fmt: skip
    numbers, categories = _categories(content, data.classes)
    repaired = {
        "images": images,
        "categories": categories,
        "annotations": list(_boxes(content, data, sizes, owner, numbers, did)),
    }
    annotations.parent.mkdir(parents=True, exist_ok=True)
    annotations.write_text(json.dumps(repaired))
    places = {"images": os.path.abspath(pictures), "annotations": os.path.abspath(annotations)}
    return did, {**places, "labels": ""}


def _categories(content: Annotations, classes: Sequence[str]) -> tuple[dict, list[dict]]:
    """The new number of each category's id, and the categories: from 1, the classes first. A name that
    is a class's but for case and separators becomes it."""
    plain = {plain_name(name): name for name in classes}
    names = [
        c["name"]
        if c.get("name") in classes
        else plain.get(plain_name(c.get("name")), c.get("name"))
        for c in content.categories.values()
    ]
    order = [name for name in classes if name in names]
    order += [name for name in dict.fromkeys(names) if name not in classes]
    numbers = {k: order.index(name) + 1 for k, name in zip(content.categories, names, strict=True)}
    return numbers, [dict(id=k + 1, name=name) for k, name in enumerate(order)]


def _boxes(
    content: Annotations, data: Records, sizes: dict, owner: dict, numbers: dict, did: Counter
) -> Iterator[dict]:
    layout = layout_of(content)
    for box in content.boxes:
        own = content.images.get(box.get("image_id"))
        number = own and owner.get(path_of(own, data))
        category = numbers.get(box.get("category_id"))
        size = sizes.get(number) if own else None
        if size is None or category is None or not is_box(box.get("bbox")):
            did["annotations left out"] += 1
            continue
        bbox = _in_pixels(
            box["bbox"], layout, own.get("width") or size[0], own.get("height") or size[1]
        )
        did["boxes converted"] += bool(layout)
        if what_is_wrong({"bbox": bbox}, {"width": size[0], "height": size[1]}) in LEFT_OUT:
            did["annotations left out"] += 1
            continue
        left, top = max(bbox[0], 0), max(bbox[1], 0)
        right, bottom = min(bbox[0] + bbox[2], size[0]), min(bbox[1] + bbox[3], size[1])
        clipped = [left, top, right - left, bottom - top]
        did["boxes clipped"] += clipped != list(bbox)
        mask = box.get("segmentation")
        if isinstance(mask, list):
            mask = [polygon for polygon in mask if is_polygon(polygon)]
        elif isinstance(mask, dict) and list(mask.get("size") or ()) != [size[1], size[0]]:
            mask = None
        if data.needs_masks and not mask:
            did["annotations left out"] += 1
            continue
        did["annotations written"] += 1
        area = box["area"] if is_number(box.get("area")) else 0
        yield {
            "id": did["annotations written"],
            "image_id": number,
            "category_id": category,
            "bbox": clipped,
            "area": area if area > 0 and not layout else clipped[2] * clipped[3],
            "iscrowd": int(bool(box.get("iscrowd"))),
            **({"segmentation": mask} if mask else {}),
        }


def _in_pixels(bbox: Sequence[float], layout: str | None, width: int, height: int) -> list[float]:
    """left, top, width, height in pixels."""
    x, y, w, h = bbox
    if layout == "corners":
        return [x, y, w - x, h - y]
    if layout == "normalised":
        return [x * width, y * height, w * width, h * height]
    return [x, y, w, h]


# ---- segmentation --------------------------------------------------------------------------------
def _segmentation(data: Records, facts: AllFacts, folder: Path, progress) -> tuple[Counter, dict]:
    pictures, maps = folder / "images" / data.split, folder / "labels" / data.split
    did = Counter()
    for record in progress(data.records, total=len(data.records)):
        labels = _labels(record, data, facts, did)
        if labels is None:
            did["pictures left out"] += 1
            continue
        inside = _inside(record.picture, data)
        record = record._replace(size=labels.size)
        if _write_picture(record, facts, pictures / inside, did):
            target = maps / Path(inside).parent / Path(record.label_map).name
            target.parent.mkdir(parents=True, exist_ok=True)
            labels.save(target)
    places = {"images": os.path.abspath(pictures), "labels": os.path.abspath(maps)}
    return did, {**places, "annotations": ""}


def _labels(record: Record, data: Records, facts: AllFacts, did: Counter) -> Image.Image | None:
    """The label map, repaired; None for one that cannot be, or whose picture cannot be read."""
    of_map = facts.get(("labels", record.label_map), {})
    of_picture = facts.get(("picture", record.picture), {})
    if "error" in of_map or "error" in of_picture or not of_map.get("values"):
        return None
    image = Image.open(record.label_map)
    size = (of_picture["width"], of_picture["height"])
    if image.size not in (size, size[::-1] if of_picture["orientation"] in EXCHANGED else size):
        return None
    voids = set(data.voids.values()) or {VOID}
    void = next(
        (v for v in range(data.values - 1, -1, -1) if data.renumber.get(v, v) in voids), VOID
    )
    beyond = [
        value for value in map(int, of_map["values"])
        if value >= data.values or ((label := data.renumber.get(value, value)) not in voids
        and not 0 <= label < len(data.classes))
    ]  # fmt: skip
    if not beyond and image.mode in ("L", "P"):
        return image
    labels = np.asarray(image)
    labels = np.where(np.isin(labels, beyond), void, labels).astype(np.uint8)
    did["label maps changed"] += 1
    repaired = Image.fromarray(labels, "L" if image.mode != "P" else "P")
    if image.mode == "P":
        repaired.putpalette(image.getpalette())
    return repaired


# ---- pictures ------------------------------------------------------------------------------------
def _inside(picture: str, data: Records) -> str:
    """A picture's path below the folder of all of them; the whole of it for one that lies elsewhere."""
    inside = Path(os.path.relpath(picture, data.images or "."))
    if inside.parts[:1] == ("..",):
        inside = Path(*Path(os.path.abspath(picture)).parts[1:])
    return str(inside)


def _write_picture(
    record: Record, facts: AllFacts, target: Path, did: Counter
) -> tuple[int, int] | None:
    """Copy a picture, or write it turned and as 8-bit RGB; its width and height, None for one left out."""
    of_picture = facts.get(("picture", record.picture), {"error": "was not read"})
    if "error" in of_picture:
        did["pictures left out"] += 1
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    size = (of_picture["width"], of_picture["height"])
    did["pictures written"] += 1
    if of_picture["mode"] == "RGB" and of_picture["bits"] == 8 and of_picture["orientation"] == 1:
        shutil.copyfile(record.picture, target)
        return size
    did["pictures changed"] += 1
    unturned = of_picture["orientation"] in EXCHANGED and record.size == size[::-1]
    image = Image.fromarray(read_picture(record.picture, size=record.size if unturned else None))
    best = {"quality": 95, "subsampling": 0} if target.suffix.lower() in JPEG else {}
    image.save(target, **best)
    return image.size
