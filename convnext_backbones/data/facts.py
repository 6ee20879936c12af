"""What is in a file of a picture or of a label map: read in processes, kept by the file's time and size."""

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from .pictures import probe, read_label_map, read_picture

VERSION = 2  # of the facts below; another one reads everything again
FEW = 64  # files that are not worth starting processes for
AT_ONCE = 16  # files a process takes at a time

Facts = dict[str, Any]


def picture_facts(path: str) -> Facts:
    """error (a sentence); or width and height as it is shown, mode, bits a channel, orientation (EXIF's)
    and the digest of the bytes."""
    try:
        content = Path(path).read_bytes()
        read_picture(path, content=content)  # the whole of it, as training will
    except (UserError, OSError) as error:
        return _error(path, error)
    with Image.open(io.BytesIO(content)) as image:
        mode = image.mode
    header = probe(path)
    return dict(
        width=header.width, height=header.height, mode=mode, bits=_bits(content, mode),
        orientation=header.orientation, digest=hashlib.blake2b(content, digest_size=16).hexdigest(),
    )  # fmt: skip


def label_facts(path: str) -> Facts:
    """error (a sentence); or width, height, and how many pixels have which value."""
    try:
        labels = read_label_map(path)
    except (UserError, OSError) as error:
        return _error(path, error)
    if labels.dtype.kind == "u":  # counted, which is faster than sorted
        counts = np.bincount(labels.ravel())
        values = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(labels, return_counts=True)
    pixels = dict(zip(map(str, values.tolist()), counts.tolist(), strict=True))
    return dict(width=labels.shape[1], height=labels.shape[0], values=pixels)


KINDS: dict[str, Callable[[str], Facts]] = {"picture": picture_facts, "labels": label_facts}


def _error(path: str, error: Exception) -> Facts:
    if not Path(path).exists():
        return {"error": f"{path} is missing", "missing": True}
    reason = error.strerror if isinstance(error, OSError) else None
    return {"error": f"{path}: {reason}" if reason else str(error), "missing": False}


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
