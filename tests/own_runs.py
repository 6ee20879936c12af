"""pretrain and finetune run in this process: their status, what they print, runs that stop or break on purpose."""

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from convnext_backbones.adapters.openmmlab import own_runs
from convnext_backbones.cli import run


def status_of(command: str, *arguments) -> int:
    """The command's exit status."""
    try:
        return run(command, list(map(str, arguments)))
    except SystemExit as end:
        return end.code


@contextlib.contextmanager
def printed_lines() -> Iterator[list[str]]:
    """The lines that are printed inside."""
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *a, **k: lines.append(" ".join(map(str, a))))
        yield lines


@contextlib.contextmanager
def stopped_in(step: int) -> Iterator[None]:
    """A run inside is told to stop by SIGTERM behind this step, counted from 0."""
    plain = own_runs.Throughput.after_train_iter

    def stopping(self, runner, *args, **kwargs):
        plain(self, runner, *args, **kwargs)
        if runner.iter == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_runs.Throughput, "after_train_iter", stopping)
        yield


def break_loss(monkeypatch, model: type, sound: int) -> None:
    """The loss of such models is NaN once it was computed so often."""
    plain, calls = model.parse_losses, []

    def broken(self, losses):
        calls.append(None)
        factor = float("nan") if len(calls) > sound else 1.0
        return plain(self, {name: loss * factor for name, loss in losses.items()})

    monkeypatch.setattr(model, "parse_losses", broken)
