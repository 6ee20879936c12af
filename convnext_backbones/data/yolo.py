"""YOLO: a text file a picture, a line an object, shares of the picture's width and height."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import yaml

from ..console import counted
from ..errors import UserError
from .boxes import (
    Entry,
    chosen_classes,
    class_file,
    clipped,
    count_classes,
    count_masks,
    polygon_area,
    task_of,
    to_keep,
)
from .described import Found
from .splits import SPLITS, divide, with_validation
from .tree import Header, Tree, folder_split, headers, nearest, some, stem

BOX = 6  # most words of a line that is a box; the sixth is a confidence or a track
IN_PIXELS = 2.0  # shares beyond this are pixels
MOST = 0.5


class Description(NamedTuple):
    """data.yaml: its file, class names by number, folders or lists of the splits, numbers of key points
    that follow a box."""

    file: str
    names: dict[int, str]
    places: dict[str, list[str]]
    points: int


def lies_in(tree: Tree) -> bool:
    """Whether there are text files of boxes beside pictures."""
    stems = {stem(picture) for picture in tree.pictures}
    seen = 0
    for file in tree.ending(".txt"):
        if stem(file) in stems:
            words = tree.path(file).read_text(errors="replace").split("\n", 1)[0].split()
            if len(words) >= 5 and _numbers(words):
                return True
            seen += bool(words)
            if seen >= 20:
                break
    return False


def read(tree: Tree, task: str | None, classes: Sequence[str] | None) -> Found:
    """Say what YOLO's text files hold.

    Raises:
        UserError: none of them can be read, or they count pixels.
    """
    notes: list[str] = []
    described = _description(tree, notes)
    labels = _labels(tree, notes)
    splits = _splits(tree, described, labels, notes)
    pictures = [picture for files in splits.values() for picture in files]
    found = dict(zip(pictures, headers(map(tree.path, pictures)), strict=True))
    bad = [h.error for h in found.values() if h.error]
    if bad:
        notes.append(f"Left out, {counted(len(bad), 'picture')} that cannot be read: {some(bad)}.")
    empty = [picture for picture in pictures if picture not in labels]
    if empty:
        notes.append(
            f"{counted(len(empty), 'picture')} without a text file, taken as background: {some(empty)}."
        )
    entries, names = _entries(tree, described, labels, found, notes)
    counts = count_classes(entries.values())
    chosen = chosen_classes(counts, names, classes, notes)
    if not sum(counts[name] for name in chosen):
        raise UserError(f"the text files in {tree.root} hold no box of a class; {' '.join(notes)}")
    chosen_task = task_of(*count_masks(entries.values(), chosen), task, notes)
    if chosen_task == "instance" and task is None and _all_of_four(entries.values()):
        notes.append(
            "Every outline has four corners: if these are turned boxes, take --task detection, which "
            "takes the upright box around each."
        )
    kept = {s: [entries[f] for f in files if f in entries] for s, files in splits.items()}
    return to_keep(tree, "yolo", kept, chosen, chosen_task, notes)


def _all_of_four(entries) -> bool:
    outlines = [p for e in entries for a in e.annotations for p in a.get("segmentation", ())]
    return all(len(outline) == 8 for outline in outlines)


# ---- data.yaml -----------------------------------------------------------------------------------
def _description(tree: Tree, notes: list[str]) -> Description | None:
    """The outermost YAML file with names."""
    found = []
    for file in sorted(tree.ending(".yaml", ".yml"), key=lambda f: (f.count("/"), f)):
        try:
            content = yaml.safe_load(tree.path(file).read_text(encoding="utf-8-sig"))
        except (yaml.YAMLError, OSError, ValueError) as error:
            words = " ".join(str(error).split())
            notes.append(f"{file} cannot be read as YAML: {words}.")
            continue
        if isinstance(content, dict) and isinstance(content.get("names"), list | dict):
            found.append((file, content))
    if not found:
        return None
    file, content = found[0]
    if len(found) > 1:
        notes.append(f"Of {len(found)} YAML files with names, {file} was taken.")
    names = content["names"]
    try:
        pairs = names.items() if isinstance(names, dict) else enumerate(names)
        by_number = {int(number): str(name).strip() for number, name in pairs}
    except (TypeError, ValueError):
        raise UserError(
            f"{tree.path(file)}: `names` is a list of names, or numbers from 0 with a name each, not {names}"
        ) from None
    if len(set(by_number.values())) < len(by_number):
        raise UserError(
            f"{tree.path(file)}: a name stands twice in `names`: {', '.join(by_number.values())}"
        )
    if isinstance(content.get("nc"), int) and content["nc"] != len(by_number):
        notes.append(
            f"{file} says nc: {content['nc']} and has {len(by_number)} names, which count."
        )
    shape = content.get("kpt_shape")
    points = shape[0] * shape[1] if isinstance(shape, list) and len(shape) == 2 else 0
    if points:
        notes.append("Key points left out: their boxes are taken.")
    return Description(file, by_number, _places(tree, file, content, notes), points)


def _places(
    tree: Tree, file: str, content: Mapping[str, Any], notes: list[str]
) -> dict[str, list[str]]:
    """The pictures of each split that data.yaml names."""
    places = {}
    for split, keys in (("train", ("train",)), ("val", ("val", "valid")), ("test", ("test",))):
        value = next((content[key] for key in keys if content.get(key)), None)
        pictures, lost = [], []
        for place in value if isinstance(value, list) else [value] if value else []:
            there = _pictures_at(tree, file, str(content.get("path") or ""), str(place))
            pictures += there or []
            if there is None:
                lost.append(str(place))
        if lost:
            notes.append(f"{file} names {', '.join(lost)} for {split}, which is not there.")
        if pictures:
            places[split] = sorted(set(pictures))
    return places


def _pictures_at(tree: Tree, file: str, root: str, place: str) -> list[str] | None:
    """The pictures of a folder or a list, as exporters write paths: relative to `path`, to the file, to
    the folder, or to a folder that was elsewhere; None where nothing is there."""
    beside = os.path.dirname(file)
    place = place.replace("\\", "/")
    parts = [part for part in place.split("/") if part not in ("", ".", "..")]
    tried = [os.path.join(beside, root, place), os.path.join(beside, place), place]
    tried += ["/".join([*filter(None, [beside]), *parts[k:]]) for k in range(len(parts))]
    tried += ["/".join(parts[k:]) for k in range(len(parts))]
    for path in tried:
        inside = os.path.relpath(os.path.join(tree.root, path), tree.root).replace(os.sep, "/")
        if inside.startswith(".."):
            continue
        if inside.lower().endswith(".txt") and tree.path(inside).is_file():
            return _listed(tree, inside)
        prefix = "" if inside == "." else f"{inside}/"
        if (
            parts
            and inside != "."
            and (there := [p for p in tree.pictures if p.startswith(prefix)])
        ):
            return there
        if not parts and inside == ".":
            return list(tree.pictures)
    return None


def _listed(tree: Tree, file: str) -> list[str]:
    """The pictures that a list names, by their paths or what is left of them in this tree."""
    known = set(tree.pictures)
    found = []
    for line in tree.path(file).read_text(errors="replace").splitlines():
        parts = [
            part for part in line.strip().replace("\\", "/").split("/") if part not in ("", ".")
        ]
        beside = os.path.dirname(file).split("/") if "/" in file else []
        for k in range(len(parts)):
            fits = [p for p in ("/".join(parts[k:]), "/".join([*beside, *parts[k:]])) if p in known]
            if fits:
                found.append(fits[0])
                break
    return found


# ---- pictures and their text files ---------------------------------------------------------------
def _labels(tree: Tree, notes: list[str]) -> dict[str, str]:
    """The text file of each picture that has one."""
    by_stem: dict[str, list[str]] = {}
    for file in tree.ending(".txt"):
        by_stem.setdefault(stem(file), []).append(file)
    found = {}
    for picture in tree.pictures:
        if same := by_stem.get(stem(picture)):
            found[picture] = _own(picture, same)
    used = set(found.values())
    folders = {os.path.dirname(file) for file in used}
    alone = [
        file
        for file in tree.ending(".txt")
        if file not in used and os.path.dirname(file) in folders and _is_labels(tree, file)
    ]
    if alone:
        notes.append(
            f"Left out, {counted(len(alone), 'text file')} without a picture: {some(alone)}."
        )
    return found


def _own(picture: str, files: list[str]) -> str:
    """Where the official code looks, else the nearest."""
    base = os.path.splitext(picture)[0]
    head, there, tail = f"/{base}".rpartition("/images/")
    official = f"{head}/labels/{tail}.txt".lstrip("/") if there else ""
    return next((f for f in (official, f"{base}.txt") if f in files), None) or nearest(
        picture, files
    )


def _is_labels(tree: Tree, file: str) -> bool:
    words = tree.path(file).read_text(errors="replace").split("\n", 1)[0].split()
    return len(words) >= 5 and _numbers(words)


def _numbers(words: Sequence[str]) -> bool:
    try:
        return bool([float(word) for word in words])
    except ValueError:
        return False


def _splits(
    tree: Tree, described: Description | None, labels: Mapping[str, str], notes: list[str]
) -> dict[str, list[str]]:
    by_folder = {folder_split(picture) for picture in labels}
    whole = described and {"train", "val"} <= described.places.keys()
    if whole or (described and "train" in described.places and not {"train", "val"} <= by_folder):
        places = {split: described.places[split] for split in SPLITS if split in described.places}
        counts = ", ".join(f"{split} {len(files)}" for split, files in places.items())
        notes.append(f"The splits are those of {described.file}: {counts}.")
        shared = set(places["train"]) & set(places.get("val", ()))
        if shared and set(places["val"]) == set(places["train"]):
            notes.append(f"{described.file} names the same pictures for training and validation.")
            places = {s: f for s, f in places.items() if s != "val"}
        elif shared:
            notes.append(
                f"{counted(len(shared), 'picture')} both for training and validation: {some(sorted(shared))}."
            )
        return with_validation(places, notes)
    folders = {os.path.dirname(picture) for picture in labels}
    near = [picture for picture in tree.pictures if os.path.dirname(picture) in folders]
    away = len(tree.pictures) - len(near)
    if away:
        notes.append(f"Left out, {counted(away, 'picture')} in folders without a single text file.")
    return divide(tree, near, "", notes)


# ---- lines ---------------------------------------------------------------------------------------
def _entries(
    tree: Tree,
    described: Description | None,
    labels: Mapping[str, str],
    found: Mapping[str, Header],
    notes: list[str],
) -> tuple[dict[str, Entry], list[str]]:
    """The pictures with their boxes, and the class names."""
    points = described.points if described else 0
    wrong, twice, raw = [], [], {}
    for picture, header in found.items():
        if header.error:
            continue
        lines = []
        if file := labels.get(picture):
            text = tree.path(file).read_text(encoding="utf-8-sig", errors="replace")
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if len(set(lines)) < len(lines):
                twice.append(file)
                lines = list(dict.fromkeys(lines))
        raw[picture] = _read_lines(lines, points, file or "", wrong)
    every = [o for objects in raw.values() for o in objects]
    if every and sum(max(o[1]) > IN_PIXELS for o in every) > MOST * len(every):
        example = next(
            labels[p] for p, objects in raw.items() if any(max(o[1]) > IN_PIXELS for o in objects)
        )
        raise UserError(
            f"{tree.path(example)} counts pixels; YOLO's numbers are shares of the picture's width and "
            "height, from 0 to 1"
        )
    names = _names(tree, described, {o[0] for o in every}, notes)
    unknown, outside, cut, entries = [], [], [], {}
    for picture, objects in raw.items():
        header, file = found[picture], labels.get(picture)
        scale = (header.width, header.height)
        annotations = []
        for number, box, outline in objects:
            if number not in names:
                unknown.append(f"{number} in {file}")
                continue
            pixels = [value * scale[k % 2] for k, value in enumerate(box)]
            inside, was_cut = clipped(pixels, *scale)
            if inside is None:
                outside.append(f"class {number} in {file}")
                continue
            if was_cut:
                cut.append(f"class {number} in {file}")
            one: dict[str, Any] = dict(category=names[number], bbox=inside)
            if outline:
                polygon = [
                    round(min(max(v, 0.0), 1.0) * scale[k % 2], 3) for k, v in enumerate(outline)
                ]
                one |= dict(segmentation=[polygon], area=polygon_area(polygon))
            annotations.append(one)
        entries[picture] = Entry(picture, *scale, annotations)
    for files, what in (
        (wrong, "Left out, {} that cannot be read"),
        (unknown, "Left out, {} of a class number without a name"),
        (outside, "Left out, {} outside its picture or empty"),
        (cut, "{} reached over its picture and was cut"),
    ):
        if files:
            notes.append(f"{what.format(counted(len(files), 'object'))}: {some(files)}.")
    if twice:
        notes.append(
            f"Lines that stand twice left out, in {counted(len(twice), 'text file')}: {some(twice)}."
        )
    return entries, list(names.values())


Line = tuple[int, list[float], list[float] | None]


def _read_lines(lines: Sequence[str], points: int, file: str, wrong: list[str]) -> list[Line]:
    """Class number, box (left, top, right, bottom) and outline of each line, in shares, as the library
    reads them; what cannot be read goes to `wrong`."""
    from supervision.dataset.formats.yolo import yolo_annotations_to_detections

    def read(lines: Sequence[str]) -> list[Line]:
        words = [line.split() for line in lines]
        words = [w[:5] if points and len(w) == 5 + points else w for w in words]
        boxes = yolo_annotations_to_detections([" ".join(w) for w in words], (1, 1), False)
        found = []
        for number, box, own in zip(boxes.class_id, boxes.xyxy.tolist(), words, strict=True):
            outline = [float(word) for word in own[1:]] if len(own) > BOX else None
            if outline and len(outline) % 2:
                outline.pop()  # a confidence or a track
            found.append((int(number), box, outline))
        return found

    if not lines:
        return []
    try:
        return read(lines)
    except ValueError:
        found = []
        for line in lines:
            try:
                found += read([line])
            except ValueError as error:
                wrong.append(f"{line[:30]!r} in {file} ({error})")
        return found


def _names(
    tree: Tree, described: Description | None, numbers: set[int], notes: list[str]
) -> dict[int, str]:
    """The class names by number."""
    if described:
        return dict(sorted(described.names.items()))
    listed = class_file(tree)
    if listed:
        notes.append(f"The class names are those of {listed[0]}.")
        return dict(enumerate(listed[1]))
    most = max((n for n in numbers if n >= 0), default=-1)
    notes.append(
        "There is no data.yaml or classes.txt with names: the classes are class_0 .. "
        f"class_{most}; --classes cannot rename them, a file classes.txt with a name a line does."
    )
    return {k: f"class_{k}" for k in range(most + 1)}
