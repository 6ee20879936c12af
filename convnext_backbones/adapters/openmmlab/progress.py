"""How far a run is, between its log's lines, and what its validations found."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...console import progress
from ...runs.report import in_line


class Progress(Hook):
    """A bar of the steps, and one of the pictures that are validated or tested."""

    priority = "LOW"  # before the best checkpoint is named

    def __init__(self):
        self.steps = self.pictures = None

    def before_train(self, runner: Runner) -> None:
        self.steps = progress(
            desc="training", total=runner.max_iters, initial=runner.iter, unit="step"
        )

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.steps.update()

    def after_train(self, runner) -> None:
        self.steps.close()

    def before_val_epoch(self, runner: Runner) -> None:
        self.pictures = progress(desc="validating", total=len(runner.val_dataloader), unit="batch")

    def before_test_epoch(self, runner: Runner) -> None:
        self.pictures = progress(desc="testing", total=len(runner.test_dataloader), unit="batch")

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        self.pictures.update()

    after_test_iter = after_val_iter

    def after_val_epoch(self, runner, metrics=None) -> None:
        self.pictures.close()
        if told := in_line(metrics or {}):
            runner.logger.info(f"validation: {told}")

    def after_test_epoch(self, runner, metrics=None) -> None:
        self.pictures.close()
