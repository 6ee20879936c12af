"""train's options of fine-tuning, in a config of MMDetection or MMSegmentation."""

from argparse import Namespace
from collections.abc import Iterator, MutableMapping

from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.registry import MODELS

from ...console import counted, say
from ...errors import UserError
from ...network.convnext import Trunk
from ...runs.fine_tuning import check_options, weights_of
from .signatures import walk

ABSOLUTE = (
    "eta_min",
    "eta_max",
)  # learning rates in schedules that are no share of the optimizer's


def take_options(cfg: Config, args: Namespace) -> None:
    """--weights, --keep-classes, --freeze, --lr-factor and --early-stop into the config, and a line each.

    Raises:
        UserError: a value that cannot be, or the config has nothing that the option is for.
    """
    check_options(args)
    lines = []
    if weights := weights_of(args):
        cfg.load_from = weights
        lines.append(f"--weights: load_from={weights!r}")
    if args.resume:
        cfg.load_from = None  # from which MMEngine would go on, in the place of the run's own last
    if args.freeze is not None:
        lines += _freeze(cfg, args.freeze)
    if args.lr_factor is not None:
        lines += _scale_rates(cfg, args.lr_factor)
    if args.early_stop is not None:
        lines.append(_stop_early(cfg, args.early_stop))
    if is_main_process():
        for line in lines:
            say(line)


def _freeze(cfg: Config, count: int) -> Iterator[str]:
    nodes = [(path, node) for path, node in walk(cfg.model) if _is_ours(node.get("type"))]
    if not nodes:
        kind = cfg.model.get("backbone", {}).get("type")
        raise UserError(
            f"--freeze {count} counts the stages of this package's ConvNeXt and ConvNeXtV2, and the backbone "
            f"of {cfg.filename} is {kind}; leave it out, and set what that backbone has"
        )
    for path, node in nodes:
        node["frozen_stages"] = count
        place = ".".join(filter(None, ("model", path)))
        yield f"--freeze {count}: {place}.frozen_stages={count}" + (
            "" if count else ", nothing is frozen"
        )


def _is_ours(kind) -> bool:
    if isinstance(kind, str):
        kind = MODELS.get(kind)
    return isinstance(kind, type) and issubclass(kind, Trunk)


def _scale_rates(cfg: Config, factor: float) -> Iterator[str]:
    wrapper = cfg.get("optim_wrapper") or {}
    optimizers = [
        (path, node)
        for path, node in _optimizers(wrapper)
        if isinstance(node.get("lr"), int | float)
    ]
    if not optimizers:
        raise UserError(
            f"--lr-factor {factor:g} multiplies optim_wrapper.optimizer.lr, which {cfg.filename} does not set"
        )
    for path, node in optimizers:
        before, node["lr"] = node["lr"], node["lr"] * factor
        yield f"--lr-factor {factor:g}: {path}.lr {before:g} -> {node['lr']:g}"
    for path, node in walk(cfg.get("param_scheduler") or []):
        for key in ABSOLUTE:
            if isinstance(node.get(key), int | float) and node[key]:
                before, node[key] = node[key], node[key] * factor
                place = ".".join(filter(None, ("param_scheduler", path, key)))
                yield f"--lr-factor {factor:g}: {place} {before:g} -> {node[key]:g}"


def _optimizers(wrapper: MutableMapping) -> Iterator[tuple[str, MutableMapping]]:
    """The config's optimizers and their places: one, or one of each of several wrappers."""
    if "optimizer" in wrapper:
        yield "optim_wrapper.optimizer", wrapper["optimizer"]
        return
    for name, part in wrapper.items():
        if isinstance(part, MutableMapping) and "optimizer" in part:
            yield f"optim_wrapper.{name}.optimizer", part["optimizer"]


def _stop_early(cfg: Config, patience: int) -> str:
    before = cfg.get("custom_hooks") or []
    hooks = [hook for hook in before if _name(hook) not in ("EarlyStoppingHook", "StopEarly")]
    saving = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    best = saving.get("save_best")
    monitor = best[0] if isinstance(best, list | tuple) and best else best
    if not isinstance(monitor, str) or monitor == "auto" or not cfg.get("val_dataloader"):
        missing = "no validation" if not cfg.get("val_dataloader") else "no metric by its name"
        raise UserError(
            f"--early-stop {patience} waits for a better metric of the validation, and {cfg.filename} has "
            f"{missing}: set val_dataloader, val_evaluator and default_hooks.checkpoint.save_best, such as "
            "'mIoU' or 'coco/bbox_mAP'"
        )
    rule = saving.get("rule")
    rule = rule[0] if isinstance(rule, list | tuple) and rule else rule
    # a metric that stays the same is no better one
    hook = ConfigDict(type="StopEarly", monitor=monitor, patience=patience, min_delta=1e-9)
    if rule:
        hook.rule = rule
    cfg.custom_hooks = [*hooks, hook]
    return f"--early-stop {patience}: ends after {counted(patience, 'validation')} without a better {monitor}"


def _name(hook) -> str:
    kind = hook.get("type") if isinstance(hook, MutableMapping) else type(hook)
    return getattr(kind, "__name__", kind)
