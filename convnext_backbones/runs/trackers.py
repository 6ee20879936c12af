"""TensorBoard, Weights & Biases and MLflow beside a run: what they need, and where a run's series goes on.

The frameworks' own writers fill them (adapters/openmmlab/trackers.py, adapters/detectron2/trackers.py).
"""

import contextlib
import importlib.util
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import UserError

TRACKERS = ("tensorboard", "wandb", "mlflow")  # each the name of its package, too
SHOWN = 4  # validation pictures, after each validation
SCORE = 0.3  # the least score of an instance in them
PICTURES = "validation"  # what they are called
PROJECT = "convnext_backbones"  # in wandb and MLflow, where the user's environment names none
NOTES = "trackers.json"  # in the work directory: which series is this run's


def wanted(names: Sequence[str]) -> tuple[str, ...]:
    """The trackers, each once.

    Raises:
        UserError: one is not installed.
    """
    names = tuple(dict.fromkeys(names))
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"--tracker {missing[0]} needs the package {missing[0]}, which is not installed: pip install "
            f"{' '.join(missing)}"
        )
    return names


def wandb_options(work_dir: Path, *, resume: bool) -> dict:
    """What wandb.init takes to begin a run, or to go on with this run's. WANDB_PROJECT, WANDB_MODE and the
    other variables of wandb hold."""
    known = _series(work_dir, "wandb", resume=resume)
    return dict(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=work_dir.resolve().name,
        id=known or _note(work_dir, "wandb", uuid.uuid4().hex),
        resume="allow",
        dir=str(work_dir),
    )


@contextlib.contextmanager
def refused(names: Sequence[str]) -> Iterator[None]:
    """A UserError for what wandb refuses when it begins, as where nobody is logged in."""
    if "wandb" not in names:
        yield
        return
    import wandb

    try:
        yield
    except wandb.errors.Error as error:
        raise UserError(
            f"--tracker wandb: {error}; log in with `wandb login`, or set WANDB_MODE=offline and send the run "
            "later with `wandb sync`"
        ) from error


def mlflow_place(work_dir: Path) -> tuple[str, str | None]:
    """MLflow's tracking URI and where its files go: the user's server by MLFLOW_TRACKING_URI, else a
    database beside the work directory, for all runs there."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri, None
    above = work_dir.resolve().parent
    return f"sqlite:///{above / 'mlflow.db'}", (above / "mlflow_artifacts").as_uri()


def experiment() -> str:
    """Of MLflow, to which a run belongs."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)


def start_mlflow(work_dir: Path, *, resume: bool) -> None:
    """Begin a run of MLflow, or go on with this run's: what is logged from now on is its."""
    import mlflow

    uri, files = mlflow_place(work_dir)
    known, name = _series(work_dir, "mlflow", resume=resume), experiment()
    try:
        mlflow.set_tracking_uri(uri)
        if mlflow.get_experiment_by_name(name) is None:
            mlflow.create_experiment(name, artifact_location=files)
        mlflow.set_experiment(name)
        run = mlflow.start_run(run_id=known, run_name=None if known else work_dir.resolve().name)
    except (mlflow.exceptions.MlflowException, OSError) as error:
        raise UserError(
            f"--tracker mlflow: {uri}: {error}; set MLFLOW_TRACKING_URI to a server or a database that MLflow can "
            "write to"
        ) from error
    _note(work_dir, "mlflow", run.info.run_id)


def mlflow_names(scalars: Mapping[str, float]) -> dict[str, float]:
    """Scalars by names that MLflow takes: "IoU-road" for "IoU-road (%)"."""
    return {re.sub(r"[^\w .:/-]", "", name).strip(): value for name, value in scalars.items()}


def _series(work_dir: Path, tracker: str, *, resume: bool) -> str | None:
    return _notes(work_dir).get(tracker) if resume else None


def _note(work_dir: Path, tracker: str, series: str) -> str:
    from .whole_files import write_whole  # here: the command line's parser needs no torch

    work_dir.mkdir(parents=True, exist_ok=True)
    write_whole(work_dir / NOTES, json.dumps({**_notes(work_dir), tracker: series}))
    return series


def _notes(work_dir: Path) -> dict[str, str]:
    file = work_dir / NOTES
    return json.loads(file.read_text()) if file.is_file() else {}
