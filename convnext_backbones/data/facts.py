"""What is in a file of a picture or of a label map: read in processes, kept by the file's time and size."""

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import sqlite3
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

VERSION = 1  # of the facts below; another one reads everything again
TURN = 0x0112  # EXIF's tag of the orientation
TURNED = (5, 6, 7, 8)  # its values with width and height exchanged
FEW = 64  # files that are not worth starting processes for
AT_ONCE = 16  # files a process takes at a time

Facts = dict[str, Any]


def picture_facts(path: str) -> Facts:
    """error, or: width and height as it is shown, mode, bits a channel, turn (EXIF), digest of the bytes."""
    return _facts(path, _of_picture)


def label_facts(path: str) -> Facts:
    """error, or: width, height, mode, format, and how many pixels have which value (no values for colours)."""
    return _facts(path, _of_labels)


KINDS: dict[str, Callable[[str], Facts]] = {"picture": picture_facts, "labels": label_facts}


def _facts(path: str, read: Callable[[bytes, Image.Image], Facts]) -> Facts:
    try:
        content = Path(path).read_bytes()
        if not content:
            return {"error": "has no bytes"}
        with warnings.catch_warnings(), Image.open(io.BytesIO(content)) as image:
            warnings.simplefilter("ignore")
            return read(content, image)
    except FileNotFoundError:
        return {"error": "is missing"}
    except IsADirectoryError:
        return {"error": "is a folder"}
    except UnidentifiedImageError:
        return {"error": "is no picture that can be read"}
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        return {"error": f"cannot be read: {error}"}


def _of_picture(content: bytes, image: Image.Image) -> Facts:
    mode, (width, height) = image.mode, image.size
    turn = image.getexif().get(TURN, 1)
    image.load()
    if turn in TURNED:
        width, height = height, width
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return dict(
        width=width, height=height, mode=mode, bits=_bits(content, mode), turn=turn, digest=digest
    )


def _of_labels(content: bytes, image: Image.Image) -> Facts:
    facts = dict(width=image.width, height=image.height, mode=image.mode, format=image.format or "")
    labels = np.asarray(image)
    if labels.ndim == 3 or labels.dtype.kind == "f":
        return {**facts, "values": {}}
    values, counts = np.unique(labels.astype(np.int64), return_counts=True)
    return {**facts, "values": dict(zip(map(str, values), map(int, counts), strict=True))}


def _bits(content: bytes, mode: str) -> int:
    """Of a channel. Pillow opens a PNG of 16-bit colours as one of 8; its header tells."""
    if content.startswith(b"\x89PNG"):
        return max(content[24], 1)
    return {"1": 1, "I": 32, "F": 32}.get(mode, 16 if mode.startswith("I;16") else 8)


# ---- many files ----------------------------------------------------------------------------------
def read_facts(
    wanted: Iterable[tuple[str, str]],
    *,
    processes: int = 1,
    cache: "Cache | None" = None,
    progress: Callable[..., Iterable] = lambda items, total: items,
) -> dict[tuple[str, str], Facts]:
    """The facts of each (kind, path), of KINDS.

    Args:
        processes: how many read.
        cache: what is known from before; takes what is new.
        progress: shows the reading, as tqdm does.
    """
    jobs = list(dict.fromkeys(wanted))
    known = cache.known(jobs) if cache else {}
    new = [job for job in jobs if job not in known]
    read = {}
    if len(new) <= FEW or processes < 2:
        for job in progress(new, total=len(new)):
            read[job] = _read(job)
    elif new:
        # not by fork: torch has threads. The new processes import this module alone
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            found = pool.map(_read, new, chunksize=AT_ONCE)
            for job, facts in zip(new, progress(found, total=len(new)), strict=True):
                read[job] = facts
    if cache:
        cache.keep(read)
    return {job: known.get(job) or read[job] for job in jobs}


def _read(job: tuple[str, str]) -> Facts:
    kind, path = job
    return KINDS[kind](path)


class Cache:
    """Facts by kind and path, valid as long as the file's time and size are the same.

    A folder that cannot be written keeps nothing. What was known stays right: a file that cannot be read
    is read again.
    """

    def __init__(self, file: Path | None = None):
        self._file = file or _cache_folder() / "check-data.sqlite"

    def known(self, jobs: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Facts]:
        found = {}
        try:
            with contextlib.closing(self._database()) as database, database:
                for kind, path in jobs:
                    stamp = _stamp(path)
                    row = database.execute(
                        "SELECT facts FROM facts WHERE kind=? AND path=? AND stamp=?",
                        (kind, os.path.abspath(path), stamp),
                    ).fetchone()
                    if row and stamp:
                        found[kind, path] = json.loads(row[0])
        except (sqlite3.Error, OSError):
            return found
        return found

    def keep(self, read: dict[tuple[str, str], Facts]) -> None:
        rows = [
            (kind, os.path.abspath(path), stamp, json.dumps(facts))
            for (kind, path), facts in read.items()
            if "error" not in facts and (stamp := _stamp(path))
        ]
        try:
            with contextlib.closing(self._database()) as database, database:
                database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?)", rows)
        except (sqlite3.Error, OSError):
            return

    def _database(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self._file)
        database.execute(
            "CREATE TABLE IF NOT EXISTS facts (kind, path, stamp, facts, PRIMARY KEY (kind, path))"
        )
        return database


def _stamp(path: str) -> str:
    """A file's time and size; "" for one that is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    return f"{VERSION}:{status.st_mtime_ns}:{status.st_size}"


def _cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "convnext-backbones"
