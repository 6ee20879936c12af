"""A run of MMEngine that was killed goes on bit for bit: losses, weights, optimizer, mean weights.

The quick ones train a stub; the slow ones MMDetection and MMSegmentation through the command.
"""

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

pytest.importorskip("mmengine")

from mmengine.config import ConfigDict
from mmengine.dataset import BaseDataset, Compose
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner, loops

import convnext_backbones.adapters.openmmlab  # noqa: F401  (applies the patches)
from convnext_backbones.adapters.openmmlab.checkpoints import read_training_checkpoint
from convnext_backbones.adapters.openmmlab.exact_resume import EXACT_RESUME, KEY

ROOT = Path(__file__).parents[3]
PICTURES, BATCH, STEPS = 11, 3, 10  # 4 batches an epoch, the last of 2


class Noise(BaseDataset):
    """Pictures that every source of random numbers changes, and a note of each that is read."""

    def __init__(self, note: str = "", **options):
        self.note = note
        super().__init__(**options)

    def load_data_list(self) -> list[dict]:
        return [{"index": index} for index in range(PICTURES)]

    def prepare_data(self, index: int):
        if self.note:
            with open(self.note, "a") as file:
                file.write(f"{index}\n")
        values = [random.random(), np.random.rand(), torch.rand(()).item(), float(index)]
        return {"inputs": torch.tensor(values)}


class Assigner:
    """No module, as a head's is none."""

    threshold = 0.5


class Model(BaseModel):
    """Dropout, batch norm, a draw of NumPy's in the loss, as heads sample boxes, and what Dynamic R-CNN keeps
    of the steps before: a history of numbers, and a threshold that follows from it."""

    def __init__(self, half: bool = False):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 1)
        )
        self.half, self.history, self.assigner = half, [], Assigner()

    def forward(self, inputs, data_samples=None, mode="tensor"):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
            outputs = self.layers(torch.stack(list(inputs)) / 10)
        if mode == "loss":
            self.history.append(outputs.mean().item())
            if len(self.history) == 4:  # saves and kills fall between
                self.assigner.threshold = float(np.mean(self.history))
                self.history.clear()
            aim = np.random.rand() + random.random() + self.assigner.threshold
            return {"loss": ((outputs - aim) ** 2).mean()}
        torch.rand(1), np.random.rand(), random.random()  # what a validation uses up
        return [{"value": value} for value in outputs]


class Metric(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results += [float(sample["value"]) for sample in data_samples]

    def compute_metrics(self, results: list) -> dict:
        return {"mean": float(np.mean(results))}


class Losses(Hook):
    """Writes each step's loss in full, and ends the process as kill -9 does after a step."""

    priority = "LOWEST"

    def __init__(self, file: Path, killed_after: int | None):
        self.file, self.killed_after = file, killed_after

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        with self.file.open("a") as file:
            file.write(f"{runner.iter} {batch_idx} {outputs['loss'].item().hex()}\n")
        if runner.iter + 1 == self.killed_after:
            os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, loop: str, *, resume=False, killed_after=None, reads="", **changes) -> None:
    """STEPS steps; checkpoints each 3."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    workers = changes.get("workers", 0)
    sampler = "DefaultSampler" if loop != "iterations" else "InfiniteSampler"
    loader = dict(
        batch_size=changes.get("batch", BATCH), num_workers=workers,
        persistent_workers=changes.get("persistent", False),
        sampler=dict(type=sampler, shuffle=True), collate_fn=dict(type="pseudo_collate"),
    )  # fmt: skip
    length = dict(by_epoch=loop == "epochs")
    length |= {"max_epochs": 3} if loop == "epochs" else {"max_iters": STEPS}
    accumulated = changes.get("accumulated", 1)
    runner = Runner(
        model=Model(half=changes.get("half", False)),
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Noise(note=reads, pipeline=changes.get("pipeline", [])), **loader
        ),
        train_cfg=ConfigDict(val_interval=1 if loop == "epochs" else 2, **length),
        val_dataloader=dict(batch_size=2, dataset=Noise(), sampler=dict(type="DefaultSampler")),
        val_cfg=dict(),
        val_evaluator=Evaluator(Metric(prefix="stub")),
        optim_wrapper=dict(
            optimizer=dict(type="AdamW", lr=0.01), accumulative_counts=accumulated
        ),
        param_scheduler=dict(type="PolyLR", end=STEPS, by_epoch=False),
        default_hooks=dict(
            logger=dict(type="LoggerHook", interval=1),
            checkpoint=dict(
                type="CheckpointHook", by_epoch=changes.get("by_epoch", False),
                interval=1 if changes.get("by_epoch") else changes.get("every", 3),
            ),
        ),
        custom_hooks=[
            dict(type="EMAHook"),
            Losses(folder / "losses.txt", killed_after),
            *changes.get("hooks", []),
        ],
        randomness=dict(seed=changes.get("seed", 7)),
        log_level="WARNING",
        resume=resume,
        experiment_name=f"{folder.name}{len(list(folder.glob('*')))}",
    )  # fmt: skip
    try:
        runner.train()
    finally:
        MMLogger._instance_dict.clear()


def killed(folder: Path, loop: str, after: int, **changes) -> None:
    """Train in a process of its own until it is killed."""
    folder.mkdir(exist_ok=True)
    options = dict(killed_after=after, **changes)
    process = multiprocessing.get_context("fork").Process(
        target=train, args=(folder, loop), kwargs=options
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def losses(folder: Path) -> dict[str, list[str]]:
    """A step's losses, in full, each time that it was done."""
    found = {}
    for line in (folder / "losses.txt").read_text().splitlines():
        step, rest = line.split(" ", 1)
        found.setdefault(step, []).append(rest)
    return found


def end(folder: Path) -> dict:
    """What a run has saved last."""
    return read_training_checkpoint(Path(folder / "last_checkpoint").read_text())


def differing(one, other, at: str = "") -> list[str]:
    """Where two saved contents are not the same bit for bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        found = [f"{at}: {set(one) ^ set(other)}"] if set(one) != set(other) else []
        return found + [
            place for key in one if key in other
            for place in differing(one[key], other[key], f"{at}.{key}")
        ]  # fmt: skip
    if isinstance(one, list | tuple):
        pairs = zip(one, other, strict=True)
        return [p for k, (a, b) in enumerate(pairs) for p in differing(a, b, f"{at}.{k}")]
    if torch.is_tensor(one):
        return [] if torch.equal(one, other) else [at]
    return [] if one == other else [at]


def assert_equal_runs(folder: Path, whole: Path) -> None:
    """All losses, also of the steps that were done twice, and the end."""
    expected, found = losses(whole), losses(folder)
    assert list(found) == list(expected)
    for step, values in found.items():
        assert set(values) == set(expected[step]), f"step {step}"
    parts = ("state_dict", "optimizer", "param_schedulers", "ema_state_dict")
    here, there = ({k: end(run).get(k) for k in parts} for run in (folder, whole))
    assert not differing(here, there)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Without what takes MMEngine seconds: asking the machine for its compilers, a pause between passes."""
    monkeypatch.setattr(Runner, "_log_env", lambda *args: None)
    monkeypatch.setattr(loops.time, "sleep", lambda seconds: None)


LOOPS = ("epochs", "iterations", "iterations of epochs")  # the last: with a sampler that ends


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted run of a loop, made once."""
    made = {}

    def make(loop: str, **changes) -> Path:
        key = (loop, *changes.items())
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole")
            train(made[key], loop, **changes)
        return made[key]

    return make


@pytest.mark.parametrize("loop", LOOPS)
def test_a_killed_run_goes_on_bit_for_bit(loop, whole, tmp_path):
    """Killed three times: within an epoch, at its end, in its first step."""
    for after in (4, 7, 8):
        killed(tmp_path / "run", loop, after, resume=after > 4)
    reads = tmp_path / "reads.txt"
    train(tmp_path / "run", loop, resume=True, reads=str(reads))
    assert_equal_runs(tmp_path / "run", whole(loop))
    steps = len(losses(whole(loop))) - 6  # after the last checkpoint
    assert BATCH * (steps - 1) < len(reads.read_text().split()) <= BATCH * steps


@pytest.mark.parametrize("loop", LOOPS[:2])
def test_data_workers_change_nothing(loop, whole, tmp_path):
    """Two of them, new in each epoch or staying, against none."""
    killed(tmp_path / "run", loop, 5, workers=2)
    train(tmp_path / "run", loop, resume=True, workers=2, persistent=True)
    assert_equal_runs(tmp_path / "run", whole(loop))


def test_mixed_precision_goes_on_bit_for_bit(whole, tmp_path):
    """bfloat16 on a CPU, which scales no gradients."""
    assert losses(whole("iterations", half=True)) != losses(whole("iterations"))
    killed(tmp_path / "run", "iterations", 5, half=True)
    train(tmp_path / "run", "iterations", resume=True, half=True)
    assert_equal_runs(tmp_path / "run", whole("iterations", half=True))


def test_what_follows_from_no_place_is_said(tmp_path, capfd):
    """Pictures that transforms keep, also below others, and MMEngine's own count before it stops."""

    class Mixing:
        def __init__(self):
            self.results_cache = []

        def __call__(self, results):
            return results

    class Perhaps:
        def __init__(self, *transforms):
            self.transforms = Compose(list(transforms))

        def __call__(self, results):
            return results

    killed(tmp_path / "run", "iterations", 4)
    waiting = EarlyStoppingHook(monitor="stub/mean", rule="greater", patience=99)
    options = dict(pipeline=[Perhaps(Mixing())], hooks=[waiting])
    train(tmp_path / "run", "iterations", resume=True, **options)
    said = "".join(capfd.readouterr())
    assert "Mixing mixes in pictures that the data workers keep in memory" in said
    assert "EarlyStoppingHook counts anew from here; convnext_backbones.StopEarly" in said


def test_a_seed_that_nobody_set_goes_on(tmp_path):
    """The checkpoint's; steps that were done twice gave the same."""
    killed(tmp_path / "run", "iterations", 8, seed=None)
    train(tmp_path / "run", "iterations", resume=True, seed=None)
    found = losses(tmp_path / "run")
    assert [len(found[step]) for step in ("5", "6", "7", "8")] == [1, 2, 2, 1]
    assert all(len(set(values)) == 1 for values in found.values())


def test_gradients_of_steps_without_an_update_go_on(whole, tmp_path):
    killed(tmp_path / "run", "iterations", 4, accumulated=2)
    assert end(tmp_path / "run")[KEY]["gradients"]
    train(tmp_path / "run", "iterations", resume=True, accumulated=2)
    assert_equal_runs(tmp_path / "run", whole("iterations", accumulated=2))


def test_an_epochs_checkpoint_begins_the_next(whole, tmp_path):
    killed(tmp_path / "run", "epochs", 6, by_epoch=True)
    train(tmp_path / "run", "epochs", resume=True, by_epoch=True)
    found = losses(tmp_path / "run")
    assert [len(found[step]) for step in ("3", "4", "5", "6")] == [1, 2, 2, 1]
    assert_equal_runs(tmp_path / "run", whole("epochs"))


def test_another_batch_goes_on_at_the_same_picture_and_says_so(tmp_path, capfd):
    """Three steps of 3 pictures, then batches of 2 from the ninth picture on: the tenth is in its batch."""
    notes = [tmp_path / name for name in ("whole.txt", "rest.txt")]
    train(tmp_path / "whole", "iterations", batch=2, reads=str(notes[0]))
    killed(tmp_path / "run", "iterations", 4)
    train(tmp_path / "run", "iterations", resume=True, batch=2, reads=str(notes[1]))
    stream, rest = (note.read_text().split() for note in notes)
    assert rest[:12] == stream[8:]
    said = "".join(capfd.readouterr())
    assert "goes on at the same picture with 2 pictures in a batch instead of 3" in said


def test_a_checkpoint_of_plain_mmengine_goes_on_within_its_epoch(tmp_path):
    EXACT_RESUME.undo()
    try:
        killed(tmp_path / "run", "epochs", 4)
    finally:
        EXACT_RESUME.apply()
    assert KEY not in end(tmp_path / "run")
    reads = tmp_path / "reads.txt"
    train(tmp_path / "run", "epochs", resume=True, reads=str(reads))
    assert len(reads.read_text().split()) == 3 * PICTURES - 3 * BATCH


# ---- the hosts -----------------------------------------------------------------------------------
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_exact_resume import Losses
from mmengine.runner import Runner
plain = Runner.register_hooks
def register_hooks(self, *args, **kwargs):
    plain(self, *args, **kwargs)
    self.register_hook(Losses(Path(self.work_dir) / "losses.txt", {killed_after}))
Runner.register_hooks = register_hooks
from convnext_backbones.cli import train
train.main({arguments!r})
"""
HOSTS = {
    "mmdet": (
        "coco_mask_rcnn_convnextv2_atto.py", 12,
        ["train_cfg.max_epochs=2", "train_cfg.val_interval=2", "train_dataloader.dataset.indices=12"],
    ),
    "mmseg": (
        "ade20k_upernet_convnextv2_atto.py", 12,
        ["train_cfg.max_iters=12", "train_cfg.val_interval=6"],
    ),
}  # fmt: skip


def train_host(host: str, folder: Path, workers: int, killed_after: int | None, resume: bool):
    config, _, options = HOSTS[host]
    arguments = [
        str(ROOT / "configs" / config), "--sample", "--shrink", "--work-dir", str(folder),
        *(["--resume"] if resume else []),
        "--cfg-options", *options, "model.backbone.drop_path_rate=0.3", "randomness.seed=3",
        f"train_dataloader.num_workers={workers}", "train_dataloader.batch_size=2",
        "val_dataloader.dataset.indices=4", f"train_dataloader.persistent_workers={workers > 0}",
        "default_hooks.checkpoint.by_epoch=False", "default_hooks.checkpoint.interval=4",
    ]  # fmt: skip
    script = SCRIPT.format(
        folder=str(Path(__file__).parent), killed_after=killed_after, arguments=arguments
    )
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (-signal.SIGKILL if killed_after else 0), done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("host", HOSTS)
def test_a_hosts_killed_run_goes_on_bit_for_bit(host, tmp_path):
    """No data worker and two, each killed at three steps, against one run that was not."""
    pytest.importorskip(host)
    train_host(host, tmp_path / "whole", 0, None, resume=False)
    for workers in (0, 2):
        folder = tmp_path / f"{workers} workers"
        steps = sorted(random.Random(workers).sample(range(5, HOSTS[host][1]), 3))
        for number, step in enumerate(steps):
            train_host(host, folder, workers, step, resume=number > 0)
        train_host(host, folder, workers, None, resume=True)
        assert_equal_runs(folder, tmp_path / "whole")
