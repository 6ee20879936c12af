"""COCO JSON: pictures, boxes and categories of a split in one file."""

import json
import os
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from ..console import counted
from ..errors import UserError
from .annotations import Annotations, is_box, is_polygon, layout_of, what_is_wrong
from .boxes import (
    Entry,
    chosen_classes,
    common_folder,
    count_classes,
    picture_sizes,
    task_of,
    to_keep,
)
from .described import Found, Split
from .splits import SPLITS, divide, with_validation
from .tree import Tree, headers, nearest, some, split_of, stem

KEYS = ("images", "annotations", "categories")
REPAIR = "check-data --fix repairs them"


class File(NamedTuple):
    """A COCO JSON: where, of which split, its content and where its pictures are.

    pictures: an id of an image to the path in the tree, for those that are there.
    folder: the one to which its file names are relative; None where there is none.
    """

    file: str
    split: str | None
    content: dict[str, list[dict]]
    pictures: dict[Any, str]
    folder: str | None


def candidates(tree: Tree) -> tuple[dict[str, dict], list[str]]:
    """The JSON files that are COCO's, and what is wrong with those that seem to be."""
    found, broken = {}, []
    for file in tree.ending(".json"):
        data = tree.path(file).read_bytes()
        # Cheaper than parsing 20,000 files of one picture each.
        if b'"images"' not in data and b'"annotations"' not in data:
            if not data.strip():
                broken.append(f"{file} is empty")
            continue
        try:
            content = json.loads(data)
        except ValueError as error:
            broken.append(f"{file} is no JSON: {error}")
            continue
        if not isinstance(content, dict) or "images" not in content:
            continue
        annotations = content.get("annotations")
        if isinstance(annotations, list) and annotations and isinstance(annotations[0], dict):
            if "segments_info" in annotations[0]:
                broken.append(f"{file} is panoptic, without boxes")
                continue
            if "caption" in annotations[0]:
                broken.append(f"{file} holds captions, no boxes")
                continue
        lacking = [k for k in KEYS if not isinstance(content.get(k), list)]
        if lacking:
            broken.append(f"{file} has no list of {' and '.join(lacking)}")
            continue
        found[file] = content
    return found, broken


def read(
    tree: Tree, task: str | None, classes: Sequence[str] | None, contents: dict[str, dict]
) -> Found:
    """Say what COCO JSON files hold.

    Args:
        contents: those of `candidates`.

    Raises:
        UserError: none can be read, has boxes or finds its pictures.
    """
    notes: list[str] = []
    bare = [file for file, content in contents.items() if not content["annotations"]]
    if bare and len(bare) < len(contents):
        notes.append(f"Left out, having no boxes: {some(bare)}.")
        contents = {file: c for file, c in contents.items() if file not in bare}
    for file, content in contents.items():
        for key in KEYS:
            content[key] = [entry for entry in content[key] if isinstance(entry, dict)]
        if not content["categories"]:
            raise UserError(
                f"{tree.path(file)} has no categories: list each class with its id and name"
            )
        if not content["images"]:
            raise UserError(f"{tree.path(file)} has no images")
        if not content["annotations"]:
            raise UserError(f"{tree.path(file)} has no annotations: a detector learns from boxes")
    files = _one_a_split(tree, contents, notes)
    order, dropped = _categories(files, notes)
    counts = Counter()
    masks = boxes = 0
    for one in files:
        names = {_key(c.get("id")): str(c.get("name")) for c in one.content["categories"]}
        for annotation in one.content["annotations"]:
            name = names.get(_key(annotation.get("category_id")))
            counts[name] += 1
        _describe(one, notes)
    chosen = chosen_classes(counts, order, classes, notes)
    known = set(chosen)
    for one in files:
        names = {_key(c.get("id")): str(c.get("name")) for c in one.content["categories"]}
        for annotation in one.content["annotations"]:
            if names.get(_key(annotation.get("category_id"))) in known:
                boxes += 1
                masks += _has_mask(annotation)
    if not boxes:
        raise UserError(
            f"no box in {some(f.file for f in files)} is of a category that is listed there"
        )
    chosen_task = task_of(masks, boxes, task, notes)
    ready = (
        {"train", "val"} <= {one.split for one in files}
        and not dropped
        and chosen == tuple(order)
        and all(
            one.folder is not None and len(one.pictures) == len(one.content["images"])
            for one in files
        )
        and (chosen_task == "detection" or masks == boxes)
        and all(_sizes_are_said(one) for one in files)
        and len({tuple(sorted(_names_of(one).items())) for one in files}) == 1
    )
    if ready:
        return _as_it_lies(tree, files, chosen, chosen_task, notes)
    return _rewritten(tree, files, chosen, chosen_task, notes)


def _key(value: Any) -> Any:
    return value if isinstance(value, int | float | str | type(None)) else str(value)


def _has_mask(annotation: dict) -> bool:
    mask = annotation.get("segmentation")
    return any(map(is_polygon, mask)) if isinstance(mask, list) else isinstance(mask, dict)


def _names_of(one: File) -> dict[Any, str]:
    return {_key(c.get("id")): str(c.get("name")) for c in one.content["categories"]}


def _sizes_are_said(one: File) -> bool:
    return all(image.get("width") and image.get("height") for image in one.content["images"])


# ---- files and pictures --------------------------------------------------------------------------
def _one_a_split(tree: Tree, contents: dict[str, dict], notes: list[str]) -> list[File]:
    """One file for each split, the one with most boxes where there are several."""
    by_name: dict[str, list[str]] = {}
    for picture in tree.pictures:
        by_name.setdefault(picture.rsplit("/", 1)[-1].lower(), []).append(picture)
    by_split: dict[str | None, list[str]] = {}
    for file in contents:
        by_split.setdefault(split_of(os.path.splitext(file)[0]), []).append(file)
    if None in by_split and len(by_split) > 1:
        notes.append(f"Left out, as their names say no split: {some(by_split.pop(None))}.")
    files = []
    for split in (*SPLITS, None):
        rivals = by_split.get(split)
        if not rivals:
            continue
        instances = [file for file in rivals if "instances" in stem(file).lower()]
        taken = max(instances or rivals, key=lambda f: (len(contents[f]["annotations"]), f))
        if len(rivals) > 1:
            others = some(file for file in rivals if file != taken)
            notes.append(
                f"Of {len(rivals)} JSON files{f' for {split}' if split else ''}, {taken} was taken and "
                f"not {others}; move those away that are not wanted, or merge them."
            )
        files.append(_with_pictures(tree, taken, split, contents[taken], by_name, notes))
    return files


def _with_pictures(
    tree: Tree,
    file: str,
    split: str | None,
    content: dict,
    by_name: dict[str, list[str]],
    notes: list[str],
) -> File:
    """Where the pictures of a JSON file are: the folder that its file names are relative to."""
    images = content["images"]
    names = {
        _key(i.get("id")): str(i.get("file_name") or "").replace("\\", "/").removeprefix("./")
        for i in images
    }
    if len(names) < len(images):
        notes.append(
            f"{file}: {len(images) - len(names)} pictures have an id that another has; {REPAIR}."
        )
    bases = Counter()
    step = max(1, len(names) // 500)
    for name in list(names.values())[::step]:
        for picture in by_name.get(name.rsplit("/", 1)[-1].lower(), ()):
            if picture == name or picture.endswith(f"/{name}"):
                bases[picture[: len(picture) - len(name)].rstrip("/")] += 1
    folder, found = None, {}
    if bases:
        most = max(bases.values())
        best = [f"{base}/x" if base else "x" for base, count in bases.items() if count == most]
        like = f"{split or ''}/{file}" if split else file
        folder = os.path.dirname(nearest(like, best))
        known, prefix = set(tree.pictures), f"{folder}/" if folder else ""
        found = {number: prefix + name for number, name in names.items() if prefix + name in known}
    moved = []
    for number, name in names.items():
        if number in found:
            continue
        same = by_name.get(name.rsplit("/", 1)[-1].lower(), ())
        if name and same:
            found[number] = nearest(name if "/" in name else file, same)
            moved.append(f"{name} is {found[number]}")
    if not found:
        where = common_folder(tree.pictures)
        there = (
            f"{counted(len(tree.pictures), 'picture')} in {tree.path(where)}"
            if tree.pictures
            else "no picture"
        )
        raise UserError(
            f"none of the {len(names)} pictures of {tree.path(file)} is there ({some(names.values(), 2)}; "
            f"{there}): put them into the folder under these names"
        )
    if moved:
        notes.append(
            f"{file}: {counted(len(moved), 'picture')} found elsewhere or written otherwise: {some(moved)}."
        )
        folder = None
    missing = [name for number, name in names.items() if number not in found]
    if missing:
        notes.append(
            f"{file}: left out, {counted(len(missing), 'picture')} missing: {some(missing)}."
        )
    return File(file, split, content, found, folder)


def _categories(files: Sequence[File], notes: list[str]) -> tuple[list[str], bool]:
    """Class names in the order of the training file's ids, and whether one of Roboflow's was left out,
    which has no box and stands above all others."""
    first = files[0].content["categories"]
    try:
        first = sorted(first, key=lambda c: c.get("id"))
    except TypeError:
        notes.append(
            f"{files[0].file}: category ids are no numbers, taken in the order of the file."
        )
    names = [str(category.get("name")) for category in first]
    if len(set(names)) < len(names):
        raise UserError(f"{files[0].file} has two categories of one name: {', '.join(names)}")
    used = {
        _names_of(one).get(_key(annotation.get("category_id")))
        for one in files
        for annotation in one.content["annotations"]
    }
    head, *rest = first
    above = str(head.get("name"))
    dropped = (
        bool(rest) and above not in used and all(c.get("supercategory") == above for c in rest)
    )
    if dropped:
        names = names[1:]
        notes.append(
            f"The category {above!r} is the one above the others and has no box: no class."
        )
    for one in files[1:]:
        others = set(_names_of(one).values()) - set(names) - ({above} if dropped else set())
        if others:
            notes.append(
                f"{one.file} has categories that {files[0].file} has not: {some(map(repr, sorted(others)))}; "
                "their boxes count for nothing."
            )
    return names, dropped


def _describe(one: File, notes: list[str]) -> None:
    """Say with counts what of a file frameworks drop or take wrongly."""
    images = {_key(image.get("id")): image for image in one.content["images"]}
    boxes = one.content["annotations"]
    content = Annotations(
        one.file, images, {_key(c.get("id")): c for c in one.content["categories"]}, boxes
    )
    layout = layout_of(content)
    if layout:
        example = next(box["bbox"] for box in boxes if is_box(box.get("bbox")))
        what = {
            "corners": "corners (x1, y1, x2, y2) instead of left, top, width, height",
            "normalised": "shares of the picture instead of pixels",
        }[layout]
        notes.append(f"{one.file}: the boxes look like {what}, such as {example}; {REPAIR}.")
    ids = Counter(_key(box.get("id")) for box in boxes)
    wrong: Counter[str] = Counter()
    for box in boxes:
        image = images.get(_key(box.get("image_id")))
        if image is None:
            wrong["of a picture that is not listed"] += 1
        elif _key(box.get("category_id")) not in content.categories:
            wrong["of a category that is not listed"] += 1
        elif not layout and (said := what_is_wrong(box, image)):
            wrong[said.removeprefix("box is ").removeprefix("box ")] += 1
        mask = box.get("segmentation")
        if isinstance(mask, list) and mask and not any(map(is_polygon, mask)):
            wrong["with an outline of fewer than three points"] += 1
    wrong["whose id another has"] = sum(count - 1 for count in ids.values())
    said = [f"{count} {what}" for what, count in wrong.items() if count]
    if said:
        notes.append(f"{one.file}: of {counted(len(boxes), 'box')}, {', '.join(said)}; {REPAIR}.")


# ---- the answer ----------------------------------------------------------------------------------
def _as_it_lies(
    tree: Tree, files: Sequence[File], classes: tuple[str, ...], task: str, notes: list[str]
) -> Found:
    splits = {
        one.split: Split(
            one.split, tree.path(one.folder), tree.path(one.file),
            len(one.content["images"]), len(one.content["annotations"]),
        )
        for one in files
    }  # fmt: skip
    images = [image for one in files for image in one.content["images"]]
    sizes = picture_sizes(
        (image["width"] for image in images),
        (image["height"] for image in images),
        (a["bbox"][2] * a["bbox"][3] for one in files for a in one.content["annotations"]
         if is_box(a.get("bbox"))),
    )  # fmt: skip
    return Found(tree.root, task, "coco", classes, None, None, splits, sizes, tuple(notes))


def _rewritten(
    tree: Tree, files: Sequence[File], classes: tuple[str, ...], task: str, notes: list[str]
) -> Found:
    """What was found, to be written as new JSON files: of the pictures and boxes that can be used."""
    if any(one.split is None for one in files):
        entries = {entry.file: entry for one in files for entry in _entries(tree, one, notes)}
        parts = divide(tree, sorted(entries), "Main", notes)
        splits = {split: [entries[file] for file in part] for split, part in parts.items()}
    else:
        entries = {}
        parts = {}
        for one in files:
            of_split = {entry.file: entry for entry in _entries(tree, one, notes)}
            entries |= {(one.split, file): entry for file, entry in of_split.items()}
            parts[one.split] = sorted(of_split)
        if {"train", "val"} <= set(parts):
            splits = {s: [entries[s, file] for file in part] for s, part in parts.items()}
        else:
            whole = {file: entry for (_, file), entry in entries.items()}
            splits = {
                s: [whole[f] for f in part] for s, part in with_validation(parts, notes).items()
            }
    everything = [entry for part in splits.values() for entry in part]
    if not sum(count_classes(everything)[name] for name in classes):
        raise UserError(f"no box in {some(f.file for f in files)} can be used; {' '.join(notes)}")
    return to_keep(tree, "coco", splits, classes, task, notes)


def _entries(tree: Tree, one: File, notes: list[str]) -> list[Entry]:
    """The pictures that are there with their boxes that name a category and are four numbers."""
    names = _names_of(one)
    of_picture: dict[Any, list[dict]] = {}
    for annotation in one.content["annotations"]:
        name = names.get(_key(annotation.get("category_id")))
        if name is not None and is_box(annotation.get("bbox")):
            kept = {k: v for k, v in annotation.items() if k not in ("segmentation", "category_id")}
            if _has_mask(annotation):
                kept["segmentation"] = annotation["segmentation"]
            kept["category"] = name
            of_picture.setdefault(_key(annotation.get("image_id")), []).append(kept)
    images = {_key(image.get("id")): image for image in one.content["images"]}
    unsaid = [n for n in one.pictures if not (images[n].get("width") and images[n].get("height"))]
    read = dict(zip(unsaid, headers(tree.path(one.pictures[n]) for n in unsaid), strict=True))
    bad = [h.error for h in read.values() if h.error]
    if bad:
        notes.append(
            f"{one.file}: left out, {counted(len(bad), 'picture')} that cannot be read: {some(bad)}."
        )
    entries = []
    for number, file in one.pictures.items():
        image = images[number]
        if number in read:
            if read[number].error:
                continue
            size = (read[number].width, read[number].height)
        else:
            size = (image["width"], image["height"])
        entries.append(Entry(file, *size, of_picture.get(number, [])))
    return entries
