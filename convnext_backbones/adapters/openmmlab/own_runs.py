"""What the runs of this package's own commands share, pretrain and finetune: MMEngine's, of configs that they make.

Such a config lies in the run's folder as any other's. A run is train's: it goes on bit for bit, leaves out
pictures that cannot be read, stops where the loss is not finite (run.py).
"""

import json
import os
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config
from mmengine.dist import get_dist_info, is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...errors import UserError
from ...network.variants import VARIANTS, Variant, nearest
from ...runs import preparation
from ...runs.commands import leave_group
from ...runs.guards import Limits
from ...runs.whole_files import logs_end_quietly, text_written_whole
from . import run
from .guards import set_limits
from .registration import register
from .saving import last_whole


class Throughput(Hook):
    """Pictures a second, over all processes, among what is logged."""

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        seconds = runner.message_hub.get_scalar("train/time").current()
        pictures = len(data_batch["inputs"]) * get_dist_info()[1]
        runner.message_hub.update_scalar("train/pictures_per_s", pictures / max(seconds, 1e-9))


register(HOOKS, Throughput)


# ---- its config ----------------------------------------------------------------------------------
def network_named(arch: str) -> Variant:
    """The network of --arch, "atto" (V2's) or a full name such as "convnext_tiny".

    Raises:
        UserError: there is none of this name, with what is near.
    """
    sizes = {variant.size: variant for variant in VARIANTS.values() if variant.version == 2}
    if arch not in sizes and arch not in VARIANTS:
        raise UserError(
            f"--arch {arch}: there is no such network; {nearest(arch, VARIANTS if '_' in arch else sizes)}"
        )
    return sizes.get(arch) or VARIANTS[arch]


def processes_of(launcher: str) -> int:
    """How many a launcher has started, before they know of each other."""
    names = dict(pytorch="WORLD_SIZE", slurm="SLURM_NTASKS", mpi="OMPI_COMM_WORLD_SIZE")
    return int(os.environ.get(names.get(launcher, ""), 1))


def wrapper_of(args: Namespace) -> dict:
    """The optimizer's wrapper, for --amp and --accumulate."""
    kind = dict(type="AmpOptimWrapper", dtype="bfloat16") if args.amp else dict(type="OptimWrapper")
    return dict(**kind, accumulative_counts=args.accumulate)


def schedule(steps: int, warmup: float, least: float = 0.0) -> list[dict]:
    """A warm-up over a share of the steps, and a cosine to a least share of the learning rate."""
    begin = max(2, round(warmup * steps)) if warmup else 0  # MMEngine's of one step never ends
    if begin >= steps:
        return []
    rising = dict(type="LinearLR", start_factor=1e-4, begin=0, end=begin, by_epoch=False)
    falling = dict(
        type="CosineAnnealingLR", eta_min_ratio=least, begin=begin, end=steps, T_max=steps - begin, by_epoch=False,
    )  # fmt: skip
    return [rising, falling] if begin else [falling]


def default_hooks(epochs: int) -> dict:
    """A checkpoint for each twentieth of a run, and the last."""
    return dict(
        timer=dict(type="IterTimerHook"),
        logger=dict(type="LoggerHook", interval=10, ignore_last=False),
        param_scheduler=dict(type="ParamSchedulerHook"),
        checkpoint=dict(type="CheckpointHook", interval=max(1, epochs // 20), max_keep_ckpts=2),
        sampler_seed=dict(type="DistSamplerSeedHook"),
    )


def made(config: dict, name: str, args: Namespace) -> Config:
    """A config of a command, under the user's options, as it runs on this machine.

    Args:
        name: of the run; it names the folder where --work-dir does not.
    """
    cfg = Config(config, cfg_text="# by convnext-backbones", filename=f"{name}.py")
    cfg.work_dir = str(args.work_dir or Path(run.WORK_DIRS) / name)
    cfg.launcher = args.launcher
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg.merge_from_dict(run.overrides(args))
    set_limits(cfg, Limits.named_in(args))
    run.fit_to_device(cfg)
    preparation.check_writable(Path(cfg.work_dir))
    return cfg


def carry_out(
    args: Namespace,
    prepared: Callable[[Namespace], tuple[Config, dict]],
    finish: Callable[[Config, dict, Namespace], None],
) -> None:
    """Train by the config of the command line, and let the main process finish what is left of it.

    Args:
        prepared: the config, and the settings that say which run it is.
    """
    run.quiet_warnings()
    cfg, settings = prepared(args)
    with logs_end_quietly(getattr(args, "debug", False)):
        run.train(cfg, resume=args.resume)
    if is_main_process():
        finish(cfg, settings, args)
    leave_group()


# ---- which run it is -----------------------------------------------------------------------------
def noted(cfg: Config, settings: dict, file: str, *, resume: bool) -> dict:
    """The settings that the run in the folder was begun with: those given, which a new run writes to `file`.

    Raises:
        UserError: there is nothing to go on from, or the options are another run's.
    """
    place = Path(cfg.work_dir) / file
    if not resume:
        if is_main_process():
            with text_written_whole(place) as text:
                json.dump(settings, text, indent=2)
        return settings
    if not last_whole(cfg.work_dir):
        raise UserError(
            f"nothing to resume: {cfg.work_dir} holds no checkpoint; leave out --resume"
        )
    before = {**settings, **(json.loads(place.read_text()) if place.is_file() else {})}
    other = [
        f"{name} {before[name]} (now {value})"
        for name, value in settings.items()
        if name != "started_from" and before[name] != value
    ]
    if other:
        raise UserError(
            f"the run in {cfg.work_dir} was begun with {', '.join(other)}: resume with the same options, or "
            "start a new run in another --work-dir, from its weights"
        )
    return before
