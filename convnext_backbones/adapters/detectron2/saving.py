"""Checkpoints of Detectron2 runs that are whole at every moment.

fvcore's Checkpointer writes a checkpoint and the note of its name over what is there: a kill or a full disk
leaves a cut file, and the note names it. Here both are written aside and renamed, and a run that goes on
takes the newest whole checkpoint.
"""

import functools
from pathlib import Path

from detectron2.engine import hooks
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer

from ...checkpoints import read_checkpoint
from ...runs.patching import Patches, patched_attribute
from ...runs.whole_files import (
    check_room,
    newest_whole,
    remove_unfinished,
    size_of_state,
    size_of_weights,
    text_written_whole,
    write_whole,
    written_whole,
)


def last_whole(folder: str | Path) -> Path | None:
    """The checkpoint that a run in the folder goes on from; None if no whole one is there."""
    note = Path(folder) / "last_checkpoint"
    name = note.read_text().strip() if note.is_file() else ""
    return newest_whole(folder, note.with_name(Path(name).name) if name else None, iteration_of)


def iteration_of(file: Path) -> int | None:
    """After which iteration a run's checkpoint was saved; None for one without an optimizer, such as the
    best."""
    content = read_checkpoint(file, map_location="meta")  # no tensor is read for it
    trains = "trainer" in content or "optimizer" in content
    at = content.get("iteration") if trains else None
    return at if isinstance(at, int) else None


# ---- in the place of fvcore's --------------------------------------------------------------------
class _WritingWhole:
    """A PathManager that writes files of this machine whole."""

    def __init__(self, manager):
        self._manager = manager

    def __getattr__(self, name: str):
        return getattr(self._manager, name)

    def open(self, path: str, mode: str = "r", **options):
        if "://" in path or mode not in ("w", "wb"):
            return self._manager.open(path, mode, **options)
        return written_whole(path) if mode == "wb" else text_written_whole(path)


def _writing_whole(plain):
    """A method of Checkpointer that writes its files whole."""

    @functools.wraps(plain)
    def save(self, *args, **kwargs) -> None:
        manager = self.path_manager
        self.path_manager = _WritingWhole(manager)
        try:
            plain(self, *args, **kwargs)
        finally:
            self.path_manager = manager

    return save


def _from_the_newest_whole(plain):
    @functools.wraps(plain)
    def resume_or_load(self, path: str, *, resume: bool = True):
        folder = self.save_dir
        if folder and "://" not in folder and Path(folder).is_dir():
            if self.save_to_disk:
                for file in remove_unfinished(folder):
                    self.logger.warning(f"{file} was left by a run that was killed, and is deleted")
            newest = last_whole(folder) if resume and self.save_to_disk else None
            note = Path(folder) / "last_checkpoint"
            if newest and not (note.is_file() and note.read_text().strip() == newest.name):
                write_whole(note, newest.name)
            comm.synchronize()  # before the other processes look
        return plain(self, path, resume=resume)

    return resume_or_load


def _checking_room(plain):
    @functools.wraps(plain)
    def before_train(self) -> None:
        plain(self)
        saving = self.checkpointer
        if not saving.save_to_disk or not saving.save_dir or "://" in saving.save_dir:
            return
        weights = size_of_weights(saving.model)
        optimizer = getattr(self.trainer, "optimizer", None) or getattr(
            getattr(self.trainer, "_trainer", None), "optimizer", None
        )
        size = weights + (size_of_state(optimizer) if optimizer else 0)
        best = sum(isinstance(hook, hooks.BestCheckpointer) for hook in self.trainer._hooks)
        others = 1 + best  # model_final and the best
        kept = self.max_to_keep + others if self.max_to_keep else None
        check_room(saving.save_dir, size, self.max_iter // self.period + others, kept=kept)

    return before_train


SAVING = Patches(
    [
        patched_attribute(Checkpointer, "save", _writing_whole),
        patched_attribute(Checkpointer, "tag_last_checkpoint", _writing_whole),
        patched_attribute(Checkpointer, "resume_or_load", _from_the_newest_whole),
        patched_attribute(hooks.PeriodicCheckpointer, "before_train", _checking_room),
    ]
)
