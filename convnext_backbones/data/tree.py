"""The files below a folder, listed once, and what the headers of pictures say."""

import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from .pictures import SUFFIXES, probe

LISTED = (*SUFFIXES, ".json", ".xml", ".txt", ".yaml", ".yml", ".csv", ".names")
OURS = ".written_by_convnext_backbones.json"  # in a folder that keep() wrote: what it wrote

SPLIT_WORDS = {
    "train": r"train(?:ing|val)?|trn",
    "val": r"val(?:id(?:ation)?)?|dev|eval",
    "test": r"test(?:ing)?|tst",
}
# "train2017", "trainannot", "valid_labels", "images-test"
_PART = re.compile(
    "|".join(f"(?P<{split}>{words})" for split, words in SPLIT_WORDS.items()).join(("(?:", ")"))
    + r"\d*(?:annot\w*|ims?|images?|imgs?|masks?|labels?|gts?|data|set)?\d*",
)


def split_of(path: str) -> str | None:
    """The split that a path names, the part nearest to the file first: "images/train2017/x" is "train"."""
    for part in reversed(path.split("/")):
        for word in re.split(r"[^a-z0-9]+", part.lower()):
            if match := _PART.fullmatch(word):
                return match.lastgroup
    return None


def folder_split(file: str) -> str | None:
    """The split that the folders of a file name."""
    return split_of(os.path.dirname(file)) if "/" in file else None


class Tree:
    """The files below a folder by their endings, as relative paths with "/", sorted.

    Hidden folders and those that keep() wrote are left out; symlinks are followed.
    """

    def __init__(self, folder: str | Path):
        self.root = Path(os.path.abspath(Path(folder).expanduser()))
        if not self.root.is_dir():
            what = "is a file" if self.root.is_file() else "does not exist"
            raise UserError(f"{folder} {what}; give the folder that holds the pictures and labels")
        self._files: dict[str, list[str]] = {}
        self._list(str(self.root), "", {os.path.realpath(self.root)})
        for files in self._files.values():
            files.sort()
        self.pictures = sorted(file for end in SUFFIXES for file in self._files.get(end, ()))

    def _list(self, path: str, inside: str, parents: set[str]) -> None:
        try:
            entries = list(os.scandir(path))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {error.strerror}") from error
        if inside and any(entry.name == OURS for entry in entries):
            return
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_dir():
                real = os.path.realpath(entry.path)
                if real not in parents:  # a link to a folder that this one is in
                    self._list(entry.path, f"{inside}{entry.name}/", parents | {real})
            else:
                end = os.path.splitext(entry.name)[1].lower()
                if end in LISTED:
                    self._files.setdefault(end, []).append(inside + entry.name)

    def ending(self, *endings: str) -> list[str]:
        """The files with one of these endings, written in lower case."""
        return sorted(file for end in endings for file in self._files.get(end, ()))

    def path(self, file: str) -> Path:
        return self.root / file


class Header(NamedTuple):
    """What the first bytes of a picture say. width, height: as it is shown; turned: EXIF exchanges them;
    error: why it cannot be read, a sentence with its name."""

    width: int = 0
    height: int = 0
    mode: str = ""
    turned: bool = False
    error: str | None = None


def headers(paths: Iterable[str | Path]) -> list[Header]:
    """The headers of many pictures, without their pixels."""
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(_header, paths, chunksize=64))


def _header(path: str | Path) -> Header:
    try:
        found = probe(path)
    except UserError as error:
        return Header(error=str(error))
    size = (found.width, found.height)
    return Header(*size, found.mode, found.stored != size)


def stem(file: str) -> str:
    """A path's last part without its ending."""
    return os.path.splitext(file.rsplit("/", 1)[-1])[0]


def nearest(file: str, others: Sequence[str]) -> str:
    """The one of several files that lies nearest: in the same split, then with most folders in common."""
    if len(others) == 1:
        return others[0]
    split, folders = folder_split(file), set(file.split("/")[:-1])

    def far(other: str):
        parts = other.split("/")[:-1]
        return folder_split(other) != split, -len(folders.intersection(parts)), len(parts), other

    return min(others, key=far)


def some(names: Iterable[str], shown: int = 3) -> str:
    """The first names and how many more, for a sentence."""
    names = list(names)
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(str, names[:shown])) + more
