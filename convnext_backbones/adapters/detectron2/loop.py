"""What a run adds to Detectron2's training loop: hooks that stop it, keep the best, and end it in words."""

import json
import math
from pathlib import Path

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, hooks
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm

from ...console import progress
from ...runs.guards import not_finite_in
from ...runs.interruption import Interruption
from ...runs.whole_files import write_whole, written_whole
from .checkpoints import CLASSES

BEST = "model_best.pth"
EVALUATED = (
    "evaluated.json"  # which metrics evaluators gave, and the best value: Evaluation's notes
)
# What a checkpoint is the best by: the first of these that the evaluator gives, else its first metric.
MAIN_METRICS = ("segm/AP", "bbox/AP", "sem_seg/mIoU", "panoptic_seg/PQ")


class Stopping(HookBase):
    """Saves and ends a run after the step in which Ctrl-C or SIGTERM came, in all its processes."""

    def __init__(self, interruption: Interruption, checkpointer: DetectionCheckpointer):
        self.interruption, self.checkpointer = interruption, checkpointer

    def after_step(self) -> None:
        signal = self.interruption.signal
        if (
            comm.get_world_size() > 1
        ):  # all stop after the same step, or they would wait for each other
            signal = next(filter(None, comm.all_gather(signal)), None)
            self.interruption.signal = signal
        if signal:
            self.stop()

    def stop(self) -> None:
        """Save what is reached, and raise Stopped."""
        at, done = self.trainer.iter, self.trainer.iter >= self.trainer.max_iter - 1
        name = "model_final" if done else f"model_{at:07d}"
        self.checkpointer.save(name, iteration=min(at, self.trainer.max_iter - 1))
        file = Path(self.checkpointer.save_dir) / f"{name}.pth"
        raise self.interruption.stopped(
            f"stopped after step {min(at + 1, self.trainer.max_iter)} of {self.trainer.max_iter}: {file} "
            "is saved; the same command with --resume goes on from it"
        )


class Evaluation(hooks.EvalHook):
    """Detectron2's EvalHook that keeps the best weights as model_best.pth, without the optimizer, and
    notes which of a log's numbers are metrics. It stops between two pictures, and a run that failed is
    not evaluated."""

    def __init__(
        self, period: int, evaluate, model: torch.nn.Module, folder: Path, stopping: Stopping
    ):
        super().__init__(period, self._evaluate)
        self._results_of, self._model, self._folder = evaluate, model, folder
        self._stopping = stopping

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # the loop counts up once more at its end
            super().after_train()

    def _evaluate(self) -> dict:
        alone = comm.get_world_size() == 1  # several would wait for the one that stopped
        watch = self._model.register_forward_pre_hook(self._stop_if_asked) if alone else None
        try:
            results = self._results_of()
        finally:
            if watch:
                watch.remove()
        if results and comm.is_main_process():
            self._note(flatten_results_dict(results))
        return results

    def _stop_if_asked(self, *_) -> None:
        if self._stopping.interruption.signal:
            self._stopping.stop()

    def _note(self, metrics: dict[str, float]) -> None:
        notes = evaluated(self._folder)
        names = list(dict.fromkeys([*notes.get("metrics", []), *metrics]))
        best = notes.get("best")
        main = main_metric(metrics)
        better = main and (best is None or best["metric"] != main or metrics[main] > best["value"])
        if better and not not_finite_in(self._model.state_dict()):
            best = dict(metric=main, value=metrics[main], iteration=self.trainer.iter)
            classes = self._stopping.checkpointer.checkpointables.get(CLASSES)
            named = {CLASSES: classes.state_dict()} if classes else {}
            with written_whole(self._folder / BEST) as file:
                torch.save({"model": self._model.state_dict(), **named, **best}, file)
        write_whole(self._folder / EVALUATED, json.dumps(dict(metrics=names, best=best)))


class Progress(HookBase):
    """A bar of the steps, between the log's lines."""

    def before_train(self) -> None:
        self.steps = progress(
            desc="training",
            total=self.trainer.max_iter,
            initial=self.trainer.start_iter,
            unit="step",
        )

    def after_step(self) -> None:
        self.steps.update()

    def after_train(self) -> None:
        self.steps.close()


def evaluated(folder: Path) -> dict:
    """Evaluation's notes in a work directory; {} where there are none."""
    file = folder / EVALUATED
    return json.loads(file.read_text()) if file.exists() else {}


def best_of(folder: Path) -> Path | None:
    """A run's best checkpoint, if one was evaluated while it trained."""
    best = evaluated(folder).get("best") and folder / BEST
    return best if best and best.exists() else None


def main_metric(metrics: dict[str, float]) -> str | None:
    """The one by which a checkpoint is the best; None where it is no number."""
    name = next(
        (name for wanted in MAIN_METRICS for name in metrics if f"/{name}".endswith(f"/{wanted}")),
        next(iter(metrics), None),
    )
    return name if name and math.isfinite(metrics[name]) else None
