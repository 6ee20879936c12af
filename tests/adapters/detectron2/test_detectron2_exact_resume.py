"""A run of Detectron2 that was killed goes on bit for bit: losses, weights, optimizer."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

from detectron2.data import build_detection_train_loader
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.engine import HookBase, SimpleTrainer, hooks
from fvcore.common.checkpoint import Checkpointer

import convnext_backbones.adapters.detectron2  # noqa: F401  (applies the patches)
from convnext_backbones.adapters.detectron2.exact_resume import EXACT_RESUME
from convnext_backbones.checkpoints import read_checkpoint

ROOT = Path(__file__).parents[3]
PICTURES, BATCH, STEPS = 11, 3, 12
RECORDS = [{"index": k, "width": 4 + k % 3, "height": 5} for k in range(PICTURES)]


class Mapper:
    """Pictures that every source of random numbers changes, and a note of each that is read."""

    def __init__(self, note: str = ""):
        self.note = note

    def __call__(self, record: dict) -> dict:
        if self.note:
            with open(self.note, "a") as file:
                file.write(f"{record['index']}\n")
        drawn = [random.random(), np.random.rand(), torch.rand(()).item(), record["index"] / 10]
        return {**record, "image": torch.tensor(drawn)}


class Model(nn.Module):
    """Dropout, batch norm, draws in the loss, as heads sample boxes, and a mean that is no buffer, as RetinaNet
    has it."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)
        )

    def forward(self, batch: list[dict]) -> dict:
        outputs = self.layers(torch.stack([item["image"] for item in batch]))
        self.mean = 0.9 * getattr(self, "mean", 1.0) + 0.1 * outputs.abs().mean().item()
        return {"loss": ((outputs - np.random.rand() - random.random()) ** 2).mean() / self.mean}


class Losses(HookBase):
    """Writes each step's loss in full, and ends the process as kill -9 does after a step."""

    def __init__(self, file: Path, killed_after: int | None):
        self.file, self.killed_after = file, killed_after

    def after_step(self) -> None:
        losses = self.trainer.storage.latest()["total_loss"][0]
        with self.file.open("a") as file:
            file.write(f"{self.trainer.iter} {losses.hex()}\n")
        if self.trainer.iter + 1 == self.killed_after:
            os.kill(os.getpid(), signal.SIGKILL)


class Disturbance(HookBase):
    """What a validation uses up."""

    def after_step(self) -> None:
        torch.rand(1), np.random.rand(), random.random()


def loader_of(reads: str = "", **changes):
    return build_detection_train_loader(
        RECORDS,
        mapper=Mapper(reads),
        sampler=changes.get("sampler"),
        total_batch_size=changes.get("batch", BATCH),
        aspect_ratio_grouping=changes.get("grouping", True),
        num_workers=changes.get("workers", 0),
    )


def train(folder: Path, *, resume=False, killed_after=None, seed=7, trainer=SimpleTrainer, **data):
    """STEPS steps; checkpoints each 3."""
    folder.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(seed)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    trainer = trainer(model, loader_of(**data), optimizer)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, STEPS)
    checkpointer = Checkpointer(model, str(folder), trainer=trainer)
    trainer.register_hooks(
        [
            hooks.LRScheduler(optimizer, scheduler),
            hooks.PeriodicCheckpointer(checkpointer, 3, STEPS),
            Disturbance(),
            Losses(folder / "losses.txt", killed_after),
        ]
    )
    checkpointer.resume_or_load("", resume=resume)
    trainer.train(trainer.iter + 1 if checkpointer.has_checkpoint() and resume else 0, STEPS)


def killed(folder: Path, after: int, **options) -> None:
    """Train in a process of its own until it is killed."""
    process = multiprocessing.get_context("fork").Process(
        target=train, args=(folder,), kwargs=dict(killed_after=after, **options)
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def losses(folder: Path) -> dict[str, list[str]]:
    """A step's losses, in full, each time that it was done."""
    found = {}
    for line in (folder / "losses.txt").read_text().splitlines():
        step, loss = line.split()
        found.setdefault(step, []).append(loss)
    return found


def assert_equal_runs(folder: Path, whole: Path) -> None:
    """All losses, also of the steps that were done twice, and the end."""
    expected, found = losses(whole), losses(folder)
    assert list(found) == list(expected)
    for step, values in found.items():
        assert set(values) == set(expected[step]), f"step {step}"
    here, there = (read_checkpoint(str(run / "model_final.pth")) for run in (folder, whole))
    for name, tensor in there["model"].items():
        assert torch.equal(here["model"][name], tensor), name
    one, other = (content["trainer"]["optimizer"]["state"] for content in (here, there))
    for key, state in other.items():
        assert all(torch.equal(one[key][name], tensor) for name, tensor in state.items())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


def test_a_killed_run_goes_on_bit_for_bit(whole, tmp_path):
    for after in (4, 6, 8):
        killed(tmp_path / "run", after, resume=after > 4)
    reads = tmp_path / "reads.txt"
    train(tmp_path / "run", resume=True, reads=str(reads), seed=8)
    assert_equal_runs(tmp_path / "run", whole)
    assert len(reads.read_text().split()) == BATCH * (STEPS - 6)


def test_data_workers_change_nothing(whole, tmp_path):
    killed(tmp_path / "run", 5, workers=2)
    train(tmp_path / "run", resume=True, workers=2)
    assert_equal_runs(tmp_path / "run", whole)


def test_other_samplers_and_trainers_go_on(tmp_path):
    def options():
        factors = torch.tensor([1.0 + k / 10 for k in range(PICTURES)])
        sampler = RepeatFactorTrainingSampler(factors, seed=5)
        return dict(grouping=False, sampler=sampler, trainer=OwnTrainer)

    train(tmp_path / "whole", **options())
    killed(tmp_path / "run", 5, **options())
    train(tmp_path / "run", resume=True, **options())
    assert_equal_runs(tmp_path / "run", tmp_path / "whole")


class OwnTrainer(SimpleTrainer):
    """A trainer of a user's own that overrides a step."""

    def run_step(self) -> None:
        super().run_step()


@pytest.mark.parametrize("grouping", [False, True])
def test_batches_are_detectron2s(grouping):
    """As Detectron2 makes them without data workers."""
    batches = []
    for _ in range(2):
        loader = loader_of(sampler=TrainingSampler(PICTURES, seed=3), grouping=grouping)
        stream = iter(loader)
        batches.append([[item["index"] for item in next(stream)] for _ in range(20)])
        EXACT_RESUME.undo()
    EXACT_RESUME.apply()
    assert batches[0] == batches[1]


def test_another_batch_goes_on_at_the_same_picture_and_says_so(tmp_path, caplog):
    notes = [tmp_path / name for name in ("whole.txt", "rest.txt")]

    def options(batch: int) -> dict:
        sampler = TrainingSampler(PICTURES, seed=3)
        return dict(batch=batch, grouping=False, sampler=sampler)

    train(tmp_path / "whole", reads=str(notes[0]), **options(3))
    killed(tmp_path / "run", 4, **options(3))
    train(tmp_path / "run", resume=True, reads=str(notes[1]), **options(2))
    stream, rest = (note.read_text().split() for note in notes)
    assert rest[:18] == stream[8:26]
    assert "goes on at the same picture with 2 pictures in a batch instead of 3" in caplog.text


def test_a_loader_of_its_own_is_left_and_said(tmp_path, caplog):
    trainer = SimpleTrainer(model := Model(), [], torch.optim.SGD(model.parameters(), 0.1))
    trainer.train(3, 3)
    assert "the training data is a stream or comes through a loader of its own" in caplog.text


# ---- a whole run ---------------------------------------------------------------------------------
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_detectron2_exact_resume import Losses
from detectron2.engine import TrainerBase
plain = TrainerBase.train
def train(self, *args):
    self.register_hooks([Losses(Path({work_dir!r}) / "losses.txt", {killed_after})])
    plain(self, *args)
TrainerBase.train = train
from convnext_backbones.cli import train_detectron2
train_detectron2.main({arguments!r})
"""


def train_whole(folder: Path, workers: int, killed_after: int | None, *, resume: bool) -> None:
    """A Mask R-CNN with drop path on the sample data, by the command."""
    arguments = [
        str(ROOT / "configs/detectron2/coco_mask_rcnn_convnextv2_atto.yaml"), "--sample", "--shrink",
        "--work-dir", str(folder), *(["--resume"] if resume else []),
        f"SOLVER.MAX_ITER={STEPS}", "SOLVER.CHECKPOINT_PERIOD=4", "SOLVER.IMS_PER_BATCH=2",
        "SOLVER.STEPS=(8,)", "TEST.EVAL_PERIOD=0", "MODEL.CONVNEXT.DROP_PATH_RATE=0.3", "SEED=3",
        f"DATALOADER.NUM_WORKERS={workers}",
    ]  # fmt: skip
    folder.mkdir(exist_ok=True)
    script = SCRIPT.format(
        folder=str(Path(__file__).parent), work_dir=str(folder), killed_after=killed_after,
        arguments=arguments,
    )  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (-signal.SIGKILL if killed_after else 0), done.stdout + done.stderr


@pytest.mark.slow
def test_a_detectors_killed_run_goes_on_bit_for_bit(tmp_path):
    """No data worker and two, each killed at three steps, against one run that was not."""
    train_whole(tmp_path / "whole", 0, None, resume=False)
    for workers in (0, 2):
        folder = tmp_path / f"{workers} workers"
        steps = sorted(random.Random(workers).sample(range(5, STEPS), 3))
        for number, step in enumerate(steps):
            train_whole(folder, workers, step, resume=number > 0)
        train_whole(folder, workers, None, resume=True)
        assert_equal_runs(folder, tmp_path / "whole")
