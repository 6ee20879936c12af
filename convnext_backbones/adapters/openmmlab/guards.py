"""What watches over a run of MMEngine: hooks, one of which every training gets by importing the adapter.

Losses and weights that are not finite, pictures that cannot be read, a process that stands still, memory that
is full: each ends the run with a sentence, and none in a checkpoint that is worse than the last one.
"""

import contextlib
import functools
import math
from collections.abc import Iterable, Iterator
from numbers import Real
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import all_reduce, get_rank, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import FlexibleRunner, Runner

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
from ...runs.interruption import Interruption
from ...runs.memory import Options, Picture, Use, out_of_memory
from ...runs.patching import Patches, patched_attribute
from ...runs.whole_files import copies_of_state, write_whole
from .checkpoints import read_training_checkpoint
from .config_mistakes import monitors, schedule_notes
from .registration import register
from .saving import iteration_of

DEFAULT = Limits()
OPTIONS = Options(
    batch="train_dataloader.batch_size",
    with_cp="model.backbone.with_cp=True",
    amp="optim_wrapper.type=AmpOptimWrapper",
    size="the scale or crop_size of train_pipeline",
    workers="train_dataloader.num_workers",
)


class Guard(Hook):
    """Runs before every other hook, so that none saves or logs what the guard refuses.

        custom_hooks = [dict(type="Guard", not_finite=5, skip_share=0.01, stall_timeout=1800)]

    Every training has one; a config names it to set its limits (runs.guards.Limits).

    Raises:
        UserError: the loss was not finite for `not_finite` steps in a row, or the weights are not; more than
            `skip_share` of the pictures read are missing or damaged.
    """

    priority = "HIGHEST"

    def __init__(
        self,
        not_finite: int = DEFAULT.not_finite,
        skip_share: float = DEFAULT.skip_share,
        stall_timeout: float = DEFAULT.stall_timeout,
    ):
        self.limits = Limits.of(
            not_finite=not_finite, skip_share=skip_share, stall_timeout=stall_timeout
        )
        self.bad_steps = 0
        self.pictures: list[Picture] = []  # of the batch

    @contextlib.contextmanager
    def watching(self, runner: Runner) -> Iterator[None]:
        """Around a training: ends one that stands still, and says what ended it otherwise."""
        self.watch = Watch(runner.work_dir, get_rank(), get_world_size(), self.limits.stall_timeout)
        with self.watch.watching():
            try:
                yield
            except Exception as error:
                said = lost_another(error)
                if isinstance(getattr(runner, "model", None), torch.nn.Module):
                    use = functools.partial(self._use, runner)
                    said = said or out_of_memory(error, use, OPTIONS)
                if said is None:
                    raise
                raise said from error

    def _use(self, runner: Runner) -> Use:
        loader = getattr(runner.train_loop, "dataloader", None)
        wrapper = runner.optim_wrapper
        groups = getattr(wrapper, "param_groups", [])
        return Use(
            step=runner.iter + 1,
            pictures=self.pictures,
            model=runner.model,
            optimizer_copies=max(map(copies_of_state, groups), default=0),
            batch=getattr(loader, "batch_size", None) or 1,
            amp=isinstance(wrapper, AmpOptimWrapper) if torch.cuda.is_available() else None,
            workers=getattr(loader, "num_workers", 0),
        )

    # ---- steps
    def before_train(self, runner: Runner) -> None:
        self.left_out = LeavingOut(
            runner.train_dataloader, runner.work_dir, get_rank(), get_world_size(), self.limits.skip_share
        )  # fmt: skip

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.pictures = pictures_of(data_batch)
        self.watch.moves(f"computes step {runner.iter + 1}")

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.watch.moves(f"saves, or reads the pictures of step {runner.iter + 2},")
        self._look_at_losses(runner, outputs or {})
        self.left_out.after_step(runner.iter + 1, runner.train_dataloader.batch_size or 1)

    def _look_at_losses(self, runner: Runner, outputs: dict) -> None:
        wrong = [name for name, value in outputs.items() if "loss" in name and not finite(value)]
        device = next((v.device for v in outputs.values() if torch.is_tensor(v)), "cpu")
        if not any_process(bool(wrong), device):
            self.bad_steps = 0
            return
        self.bad_steps += 1
        what = ", ".join(wrong) or "the loss of another process"
        broken = not_finite_in(runner.model.state_dict())
        if broken or self.bad_steps >= self.limits.not_finite:
            raise UserError(
                f"{what} is not finite in step {runner.iter + 1}"
                + (f" and the {self.bad_steps - 1} before it" if self.bad_steps > 1 else "")
                + f": the run stops. {files_of(self.pictures)}{_cause(runner)}"
            )
        runner.logger.warning(
            f"{what} is not finite in step {runner.iter + 1}, whose update is left out; the run stops after "
            f"{self.limits.not_finite} such steps in a row. {files_of(self.pictures)}"
        )

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        self.watch_of(runner).moves("saves a checkpoint")
        if name := not_finite_in(checkpoint["state_dict"]):
            raise UserError(
                f"{name} is not finite after step {runner.iter}: the run stops and saves nothing. "
                f"{files_of(self.pictures)}{_cause(runner)}"
            )

    def after_train(self, runner) -> None:
        self.left_out.look()
        if said := self.left_out.summary():
            runner.logger.warning(said)

    # ---- validation
    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        self.pictures = pictures_of(data_batch)
        self.watch_of(runner).moves(f"validates, after step {runner.iter}")

    def after_val_epoch(self, runner, metrics=None) -> None:
        self.watch_of(runner).moves(f"has validated, after step {runner.iter}")

    def watch_of(self, runner: Runner) -> Watch:
        """The training's; one that watches nothing where a validation runs alone."""
        return self.__dict__.get("watch") or Watch(runner.work_dir, 0, 1, 0)


class Remarks(Hook):
    """What the run's length leaves of its schedule, and validations that say nothing.

    Raises:
        UserError: a validation says nothing.
    """

    priority = "HIGHEST"

    def before_train(self, runner) -> None:
        """A line each."""
        length = len(runner.train_dataloader)
        epochs = (
            runner.max_epochs if "max_epochs" in runner.cfg.train_cfg else runner.max_iters / length
        )
        for sentence in schedule_notes(runner.cfg, runner.max_iters, epochs):
            runner.logger.warning(sentence)

    def after_val_epoch(self, runner, metrics: dict | None = None) -> None:
        values = {k: v for k, v in (metrics or {}).items() if isinstance(v, Real)}
        if metrics is not None:
            for place, name in monitors(runner.cfg):  # a host leaves out what nothing was found for
                if (
                    name not in metrics
                    and name != "auto"
                    and any(k in metrics for k in _siblings(name))
                ):
                    runner.logger.warning(
                        f"the validation gives no {name}, for which {place} waits: nothing was found, and "
                        "it counts as 0"
                    )
                    metrics[name] = 0.0
        headline = [name for name in ("mIoU", "mDice", "mFscore") if name in values]
        if headline and all(math.isnan(values[name]) for name in headline):
            raise UserError(
                f"the validation gives {headline[0]} nan: no picture of the validation data has a labelled pixel "
                "of any class (all are void). Look at its label values: they have to be 0 to classes - 1, or, "
                "with reduce_zero_label=True, 1 to classes"
            )
        found = {name: value for name, value in values.items() if name.endswith("mAP")}
        if found and all(value == -1 for value in found.values()):
            raise UserError(
                f"the validation gives {', '.join(found)} -1: the validation data has no object of any of the "
                "config's classes. Look at val_evaluator.ann_file and metainfo.classes"
            )


class StopOnSignal(Hook):
    """Ends the run after Ctrl-C or SIGTERM, when a checkpoint is saved: after every other hook, so that it
    holds what they did in the step.

    Raises:
        Stopped: what was saved, and how to go on.
    """

    priority = "LOWEST"

    def __init__(self, interruption: Interruption):
        self.interruption = interruption

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if get_world_size() > 1:  # all stop after the same step, or they would wait for each other
            told = torch.tensor(self.interruption.signal or 0)
            all_reduce(told, "max")
            self.interruption.signal = int(told) or None
        if self.interruption.signal:
            self._stop(runner, done=runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.interruption.signal and get_world_size() == 1:
            self._stop(runner, done=runner.iter)

    def _stop(self, runner, done: int) -> None:
        file = Path(runner.work_dir) / f"interrupted_at_iter_{done}.pth"
        meta = dict(epoch=runner.epoch, iter=done)
        runner.save_checkpoint(str(file.parent), file.name, meta=meta, by_epoch=False)
        if is_main_process():
            write_whole(file.with_name("last_checkpoint"), str(file))
        raise self.interruption.stopped(
            f"stopped after step {done}, which is saved in {file}. Go on with the same command and --resume"
        )


register(HOOKS, Guard)


def guard_of(runner: Runner) -> Guard | None:
    """The run's guard."""
    return next((hook for hook in runner.hooks if isinstance(hook, Guard)), None)


def set_limits(cfg: Config, given: dict[str, float]) -> None:
    """Let a config's run have other limits than it says, or than are usual."""
    if not given:
        return
    Limits.of(**given)
    hooks = list(cfg.get("custom_hooks") or [])
    own = [hook for hook in hooks if _is_guard(hook)]
    if not own:
        own = [ConfigDict(type="Guard")]
        hooks += own
    own[0].update(given)
    cfg.custom_hooks = hooks


def limits_in(cfg: Config) -> Limits:
    """The limits of a config's run."""
    own = [hook for hook in cfg.get("custom_hooks") or [] if _is_guard(hook)]
    return Limits.of(**{k: own[0][k] for k in Limits._fields if own and k in own[0]})


def _is_guard(hook) -> bool:
    return getattr(hook, "get", lambda key: None)("type") in ("Guard", Guard)


def pictures_of(batch) -> list[Picture]:
    """The pictures of a batch of any framework on MMEngine: their files and sizes, as far as it tells."""
    if not isinstance(batch, dict):
        return []
    paths = [str(path) for path in _found(batch.get("data_samples"), "img_path")]
    sizes = [tuple(map(int, t.shape[:-3:-1])) for t in _tensors(batch.get("inputs"))]
    count = max(len(paths), len(sizes))
    paths += [""] * (count - len(paths))
    sizes += [(0, 0)] * (count - len(sizes))
    return [Picture(path, *size) for path, size in zip(paths, sizes, strict=True)]


def _found(samples, name: str) -> Iterable:
    """An attribute of the samples, in lists, tuples and dicts of branches."""
    if isinstance(samples, dict):
        samples = list(samples.values())
    if isinstance(samples, list | tuple):
        for sample in samples:
            yield from _found(sample, name)
    elif hasattr(samples, name):
        yield getattr(samples, name)


def _tensors(inputs) -> Iterable[torch.Tensor]:
    """(C, H, W) maps, in lists, tuples, dicts and batches."""
    if isinstance(inputs, dict):
        inputs = list(inputs.values())
    if isinstance(inputs, list | tuple) or (torch.is_tensor(inputs) and inputs.ndim > 3):
        for part in inputs:
            yield from _tensors(part)
    elif torch.is_tensor(inputs) and inputs.ndim == 3:
        yield inputs


def _cause(runner: Runner) -> str:
    groups = getattr(runner.optim_wrapper, "param_groups", [])
    rates = (
        f"The learning rate is up to {max(g['lr'] for g in groups):g}: lower" if groups else "Lower"
    )
    sound = last_sound(runner.work_dir, iteration_of, _weights_of)
    saved = f"{sound} is the last sound checkpoint; --resume goes on from it" if sound else "Nothing was saved"  # fmt: skip
    return (
        f"{rates} optim_wrapper.optimizer.lr, lengthen the warm-up, or set "
        f"optim_wrapper.clip_grad=dict(max_norm=1.0). {saved}"
    )


def _weights_of(file: Path) -> dict:
    content = read_training_checkpoint(str(file))
    return content.get("state_dict", content)


def _siblings(metric: str) -> list[str]:
    """The same evaluator's other metric, of boxes beside masks."""
    return [metric.replace("segm", "bbox"), metric.replace("bbox", "segm")]


# ---- in the place of MMEngine's ------------------------------------------------------------------
def _with_guard(plain):
    @functools.wraps(plain)
    def register_hooks(self, default_hooks=None, custom_hooks=None) -> None:
        plain(self, default_hooks, custom_hooks)
        if guard_of(self) is None:
            self.register_hook(Guard())

    return register_hooks


def _guarded(plain):
    @functools.wraps(plain)
    def train(self):
        guard = guard_of(self)
        if guard is None:  # registered hooks by itself
            return plain(self)
        with guard.watching(self):
            return plain(self)

    return train


def _remembering(plain):
    """OptimWrapper.update_params, which notes whether its losses were finite, without waiting for them."""

    @functools.wraps(plain)
    def update_params(self, loss, *args, **kwargs) -> None:
        now = torch.isfinite(torch.as_tensor(loss).detach()).all()
        before = self.__dict__.get("losses_were_finite")
        self.losses_were_finite = now if before is None else now & before
        plain(self, loss, *args, **kwargs)

    return update_params


def _leaving_out(plain):
    """OptimWrapper.step, which changes nothing after a loss that is not finite; mixed precision's wrapper has
    its own, whose scaler does so."""

    @functools.wraps(plain)
    def step(self, **kwargs) -> None:
        noted = self.__dict__.pop("losses_were_finite", None)
        if noted is None or not any_process(not bool(noted), noted.device):
            plain(self, **kwargs)

    return step


def _not_amid_bad_steps(plain):
    """CheckpointHook's regular save, which waits for a loss that is finite again."""

    @functools.wraps(plain)
    def _save_checkpoint(self, runner) -> None:
        guard = guard_of(runner)
        if guard is None or not guard.bad_steps or runner.iter + 1 >= runner.max_iters:
            plain(self, runner)

    return _save_checkpoint


GUARDS = Patches(
    [
        *(
            patched_attribute(owner, name, make)
            for owner in (Runner, FlexibleRunner)
            for name, make in (("register_hooks", _with_guard), ("train", _guarded))
        ),
        patched_attribute(OptimWrapper, "update_params", _remembering),
        patched_attribute(OptimWrapper, "step", _leaving_out),
        patched_attribute(CheckpointHook, "_save_checkpoint", _not_amid_bad_steps),
    ]
)
