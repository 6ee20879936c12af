"""--tracker by Detectron2's own writers: scalars and pictures come out of its event storage, in which a hook
puts validation pictures."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from detectron2.engine import HookBase, default_writers
from detectron2.utils import comm
from detectron2.utils.events import EventWriter, TensorboardXWriter, get_event_storage

from ...runs import trackers
from ...runs.randomness import seeded_by
from ...runs.visualize import side_by_side
from .configs import Run

AXIS = "iteration"  # of Weights & Biases


def writers(run: Run, start: int, *, resume: bool) -> list[EventWriter]:
    """Detectron2's own, and those of the run's trackers. What TensorBoard has of steps from `start` on is of a
    run that was cut off, or of another one in the same folder: it passes over it."""
    settings = run.settings
    folder = Path(settings.output_dir)
    # Detectron2's set-up has written it; a run without that, and without trackers, needs none
    text = (folder / "config.yaml").read_text() if run.trackers else ""
    found = []
    if "wandb" in run.trackers:
        with trackers.refused(run.trackers):
            found.append(WandbWriter(trackers.wandb_options(folder, resume=resume), text))
    if "mlflow" in run.trackers:
        trackers.start_mlflow(folder, resume=resume)
        found.append(MLflowWriter(text))
    # last, as it clears the pictures from the storage
    board = TensorBoard(str(folder), purge_step=start)
    if "tensorboard" in run.trackers:
        board.add_config(text, start)
    others = default_writers(settings.output_dir, settings.max_iter)
    return [*(w for w in others if not isinstance(w, TensorboardXWriter)), *found, board]


class TensorBoard(TensorboardXWriter):
    """Detectron2's, which takes a config, too."""

    def add_config(self, text: str, step: int) -> None:
        self._writer.add_text(
            "config", "\n".join(f"    {line}" for line in text.splitlines()), step
        )


class Storage(EventWriter):
    """What came into the event storage since the last time: scalars by iteration, and pictures."""

    window = 20  # iterations of the median, as of Detectron2's writers
    written = -1  # the last iteration

    def write(self) -> None:
        storage = get_event_storage()
        new: dict[int, dict[str, float]] = {}
        for name, (value, at) in storage.latest_with_smoothing_hint(self.window).items():
            if at > self.written:
                new.setdefault(at, {})[name] = value
        for at, scalars in sorted(new.items()):
            self.add_scalars(scalars, at)
            self.written = at
        for name, picture, at in storage._vis_data:  # as Detectron2's own writers read it
            self.add_picture(name, np.transpose(picture, (1, 2, 0)), at)

    def add_scalars(self, scalars: dict[str, float], iteration: int) -> None:
        raise NotImplementedError

    def add_picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        """picture: (H, W, 3) uint8 RGB."""
        raise NotImplementedError


class WandbWriter(Storage):
    """Weights & Biases: a run by wandb.init's options."""

    def __init__(self, options: dict, config: str):
        import wandb

        self._wandb = wandb
        wandb.init(**options)
        wandb.config.update({"config": config}, allow_val_change=True)
        wandb.define_metric("*", step_metric=AXIS)

    def add_scalars(self, scalars: dict[str, float], iteration: int) -> None:
        self._wandb.log({**scalars, AXIS: iteration})

    def add_picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        self._wandb.log({name: self._wandb.Image(picture), AXIS: iteration})

    def close(self) -> None:
        self._wandb.finish()


class MLflowWriter(Storage):
    """MLflow: the run that trackers.start_mlflow has started."""

    def __init__(self, config: str):
        import mlflow

        self._mlflow = mlflow
        mlflow.log_text(config, "config.yaml")

    def add_scalars(self, scalars: dict[str, float], iteration: int) -> None:
        self._mlflow.log_metrics(trackers.mlflow_names(scalars), step=iteration)

    def add_picture(self, name: str, picture: np.ndarray, iteration: int) -> None:
        self._mlflow.log_image(picture, f"{name}/{iteration:07d}.png")

    def close(self) -> None:
        self._mlflow.end_run()


class Pictures(HookBase):
    """Puts validation pictures into the storage after each evaluation."""

    def __init__(self, period: int, rows: Callable[[], Iterable[Sequence[np.ndarray]]]):
        """period: of evaluations, in iterations; 0: at the end alone. rows: pictures by the weights of now."""
        self.period, self.rows = period, rows

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if self.period > 0 and done % self.period == 0 and done < self.trainer.max_iter:
            self._draw()

    def after_train(self) -> None:
        if self.trainer.iter >= self.trainer.max_iter:  # of a run that failed there are none
            self._draw()

    def _draw(self) -> None:
        if not comm.is_main_process():
            return
        with seeded_by(0):  # the run draws what it would have drawn
            for k, row in enumerate(self.rows()):
                picture = side_by_side(row).transpose(2, 0, 1)
                self.trainer.storage.put_image(f"{trackers.PICTURES}/{k}", picture)
