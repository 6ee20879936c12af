"""A training of Detectron2 goes on where it can, and ends in a sentence where it cannot.

A user's own trainer, which gets its guard by importing the adapter.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

pytest.importorskip("detectron2")

from detectron2.data import build_detection_train_loader, detection_utils
from detectron2.data.samplers import TrainingSampler
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, hooks
from fvcore.common.checkpoint import Checkpointer

import convnext_backbones.adapters.detectron2  # noqa: F401  (applies the patches)
from convnext_backbones.adapters.detectron2 import Guard
from convnext_backbones.adapters.detectron2.guards import LAZY
from convnext_backbones.adapters.detectron2.saving import last_whole
from convnext_backbones.errors import UserError

PICTURES = 12


def mapper(record: dict) -> dict:
    image = detection_utils.read_image(record["file_name"], "RGB")
    return {**record, "image": torch.from_numpy(image.copy()).permute(2, 0, 1).float()}


class Model(nn.Module):
    """Its loss is the weight times what `losses` says of a step, and the greys that it saw are kept."""

    def __init__(self, losses=lambda step: 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.losses, self.step, self.seen = losses, 0, []

    def forward(self, batch: list[dict]):
        self.step += 1
        self.seen += [int(record["image"][0, 0, 0]) // 10 for record in batch]
        return {"loss": self.weight.sum() * self.losses(self.step)}


@pytest.fixture
def mine(tmp_path):
    """Pictures, each of its number times ten."""
    for k in range(PICTURES):
        Image.fromarray(np.full((8, 12, 3), 10 * k, np.uint8)).save(tmp_path / f"{k}.png")
    return tmp_path


def train(folder: Path, model: Model, *more, steps=8, workers=0, trainer=SimpleTrainer, **options):
    pictures = folder.parent
    records = [{"file_name": str(pictures / f"{k}.png"), "width": 12, "height": 8} for k in range(PICTURES)]  # fmt: skip
    loader = build_detection_train_loader(
        records, mapper=mapper, sampler=TrainingSampler(PICTURES, shuffle=False), total_batch_size=2,
        num_workers=workers,
    )  # fmt: skip
    trainer = trainer(model, loader, torch.optim.SGD(model.parameters(), lr=0.1), **options)
    folder.mkdir(exist_ok=True)
    saver = Checkpointer(model, str(folder), trainer=trainer)
    trainer.register_hooks([*more, hooks.PeriodicCheckpointer(saver, 1, steps, max_to_keep=2)])
    trainer.train(0, steps)
    return trainer


def guards_of(trainer) -> list[Guard]:
    return [hook for hook in trainer._hooks if isinstance(hook, Guard)]


# ---- losses --------------------------------------------------------------------------------------
def test_a_trainer_gets_one_guard_and_keeps_its_own(mine):
    (guard,) = guards_of(train(mine / "a", Model(), steps=1))
    assert guard.folder == mine / "a"
    (guard,) = guards_of(train(mine / "b", Model(), Guard(not_finite=2), steps=1))
    assert guard.limits.not_finite == 2
    with pytest.raises(UserError, match="a whole number from 1"):
        Guard(not_finite=0)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_update_of_a_loss_that_is_no_number_is_left_out(mine, value, caplog):
    model = Model(lambda step: value if step in (3, 4) else 1.0)
    train(mine / "a", model)
    assert model.weight.tolist() == pytest.approx([0.4, 0.4])  # 6 of 8 steps of 0.1
    assert caplog.text.count("whose update is left out") == 2
    assert f"in step 3, whose update is left out; the run stops after 5 such steps in a row. The batch: {mine}/4.png" in caplog.text  # fmt: skip
    assert last_whole(mine / "a").name == "model_final.pth"


def test_losses_that_stay_no_numbers_end_the_run_and_delete_nothing_sound(mine):
    model = Model(lambda step: 1.0 if step < 4 else torch.nan)
    with pytest.raises(UserError) as ended:
        train(mine / "a", model, Guard(not_finite=3, keys=LAZY), steps=50)
    said = str(ended.value)
    assert "diverged in step 6 and the 2 before it: loss is infinite or NaN. The batch: " in said
    assert f"{mine}/10.png, {mine}/11.png. Lower the learning rate (optimizer.lr=..)" in said
    assert said.endswith(f"{mine}/a/model_0000002.pth is sound, --resume goes on from it")
    assert sorted(f.name for f in (mine / "a").glob("*.pth")) == ["model_0000001.pth", "model_0000002.pth"]  # fmt: skip


class Breaking(HookBase):
    """Weights that are no numbers, whatever the loss."""

    def after_step(self) -> None:
        if self.trainer.iter == 2:
            self.trainer.model.weight.data[0] = torch.nan


def test_weights_that_are_no_numbers_are_saved_by_nobody(mine):
    with pytest.raises(
        UserError, match=r"diverged in step 3: weight is infinite or NaN.*0001\.pth is sound"
    ):
        train(mine / "a", Model(), Breaking())
    assert sorted(f.name for f in (mine / "a").glob("*.pth")) == ["model_0000000.pth", "model_0000001.pth"]  # fmt: skip


def test_weights_that_are_no_numbers_end_the_run_at_their_first_loss(mine):
    model = Model(lambda step: torch.tensor(1.0) if step != 3 else torch.tensor(1e38))
    model.register_buffer("running_mean", torch.zeros(1))

    def breaking(step):
        model.running_mean[:] = torch.nan
        return torch.nan

    model.losses = breaking
    with pytest.raises(UserError, match=r"diverged in step 1: loss .*nothing was saved before it"):
        train(mine / "a", model)


def test_an_error_of_detectron2_at_numbers_that_are_none_is_told_with_the_batch(mine):
    def proposals(step):
        raise FloatingPointError(
            "Predicted boxes or scores contain Inf/NaN. Training has diverged."
        )

    with pytest.raises(
        UserError, match=r"diverged in step 1: what it predicts is .*The batch: .*0\.png"
    ):
        train(mine / "a", Model(proposals))


def test_mixed_precision_leaves_a_step_out_by_itself(mine, caplog, monkeypatch):
    """Gradients that overflow while the loss does not are counted by nobody; a loss that does is told, and
    the scaler sees its gradients."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        "torch.cuda.amp.autocast", lambda **options: torch.autocast("cpu", enabled=False)
    )
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=10**6)
    model = Model(lambda step: {3: torch.inf}.get(step, 2.0))
    train(mine / "a", model, trainer=AMPTrainer, grad_scaler=scaler, precision=torch.float32)
    assert caplog.text.count("whose update is left out") == 1
    assert scaler.get_scale() < 2.0**127
    assert model.weight.isfinite().all()
    assert (model.weight < 1).all()


# ---- pictures ------------------------------------------------------------------------------------
@pytest.mark.parametrize("workers", [0, 2])
def test_pictures_that_cannot_be_read_are_left_out_named_and_counted(mine, workers, caplog):
    (mine / "3.png").write_bytes((mine / "3.png").read_bytes()[:40])
    (mine / "6.png").unlink()
    model = Model()
    train(mine / "a", model, workers=workers)
    assert model.seen == [0, 1, 2, 4, 4, 5, 7, 7, 8, 9, 10, 11, 0, 1, 2, 4]
    assert f"2 pictures left out of the training: {mine}/3.png is no picture that can be read" in caplog.text  # fmt: skip
    assert f"{mine}/6.png cannot be read: No such file" in caplog.text


def test_too_many_pictures_that_cannot_be_read_stop_the_run(mine):
    for k in range(0, 12, 2):
        (mine / f"{k}.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"6 pictures of at most 12 .*0\.png is empty \(0 bytes\)"):
        train(mine / "a", Model())
    with pytest.raises(UserError, match=r"0\.png is empty \(0 bytes\)$"):
        train(mine / "b", Model(), Guard(skip_share=0))


# ---- what ends a run otherwise ---------------------------------------------------------------------
def test_full_memory_is_told_with_the_batch_and_its_size(mine):
    def full(step):
        raise RuntimeError(
            "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"
        )

    with pytest.raises(UserError, match=r"memory is full in step 1 .* batch of 2 pictures of up to 12x8.*SOLVER\.IMS_PER_BATCH=1 for 2"):  # fmt: skip
        train(mine / "a", Model(full))


def test_another_error_stays_what_it_is_and_leaves_no_hook(mine):
    def wrong(step):
        raise ZeroDivisionError("mine")

    model = Model(wrong)
    with pytest.raises(ZeroDivisionError, match="mine"):
        train(mine / "a", model)
    assert not model._forward_pre_hooks
