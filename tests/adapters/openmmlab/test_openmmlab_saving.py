"""Checkpoints of MMEngine runs are whole at every moment, and a run goes on from the newest whole one."""

import errno
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine")

from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.fileio import LocalBackend
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner

import convnext_backbones.adapters.openmmlab  # noqa: F401  (applies the patches)
from convnext_backbones.adapters.openmmlab.checkpoints import read_training_checkpoint
from convnext_backbones.adapters.openmmlab.saving import SAVING, last_whole
from convnext_backbones.errors import CheckpointError, UserError
from convnext_backbones.runs import whole_files
from convnext_backbones.runs.whole_files import UNFINISHED


class Data(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [{}]

    def prepare_data(self, index: int):
        return {"inputs": torch.zeros(1)}


class Counting(BaseModel):
    """Weights that all say how often they were trained, so that a file shows whether it is whole."""

    def __init__(self, size: int):
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(size))
        self.register_buffer("steps", torch.zeros(()))

    def train_step(self, data, optim_wrapper):
        self.steps += 1
        self.weights.data.fill_(self.steps)
        return {"loss": torch.zeros(())}

    def forward(self, inputs, data_samples=None, mode="tensor"):
        return [{"steps": self.steps.item()}]


class Better(BaseMetric):
    """Of each step than of the one before."""

    def process(self, data_batch, data_samples) -> None:
        self.results += [sample["steps"] for sample in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return {"steps": results[-1]}


def train(folder: Path, steps: int, *, resume=False, size=8, kept=1) -> Runner:
    """A checkpoint and a new best after each step."""
    loader = dict(batch_size=1, num_workers=0, dataset=Data())
    runner = Runner(
        model=Counting(size),
        work_dir=str(folder),
        train_dataloader=dict(sampler=dict(type="InfiniteSampler"), **loader),
        train_cfg=ConfigDict(by_epoch=False, max_iters=steps, val_interval=1),
        val_dataloader=dict(sampler=dict(type="DefaultSampler"), **loader),
        val_cfg=dict(),
        val_evaluator=Evaluator(Better(prefix="stub")),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(
                type="CheckpointHook", by_epoch=False, interval=1, max_keep_ckpts=kept,
                save_best="stub/steps", rule="greater",
            ),
        ),
        log_level="ERROR",
        resume=resume,
        experiment_name=f"{folder.name}{time.monotonic_ns()}",
    )  # fmt: skip
    try:
        runner.train()
    finally:
        MMLogger._instance_dict.clear()
    return runner


def checkpoints(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("*.pth*"))


def whole(file: Path) -> int | None:
    """The steps that a checkpoint was saved after; None for a file that is not whole."""
    try:
        content = read_training_checkpoint(str(file))
    except CheckpointError:
        return None
    state, steps = content["state_dict"], content["meta"]["iter"]
    return steps if (state["weights"] == steps).all() and state["steps"] == steps else None


def noted(folder: Path) -> Path:
    return Path((folder / "last_checkpoint").read_text())


# ---- the order of writing and deleting -----------------------------------------------------------
@pytest.fixture
def moments(monkeypatch):
    """Calls `look()` after whatever changes a name in a folder."""
    looks = []

    def looking(change):
        def changed(*args, **kwargs):
            change(*args, **kwargs)
            for look in looks:
                look()

        return changed

    monkeypatch.setattr(whole_files.os, "replace", looking(os.replace))
    monkeypatch.setattr(LocalBackend, "remove", looking(LocalBackend.remove))
    return looks


def test_what_is_replaced_is_deleted_after_the_new_is_there(tmp_path, moments):
    seen = []

    def look():
        last = noted(tmp_path) if (tmp_path / "last_checkpoint").exists() else None
        best = [whole(file) for file in tmp_path.glob("best_*.pth")]
        seen.append((last and whole(last), sorted(best), checkpoints(tmp_path)))

    moments.append(look)
    train(tmp_path, 4)
    first = next(k for k, (last, _, _) in enumerate(seen) if last)
    assert len(seen) > first + 15
    assert all(last for last, _, _ in seen[first:])
    assert [last for last, _, _ in seen[first:]] == sorted(last for last, _, _ in seen[first:])
    with_best = seen[next(k for k, (_, best, _) in enumerate(seen) if best) :]
    assert all(best and None not in best for _, best, _ in with_best)
    assert not any(name.endswith(UNFINISHED) for name in checkpoints(tmp_path))
    assert max(len(names) for *_, names in seen) == 3  # and a fourth aside, as check_room counts
    assert checkpoints(tmp_path) == ["best_stub_steps_iter_4.pth", "iter_4.pth"]
    assert noted(tmp_path).name == "iter_4.pth"


def test_mmengine_alone_has_moments_without_a_checkpoint(tmp_path, moments):
    """What SAVING is for; the test above sees it where it happens."""
    lost = []

    def look():
        lost.append(not any(whole(file) for file in tmp_path.glob("iter_*.pth")))

    moments.append(look)
    assert SAVING.undo()
    try:
        train(tmp_path, 3)
    finally:
        SAVING.apply()
    assert any(lost)


@pytest.mark.parametrize("keep", [1, 2])
def test_a_save_that_fails_leaves_the_last_whole_one(tmp_path, monkeypatch, keep):
    plain, written = os.fsync, []

    def full(handle):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))
        written.append(name)
        if name.startswith("iter_3.pth"):
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(handle)

    monkeypatch.setattr(whole_files.os, "fsync", full)
    with pytest.raises(UserError, match=r"iter_3\.pth could not be written: No space left"):
        train(tmp_path, 5, kept=keep)
    assert any(name.startswith("iter_2.pth") for name in written)
    assert noted(tmp_path).name == "iter_2.pth"
    assert whole(noted(tmp_path)) == 2
    kept = [f"iter_{step}.pth" for step in range(3 - keep, 3)]
    assert checkpoints(tmp_path) == ["best_stub_steps_iter_2.pth", *kept]
    monkeypatch.undo()
    train(tmp_path, 5, resume=True, kept=keep)
    assert whole(tmp_path / "iter_5.pth") == 5


# ---- going on ------------------------------------------------------------------------------------
def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_run_goes_on_from_the_newest_whole_checkpoint_and_says_so(tmp_path, caplog):
    train(tmp_path, 3, kept=3)
    cut(tmp_path / "iter_3.pth")
    runner = train(tmp_path, 4, resume=True, kept=3)
    assert "iter_3.pth is missing, damaged or cut short; the newest whole checkpoint" in caplog.text
    assert "is iter_2.pth, after iteration 2" in caplog.text
    assert runner.model.steps == 4
    assert whole(tmp_path / "iter_3.pth") == 3  # done again
    (tmp_path / "last_checkpoint").write_text("")
    assert last_whole(tmp_path).name == "iter_4.pth"
    (tmp_path / "last_checkpoint").unlink()
    assert last_whole(tmp_path).name == "iter_4.pth"


def test_a_folder_that_moved_goes_on_from_its_own_checkpoint(tmp_path):
    train(tmp_path / "before", 2)
    (tmp_path / "before").rename(tmp_path / "after")
    assert last_whole(tmp_path / "after") == tmp_path / "after" / "iter_2.pth"


def test_what_killed_runs_left_is_deleted_at_the_start(tmp_path):
    left = tmp_path / f"iter_9.pth.1{UNFINISHED}"
    left.write_bytes(b"cut")
    train(tmp_path, 1)
    assert not left.exists()


class KilledError(Exception):
    """In the place of a kill, which leaves files as they are."""


def killed_before_deletion(of: str, folder: Path, monkeypatch) -> None:
    def remove(self, path):
        if Path(path).name == of:
            raise KilledError
        os.remove(path)

    with monkeypatch.context() as patch:
        patch.setattr(LocalBackend, "remove", remove)
        with pytest.raises(KilledError):
            train(folder, 9)


def test_a_checkpoint_that_a_kill_kept_is_deleted_at_the_start(tmp_path, monkeypatch):
    killed_before_deletion("iter_2.pth", tmp_path, monkeypatch)
    assert {"iter_2.pth", "iter_3.pth"} <= set(checkpoints(tmp_path))
    train(tmp_path, 4, resume=True)
    assert checkpoints(tmp_path) == ["best_stub_steps_iter_4.pth", "iter_4.pth"]


def test_a_best_that_was_saved_and_not_noted_is_taken(tmp_path, monkeypatch):
    """The kill comes before the checkpoint is written again, which notes it, and the old best is deleted."""
    plain = Runner.save_checkpoint

    def save(self, out_dir, filename, *args, **kwargs):
        plain(self, out_dir, filename, *args, **kwargs)
        if filename.startswith("best_") and filename.endswith("iter_3.pth"):
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Runner, "save_checkpoint", save)
        with pytest.raises(KilledError):
            train(tmp_path, 9)
    left = ["best_stub_steps_iter_2.pth", "best_stub_steps_iter_3.pth", "iter_3.pth"]
    assert checkpoints(tmp_path) == left
    os.utime(tmp_path / "best_stub_steps_iter_2.pth")  # newest, but noted in the checkpoint
    old = tmp_path / "best_stub_steps_iter_90.pth"  # of a run that was here before
    old.write_bytes((tmp_path / left[1]).read_bytes())
    os.utime(old, (0, 0))
    train(tmp_path, 3, resume=True)
    assert checkpoints(tmp_path) == [left[1], old.name, left[2]]
    train(tmp_path, 4, resume=True)
    assert checkpoints(tmp_path) == ["best_stub_steps_iter_4.pth", old.name, "iter_4.pth"]


def test_a_run_without_room_is_refused_before_its_first_step(tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 2**20})
    monkeypatch.setattr(whole_files.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(UserError, match=r"has 1\.0 MiB free, and this run needs 16\.0 MiB"):
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
    """20 MB each, max_keep_ckpts=1, and the best beside it."""
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
