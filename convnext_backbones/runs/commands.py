"""train and test, for any framework that fulfils runs.host.Host.

`args` is the commands' parsed command line (cli/train.py, test.py).
"""

import contextlib
import functools
import importlib
import io
import sys
import time
from argparse import Namespace
from pathlib import Path

import torch

from .. import console
from ..errors import UserError
from . import data_check, preparation, report
from .host import Host
from .results import prediction_rows
from .trained import checkpoint_file
from .visualize import save_grid
from .whole_files import logs_end_quietly

SHOWN = 4  # pictures in predictions.png
SCORE = 0.3  # the least score of an instance in them


# ---- train and test ------------------------------------------------------------------------------
def train(host: Host, args: Namespace) -> None:
    """Train as args.config says, and leave metrics, curves and pictures; or, with --eval-only where the
    framework has that, evaluate the weights that a run would start from."""
    _run(host, args)


def test(host: Host, args: Namespace) -> None:
    """The metrics of args.checkpoint, which fits the config, in a table."""
    _run(host, args)


def _run(host: Host, args: Namespace) -> None:
    host.quiet_warnings()
    config = prepared(host, args)  # wrong input is answered before processes start
    if not _only_evaluates(args):
        data_check.before_training(host, config, goes_on=args.resume)
    host.launch(functools.partial(_work, host.__name__), args, config)


def prepared(host: Host, args: Namespace):
    """The config as it will run here."""
    if _checkpoint(args):
        args.checkpoint = checkpoint_file(args.checkpoint)
    checkpoint, evaluates = _checkpoint(args), _only_evaluates(args)
    config = host.load_config(
        args.config, sample=args.sample, shrink=args.shrink, options=host.overrides(args)
    )
    if checkpoint:
        default = Path(checkpoint).parent / "test"
    else:
        name = Path(args.config).stem + "_sample" * args.sample
        default = host.work_dir(config) or Path(host.WORK_DIRS) / name
    host.set_work_dir(config, Path(args.work_dir or default))
    host.take_options(config, args)
    host.check_data(config, ("test",) if evaluates else ("train", "val"))
    host.fit_to_device(config)
    if args.resume and not host.last_checkpoint(config):
        raise UserError(
            f"nothing to resume: {host.work_dir(config)} holds no checkpoint; leave out --resume"
        )
    preparation.check_writable(host.work_dir(config))
    return config


def _checkpoint(args: Namespace) -> str | None:
    return getattr(args, "checkpoint", None)  # of `test`


def _only_evaluates(args: Namespace) -> bool:
    return bool(_checkpoint(args) or getattr(args, "eval_only", False))


def _work(host_name: str, args: Namespace, config) -> None:
    """What each process does. A process that is started for it finds its framework by name, since no
    module can be sent there, and reads the config for itself."""
    with console.session():  # of a process that was started for it
        console.choose(console.level_in(args))
        _run_here(importlib.import_module(host_name), args, config)


def _run_here(host: Host, args: Namespace, config) -> None:
    if config is None:
        host.quiet_warnings()
        console.mute()  # said where the command was called
        with contextlib.redirect_stdout(io.StringIO()):
            config = prepared(host, args)
        console.mute(False)
    if not host.is_main_process():
        console.mute()
    host.set_up(config, args)
    if _only_evaluates(args):
        checkpoint = _checkpoint(args)
        if not checkpoint:
            last = host.last_checkpoint(config) if args.resume else None
            checkpoint = str(last or host.initial_weights(config))
        metrics = host.evaluate(config, checkpoint)
        if host.is_main_process():
            report.print_metrics(report.metrics_of(metrics), checkpoint)
    else:
        started = time.monotonic()
        with logs_end_quietly(getattr(args, "debug", False)):
            trained = host.train(config, resume=args.resume)
        if host.is_main_process():
            finish(host, config, trained, time.monotonic() - started)
    leave_group()


def leave_group() -> None:
    """Wait for the other processes of a group, and end this one's part in it.

    A process that goes straight on to the interpreter's end can be aborted by gloo's threads, which may
    still hold tensors of the last exchange; a run that succeeded would then be reported as failed.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def finish(host: Host, config, trained, seconds: float) -> None:
    """The metrics in one table, the curves, some predictions and the page of a run that took so many seconds;
    name the files and what comes next."""
    work_dir = host.work_dir(config)
    training, validation = report.scalars(host.read_log(work_dir))
    if validation:
        report.print_metrics(report.metrics_of(validation[-1]), "last validation")
    curves = report.save_curves(training, validation, work_dir / "curves.png")
    if curves:
        print(f"curves:      {curves}")
    try:
        rows = prediction_rows(host, host.examples(config, trained, SHOWN), SCORE)
    except UserError as error:
        rows = []
        print(f"predictions: none, as {error}")
    if rows:
        titles = ("picture", "ground truth", "prediction")
        print(f"predictions: {save_grid(rows, titles, work_dir / 'predictions.png')}")
    print(f"report:      {_page(host, config, trained, seconds)}")
    checkpoint, own = host.last_checkpoint(config), host.own_config(config)
    print(f"checkpoint:  {checkpoint}")
    if best := host.best_checkpoint(config):
        print(f"best:        {best}")
        checkpoint = best
    print(f"evaluate:    {called('test')} {own} {checkpoint}")
    print(f"predict:     {called('predict')} {own} {checkpoint} IMAGE_OR_FOLDER --out DIR")


def _page(host: Host, config, trained, seconds: float) -> str:
    """Where the page is, or why there is none: the training has succeeded without it."""
    try:
        from .page.at_end import write_page  # here: only a training needs it

        return str(write_page(host, config, trained, score=SCORE, seconds=seconds))
    except UserError as error:
        return f"none, as {error}"
    except Exception as error:
        return (
            f"none, for a fault of ours or of a library ({type(error).__name__}: {error}); the run is whole. "
            f"{called('report')} {host.work_dir(config)} tries again"
        )


# ---- words ---------------------------------------------------------------------------------------
OTHER_FILES = {  # of tools/, not named as the commands that they are
    "convert": "convert_checkpoint",
    "check-weights": "check_pretrained",
    "sample-data": "make_sample_data",
}


def called(command: str) -> str:
    """How the user calls a command from where this one was called: by its file in a clone's tools/, or
    by the installed program's name."""
    script = Path(sys.argv[0])
    if script.suffix == ".py" and script.parent.name == "tools":
        name = OTHER_FILES.get(command, command.replace("-", "_"))
        return f"python {script.with_name(name + '.py')}"
    return f"convnext-backbones {command}"
