"""Checkpoints of MMEngine runs that are whole at every moment.

MMEngine writes a checkpoint over its own name in one go, and CheckpointHook deletes the old one and the
old best before it saves the new: a kill in between loses both, with max_keep_ckpts=1 everything. Here what
goes through MMEngine's backend of local files is written aside and renamed, the hook deletes last, and a
run that goes on takes the newest whole checkpoint. What a kill came before is made up for then: what a new
file has replaced is deleted, and the best is the one that was saved last.
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

from ...errors import CheckpointError
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
    def save(self, runner, *args, **kwargs) -> None:
        backend = getattr(self, "file_backend", None)
        if backend is None or isinstance(backend, _DeletingLater):  # within another save
            return plain(self, runner, *args, **kwargs)
        self.file_backend = later = _DeletingLater(backend, runner.message_hub)
        try:
            plain(self, runner, *args, **kwargs)
        finally:
            self.file_backend = backend
        later.delete(but={self.last_ckpt, *_best_of(self)})

    return save


def _best_of(hook: CheckpointHook) -> set[str | None]:
    """The best checkpoint of each metric, as the hook knows them."""
    return {
        getattr(hook, "best_ckpt_path", None),
        *getattr(hook, "best_ckpt_path_dict", {}).values(),
    }


REPLACED = "convnext_backbones_replaced"  # in the message hub, by which it is in the new checkpoint


class _DeletingLater:
    """A file backend that notes what to delete, for the case of a kill in the checkpoint that is saved."""

    def __init__(self, backend, hub):
        self._backend, self._hub = backend, hub
        self._deletions: list[tuple[Callable[[str], None], str]] = []
        hub.update_info(REPLACED, [])

    def __getattr__(self, name: str):
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self._deletions.append((self._backend.remove, path))
        self._hub.update_info(REPLACED, [Path(path).name for _, path in self._deletions])

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
            if runner.iter:
                _adopt_best(self, runner)
                _delete_replaced(self, runner)
            _check_room(self, runner)

    return before_train


def _delete_replaced(hook: CheckpointHook, runner) -> None:
    """What the checkpoint has replaced from which the run goes on, where a kill kept it."""
    for name in runner.message_hub.runtime_info.get(REPLACED) or ():
        _delete(Path(hook.out_dir) / Path(str(name)).name, hook, runner)


def _delete(file: Path, hook: CheckpointHook, runner) -> None:
    if file.suffix == ".pth" and file.is_file() and str(file) not in _best_of(hook):
        file.unlink()
        runner.logger.warning(f"{file}, which a newer checkpoint has replaced, is deleted")


def _adopt_best(hook: CheckpointHook, runner) -> None:
    """Take a best that was saved after the checkpoint from which the run goes on, and that nothing notes as
    the kill came in between."""
    folder, info = Path(hook.out_dir), runner.message_hub.runtime_info
    last = folder / Path(str(info.get("last_ckpt") or "no")).name
    since = _written(last) if last.is_file() else math.inf
    # what is older is of another run, that was in the folder before
    newer = [file for file in folder.glob("best_*.pth") if _written(file) >= since]
    for file in sorted(newer, key=_written):
        if str(file) in _best_of(hook) or not file.is_file():  # which one before has replaced
            continue
        try:
            hub = read_training_checkpoint(str(file), map_location="meta").get("message_hub")
        except CheckpointError:
            continue
        noted = hub.get("runtime_info") if isinstance(hub, dict) else None
        for key, path in noted.items() if isinstance(noted, dict) else ():
            score = noted.get(key.replace("best_ckpt", "best_score"))
            if (
                key.startswith("best_ckpt")
                and Path(str(path)).name == file.name
                and score is not None
            ):
                _note_best(hook, runner, key, file, score)


def _written(file: Path) -> int:
    return file.stat().st_mtime_ns


def _note_best(hook: CheckpointHook, runner, key: str, file: Path, score: float) -> None:
    """As the hook notes a new best: `key` is best_ckpt, or with several metrics best_ckpt_METRIC."""
    info = runner.message_hub.runtime_info
    replaced = info.get(key)
    runner.message_hub.update_info(key, str(file))
    runner.message_hub.update_info(key.replace("best_ckpt", "best_score"), score)
    if key == "best_ckpt":
        hook.best_ckpt_path = str(file)
    else:
        hook.best_ckpt_path_dict[key.removeprefix("best_ckpt_")] = str(file)
    runner.logger.warning(f"the best so far is {file}, which was saved before the run was ended")
    if replaced:
        _delete(file.with_name(Path(str(replaced)).name), hook, runner)


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
