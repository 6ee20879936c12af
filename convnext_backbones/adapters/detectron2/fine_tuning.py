"""train's options of fine-tuning, in a config of Detectron2, and the hook that ends a run early."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from detectron2.data import MetadataCatalog
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from ...console import counted, say
from ...errors import UserError
from ...network.convnext import Trunk
from ...runs.fine_tuning import check_options, weights_of
from .checkpoints import ClassNames
from .configs import Run, YamlRun
from .loop import evaluated


# ---- options -------------------------------------------------------------------------------------
def take_options(run: Run, args: Namespace) -> None:
    """--weights, --keep-classes, --freeze, --lr-factor and --early-stop into the config, and a line each.

    Raises:
        UserError: a value that cannot be, or the config has nothing that the option is for.
    """
    check_options(args)
    lines = []
    if weights := weights_of(args):
        key = "MODEL.WEIGHTS" if isinstance(run, YamlRun) else "train.init_checkpoint"
        _set(run, key, weights)
        lines.append(f"--weights: {key}={weights}")
    if args.freeze is not None:
        lines += _freeze(run, args.freeze)
    if args.lr_factor is not None:
        lines += _scale_rates(run, args.lr_factor)
    if args.early_stop is not None:
        settings = run.settings
        if not settings.test_data or not 0 < settings.eval_period < settings.max_iter:
            raise UserError(
                f"--early-stop {args.early_stop} waits for a better metric of the validation, and this run "
                f"has none on its way: set {run.KEYS['eval_period']} (now {settings.eval_period}) below its "
                f"{settings.max_iter} steps, and a data set to test on"
            )
        run.early_stop = args.early_stop
        lines.append(
            f"--early-stop {args.early_stop}: ends after {counted(args.early_stop, 'validation')} without a better metric"
        )
    for line in lines:
        say(line)


def _set(run: Run, key: str, value) -> None:
    if isinstance(run, YamlRun):
        node = run.cfg
        *path, last = key.split(".")
        for name in path:
            node = node[name]
        node[last] = value
    else:
        OmegaConf.update(run.cfg, key, value)


def _freeze(run: Run, count: int) -> Iterator[str]:
    freeze_at = count + 1 if count else 0  # Detectron2's 1 is the stem alone
    if isinstance(run, YamlRun):
        name = run.cfg.MODEL.BACKBONE.NAME
        if "convnext" not in name:
            raise UserError(_no_backbone(count, name))
        keys = ["MODEL.BACKBONE.FREEZE_AT"]
    else:
        keys = [f"{path}.freeze_at" for path in _our_backbones(run.cfg.model, "model")]
        if not keys:
            raise UserError(_no_backbone(count, "another"))
    for key in keys:
        _set(run, key, freeze_at)
        yield f"--freeze {count}: {key}={freeze_at}" + ("" if count else ", nothing is frozen")


def _no_backbone(count: int, name: str) -> str:
    return (
        f"--freeze {count} counts the stages of this package's ConvNeXt and ConvNeXtV2, and the config's "
        f"backbone is {name}; leave it out, and set what that backbone has"
    )


def _our_backbones(node, path: str) -> Iterator[str]:
    """The places of this package's backbones below a node of a LazyConfig."""
    if isinstance(node, DictConfig):
        target = node.get("_target_")
        target = locate(target) if isinstance(target, str) else target
        if isinstance(target, type) and issubclass(target, Trunk):
            yield path
        for key in node:
            if OmegaConf.is_config(node._get_node(key)):
                yield from _our_backbones(node[key], f"{path}.{key}")


def _scale_rates(run: Run, factor: float) -> Iterator[str]:
    keys = (
        ["SOLVER.BASE_LR", "SOLVER.BASE_LR_END"] if isinstance(run, YamlRun) else ["optimizer.lr"]
    )
    for key in keys:
        before = run.get(key)
        if not isinstance(before, int | float):
            raise UserError(
                f"--lr-factor {factor:g} multiplies {key}, which the config does not set"
            )
        if before:
            _set(run, key, before * factor)
            yield f"--lr-factor {factor:g}: {key} {before:g} -> {before * factor:g}"


# ---- the run -------------------------------------------------------------------------------------
def class_names(run: Run) -> ClassNames:
    """The names of a run's classes, for its checkpoints; none where its data name none."""
    for name in run.settings.train_data:
        meta = MetadataCatalog.get(name)
        for kind in ("thing_classes", "stuff_classes"):
            if meta.get(kind):
                return ClassNames(meta.get(kind))
    return ClassNames()


class StoppedEarly(BaseException):
    """The end of Detectron2's loop, which has no other than its last step; no error that it would log."""


class EarlyStopping(HookBase):
    """Ends a run in all its processes once `patience` validations in a row brought no better metric than the
    one of its best checkpoint (loop.Evaluation's notes, which a run that goes on finds again)."""

    def __init__(self, patience: int, period: int, folder: Path, checkpointer):
        self.patience, self.period, self.folder = patience, period, folder
        self.checkpointer = checkpointer

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self.period or done == self.trainer.max_iter:
            return
        best = evaluated(self.folder).get("best") if comm.is_main_process() else None
        reached = best["iteration"] + 1 if best else 0
        since = comm.all_gather((done - reached) // self.period)[0]  # the main process's
        if since < self.patience:
            return
        self.checkpointer.save(f"model_{self.trainer.iter:07d}", iteration=self.trainer.iter)
        if comm.is_main_process():
            value = f"{best['metric']} {best['value']:.3f} after step {reached}" if best else "none"
            say(
                f"stopped early after step {done}: {counted(since, 'validation')} brought no better metric than the "
                f"best, {value}"
            )
        raise StoppedEarly
