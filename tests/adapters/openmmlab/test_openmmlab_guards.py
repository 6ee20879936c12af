"""A training of MMEngine goes on where it can, and ends in a sentence where it cannot.

A user's own runner, which gets its guard by importing the adapter.
"""

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("mmcv")

from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner

from convnext_backbones.adapters.openmmlab import Guard, run
from convnext_backbones.adapters.openmmlab.guards import (
    guard_of,
    limits_in,
    pictures_of,
    set_limits,
)
from convnext_backbones.adapters.openmmlab.saving import last_whole
from convnext_backbones.errors import UserError
from convnext_backbones.runs.guards import Limits

PICTURES = 12


class Sample:
    def __init__(self, path: str):
        self.img_path = path


class Data(BaseDataset):
    """Grey pictures, each of its number times ten."""

    def __init__(self, folder: Path, **options):
        self.folder = folder
        super().__init__(pipeline=[LoadImageFromFile()], **options)

    def load_data_list(self) -> list[dict]:
        return [{"img_path": str(self.folder / f"{k}.png"), "k": k} for k in range(PICTURES)]

    def prepare_data(self, index: int):
        found = super().prepare_data(index)
        image = torch.from_numpy(found["img"]).permute(2, 0, 1).float()
        return {"inputs": image, "data_samples": Sample(found["img_path"])}


class Model(BaseModel):
    """Its loss is the weight times what `losses` says of a step, and the greys that it saw are kept."""

    def __init__(self, losses=lambda step: 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.losses, self.step, self.seen = losses, 0, []

    def forward(self, inputs, data_samples=None, mode="tensor"):
        if mode != "loss":
            return [{"value": 1.0}]
        self.step += 1
        self.seen += [int(image[0, 0, 0]) // 10 for image in inputs]
        return {"loss": self.weight.sum() * self.losses(self.step)}


class Metric(BaseMetric):
    def process(self, data_batch, data_samples) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return {"value": 1.0}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for k in range(PICTURES):
        Image.fromarray(np.full((8, 12, 3), 10 * k, np.uint8)).save(folder / f"{k}.png")
    return folder


@pytest.fixture
def mine(pictures, tmp_path):
    """A copy of the pictures to damage."""
    for file in pictures.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def runner_of(
    folder: Path, pictures: Path, model: Model, *hooks, steps=8, workers=0, val=0, **keys
):
    loader = dict(num_workers=workers, collate_fn=dict(type="pseudo_collate"))
    validation = dict(
        val_dataloader=dict(batch_size=1, dataset=Data(pictures), sampler=dict(type="DefaultSampler"), **loader),
        val_cfg=dict(), val_evaluator=Evaluator(Metric(prefix="stub")),
    ) if val else {}  # fmt: skip
    MMLogger._instance_dict.clear()
    return Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(
            batch_size=2, dataset=Data(pictures), sampler=dict(type="InfiniteSampler", shuffle=False), **loader
        ),
        train_cfg=ConfigDict(by_epoch=False, max_iters=steps, val_interval=val or 10**6),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        default_hooks=dict(
            checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1, max_keep_ckpts=2)
        ),
        custom_hooks=list(hooks),
        experiment_name=f"{folder}{time.monotonic_ns()}",
        **validation, **keys,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def heard(caplog):
    """MMEngine's loggers do not hand on what they are told."""
    yield
    MMLogger._instance_dict.clear()


def log_of(folder: Path) -> str:
    return "\n".join(file.read_text() for file in folder.glob("*/*.log"))


# ---- losses --------------------------------------------------------------------------------------
def test_a_runner_gets_one_guard_and_keeps_its_own(pictures, tmp_path):
    assert guard_of(runner_of(tmp_path, pictures, Model())).limits == Limits()
    runner = runner_of(tmp_path, pictures, Model(), dict(type="Guard", not_finite=2))
    assert [hook.limits.not_finite for hook in runner.hooks if isinstance(hook, Guard)] == [2]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_update_of_a_loss_that_is_no_number_is_left_out(pictures, tmp_path, value):
    model = Model(lambda step: value if step in (3, 4) else 1.0)
    runner_of(tmp_path / "a", pictures, model).train()
    assert model.weight.tolist() == pytest.approx([0.4, 0.4])  # 6 of 8 steps of 0.1
    assert log_of(tmp_path / "a").count("whose update is left out") == 2
    assert f"in step 3, whose update is left out; the run stops after 5 such steps in a row. The batch: {pictures}/4.png" in log_of(tmp_path / "a")  # fmt: skip


def test_losses_that_stay_no_numbers_end_the_run_and_delete_nothing_sound(pictures, tmp_path):
    model = Model(lambda step: 1.0 if step < 4 else torch.nan)
    runner = runner_of(tmp_path / "a", pictures, model, Guard(not_finite=3), steps=50)
    with pytest.raises(UserError) as ended:
        runner.train()
    assert "loss is not finite in step 6 and the 2 before it: the run stops. The batch: " in str(ended.value)  # fmt: skip
    assert f"{pictures}/10.png, {pictures}/11.png. " in str(ended.value)
    assert f"{tmp_path}/a/iter_3.pth is the last sound checkpoint" in str(ended.value)
    assert sorted(f.name for f in (tmp_path / "a").glob("*.pth")) == ["iter_2.pth", "iter_3.pth"]
    assert last_whole(tmp_path / "a").name == "iter_3.pth"


class Breaking(Hook):
    """Weights that are no numbers, whatever the loss."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if runner.iter + 1 == 3:
            runner.model.weight.data[0] = torch.nan


def test_weights_that_are_no_numbers_are_saved_by_nobody_and_are_no_best(pictures, tmp_path):
    runner = runner_of(tmp_path / "a", pictures, Model(), Breaking(), val=3)
    runner.hooks[-1].save_best = None
    with pytest.raises(
        UserError, match=r"weight is not finite after step .*iter_2\.pth is the last sound"
    ):
        runner.train()
    assert sorted(f.name for f in (tmp_path / "a").glob("*.pth")) == ["iter_1.pth", "iter_2.pth"]


def test_a_step_that_mixed_precision_leaves_out_is_no_loss_that_is_no_number(pictures, tmp_path):
    """Its gradients overflow and its loss does not; the scaler leaves it out and nobody counts it."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1e38)
    model = Model(lambda step: 100.0)
    loss = model.weight.sum() * 100.0
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert model.weight.tolist() == [1, 1]
    guard = Guard()
    runner = runner_of(tmp_path / "a", pictures, model)
    guard._look_at_losses(runner, {"loss": loss.detach()})
    assert guard.bad_steps == 0


def test_gradients_that_are_gathered_over_steps_are_dropped_whole(pictures, tmp_path):
    model = Model(lambda step: torch.nan if step == 3 else 1.0)
    wrapper = dict(optimizer=dict(type="SGD", lr=0.1), accumulative_counts=2)
    runner = runner_of(tmp_path / "a", pictures, model)
    runner.optim_wrapper = wrapper
    runner.train()
    assert model.weight.tolist() == pytest.approx([0.7, 0.7])  # 3 of 4 updates


# ---- pictures ------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_that_cannot_be_read_are_left_out_named_and_counted(mine, tmp_path, workers):
    (mine / "3.png").write_bytes((mine / "3.png").read_bytes()[:40])
    (mine / "6.png").unlink()
    model = Model()
    runner_of(tmp_path / "a", mine, model, steps=8, workers=workers).train()
    assert model.seen == [0, 1, 2, 4, 4, 5, 7, 7, 8, 9, 10, 11, 0, 1, 2, 4]
    said = log_of(tmp_path / "a")
    assert (
        f"2 pictures left out of the training: {mine}/3.png is no picture that can be read" in said
    )
    assert f"{mine}/6.png cannot be read: No such file" in said


def test_too_many_pictures_that_cannot_be_read_stop_the_run(mine, tmp_path):
    for k in range(0, 12, 2):
        (mine / f"{k}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"6 pictures of at most 12 .*0\.png is empty \(0 bytes\)"):
        runner_of(tmp_path / "a", mine, Model()).train()
    with pytest.raises(UserError, match=r"0\.png is empty \(0 bytes\)$"):
        runner_of(tmp_path / "b", mine, Model(), Guard(skip_share=0)).train()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_validation_leaves_out_no_picture(mine, tmp_path, workers):
    (mine / "5.png").unlink()
    with pytest.raises(Exception, match=r"5\.png cannot be read: No such file"):
        runner_of(tmp_path / "a", mine, Model(), steps=2, val=2, workers=workers).train()


# ---- limits in configs and on the command line -----------------------------------------------------
def test_limits_are_set_in_a_config_and_by_options():
    cfg = Config(dict(custom_hooks=[dict(type="Guard", skip_share=0.5), dict(type="Other")]))
    set_limits(cfg, dict(stall_timeout=60.0))
    assert limits_in(cfg) == Limits(skip_share=0.5, stall_timeout=60.0)
    bare = Config(dict())
    set_limits(bare, {})
    assert "custom_hooks" not in bare
    set_limits(bare, dict(not_finite=1))
    assert limits_in(bare) == Limits(not_finite=1)
    with pytest.raises(UserError, match="a share from 0 to 1"):
        set_limits(bare, dict(skip_share=7))
    assert run.set_limits is set_limits


# ---- what ends a run otherwise ---------------------------------------------------------------------
def test_full_memory_is_told_with_the_batch_and_its_size(pictures, tmp_path):
    def full(step):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        )

    with pytest.raises(
        UserError, match=r"memory is full in step 1 .* batch of 2 pictures of up to 12x8"
    ):
        runner_of(tmp_path / "a", pictures, Model(full)).train()


def test_another_error_stays_what_it_is(pictures, tmp_path):
    def wrong(step):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        runner_of(tmp_path / "a", pictures, Model(wrong)).train()


def test_the_pictures_of_a_batch_are_told_in_any_nesting():
    image = torch.zeros(3, 4, 6)
    flat = {"inputs": [image, image], "data_samples": [Sample("a"), Sample("b")]}
    assert [tuple(p) for p in pictures_of(flat)] == [("a", 6, 4), ("b", 6, 4)]
    branches = {"inputs": {"one": [image], "two": torch.zeros(2, 3, 4, 6)},
                "data_samples": {"one": [Sample("a")]}}  # fmt: skip
    assert [tuple(p) for p in pictures_of(branches)] == [("a", 6, 4), ("", 6, 4), ("", 6, 4)]
    assert pictures_of(None) == pictures_of([1]) == []
