"""Mistakes in configs that Detectron2 answers with a trace, beside the point or not at all."""

import difflib
import inspect
import math
import re
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.utils.registry import locate
from omegaconf import DictConfig, OmegaConf

from ...errors import UserError
from ...network.variants import nearest

# The same settings in both kinds of config: LazyConfig, YAML.
COUNTERPARTS = {
    "train.max_iter": "SOLVER.MAX_ITER",
    "train.init_checkpoint": "MODEL.WEIGHTS",
    "train.output_dir": "OUTPUT_DIR",
    "train.eval_period": "TEST.EVAL_PERIOD",
    "train.checkpointer.period": "SOLVER.CHECKPOINT_PERIOD",
    "train.amp.enabled": "SOLVER.AMP.ENABLED",
    "train.device": "MODEL.DEVICE",
    "train.seed": "SEED",
    "optimizer.lr": "SOLVER.BASE_LR",
    "optimizer.weight_decay": "SOLVER.WEIGHT_DECAY",
    "optimizer.params.decay_rate": "SOLVER.LAYER_DECAY_RATE",
    "lr_multiplier.warmup_length": "SOLVER.WARMUP_ITERS",
    "dataloader.train.total_batch_size": "SOLVER.IMS_PER_BATCH",
    "dataloader.train.num_workers": "DATALOADER.NUM_WORKERS",
    "dataloader.train.dataset.names": "DATASETS.TRAIN",
    "dataloader.test.dataset.names": "DATASETS.TEST",
    "dataloader.register": "DATASETS.REGISTER",
    "model.roi_heads.num_classes": "MODEL.ROI_HEADS.NUM_CLASSES",
    "model.sem_seg_head.num_classes": "MODEL.SEM_SEG_HEAD.NUM_CLASSES",
    "model.backbone.bottom_up.drop_path_rate": "MODEL.CONVNEXT.DROP_PATH_RATE",
    "model.backbone.bottom_up.arch": "MODEL.CONVNEXT.ARCH",
}
# What keys can be, where Detectron2 finds out late.
FORMATS = ("RGB", "BGR", "L")
CHOICES = {
    "dataloader.train.mapper.image_format": FORMATS,
    "dataloader.test.mapper.image_format": FORMATS,
    "INPUT.FORMAT": FORMATS,
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "INPUT.MASK_FORMAT": ("polygon", "bitmask"),
    "INPUT.CROP.TYPE": ("relative_range", "relative", "absolute", "absolute_range"),
}
# What this package reads of a LazyConfig's groups; others may be a user's own, but not nearly these.
LAZY_KEYS = {
    "": ("model", "dataloader", "optimizer", "lr_multiplier", "train"),
    "train": ("output_dir", "init_checkpoint", "max_iter", "amp", "ddp", "checkpointer",
              "eval_period", "log_period", "device", "seed", "cudnn_benchmark", "float32_precision"),
    "train.checkpointer": ("period", "max_to_keep"),
    "dataloader": ("train", "test", "evaluator", "register"),
}  # fmt: skip


def no_key(key: str, name: str, known) -> UserError:
    """The error for a key that a config does not have, `name` of it among the `known` ones."""
    other = COUNTERPARTS | {theirs: ours for ours, theirs in COUNTERPARTS.items()}
    if key in other:
        kinds = ("YAML", "LazyConfigs") if key.isupper() else ("LazyConfigs", "YAML")
        return UserError(
            f"{key} is a key of {kinds[0]}; in this config, of {kinds[1]}, it is {other[key]}"
        )
    if key.split(".")[0] in LAZY_KEYS[""] and "MODEL" in known:
        return UserError(
            f"{key} is a key of LazyConfigs; this config is YAML, with {', '.join(known)}"
        )
    return UserError(f"the config has no {key}: {nearest(name, known)}")


def check_yaml_key(cfg: CfgNode, key: str) -> None:
    """UserError, with the nearest key, for one that the config does not have."""
    node = cfg
    for name in key.split("."):
        if not isinstance(node, CfgNode) or name not in node:
            raise no_key(key, name, node if isinstance(node, CfgNode) else ())
        node = node[name]


def other_type(error: ValueError) -> UserError:
    """A type mismatch of yacs, which says a value in the middle of two Python classes."""
    found = re.fullmatch(
        r"(?s)Type mismatch \(<class '(.+?)'> vs\. <class '(.+?)'>\) with values \((.*) vs\. (.*)\) "
        r"for config key: (.+)",
        str(error),
    )
    if not found:
        return UserError(str(error))
    wanted, _, there, came, key = found.groups()
    if wanted.endswith("CfgNode"):
        return UserError(f"{key} is a group of keys, not {came!r}")
    example = {
        "tuple": f'"({came!r},)"' if key.startswith("DATASETS.") else f"({came},)",
        "list": f"[{came}]",
        "bool": "True or False",
    }.get(wanted, there)
    return UserError(f"{key}={came}: a {wanted} is wanted, such as {example}")


def unreadable(file: Path, error: Exception, cfg: CfgNode) -> UserError:
    """Why a YAML config cannot be merged into Detectron2's keys."""
    if isinstance(error, RecursionError):
        return UserError(f"config {file} cannot be read: its _BASE_ leads back to it")
    if isinstance(error, OSError) and error.filename:
        return UserError(
            f"config {file} cannot be read: {error.filename}: {error.strerror}; does its _BASE_ name it?"
        )
    words = str(error.args[0] if error.args else error)
    if found := re.fullmatch(r"Non-existent config key: (\S+)", words):
        try:
            check_yaml_key(cfg, found[1])
        except UserError as unknown:
            return UserError(f"config {file}: {unknown}")
    if isinstance(error, ValueError):
        words = str(other_type(error))
    return UserError(f"config {file} cannot be read: {words}")


def check_lazy_names(cfg: DictConfig, file: Path) -> None:
    """UserError for a name that nothing reads and that is nearly one that is read."""
    for place, known in LAZY_KEYS.items():
        node = OmegaConf.select(cfg, place) if place else cfg
        for name in node if OmegaConf.is_dict(node) else ():
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.8)
            if name not in known and near:
                prefix = f"{place}." if place else ""
                raise UserError(
                    f"config {file}: nothing reads {prefix}{name}; is {prefix}{near[0]} meant?"
                )


def check_parts(node, place: str) -> None:
    """UserError for a part of a LazyConfig's model that is null and that its module does not do without."""
    if isinstance(node, list):
        for number, value in enumerate(node):
            check_parts(value, f"{place}.{number}")
    if not isinstance(node, dict):
        return
    target = node.get("_target_")
    target = locate(target) if isinstance(target, str) else target
    is_module = isinstance(target, type) and issubclass(target, torch.nn.Module)
    parameters = inspect.signature(target.__init__).parameters if is_module else {}
    for key, value in node.items():
        needed = key in parameters and parameters[key].default is inspect.Parameter.empty
        if value is None and needed and key not in OPTIONAL:
            raise UserError(
                f"{place}.{key}=null: {target.__name__} does not do without; leave that out, or write another "
                "part there"
            )
        check_parts(value, f"{place}.{key}")


OPTIONAL = {"proposal_generator"}  # null where proposals come with the data


def check_values(run) -> None:
    """UserError for what no run can have: no steps, no batch, another device's name, no head."""
    if isinstance(run.cfg, DictConfig):
        check_parts(OmegaConf.to_container(run.cfg.model), "model")
    settings, keys = run.settings, run.KEYS
    for name, least in dict(max_iter=1, batch=1, eval_period=0, log_period=1).items():
        _check_count(keys.get(name, name), getattr(settings, name), least)
    _check_count(keys["period"], settings.checkpointer.get("period"), 1)
    try:
        torch.device(settings.device)
    except (RuntimeError, TypeError) as error:
        raise UserError(
            f"{keys['device']}={settings.device!r} is no device; write cuda or cpu"
        ) from error
    for key, valid in CHOICES.items():
        value = run.get(key)
        if value is not None and value not in valid:
            raise UserError(f"{key}={value!r}: {nearest(str(value), valid)}")
    warm_up = run.get(run.WARM_UP)
    most = math.inf if isinstance(warm_up, int) and run.WARM_UP.isupper() else 1
    if isinstance(warm_up, (int, float)) and not 0 <= warm_up <= most:
        part = "" if most > 1 else ", at most 1: it is a part of the whole run"
        raise UserError(f"{run.WARM_UP}={warm_up!r}: give 0 or more{part}")


def _check_count(key: str, value, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{key}={value!r}: give a number, {least} or more")
