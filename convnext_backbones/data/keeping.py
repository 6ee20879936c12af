"""Writing beside a user's data: nothing of theirs is ever overwritten."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from ..console import progress
from ..errors import UserError
from .tree import OURS


def write_all(root: Path, files: Mapping[str, Callable[[], bytes]]) -> None:
    """Write files, relative path to what makes the bytes; those that are the same stay untouched, and
    those that an earlier call wrote and this one does not are removed.

    A file OURS in the folder holds the digest of each.

    Raises:
        UserError: a file is there that was not written here or was changed since, or the folder cannot
            be written to.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        earlier = _earlier(root)
        theirs = [
            name
            for name, content in files.items()
            if not _is_ours(root, name, earlier) and not _is_same(root / name, content)
        ]
        if theirs:
            raise UserError(
                f"{root / theirs[0]} is there already and was not written here, or was changed since; move it "
                "away, or write to another folder"
            )
        written = dict(earlier)
        try:
            for name in progress(files, f"writing {root.name}"):
                content = files[name]()
                digest = hashlib.sha256(content).hexdigest()
                written[name] = digest
                if earlier.get(name) != digest or not (root / name).is_file():
                    _write(root / name, content)
            for name in set(earlier) - set(files):
                if (root / name).is_file() and _is_ours(root, name, earlier):
                    (root / name).unlink()
                del written[name]
        finally:
            _record(root, written)
    except OSError as error:
        raise UserError(
            f"{error.filename or root} cannot be written: {error.strerror or error}"
        ) from error


def _earlier(root: Path) -> dict[str, str]:
    try:
        content = json.loads((root / OURS).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_ours(root: Path, name: str, earlier: Mapping[str, str]) -> bool:
    """Whether a file may be written or removed: not there, or as it was written."""
    path = root / name
    if not os.path.lexists(path):
        return True
    return (
        name in earlier
        and path.is_file()
        and (hashlib.sha256(path.read_bytes()).hexdigest() == earlier[name])
    )


def _is_same(path: Path, content: Callable[[], bytes]) -> bool:
    """Whether a file that no record names is what would be written, as after an interrupted call."""
    return path.is_file() and path.read_bytes() == content()


def _record(root: Path, written: Mapping[str, str]) -> None:
    content = json.dumps(dict(sorted(written.items())), indent=0, ensure_ascii=False) + "\n"
    _write(root / OURS, content.encode())


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.new")
    aside.write_bytes(content)
    aside.replace(path)
