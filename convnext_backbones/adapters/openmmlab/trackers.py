"""--tracker by MMEngine's own backends of its visualizer: config, losses and metrics come from MMEngine,
pictures from the hook here."""

from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import VISBACKENDS
from mmengine.runner import Runner
from mmengine.visualization import MLflowVisBackend

from ...runs import trackers
from ...runs.randomness import seeded_by
from ...runs.visualize import side_by_side
from .registration import register

BACKENDS = {
    "tensorboard": "TensorboardVisBackend",
    "wandb": "WandbVisBackend",
    "mlflow": "NamingMLflowVisBackend",
}
SHOWN_KEYS = [
    "optim_wrapper",
    "param_scheduler",
    "train_cfg",
]  # MLflow takes 100 parameters at once


class NamingMLflowVisBackend(MLflowVisBackend):
    """MMEngine's, with names of scalars that MLflow takes."""

    def add_scalar(self, name, value, step=0, **kwargs) -> None:
        self.add_scalars({name: value}, step)

    def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs) -> None:
        super().add_scalars(trackers.mlflow_names(scalar_dict), step, file_path, **kwargs)


register(VISBACKENDS, NamingMLflowVisBackend)


def take_trackers(cfg: Config, names: Sequence[str]) -> None:
    """The backends of the trackers into the config's visualizer, beside those that it has, in place."""
    names = trackers.wanted(names)
    visualizer = cfg.setdefault("visualizer", ConfigDict(type="Visualizer", name="visualizer"))
    backends = list(visualizer.get("vis_backends") or [dict(type="LocalVisBackend")])
    names = [*names, *(name for name in tracked(cfg) if name not in names)]  # of a run that goes on
    others = [backend for backend in backends if _kind(backend) not in map(BACKENDS.get, names)]
    ours = [dict(type=BACKENDS[name], save_dir=_folder(cfg, name)) for name in names]
    visualizer.vis_backends = [*others, *ours]


def tracked(cfg: Config) -> list[str]:
    """The trackers of a run, by its config."""
    found = (cfg.get("visualizer") or {}).get("vis_backends") or ()
    kinds = {_kind(backend): backend for backend in found}
    return [
        name for name, kind in BACKENDS.items()
        if Path(kinds.get(kind, {}).get("save_dir") or "").name == name  # a user's own is not ours
    ]  # fmt: skip


def leave_trackers(cfg: Config) -> None:
    """Take them out of the saved config of a run that is only evaluated: its series stays as it is."""
    if names := tracked(cfg):
        kinds = [BACKENDS[name] for name in names]
        backends = [b for b in cfg.visualizer.vis_backends if _kind(b) not in kinds]
        cfg.visualizer.vis_backends = backends


def begin(cfg: Config, *, resume: bool) -> None:
    """Fill in what a run's series is known by, before MMEngine makes the backends."""
    work_dir = Path(cfg.work_dir)
    names = tracked(cfg) if is_main_process() else ()
    for backend in cfg.visualizer.vis_backends if names else ():
        kind = _kind(backend)
        if kind == BACKENDS["wandb"]:
            backend.init_kwargs = trackers.wandb_options(work_dir, resume=resume)
            backend.define_metric_cfg = [dict(name="*", step_metric="iter")]
        elif kind == BACKENDS["mlflow"]:
            backend.update(
                tracking_uri=trackers.mlflow_place(work_dir)[0], exp_name=trackers.experiment(),
                artifact_suffix=(), tracked_config_keys=[] if resume else _keys(cfg),
            )  # fmt: skip
    if "tensorboard" in names and not resume:
        _hide_earlier(_folder(cfg, "tensorboard"))
    if "mlflow" in names:
        trackers.start_mlflow(work_dir, resume=resume)


def _kind(backend) -> str:
    kind = backend.get("type")
    return kind if isinstance(kind, str) else kind.__name__


def _folder(cfg: Config, name: str) -> str:
    return str(Path(cfg.work_dir) / name)


def _keys(cfg: Config) -> list[str]:
    return [key for key in SHOWN_KEYS if cfg.get(key)]


def _hide_earlier(folder: str) -> None:
    """Let TensorBoard pass over what an earlier run wrote into the folder."""
    from torch.utils.tensorboard import SummaryWriter

    if Path(folder).is_dir():
        SummaryWriter(folder, purge_step=0).close()


class Tracking(Hook):
    """Validation pictures for the trackers of a run: beside each the truth and what the model says of it.
    Of a run that goes on, TensorBoard passes over steps which are now taken again."""

    priority = "HIGH"  # before EMAHook gives the model its own weights back

    def __init__(self, names: Sequence[str], rows):
        """rows: rows of pictures by a runner's weights of now; a list notes for it which ones."""
        self.names, self.rows, self.chosen = tuple(names), rows, []

    def before_train(self, runner: Runner) -> None:
        if "tensorboard" in self.names and runner.iter and is_main_process():
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog

            writer = runner.visualizer.get_backend(BACKENDS["tensorboard"]).experiment
            start = SessionLog(status=SessionLog.START)
            writer.file_writer.add_event(Event(session_log=start), step=runner.iter + 1)

    def after_val_epoch(self, runner: Runner, metrics=None) -> None:
        if not is_main_process():
            return
        with seeded_by(0):  # the run draws what it would have drawn
            for k, row in enumerate(self.rows(runner, self.chosen)):
                for name in self.names:
                    backend = runner.visualizer.get_backend(BACKENDS[name])
                    # MLflow keeps a file a name, the others a series
                    of_file = f"/{runner.iter:07d}.png" if name == "mlflow" else ""
                    title = f"{trackers.PICTURES}/{k}{of_file}"
                    backend.add_image(title, side_by_side(row), step=runner.iter)
