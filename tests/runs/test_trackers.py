"""Trackers beside a run: what is asked for, whose series it is, and what wandb and MLflow are told (stubs of
which stand for them here)."""

import json
import sys
import types

import numpy as np
import pytest

from convnext_backbones.cli import train
from convnext_backbones.errors import UserError
from convnext_backbones.runs import trackers
from convnext_backbones.runs.visualize import side_by_side


class RefusedError(Exception):
    """As wandb's and MLflow's own errors."""


@pytest.fixture
def wandb(monkeypatch):
    """A module that notes what it is told."""
    module = types.ModuleType("wandb")
    module.told, module.config = (
        [],
        types.SimpleNamespace(update=lambda *a, **k: module.told.append(("config", a))),
    )
    module.init = lambda **options: module.told.append(("init", options))
    module.define_metric = lambda *a, **k: module.told.append(("define", a, k))
    module.log = lambda scalars, **k: module.told.append(("log", scalars))
    module.Image = lambda picture: picture.shape
    module.finish = lambda: module.told.append(("finish",))
    module.errors = types.SimpleNamespace(Error=RefusedError)
    module.__spec__ = types.SimpleNamespace(name="wandb")
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


@pytest.fixture
def mlflow(monkeypatch):
    module = types.ModuleType("mlflow")
    module.told, module.names = [], set()
    for name in (
        "set_tracking_uri",
        "set_experiment",
        "log_text",
        "log_metrics",
        "log_image",
        "end_run",
    ):
        setattr(module, name, lambda *a, name=name, **k: module.told.append((name, *a, k)))
    module.get_experiment_by_name = lambda name: name if name in module.names else None
    module.create_experiment = lambda name, artifact_location: module.names.add(name)

    def start_run(run_id, run_name):
        module.told.append(("start_run", run_id, run_name))
        return types.SimpleNamespace(
            info=types.SimpleNamespace(run_id=run_id or f"run{len(module.told)}")
        )

    module.start_run = start_run
    module.exceptions = types.SimpleNamespace(MlflowException=RefusedError)
    module.__spec__ = types.SimpleNamespace(name="mlflow")
    monkeypatch.setitem(sys.modules, "mlflow", module)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    return module


def test_a_tracker_that_is_not_installed_is_told_with_what_to_install(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"--tracker wandb needs the package wandb.*: pip install wandb mlflow"
    ):
        trackers.wanted(["wandb", "mlflow", "wandb"])
    assert trackers.wanted([]) == ()


def test_one_that_is_given_twice_counts_once_and_another_name_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: True)
    assert trackers.wanted(["mlflow", "tensorboard", "mlflow"]) == ("mlflow", "tensorboard")
    with pytest.raises(SystemExit):
        train.parser().parse_args(["a.py", "--tracker", "comet"])
    assert "'tensorboard', 'wandb', 'mlflow'" in capsys.readouterr().err


def test_a_run_that_goes_on_writes_into_its_own_series_and_a_new_one_does_not(tmp_path, wandb):
    work_dir = tmp_path / "my_run"
    first = trackers.wandb_options(work_dir, resume=False)
    assert (first["name"], first["project"], first["resume"]) == (
        "my_run",
        "convnext_backbones",
        "allow",
    )
    assert trackers.wandb_options(work_dir, resume=True) == first
    assert trackers.wandb_options(work_dir, resume=False)["id"] != first["id"]


def test_a_resumed_run_without_notes_begins_a_series(tmp_path, wandb):
    assert trackers.wandb_options(tmp_path, resume=True)["id"]


def test_mlflow_goes_on_with_its_run_in_a_database_beside_the_work_directory(tmp_path, mlflow):
    for resume in (False, True, False):
        trackers.start_mlflow(tmp_path / "my_run", resume=resume)
    assert ("set_tracking_uri", f"sqlite:///{tmp_path / 'mlflow.db'}", {}) in mlflow.told
    first, again, new = (told[1:] for told in mlflow.told if told[0] == "start_run")
    assert first == new == (None, "my_run")
    assert again == (json.loads((tmp_path / "my_run/trackers.json").read_text()) and "run3", None)


def test_a_users_server_of_mlflow_is_taken(tmp_path, mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.local")
    assert trackers.mlflow_place(tmp_path) == ("http://mlflow.local", None)


def test_what_wandb_and_mlflow_refuse_is_a_sentence(tmp_path, wandb, mlflow):
    def refuse(*_, **__):
        raise RefusedError("no such thing")

    with (
        pytest.raises(UserError, match=r"--tracker wandb: no such thing; .*WANDB_MODE=offline"),
        trackers.refused(["wandb"]),
    ):
        refuse()
    mlflow.start_run = refuse
    with pytest.raises(
        UserError, match=r"--tracker mlflow: sqlite.*: no such thing; set MLFLOW_TRACKING_URI"
    ):
        trackers.start_mlflow(tmp_path, resume=False)


def test_names_are_such_that_mlflow_takes_them():
    scalars = {"IoU-road (%)": 1.0, "coco/bbox_mAP": 2.0, "AP-a&b": 3.0}
    assert trackers.mlflow_names(scalars) == {"IoU-road": 1.0, "coco/bbox_mAP": 2.0, "AP-ab": 3.0}


def test_pictures_of_a_row_stand_side_by_side():
    row = [np.zeros((4, 3, 3), np.uint8), np.zeros((6, 5, 3), np.uint8)]
    joined = side_by_side(row)
    assert joined.shape == (6, 3 + 5 + 8, 3)
    assert (joined[4:, :3] == 255).all()
    assert side_by_side([np.zeros((500, 1000, 3), np.uint8)] * 2).shape == (240, 2 * 484, 3)


# ---- Detectron2's writers ------------------------------------------------------------------------
def test_detectron2s_scalars_and_pictures_reach_wandb_and_mlflow(wandb, mlflow):
    pytest.importorskip("detectron2")
    from detectron2.utils.events import EventStorage

    from convnext_backbones.adapters.detectron2.trackers import MLflowWriter, WandbWriter

    writers = [WandbWriter(dict(id="1"), "a: 1"), MLflowWriter("a: 1")]
    with EventStorage(3) as storage:
        storage.put_scalar("total_loss", 2.0)
        storage.put_image("validation/0", np.zeros((3, 4, 6), np.uint8))
        for writer in writers * 2:  # what is written is not written again
            writer.write()
            storage.clear_images() if writer is writers[-1] else None
        for writer in writers:
            writer.close()
    assert wandb.told[0] == ("init", dict(id="1"))
    logged = [told[1] for told in wandb.told if told[0] == "log"]
    assert logged == [
        {"total_loss": 2.0, "iteration": 3},
        {"validation/0": (4, 6, 3), "iteration": 3},
    ]
    assert wandb.told[-1] == ("finish",)
    assert ("log_text", "a: 1", "config.yaml", {}) in mlflow.told
    assert ("log_metrics", {"total_loss": 2.0}, dict(step=3)) in mlflow.told
    assert [told[2] for told in mlflow.told if told[0] == "log_image"] == [
        "validation/0/0000003.png"
    ]


def test_tensorboard_passes_over_steps_that_a_cut_off_run_takes_again(tmp_path):
    pytest.importorskip("detectron2")
    import events
    from detectron2.utils.events import EventStorage

    from convnext_backbones.adapters.detectron2.trackers import TensorBoard

    for start, end in ((0, 5), (3, 6)):
        writer = TensorBoard(str(tmp_path), purge_step=start)
        with EventStorage(start) as storage:
            for _ in range(start, end):
                storage.put_scalar("total_loss", 1.0)
                writer.write()
                storage.step()
        writer.close()
    assert events.shown(tmp_path).scalars["total_loss"] == [0, 1, 2, 3, 4, 5]
