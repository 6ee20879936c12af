"""Checkpoints of Detectron2 runs are whole at every moment, and a run goes on from the newest whole one."""

import errno
import itertools
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

from detectron2.engine import SimpleTrainer, hooks
from fvcore.common.checkpoint import Checkpointer

import convnext_backbones.adapters.detectron2  # noqa: F401  (applies the patches)
from convnext_backbones.adapters.detectron2.saving import last_whole
from convnext_backbones.checkpoints import read_checkpoint
from convnext_backbones.errors import CheckpointError, UserError
from convnext_backbones.runs import whole_files
from convnext_backbones.runs.whole_files import UNFINISHED


class Counting(nn.Module):
    """Weights that all say how often they were trained, so that a file shows whether it is whole."""

    def __init__(self, size: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(size))

    def forward(self, batch) -> dict:
        return {"loss": -self.weights.sum()}  # SGD adds 1 to each


class Better(hooks.HookBase):
    """A metric that says of each step that it is better than the one before."""

    def after_step(self) -> None:
        self.trainer.storage.put_scalar("score", self.trainer.iter, smoothing_hint=False)


def train(folder: Path, steps: int, *, resume=False, size=8, kept=1) -> nn.Module:
    """A checkpoint and a new best after each step."""
    folder.mkdir(exist_ok=True)
    model = Counting(size)
    trainer = SimpleTrainer(
        model, itertools.repeat(None), torch.optim.SGD(model.parameters(), lr=1.0)
    )
    checkpointer = Checkpointer(model, str(folder), trainer=trainer)
    trainer.register_hooks(
        [
            Better(),
            hooks.PeriodicCheckpointer(checkpointer, 1, steps, max_to_keep=kept),
            hooks.BestCheckpointer(1, checkpointer, "score", file_prefix="best"),
        ]
    )
    content = checkpointer.resume_or_load("", resume=resume)
    trainer.train(content["iteration"] + 1 if content else 0, steps)
    return model


def checkpoints(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.pth*"))


def whole(file: Path) -> int | None:
    """The steps that a checkpoint was saved after; None for a file that is not whole."""
    try:
        content = read_checkpoint(str(file))
    except CheckpointError:
        return None
    steps = content["iteration"] + 1
    return steps if (content["model"]["weights"] == steps).all() else None


def noted(folder: Path) -> Path:
    return folder / (folder / "last_checkpoint").read_text()


def name(steps: int) -> str:
    return f"model_{steps - 1:07d}.pth"


# ---- the order of writing and deleting -----------------------------------------------------------
def test_what_is_replaced_is_deleted_after_the_new_is_there(tmp_path, monkeypatch):
    seen = []

    def looking(change):
        def changed(*args):
            change(*args)
            last = noted(tmp_path) if (tmp_path / "last_checkpoint").exists() else None
            seen.append((last and whole(last), all(map(whole, tmp_path.glob("*.pth")))))

        return changed

    monkeypatch.setattr(whole_files.os, "replace", looking(os.replace))
    monkeypatch.setattr(os, "remove", looking(os.remove))
    train(tmp_path, 4)
    assert len(seen) > 12
    first = next(k for k, (last, _) in enumerate(seen) if last)
    assert all(last and files for last, files in seen[first:])
    assert checkpoints(tmp_path) == ["best.pth", name(4), "model_final.pth"]
    assert noted(tmp_path).name == "best.pth"  # saved last


def failing(monkeypatch, beginning: str) -> None:
    """The disk is full when a file whose name begins so is written."""
    plain = os.fsync

    def full(handle):
        if os.path.basename(os.readlink(f"/proc/self/fd/{handle}")).startswith(beginning):
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(handle)

    monkeypatch.setattr(whole_files.os, "fsync", full)


@pytest.mark.parametrize("kept", [1, 2])
def test_a_save_that_fails_leaves_the_last_whole_one(tmp_path, monkeypatch, kept):
    failing(monkeypatch, name(3))
    with pytest.raises(UserError, match=rf"{name(3)} could not be written: No space left"):
        train(tmp_path, 5, kept=kept)
    assert noted(tmp_path).name == "best.pth"  # saved after the step's own
    assert whole(noted(tmp_path)) == 2
    assert checkpoints(tmp_path) == ["best.pth", *map(name, range(3 - kept, 3))]
    assert all(map(whole, tmp_path.glob("*.pth")))
    monkeypatch.undo()
    assert (train(tmp_path, 5, resume=True, kept=kept).weights == 5).all()


def test_a_best_that_cannot_be_written_leaves_the_old_best(tmp_path, monkeypatch):
    train(tmp_path, 2)
    failing(monkeypatch, "best.pth")
    with pytest.raises(UserError, match=r"best\.pth could not be written: No space left"):
        train(tmp_path, 5, resume=True)
    assert whole(tmp_path / "best.pth") == 2
    assert noted(tmp_path).name == name(3)
    assert whole(noted(tmp_path)) == 3


# ---- going on ------------------------------------------------------------------------------------
def test_a_run_goes_on_from_the_newest_whole_checkpoint_and_says_so(tmp_path, caplog):
    train(tmp_path, 3, kept=3)
    for file in ("best.pth", "model_final.pth", name(3)):
        content = (tmp_path / file).read_bytes()
        (tmp_path / file).write_bytes(content[: len(content) // 2])
    assert last_whole(tmp_path).name == name(2)
    assert (train(tmp_path, 4, resume=True, kept=3).weights == 4).all()
    assert "best.pth is missing, damaged or cut short; the newest whole" in caplog.text
    assert f"is {name(2)}, after iteration 1" in caplog.text
    assert whole(tmp_path / name(3)) == 3  # done again
    for text in ("", "none.pth"):
        (tmp_path / "last_checkpoint").write_text(text)
        assert whole(last_whole(tmp_path)) == 4


def test_what_killed_runs_left_is_deleted_at_the_start(tmp_path):
    left = tmp_path / f"model_0000009.pth.1{UNFINISHED}"
    left.write_bytes(b"cut")
    train(tmp_path, 1)
    assert not left.exists()


def test_a_run_without_room_is_refused_before_its_first_step(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr(whole_files.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(
        UserError, match=r"has 1\.0 MiB free, and this run needs 16\.0 MiB: 3 checkpoints"
    ):
        train(tmp_path, 9, size=2**20)
    assert checkpoints(tmp_path) == []


# ---- killed --------------------------------------------------------------------------------------
def killed_while_it_saves(folder: Path, moments: random.Random) -> None:
    """Go on training in a process of its own, and end it at a random moment after it has begun to write one
    of its files."""
    process = multiprocessing.get_context("fork").Process(
        target=train, args=(folder, 10**6), kwargs=dict(resume=True, size=5_000_000)
    )
    process.start()
    last = time.monotonic() + 60

    def wait_for_a_write() -> None:
        while not list(folder.glob(f"*.{process.pid}{UNFINISHED}")):
            assert process.is_alive(), "the run ended by itself"
            assert time.monotonic() < last
        time.sleep(moments.uniform(0, 0.03))

    wait_for_a_write()
    while not (folder / "last_checkpoint").exists():
        wait_for_a_write()
    time.sleep(moments.uniform(0, 0.5))
    wait_for_a_write()
    os.kill(process.pid, signal.SIGKILL)
    process.join()


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_during_saves_lose_nothing(tmp_path, kills):
    """20 MB each, max_to_keep=1, and the best beside it."""
    moments, reached, lost, within = random.Random(kills), 0, 0, 0
    for _ in range(kills):
        killed_while_it_saves(tmp_path, moments)
        within += bool(list(tmp_path.glob(f"*{UNFINISHED}")))
        last = last_whole(tmp_path)
        files = [noted(tmp_path), *tmp_path.glob("*.pth")]
        lost += last is None or not all(map(whole, files)) or whole(last) < reached
        reached = max(reached, whole(last) if last else 0)
    print(f"{kills} kills, {within} with a file half written, {reached} steps, lost {lost}")
    assert lost == 0
    assert within >= kills // 10
    train(tmp_path, reached + 1, resume=True, size=5_000_000)
    assert not list(tmp_path.glob(f"*{UNFINISHED}"))
    assert whole(noted(tmp_path)) == reached + 1
