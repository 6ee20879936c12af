"""Files that are whole or not there, whatever ends a run: a kill, a full disk, a read-only folder.

A file is written aside in its own folder, synced, and renamed, and the folder is synced: who reads it sees
all of what was there before, or all of what is there now. What comes in the place of another file is
written before that one is deleted.
"""

import contextlib
import functools
import io
import itertools
import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, UserError, is_full_disk

try:
    import fcntl
except ImportError:  # Windows, where an open file cannot be deleted anyway
    fcntl = None

UNFINISHED = ".unfinished"  # the end of the name of a file that is being written

LOGGER = logging.getLogger("convnext_backbones")


# ---- writing -------------------------------------------------------------------------------------
@contextlib.contextmanager
def written_whole(path: str | Path) -> Iterator[io.FileIO]:
    """A binary file to write, which lies at `path` once the block has ended; where it ends in an error,
    what lay there before still does.

    Raises:
        UserError: it cannot be written, as where the disk is full.
    """
    path = Path(os.path.realpath(path))  # what a link leads to
    aside = path.with_name(f"{path.name}.{os.getpid()}{UNFINISHED}")
    with _refused(path):
        file = _Aside(aside, "w")
    try:
        with file:
            if fcntl:
                with contextlib.suppress(OSError):  # a file system without locks
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                yield file
            except Exception as error:  # torch.save's own may hide the disk's
                if file.error is None:
                    raise
                raise _unwritable(path, file.error) from error
            with _refused(path):
                os.fsync(file.fileno())
        with _refused(path):
            os.replace(aside, path)
            sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def write_whole(path: str | Path, content: bytes | str) -> None:
    """As written_whole, all at once; a text in UTF-8."""
    with written_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def text_written_whole(path: str | Path) -> Iterator[io.StringIO]:
    """As written_whole, a text in UTF-8."""
    text = io.StringIO()
    yield text
    write_whole(path, text.getvalue())


def sync_folder(folder: Path) -> None:
    """Let the names in a folder outlive a power cut."""
    with contextlib.suppress(OSError):  # not every file system can
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def remove_unfinished(folder: str | Path) -> list[Path]:
    """Delete what killed writers left in a folder, and nothing that one is writing now; returns what was
    deleted."""
    removed = []
    for file in sorted(Path(folder).glob(f"*{UNFINISHED}")):
        with contextlib.suppress(OSError), file.open("rb+") as left:
            if fcntl:
                fcntl.flock(left, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held while it is written
            file.unlink()
            removed.append(file)
    return removed


class _Aside(io.FileIO):
    """A file that writes all that it is given and remembers why it could not."""

    error: OSError | None = None

    def write(self, data) -> int:
        left = memoryview(data).cast("B")
        length = len(left)
        try:
            while left:
                left = left[super().write(left) :]
        except OSError as error:
            self.error = error
            raise
        return length


@contextlib.contextmanager
def _refused(path: Path):
    try:
        yield
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} could not be written: {error.strerror or error}. What was there before is untouched; make "
        "room or choose another folder"
    )


# ---- logs ----------------------------------------------------------------------------------------
@contextlib.contextmanager
def logs_end_quietly(debug: bool = False) -> Iterator[None]:
    """Inside, neither Python's logging nor a thread that writes event files prints a stack trace where the disk
    is full: what the run itself fails to write says so. With --debug both do."""
    if debug:
        yield
        return
    of_threads, of_handlers = threading.excepthook, logging.Handler.handleError

    def thread_ended(args) -> None:
        if not is_full_disk(args.exc_value):
            of_threads(args)

    def not_logged(handler, record) -> None:
        if not is_full_disk(sys.exc_info()[1]):
            of_handlers(handler, record)

    threading.excepthook, logging.Handler.handleError = thread_ended, not_logged
    try:
        yield
    finally:
        threading.excepthook, logging.Handler.handleError = of_threads, of_handlers


# ---- room ----------------------------------------------------------------------------------------
def size_of_weights(model: nn.Module) -> int:
    """Bytes of a model's state dict in a file."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def size_of_state(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of an optimizer's state in a file; before its first step, as its options let expect."""
    held = [
        t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)
    ]
    if held:
        return sum(tensor.numel() * tensor.element_size() for tensor in held)
    size = 0
    for group in optimizer.param_groups:
        trained = [p for p in group["params"] if p.requires_grad]
        size += copies_of_state(group) * sum(p.numel() * p.element_size() for p in trained)
    return size


def copies_of_state(group: dict) -> int:
    """Values that an optimizer of Adam's or SGD's kind keeps for each of a parameter group's, by its options."""
    if "betas" in group:
        return 2 + bool(group.get("amsgrad"))
    return int(bool(group.get("momentum")))


def check_room(
    folder: str | Path, size: int, count: int, *, kept: int | None, best: int = 0
) -> None:
    """UserError, before the first step, where a folder has no room for what a run saves.

    Args:
        size: bytes of a checkpoint.
        count: checkpoints that the run saves.
        kept: how many of them stay; None: all, of which there may be more than fit for who moves them
            away in time, so that a warning has to do.
        best: bytes of all the best weights that it keeps beside them.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    files = min(count, count if kept is None else kept)
    existing = sum(file.stat().st_size for file in folder.glob("*.pth"))  # of the run that goes on
    aside = (
        size + best
    )  # what is written before an old one goes; MMEngine writes both for a new best
    needed = max(files * size + best - existing, 0) + aside
    sentence = (
        f"{folder} has {bytes_in_words(free)} free, and this run needs {bytes_in_words(needed)}: {files} checkpoint"
        f"{'s' * (files > 1)} of {bytes_in_words(size)}{f', the best weights of {bytes_in_words(best)}' if best else ''} and "
        f"one more{' of each' if best else ''} while it is written. Make room, keep fewer, or choose another "
        "folder"
    )
    if kept is None and needed > free >= min(files, 1) * size + best + aside:
        LOGGER.warning("%s", sentence)
    elif needed > free:
        raise UserError(sentence)


def bytes_in_words(count: int) -> str:
    """As "1.5 GiB"."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"


# ---- going on ------------------------------------------------------------------------------------
def newest_whole(
    folder: str | Path, noted: Path | None, iteration_of: Callable[[Path], int | None]
) -> Path | None:
    """The checkpoint that a run goes on from: the noted one if it is whole, else, with a warning, the one
    of its folder that has come furthest; None where no file is whole.

    Args:
        folder: of the run.
        noted: what the run has noted as its last; None for nothing.
        iteration_of: the iteration that a checkpoint was saved after; None for a file from which no run
            can go on. It may raise CheckpointError.
    """

    def reached(file: Path) -> int | None:
        with contextlib.suppress(CheckpointError):
            return iteration_of(file) if file.is_file() else None

    if noted is not None and reached(noted) is not None:
        return noted
    others = {file: reached(file) for file in sorted(Path(folder).glob("*.pth")) if file != noted}
    whole: Iterable[Path] = [file for file, at in others.items() if at is not None]
    newest = max(whole, key=lambda file: (others[file], file.stat().st_mtime), default=None)
    if newest:
        what = f"{noted} is missing, damaged or cut short" if noted else "no checkpoint is noted"
        _tell_once(
            f"{what}; the newest whole checkpoint of {folder} is {newest.name}, after iteration "
            f"{others[newest]}"
        )
    return newest


@functools.cache
def _tell_once(sentence: str) -> None:
    LOGGER.warning(sentence)
