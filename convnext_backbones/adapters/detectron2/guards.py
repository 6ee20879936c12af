"""What watches over a training of Detectron2: a hook that every trainer gets by importing the adapter.

Losses and weights that are not finite, pictures that cannot be read, a process that stands still, memory that
is full: each ends the run with a sentence, and none in a checkpoint that is worse than the last one.
"""

import contextlib
import functools
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.engine import AMPTrainer, HookBase, SimpleTrainer, TrainerBase
from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer, PeriodicCheckpointer
from torch.nn.parallel import DistributedDataParallel

from ...checkpoints import read_checkpoint
from ...errors import UserError
from ...runs.guards import (
    LeavingOut,
    Limits,
    Watch,
    any_process,
    files_of,
    finite,
    last_sound,
    lost_another,
    not_finite_in,
)
from ...runs.memory import Options, Picture, Use, out_of_memory
from ...runs.patching import Patches, patched_attribute
from ...runs.whole_files import copies_of_state
from .exact_resume import loader_of
from .saving import iteration_of

LOGGER = logging.getLogger("convnext_backbones")


class Keys(NamedTuple):
    """What a config system calls the options that a guard advises to change."""

    learning_rate: str
    warm_up: str
    memory: Options


YAML = Keys(
    "SOLVER.BASE_LR",
    "SOLVER.WARMUP_ITERS",
    Options(
        batch="SOLVER.IMS_PER_BATCH",
        with_cp="MODEL.CONVNEXT.WITH_CP=True",
        amp="SOLVER.AMP.ENABLED=True",
        size="INPUT.MIN_SIZE_TRAIN, INPUT.CROP",
        workers="DATALOADER.NUM_WORKERS",
    ),
)
LAZY = Keys(
    "optimizer.lr",
    "lr_multiplier.warmup_length",
    Options(
        batch="dataloader.train.total_batch_size",
        with_cp="model.backbone.bottom_up.with_cp=True",
        amp="train.amp.enabled=True",
        size="dataloader.train.mapper.augmentations",
        workers="dataloader.train.num_workers",
    ),
)


class Guard(HookBase):
    """Runs before every other hook, so that none saves what the guard refuses.

        trainer.register_hooks([Guard(not_finite=5, skip_share=0.01, stall_timeout=1800)])

    Every training has one; a trainer names it to set its limits (runs.guards.Limits).

    Args:
        folder: of the run; else that of the trainer's checkpoints.
        keys: of the config system.

    Raises:
        UserError: the loss was not finite for `not_finite` steps in a row, or the weights are not; more than
            `skip_share` of the pictures read are missing or damaged.
    """

    def __init__(self, *, folder: str | Path | None = None, keys: Keys = YAML, **limits: float):
        self.limits = Limits.of(**limits)
        self.folder, self.keys = folder and Path(folder), keys
        self.bad_steps = 0
        self.pictures: list[Picture] = []  # of the batch

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Around a training: ends one that stands still, and says what ended it otherwise."""
        self.folder = self.folder or _folder_of(self.trainer)
        inner = getattr(self.trainer, "_trainer", self.trainer)
        self.watch = Watch(
            self.folder, comm.get_rank(), comm.get_world_size(), self.limits.stall_timeout
        )
        model = _unwrapped(getattr(inner, "model", None))
        seeing = model.register_forward_pre_hook(self._see) if model is not None else None
        inner.guard = self
        try:
            with self.watch.watching():
                yield
        except FloatingPointError as error:  # of Detectron2's proposals, too
            raise self.diverged(_names(error)) from error
        except Exception as error:
            said = lost_another(error)
            if model is not None:
                said = said or out_of_memory(error, lambda: self._use(inner), self.keys.memory)
            if said is None:
                raise
            raise said from error
        finally:
            del inner.guard
            if seeing is not None:
                seeing.remove()

    def _see(self, model, inputs: tuple) -> None:
        """What the model is given, in training and evaluation."""
        batch = inputs[0] if inputs else None
        records = [r for r in batch if isinstance(r, dict)] if isinstance(batch, list) else []
        self.pictures = [_picture(record) for record in records]
        if not model.training:
            self.watch.moves(f"evaluates, after step {self.trainer.iter + 1}")

    def _use(self, trainer: SimpleTrainer) -> Use:
        groups = trainer.optimizer.param_groups
        loader = trainer.data_loader
        return Use(
            step=self.trainer.iter + 1,
            pictures=self.pictures,
            model=trainer.model,
            optimizer_copies=max(map(copies_of_state, groups), default=0),
            batch=_batch_of(loader) * comm.get_world_size(),
            amp=isinstance(trainer, AMPTrainer) if torch.cuda.is_available() else None,
            workers=getattr(loader, "num_workers", 0),
        )

    # ---- steps
    def before_train(self) -> None:
        self.left_out = LeavingOut(
            loader_of(self.trainer), self.folder, comm.get_rank(), comm.get_world_size(), self.limits.skip_share
        )  # fmt: skip

    def before_step(self) -> None:
        self.watch.moves(f"reads the pictures of step {self.trainer.iter + 1}, or computes it,")

    def after_step(self) -> None:
        self.watch.moves(f"evaluates or saves after step {self.trainer.iter + 1}")
        self.left_out.after_step(self.trainer.iter + 1, _batch_of(loader_of(self.trainer)))

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # else it failed, and others may be gone
            self.left_out.look()
        if said := self.left_out.summary():
            LOGGER.warning(said)

    def takes(self, losses: dict, model: torch.nn.Module) -> bool:
        """Whether a step's losses are finite, in every process.

        Raises:
            UserError: they were not for as many steps as may be, or the weights are not.
        """
        wrong = [name for name, value in losses.items() if not finite(value)]
        device = next((v.device for v in losses.values() if torch.is_tensor(v)), "cpu")
        if not any_process(bool(wrong), device):
            self.bad_steps = 0
            return True
        self.bad_steps += 1
        if self.bad_steps >= self.limits.not_finite or not_finite_in(model.state_dict()):
            raise self.diverged(wrong)
        LOGGER.warning(
            "%s is infinite or NaN in step %d, whose update is left out; the run stops after %d such steps in "
            "a row. %s",
            ", ".join(wrong) or "the loss of another process",
            self.trainer.iter + 1,
            self.limits.not_finite,
            files_of(self.pictures),
        )
        return False

    def diverged(self, names: list[str]) -> UserError:
        """The end of a run whose losses are no numbers any more."""
        last = last_sound(self.folder, iteration_of, _weights_of)
        before = f" and the {self.bad_steps - 1} before it" if self.bad_steps > 1 else ""
        return UserError(
            f"training diverged in step {self.trainer.iter + 1}{before}: {', '.join(names) or 'what it predicts'} "
            f"is infinite or NaN. {files_of(self.pictures)}Lower the learning rate ({self.keys.learning_rate}=..) "
            f"or lengthen its warm-up ({self.keys.warm_up}), and check the data; "
            + (
                f"{last} is sound, --resume goes on from it"
                if last
                else "nothing was saved before it"
            )
        )


def _folder_of(trainer: TrainerBase) -> Path:
    """Where a trainer saves; else the working directory."""
    savers = [trainer, *trainer._hooks]
    folders = [getattr(getattr(saver, "checkpointer", None), "save_dir", "") for saver in savers]
    return Path(next(filter(None, folders), "."))


def _unwrapped(model: torch.nn.Module | None) -> torch.nn.Module | None:
    return model.module if isinstance(model, DistributedDataParallel) else model


def _picture(record: dict) -> Picture:
    shape = getattr(record.get("image"), "shape", ())
    height, width = shape[-2:] if len(shape) > 1 else (0, 0)
    return Picture(str(record.get("file_name", "")), int(width), int(height))


def _batch_of(loader) -> int:
    return getattr(getattr(loader, "batch_sampler", None), "batch_size", None) or 1


def _names(error: FloatingPointError) -> list[str]:
    """The losses that Detectron2's own error names."""
    return re.findall(r"'(\w+)': (?:np\.float64\()?-?(?:nan|inf)", str(error))


def _weights_of(file: Path) -> dict:
    content = read_checkpoint(file)
    return content.get("model", content)


# ---- in the place of Detectron2's ----------------------------------------------------------------
def _guarded(plain):
    @functools.wraps(plain)
    def train(self, start_iter: int, max_iter: int):
        guard = next((hook for hook in self._hooks if isinstance(hook, Guard)), None)
        if guard is None:
            self.register_hooks([guard := Guard()])
        self._hooks.remove(guard)
        self._hooks.insert(0, guard)
        self.iter = start_iter
        with guard.watching():
            return plain(self, start_iter, max_iter)

    return train


def _leaving_out(plain):
    """SimpleTrainer._write_metrics, which comes between a step's gradients and its update."""

    @functools.wraps(plain)
    def _write_metrics(self, loss_dict, data_time, *args, **kwargs) -> None:
        guard = self.__dict__.get("guard")
        if guard is None or self.async_write_metrics or guard.takes(loss_dict, self.model):
            plain(self, loss_dict, data_time, *args, **kwargs)
        elif not isinstance(self, AMPTrainer):  # whose scaler leaves the update out by itself
            self.optimizer.zero_grad(set_to_none=True)

    return _write_metrics


def _saving_what_is_sound(plain):
    """Checkpointer.save, which refuses weights that are no numbers."""

    @functools.wraps(plain)
    def save(self, name: str, **kwargs) -> None:
        if wrong := not_finite_in(self.model.state_dict()):
            guard = _guard_of(self)
            raise (
                guard.diverged([wrong])
                if guard
                else UserError(f"{wrong} is infinite or NaN: {name} is not saved")
            )
        plain(self, name, **kwargs)

    return save


def _not_amid_bad_steps(plain):
    """PeriodicCheckpointer.step, which saves, and deletes older ones, once a loss is finite again."""

    @functools.wraps(plain)
    def step(self, iteration: int, **kwargs) -> None:
        guard = _guard_of(self.checkpointer)
        if not guard or not guard.bad_steps or iteration >= guard.trainer.max_iter - 1:
            plain(self, iteration, **kwargs)

    return step


def _guard_of(checkpointer: Checkpointer) -> Guard | None:
    """The guard of the training that saves by it, while it runs."""
    trainer = checkpointer.checkpointables.get("trainer")
    return getattr(getattr(trainer, "_trainer", trainer), "guard", None)


GUARDS = Patches(
    [
        patched_attribute(TrainerBase, "train", _guarded),
        patched_attribute(SimpleTrainer, "_write_metrics", _leaving_out),
        patched_attribute(Checkpointer, "save", _saving_what_is_sound),
        patched_attribute(PeriodicCheckpointer, "step", _not_amid_bad_steps),
    ]
)
