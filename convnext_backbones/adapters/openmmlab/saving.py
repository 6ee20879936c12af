"""Checkpoints of MMEngine runs that are whole at every moment.

MMEngine writes a checkpoint over its own name in one go, and CheckpointHook deletes the old one and the
old best before it saves the new: a kill in between loses both, with max_keep_ckpts=1 everything. Here what
goes through MMEngine's backend of local files is written aside and renamed, the hook deletes last, and a
run that goes on takes the newest whole checkpoint.
"""

import functools
import math
from collections.abc import Callable
from pathlib import Path

import mmengine.runner
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook, checkpoint_hook
from mmengine.runner import _flexible_runner, runner

from ...runs.patching import NOTHING, Patch, Patches, patched_attribute
from ...runs.whole_files import (
    check_room,
    newest_whole,
    remove_unfinished,
    size_of_state,
    size_of_weights,
    text_written_whole,
    write_whole,
)
from .checkpoints import read_training_checkpoint


def last_whole(work_dir: str | Path) -> Path | None:
    """The checkpoint that a run in the folder goes on from; None if no whole one is there. MMEngine notes
    its whole path; the folder may have moved."""
    note = Path(work_dir) / "last_checkpoint"
    name = note.read_text().strip() if note.is_file() else ""
    noted = Path(name) if name else None
    if noted and note.with_name(noted.name).is_file():
        noted = note.with_name(noted.name)
    return newest_whole(work_dir, noted, iteration_of)


def iteration_of(file: Path) -> int | None:
    """After which iteration a run's checkpoint was saved; None for one without an optimizer, such as the
    best."""
    content = read_training_checkpoint(str(file), map_location="meta")  # no tensor is read for it
    meta = content.get("meta")
    at = meta.get("iter") if isinstance(meta, dict) and "optimizer" in content else None
    return at if isinstance(at, int) else None


# ---- in the place of MMEngine's ------------------------------------------------------------------
def _putting_whole(plain):
    @functools.wraps(plain)
    def put(self, obj: bytes, filepath: str | Path) -> None:
        Path(filepath).absolute().parent.mkdir(parents=True, exist_ok=True)
        write_whole(filepath, obj)

    return put


def _open(path, mode: str = "r", *args, **kwargs):
    """open() for the hook, which notes with it the name of its last checkpoint."""
    return text_written_whole(path) if mode == "w" else open(path, mode, *args, **kwargs)


def _latest(plain):
    @functools.wraps(plain)
    def find_latest_checkpoint(path: str) -> str | None:
        found = last_whole(path)
        return str(found) if found else plain(path) or None  # an empty note is none

    return find_latest_checkpoint


def _deleting_last(plain):
    """A saving method of CheckpointHook that deletes what it replaces when the new files are there."""

    @functools.wraps(plain)
    def save(self, *args, **kwargs) -> None:
        backend = getattr(self, "file_backend", None)
        if backend is None or isinstance(backend, _DeletingLater):  # within another save
            return plain(self, *args, **kwargs)
        self.file_backend = later = _DeletingLater(backend)
        try:
            plain(self, *args, **kwargs)
        finally:
            self.file_backend = backend
        best = getattr(self, "best_ckpt_path_dict", {}).values()
        later.delete(but={self.last_ckpt, getattr(self, "best_ckpt_path", None), *best})

    return save


class _DeletingLater:
    """A file backend that notes what to delete."""

    def __init__(self, backend):
        self._backend = backend
        self._deletions: list[tuple[Callable[[str], None], str]] = []

    def __getattr__(self, name: str):
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._deletions.append((self._backend.remove, path))

    def rmtree(self, path: str) -> None:
        self._deletions.append((self._backend.rmtree, path))

    def delete(self, but: set[str]) -> None:
        for delete, path in self._deletions:
            if path not in but:
                delete(path)


def _starting_clean(plain):
    @functools.wraps(plain)
    def before_train(self, runner) -> None:
        plain(self, runner)
        if is_main_process() and isinstance(self.file_backend, LocalBackend):
            for file in remove_unfinished(self.out_dir):
                runner.logger.warning(f"{file} was left by a run that was killed, and is deleted")
            _check_room(self, runner)

    return before_train


def _check_room(hook: CheckpointHook, runner) -> None:
    """UserError where the hook's checkpoints do not fit on the disk."""
    weights = size_of_weights(runner.model)
    size = weights * (1 + sum(hasattr(other, "ema_model") for other in runner.hooks))
    best = weights * len(hook.save_best or ())
    if hook.save_optimizer:
        wrapper = runner.optim_wrapper
        for part in wrapper.values() if hasattr(wrapper, "values") else [wrapper]:
            size += size_of_state(part.optimizer)
    length = runner.max_epochs if hook.by_epoch else runner.max_iters
    count = math.ceil(length / hook.interval) if hook.interval > 0 else 1
    kept = hook.max_keep_ckpts if hook.max_keep_ckpts > 0 else None
    check_room(hook.out_dir, size, count, kept=kept, best=best)


def _global(module, name: str, make) -> Patch:
    """The patch of a name in a module."""
    return Patch(
        f"{module.__name__}.{name}",
        get=lambda: vars(module).get(name, NOTHING),
        put=lambda v: delattr(module, name) if v is NOTHING else setattr(module, name, v),
        make=make,
    )


RESUMING = (
    mmengine.runner,
    runner,
    _flexible_runner,
)  # each has a name of its own for the function

SAVING = Patches(
    [
        patched_attribute(LocalBackend, "put", _putting_whole),
        patched_attribute(CheckpointHook, "_save_checkpoint_with_step", _deleting_last),
        patched_attribute(CheckpointHook, "_save_best_checkpoint", _deleting_last),
        patched_attribute(CheckpointHook, "before_train", _starting_clean),
        _global(checkpoint_hook, "open", lambda plain: _open),
        *(_global(module, "find_latest_checkpoint", _latest) for module in RESUMING),
    ]
)
