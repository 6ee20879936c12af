"""--tracker in configs and runs of MMEngine. tests/cli/test_tools.py has a whole run; tests/runs/test_trackers.py
what all hosts share."""

import sys
import types
from pathlib import Path

import events
import numpy as np
import pytest

pytest.importorskip("mmengine")

from mmengine.config import Config
from mmengine.registry import VISBACKENDS
from mmengine.visualization import Visualizer

from convnext_backbones.adapters.openmmlab import trackers
from convnext_backbones.errors import UserError
from convnext_backbones.runs import trackers as shared


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(shared.importlib.util, "find_spec", lambda name: True)


def config(folder: Path, **changes) -> Config:
    visualizer = dict(type="Visualizer", vis_backends=[dict(type="LocalVisBackend")], name="v")
    return Config(dict(work_dir=str(folder), visualizer=visualizer, train_cfg=dict(a=1), **changes))


def kinds(cfg: Config) -> list[str]:
    return [backend["type"] for backend in cfg.visualizer.vis_backends]


def test_trackers_stand_beside_the_configs_own_backends(installed, tmp_path):
    cfg = config(tmp_path)
    trackers.take_trackers(cfg, ["mlflow", "tensorboard", "mlflow"])
    assert kinds(cfg) == ["LocalVisBackend", "NamingMLflowVisBackend", "TensorboardVisBackend"]
    assert trackers.tracked(cfg) == ["tensorboard", "mlflow"]
    trackers.leave_trackers(cfg)
    assert kinds(cfg) == ["LocalVisBackend"]


def test_a_config_without_a_visualizer_gets_mmengines(installed, tmp_path):
    cfg = Config(dict(work_dir=str(tmp_path)))
    trackers.take_trackers(cfg, ["tensorboard"])
    assert kinds(cfg) == ["LocalVisBackend", "TensorboardVisBackend"]


def test_a_run_that_goes_on_from_its_own_config_keeps_its_trackers_where_it_lies(
    installed, tmp_path
):
    cfg = config(tmp_path / "before")
    trackers.take_trackers(cfg, ["tensorboard"])
    cfg.work_dir = str(tmp_path / "moved")
    trackers.take_trackers(cfg, [])
    assert trackers.tracked(cfg) == ["tensorboard"]
    assert cfg.visualizer.vis_backends[-1].save_dir == str(tmp_path / "moved/tensorboard")


def test_a_users_own_backend_stays_as_it_is(installed, tmp_path):
    own = dict(type="TensorboardVisBackend", save_dir="elsewhere")
    cfg = config(tmp_path)
    cfg.visualizer.vis_backends = [own]
    trackers.take_trackers(cfg, [])
    assert cfg.visualizer.vis_backends == [own]
    trackers.leave_trackers(cfg)
    assert cfg.visualizer.vis_backends == [own]


def test_what_is_not_installed_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(shared.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install wandb"):
        trackers.take_trackers(config(tmp_path), ["wandb"])


def test_series_of_wandb_and_mlflow_are_named_before_the_backends_are_made(
    installed, tmp_path, monkeypatch
):
    monkeypatch.setattr(shared, "start_mlflow", lambda folder, resume: None)
    cfg = config(tmp_path)
    trackers.take_trackers(cfg, ["wandb", "mlflow"])
    trackers.begin(cfg, resume=False)
    wandb, mlflow = cfg.visualizer.vis_backends[1:]
    assert mlflow.tracked_config_keys == ["train_cfg"]
    first = wandb.init_kwargs["id"]
    trackers.begin(cfg, resume=True)
    assert wandb.init_kwargs["id"] == first
    assert mlflow.tracked_config_keys == []  # MLflow takes no other value of a parameter


def test_mlflow_is_given_names_that_it_takes(monkeypatch, tmp_path):
    told = []
    module = types.ModuleType("mlflow")
    module.log_metrics = lambda scalars, step: told.append((scalars, step))
    backend = VISBACKENDS.build(dict(type="NamingMLflowVisBackend", save_dir=str(tmp_path)))
    backend._mlflow, backend._env_initialized = module, True
    backend.add_scalars({"IoU-road (%)": 1.0}, step=3)
    backend.add_scalar("mIoU", 2.0, step=4)
    assert told == [({"IoU-road": 1.0}, 3), ({"mIoU": 2.0}, 4)]
    assert "mlflow" not in sys.modules or sys.modules["mlflow"] is not module


# ---- TensorBoard ---------------------------------------------------------------------------------
def session(folder: Path, start: int, end: int, *, resume: bool) -> None:
    """Steps from `start` on, as a runner logs them, and pictures after the last."""
    pytest.importorskip("tensorboard")
    cfg = config(folder)
    trackers.take_trackers(cfg, ["tensorboard"])
    trackers.begin(cfg, resume=resume)
    visualizer = Visualizer(vis_backends=[dict(cfg.visualizer.vis_backends[-1])])
    visualizer.add_config(cfg)
    runner = types.SimpleNamespace(visualizer=visualizer, iter=start)
    row = [np.zeros((4, 6, 3), np.uint8)] * 3
    hook = trackers.Tracking(trackers.tracked(cfg), lambda runner, chosen: [row])
    hook.before_train(runner)
    for step in range(start, end):
        visualizer.add_scalars(dict(loss=1.0), step=step + 1)
    runner.iter = end
    hook.after_val_epoch(runner)
    visualizer.close()


def test_steps_that_a_cut_off_run_takes_again_are_there_once(tmp_path):
    session(tmp_path, 0, 5, resume=False)
    session(tmp_path, 3, 6, resume=True)
    found = events.shown(tmp_path / "tensorboard")
    assert found.scalars["loss"] == [1, 2, 3, 4, 5, 6]
    assert found.pictures == {"validation/0": [6]}
    assert "train_cfg" in found.texts["config/text_summary"]


def test_another_run_in_the_same_folder_begins_a_new_series(tmp_path):
    session(tmp_path, 0, 5, resume=False)
    session(tmp_path, 0, 2, resume=False)
    assert events.shown(tmp_path / "tensorboard").scalars["loss"] == [1, 2]
