"""Which pictures are trained on and which are measured on: by folders, by lists, or made."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence

from ..console import counted
from ..errors import UserError
from .tree import SPLIT_WORDS, Tree, folder_split, split_of, stem

SPLITS = ("train", "val", "test")
SHARE = 0.2  # of the pictures for validation, where no split is given
SEED = 0
MOST = 0.9  # of the pictures that lists have to name before they count


def divide(
    tree: Tree, pictures: Sequence[str], prefer: str, notes: list[str]
) -> dict[str, list[str]]:
    """The pictures (paths in the tree) by split; says in `notes` how they were told.

    Args:
        prefer: of several lists those in a folder of this name, "Main" or "Segmentation" in VOC.

    Raises:
        UserError: there are too few pictures to make a split.
    """
    listed = _by_lists(tree, pictures, prefer)
    if listed:
        files, found = listed
        notes.append(f"The splits are those of {', '.join(files)}: {_counts(found)}.")
    else:
        found = {}
        for picture in pictures:
            found.setdefault(folder_split(picture), []).append(picture)
        loose = found.pop(None, [])
        if found and loose:
            notes.append(
                f"{counted(len(loose), 'picture')} in no folder of a split left out, such as {loose[0]}."
            )
        elif loose:
            found = {"train": loose}
        else:
            notes.append(f"The splits are those of the folders: {_counts(found)}.")
    return with_validation({s: found[s] for s in SPLITS if found.get(s)}, notes)


def with_validation(found: dict[str, list[str]], notes: list[str]) -> dict[str, list[str]]:
    """The same with a "train" and a "val": a seeded part of the one that is there, if need be."""
    if "train" in found and "val" in found:
        return found
    there = "train" if "train" in found else "val" if "val" in found else "test"
    train, val = seeded(found[there])
    notes.append(
        f"No split for {'validation' if there == 'train' else 'training'} was found: of "
        f"{counted(len(found[there]), 'picture')}, {len(val)} were drawn for validation (seed {SEED}, by "
        "name). Pictures of one scene or video may lie on both sides; folders train/ and val/ of your own "
        "are taken instead."
    )
    made = {"train": train, "val": val}
    return made | ({"test": found["test"]} if there != "test" and "test" in found else {})


def seeded(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """Names for training and for validation, each sorted; a name falls on the same side however many
    others come, but for a few at the border."""
    names = sorted(names)
    if len(names) < 2:
        raise UserError(
            f"{counted(len(names), 'picture')} with labels: at least one to train on and one to measure "
            "on are needed"
        )
    drawn = sorted(names, key=lambda name: hashlib.sha256(f"{SEED} {name}".encode()).digest())
    val = set(drawn[: max(1, round(SHARE * len(names)))])
    return [name for name in names if name not in val], sorted(val)


def _counts(found: dict[str, list]) -> str:
    return ", ".join(f"{split} {len(found[split])}" for split in SPLITS if found.get(split))


def _by_lists(
    tree: Tree, pictures: Sequence[str], prefer: str
) -> tuple[list[str], dict[str, list[str]]] | None:
    """The files train.txt, val.txt, .. and the pictures that they name; None where they are not there,
    name others or name a picture twice."""
    folders: dict[str, dict[str, str]] = {}
    for file in tree.ending(".txt"):
        name = stem(file).lower()
        if re.fullmatch("|".join(SPLIT_WORDS.values()), name):
            lists = folders.setdefault(os.path.dirname(file), {})
            if name != "trainval" or "train" not in lists:  # train.txt comes first
                lists[split_of(name)] = file
    by_stem: dict[str, list[str]] = {}
    for picture in pictures:
        by_stem.setdefault(stem(picture), []).append(picture)
    order = sorted(folders, key=lambda f: (f.rsplit("/", 1)[-1] != prefer, f.count("/"), f))
    for folder in order:
        found: dict[str, list[str]] = {}
        for split, file in folders[folder].items():
            found[split] = _named(tree, file, by_stem)
        named = [picture for part in found.values() for picture in part]
        if len(named) == len(set(named)) >= MOST * len(pictures) > 0 and found.get("train"):
            return [folders[folder][s] for s in SPLITS if s in folders[folder]], found
    return None


def _named(tree: Tree, file: str, by_stem: dict[str, list[str]]) -> list[str]:
    """The pictures that the lines of a list name: "0001", "images/0001.jpg", "/a/0001.jpg /b/0001.png"."""
    found = {}
    for line in tree.path(file).read_text(errors="replace").splitlines():
        line = line.strip().replace("\\", "/")
        for name in (line, line.split(" ")[0]):  # a name may have spaces
            name = name.rsplit("/", 1)[-1]
            fits = by_stem.get(name) or by_stem.get(os.path.splitext(name)[0], ())
            if len(fits) == 1:
                found[fits[0]] = True
                break
    return list(found)
