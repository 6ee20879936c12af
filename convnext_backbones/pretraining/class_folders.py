"""Pictures in one folder a class, and which of them train and which validate.

    DATA/train/cat/*.jpg  DATA/train/dog/*.jpg  DATA/val/cat/*.jpg ...
    DATA/cat/*.jpg        DATA/dog/*.jpg        the split is then drawn here

Classes count in alphabetical order, as torchvision's ImageFolder and timm count them.
"""

import random
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..console import counted
from ..data.pictures import SUFFIXES, picture_files, read_picture
from ..data.tree import some, split_of
from ..errors import UnreadableFileError, UserError

VAL_SHARE = 0.2
LONGEST = 50  # times its short side; a longer picture would be resized to gigabytes
LAYOUT = (
    "one folder of pictures a class, CLASS/*.jpg, or such folders in two: train/CLASS/*.jpg and "
    "val/CLASS/*.jpg"
)


class Sample(NamedTuple):
    """A picture's file, and the number of its class."""

    path: Path
    label: int


class ClassFolders(NamedTuple):
    """root: the folder. classes: their names, in the order of their numbers. train, val: the pictures, by
    class, by path. split: how they were parted, in words. notes: sentences about what was left out."""

    root: Path
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    val: tuple[Sample, ...]
    split: str
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{counted(len(self.train), 'picture')} to train and {len(self.val)} to validate, of "
            f"{len(self.classes)} classes; {self.split}"
        )

    def per_class(self, split: str) -> list[int]:
        """How many pictures each class has in "train" or "val"."""
        counts = Counter(sample.label for sample in getattr(self, split))
        return [counts[label] for label in range(len(self.classes))]


def find_class_folders(
    root: str | Path, *, val_share: float = VAL_SHARE, seed: int = 0
) -> ClassFolders:
    """The pictures below a folder of class folders.

    Args:
        root: see LAYOUT.
        val_share: of each class's pictures, how many validate where no folder says which; one of a class
            that has two, none of a class that has one.
        seed: of that draw.

    Raises:
        UserError: no such folder, no class folders or pictures, a single class, classes that only the
            validation has.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise UserError(f"there is no folder {root}; give one with {LAYOUT}")
    inside = _folders(root)
    splits = {name: split_of(name) for name in inside if _folders(root / name)}
    by_split: dict[str, list[str]] = {}
    for name, split in splits.items():
        if split:
            by_split.setdefault(split, []).append(name)
    if doubled := [names for names in by_split.values() if len(names) > 1]:
        raise UserError(
            f"{root}: {' and '.join(doubled[0])} both say which pictures they are for; leave one there"
        )
    if not by_split:
        return _drawn(root, _pictures_of(root), val_share, seed, [])
    if "train" not in by_split:
        have = " and ".join(names[0] for names in by_split.values())
        raise UserError(f"{root} has {have}, and no train beside it; give a folder with {LAYOUT}")
    used = {split: by_split[split][0] for split in ("train", "val", "test") if split in by_split}
    measured = used.get("val") or used.get("test")
    beside = [name for name in inside if name not in (used["train"], measured)]
    notes = [f"not taken: {some(beside)}, beside {used['train']}"] if beside else []
    train = _pictures_of(root / used["train"])
    if measured is None:
        return _drawn(root / used["train"], train, val_share, seed, notes)
    return _given(root, train, _pictures_of(root / measured), used["train"], measured, notes)


def _folders(root: Path) -> list[str]:
    return sorted(
        p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX"))
    )


def _pictures_of(root: Path) -> dict[str, list[Path]]:
    """Class names to the pictures below their folders."""
    names = _folders(root)
    if not names:
        loose = len(picture_files(root))
        what = f"{counted(loose, 'picture')} without classes" if loose else "no class folders"
        raise UserError(f"{root} has {what}; expected is {LAYOUT}")
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"{root}: a class folder's name is not in UTF-8 ({name!r}); rename it"
            ) from error
    pictures = {name: picture_files(root / name) for name in names}
    if not any(pictures.values()):
        raise UserError(
            f"{root}: its {counted(len(names), 'class folder')} ({some(names)}) hold no pictures "
            f"({', '.join(SUFFIXES)})"
        )
    return pictures


def _drawn(
    root: Path, pictures: dict[str, list[Path]], share: float, seed: int, notes: list[str]
) -> ClassFolders:
    """Part each class's pictures by the seed."""
    if not 0 < share < 1:
        raise UserError(f"the share that validates must be between 0 and 1, got {share:g}")
    draw = random.Random(seed)
    train, val, lonely = {}, {}, []
    for name, files in pictures.items():
        order = draw.sample(files, len(files))
        count = min(max(round(share * len(files)), 1), len(files) - 1) if files else 0
        lonely += [name] if len(files) == 1 else []
        val[name], train[name] = sorted(order[:count]), sorted(order[count:])
    if lonely:
        notes = [*notes, f"with one picture each, not validated: {some(lonely)}"]
    if not any(val.values()):
        raise UserError(
            f"{root}: every class has a single picture, so that none is left to validate; give more"
        )
    words = f"{share:.0%} of each class drawn to validate, seed {seed}"
    return _numbered(root, train, val, words, notes)


def _given(
    root: Path,
    train: dict[str, list[Path]],
    val: dict[str, list[Path]],
    trained: str,
    measured: str,
    notes: list[str],
) -> ClassFolders:
    unknown = [name for name, files in val.items() if files and not train.get(name)]
    if unknown:
        raise UserError(
            f"{root}: {measured} has {counted(len(unknown), 'class')} that {trained} has no pictures of "
            f"({some(unknown)}), which nothing can learn; add pictures of them to {trained}, or take them "
            f"out of {measured}"
        )
    absent = [name for name, files in train.items() if files and not val.get(name)]
    if absent:
        notes = [*notes, f"{measured} has no pictures of {some(absent)}: they are not measured"]
    return _numbered(root, train, val, f"split by the folders {trained} and {measured}", notes)


def _numbered(
    root: Path,
    train: dict[str, list[Path]],
    val: dict[str, list[Path]],
    split: str,
    notes: list[str],
) -> ClassFolders:
    classes = tuple(name for name in sorted(train) if train[name])
    if empty := sorted(name for name in train if not train[name]):
        notes = [*notes, f"without pictures, left out: {some(empty)}"]
    if len(classes) < 2:
        raise UserError(
            f"{root} has pictures of a single class ({classes[0]}): there is nothing to tell apart. "
            f"Expected is {LAYOUT}"
        )
    numbers = {name: label for label, name in enumerate(classes)}

    def samples(pictures: dict[str, list[Path]]) -> tuple[Sample, ...]:
        return tuple(Sample(path, numbers[n]) for n in classes for path in pictures.get(n, ()))

    return ClassFolders(root, classes, samples(train), samples(val), split, tuple(notes))


def read_sample(path: Path) -> Tensor:
    """A picture as (3, H, W) uint8 that can be resized as a whole.

    Raises:
        UserError: it cannot be read, or is too long a strip.
    """
    picture = torch.from_numpy(read_picture(path)).permute(2, 0, 1)
    height, width = picture.shape[1:]
    if max(height, width) > LONGEST * min(height, width):
        raise UnreadableFileError(
            f"the picture {path} is {width}x{height} pixels, too long a strip to be shown as a square",
            str(path),
        )
    return picture
