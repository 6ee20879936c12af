"""What watches over a run of MMEngine from its first step on: a hook that the run adds itself.

Losses and weights that are not finite, validations that say nothing, Ctrl-C and SIGTERM: each ends the run
with a sentence, and none in a checkpoint that is worse than the last one.
"""

import math
import time
from numbers import Real
from pathlib import Path

import torch
from mmengine.dist import is_main_process
from mmengine.hooks import Hook

from ...errors import UserError
from ...runs.interruption import Interruption
from ...runs.whole_files import write_whole
from .config_mistakes import monitors, schedule_notes

TOLERATED = 5  # steps in a row whose loss is not finite


class Guard(Hook):
    """Runs before every other hook, so that none saves or logs what the guard refuses.

    Raises:
        UserError: the loss was not finite for TOLERATED steps, or the weights are not; a validation says
            nothing.
    """

    priority = "HIGHEST"

    def __init__(self):
        self.bad_steps = 0
        self.begun = time.time()

    # ---- before the first step
    def before_train(self, runner) -> None:
        """What the run's length leaves of its schedule, a line each."""
        length = len(runner.train_dataloader)
        epochs = (
            runner.max_epochs if "max_epochs" in runner.cfg.train_cfg else runner.max_iters / length
        )
        for sentence in schedule_notes(runner.cfg, runner.max_iters, epochs):
            runner.logger.warning(sentence)

    # ---- steps
    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        wrong = [
            name for name, value in (outputs or {}).items() if "loss" in name and not _finite(value)
        ]
        self.bad_steps = self.bad_steps + 1 if wrong else 0
        if wrong and (self.bad_steps == TOLERATED or _bad_weights(runner.model.state_dict())):
            raise UserError(
                f"{', '.join(wrong)} is not finite in step {runner.iter + 1}"
                + (f" and the {self.bad_steps - 1} before it" if self.bad_steps > 1 else "")
                + f": the run stops. {self._cause(runner)}"
            )

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        if name := _bad_weights(checkpoint["state_dict"]):
            raise UserError(
                f"{name} is not finite after step {runner.iter}: the run stops and saves nothing. "
                f"{self._cause(runner)}"
            )

    # ---- validation
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

    def _cause(self, runner) -> str:
        rates = [group["lr"] for group in runner.optim_wrapper.param_groups]
        last = Path(runner.work_dir) / "last_checkpoint"
        saved = "Nothing was saved"
        if last.is_file() and last.stat().st_mtime >= self.begun:
            saved = f"The last checkpoint, {last.read_text().strip()}, is sound"
        return (
            f"The learning rate is up to {max(rates):g}: lower optim_wrapper.optimizer.lr, lengthen the "
            f"warm-up, or set optim_wrapper.clip_grad=dict(max_norm=1.0). {saved}"
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
        if self.interruption.signal:
            self._stop(runner, done=runner.iter + 1)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        if self.interruption.signal:
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


def _finite(value) -> bool:
    return bool(torch.isfinite(torch.as_tensor(value)).all())


def _bad_weights(state: dict) -> str | None:
    """The first of a state dict's tensors that holds NaN or infinity."""
    for name, value in state.items():
        if torch.is_tensor(value) and value.is_floating_point() and not _finite(value):
            return name
    return None


def _siblings(metric: str) -> list[str]:
    """The same evaluator's other metric, of boxes beside masks."""
    return [metric.replace("segm", "bbox"), metric.replace("bbox", "segm")]
