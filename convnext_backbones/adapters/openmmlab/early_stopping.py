"""MMEngine's early stopping, for runs that end and go on."""

from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import EarlyStoppingHook
from mmengine.registry import HOOKS

from ...runs.whole_files import write_whole
from .registration import register

KEY = "convnext_backbones_early_stopping"  # in a checkpoint


class StopEarly(EarlyStoppingHook):
    """EarlyStoppingHook that saves where it stops, between two of CheckpointHook's saves, and goes on counting
    in a run that goes on."""

    def after_val_epoch(self, runner, metrics) -> None:
        super().after_val_epoch(runner, metrics)
        if not runner.train_loop.stop_training:
            return
        file = Path(runner.work_dir) / f"stopped_early_at_iter_{runner.iter}.pth"
        meta = dict(epoch=runner.epoch, iter=runner.iter)
        runner.save_checkpoint(str(file.parent), file.name, meta=meta, by_epoch=False)
        if is_main_process():
            write_whole(file.with_name("last_checkpoint"), str(file))

    def before_save_checkpoint(self, runner, checkpoint: dict) -> None:
        checkpoint[KEY] = {"best": float(self.best_score), "waited": self.wait_count}

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        if runner._resume and (noted := checkpoint.get(KEY)):
            self.best_score, self.wait_count = noted["best"], noted["waited"]


register(HOOKS, StopEarly)
