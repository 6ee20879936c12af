"""What lies in a folder of pictures and labels: look() says it, keep() writes what frameworks lack.

found = look("BCCD", task="detection")            # reads, writes nothing
for sentence in found.notes:
    print(sentence)
found = keep(found, "bccd_data")                  # COCO JSON, beside the config
found.splits["train"].annotations                 # bccd_data/annotations/train.json
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ..console import counted
from ..errors import UserError
from . import coco, label_maps, voc, yolo
from .described import KINDS, TASKS, VOID, Found, Range, Sizes, Split
from .keeping import write_all
from .pictures import SUFFIXES
from .tree import Tree, some

__all__ = ["VOID", "Found", "Range", "Sizes", "Split", "keep", "look"]


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
    tree = Tree(folder)
    if task is not None and task not in TASKS:
        raise UserError(f"there is no task {task!r}; tasks: {', '.join(TASKS)}")
    if kind is not None and kind not in KINDS:
        raise UserError(f"there is no kind {kind!r}; kinds: {', '.join(KINDS)}")
    if isinstance(classes, str):
        classes = [name.strip() for name in classes.split(",")]
    if classes is not None and (not classes or not all(classes)):
        raise UserError("--classes needs names, such as --classes car,person")
    _pictures_are_there(tree)
    contents, broken = coco.candidates(tree)
    pairs = label_maps.find(tree)
    there = [name for name, here in (("voc", voc.lies_in(tree)), ("yolo", yolo.lies_in(tree)),
                                     ("label maps", bool(pairs))) if here]  # fmt: skip
    if any(content["annotations"] for content in contents.values()) or (contents and not there):
        there.insert(0, "coco")
    else:
        broken += [f"{file} has no annotations" for file in contents]
    note = f"Left out, {counted(len(broken), 'JSON file')}: {some(broken)}." if broken else ""
    if broken and not there:
        raise UserError(f"no JSON file in {tree.root} can be used: {some(broken)}")
    if not there and (broken := voc.unreadable(tree)):
        raise UserError(
            f"{tree.root} holds no labels that can be read, and {counted(len(broken), 'XML file')} that "
            f"cannot: {some(broken)}. Copy them again, or write the labels anew"
        )
    kind = _kind(tree, there, task, kind)
    notes = [*filter(None, [note]), *_of_several(there, kind)]
    if kind == "label maps":
        found = label_maps.read(tree, classes, void, pairs)
    else:
        if void is not None:
            notes.append(f"--void {void} is for label maps and was not used.")
        if kind == "coco":
            found = coco.read(tree, task, classes, contents)
        else:
            found = {"voc": voc, "yolo": yolo}[kind].read(tree, task, classes)
    return replace(found, notes=(*notes, *found.notes))


def _pictures_are_there(tree: Tree) -> None:
    if not tree.pictures:
        labels = len(tree.ending(".json", ".xml", ".txt"))
        what = (
            f"no pictures, and {counted(labels, 'file')} that may be labels"
            if labels
            else "no pictures"
        )
        raise UserError(
            f"{tree.root} holds {what}; pictures end in {', '.join(SUFFIXES)}. Give the folder that holds "
            "both, pictures and labels"
        )


def _kind(tree: Tree, there: Sequence[str], task: str | None, kind: str | None) -> str:
    """The kind to take."""
    if kind is not None:
        if kind not in there:
            raise UserError(f"{tree.root} holds no labels of the kind {kind}, but {_listed(there)}")
        if task is not None and (task == "semantic") != (kind == "label maps"):
            raise UserError(f"--task {task} does not go with labels of the kind {kind}")
        return kind
    fits = [k for k in there if task is None or (task == "semantic") == (k == "label maps")]
    if fits:
        return fits[0]
    pictures = counted(len(tree.pictures), "picture")
    if there:
        others = "semantic" if there == ["label maps"] else "detection or --task instance"
        raise UserError(
            f"--task {task}: {tree.root} holds {pictures} and {_listed(there)}; take --task {others}"
        )
    raise UserError(
        f"{tree.root} holds {pictures} and no labels that are known: COCO JSON, Pascal VOC XML, YOLO text "
        "files, or label maps (a PNG of the same name in another folder or with an ending such as _mask)"
        + _near_miss(tree)
    )


def _near_miss(tree: Tree) -> str:
    """A word on labels that are there and cannot be taken."""
    if folder := label_maps.in_jpeg(tree):
        return f". The label maps in {folder} are JPEG files, which do not keep the values: save them as PNG"
    files = tree.ending(".json")
    for file in files[:5]:
        if b'"shapes"' in tree.path(file).read_bytes():
            return f". {file} is labelme's: export it as COCO JSON or VOC"
    return ""


def _of_several(there: Sequence[str], kind: str) -> list[str]:
    others = [other for other in there if other != kind]
    if not others:
        return []
    return [
        f"The folder holds {_listed(there)}. Taken: {NAMED[kind]}; to take others: --kind "
        f"{' or --kind '.join(k.replace(' ', '-') for k in others)}."
    ]


NAMED = {
    "coco": "COCO JSON",
    "voc": "Pascal VOC XML",
    "yolo": "YOLO text",
    "label maps": "label maps",
}


def _listed(kinds: Sequence[str]) -> str:
    return " and ".join(NAMED[kind] for kind in kinds) or "nothing known"


def keep(found: Found, folder: str | Path) -> Found:
    """Write what frameworks need and the data lack: COCO JSON of VOC and YOLO, a seeded split, label
    maps by class number of colours or of values with gaps. The originals stay as they are.

    Writing the same twice changes nothing. A file that is there and was not written by this function,
    or was changed since, is not overwritten.

    Returns the splits with paths to what was written; `found` itself where nothing has to be written.

    Raises:
        UserError: the folder cannot be written to, or holds another's file of a name that is needed.
    """
    if found.plan is None:
        return found
    root = Path(os.path.abspath(Path(folder).expanduser()))
    write_all(root, found.plan.files)
    splits = {}
    for name, split in found.splits.items():
        if name in found.plan.annotations:
            listing = found.plan.listings.get(name)
            split = replace(
                split,
                annotations=root / found.plan.annotations[name],
                listing=root / listing if listing else None,
            )
        splits[name] = split
    return replace(found, splits=splits, as_it_lies=True, plan=None)
