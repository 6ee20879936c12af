"""What the entries of a config may be called: by the signature of the class that a `type` names."""

import difflib
import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mmengine.registry import Registry
from torch import nn
from torch.utils.data import DataLoader

PACKAGE = __name__.partition(".")[0]
# Taken out by builders before the class is called.
OF_BUILDERS = {"type", "_scope_", "_delete_", "priority", "constructor", "paramwise_cfg",
               "convert_to_iter_based", "bg_cls_weight"}  # fmt: skip
# Entries that helpers build, each with keys of its own, or whose type is no registered class.
HELPERS = {
    "norm_cfg",
    "act_cfg",
    "conv_cfg",
    "upsample_cfg",
    "init_cfg",
    "plugins",
    "roi_layer",
    "dcn",
}
# Untyped entries that have any key, and those that have these.
FREE = {"default_hooks", "custom_keys", "metainfo", "dist_cfg"}
UNTYPED = {
    "env_cfg": {"cudnn_benchmark", "mp_cfg", "dist_cfg", "resource_limit"},
    "mp_cfg": {"mp_start_method", "opencv_num_threads"},
    "randomness": {"seed", "diff_rank_seed", "deterministic"},
    "auto_scale_lr": {"enable", "base_batch_size"},
    "clip_grad": {"type", "max_norm", "norm_type", "error_if_nonfinite", "foreach", "clip_value"},
    "data_prefix": {"img", "img_path", "seg", "seg_map_path"},
    "filter_cfg": {"filter_empty_gt", "min_size", "bbox_min_size"},
    "paramwise_cfg": {
        "lr_mult", "decay_mult", "custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult",
        "dwconv_decay_mult", "flat_decay_mult", "dcn_offset_lr_mult", "bypass_duplicate",
        "decay_rate", "decay_type", "num_layers",
    },
    "custom_imports": {"imports", "allow_failed_imports"},
}  # fmt: skip
LOADER = {"dataset", "sampler", "batch_sampler", "collate_fn", "num_batch_per_epoch", "worker_init_fn",
          "disable_subprocess_warning"}  # fmt: skip


def walk(node: Any, path: str = "") -> Iterator[tuple[str, Mapping]]:
    """Every dict of a config below `node` with its path, that of entries which helpers build left out."""
    if isinstance(node, Mapping):
        yield path, node
        for key, value in node.items():
            if key not in HELPERS and not str(key).endswith("norm_cfg"):
                yield from walk(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from walk(value, f"{path}.{index}")


def near(word: str, names: Iterable[str]) -> str | None:
    """The name that a misspelt word is meant for."""
    found = difflib.get_close_matches(str(word), [str(name) for name in names], n=1, cutoff=0.82)
    return found[0] if found else None


def classes_of(kind: Any, scope: str) -> list:
    """What a `type` may name: the registered classes and functions of that name, seen from a scope."""
    if not isinstance(kind, str):
        return [kind]
    registries = vars(importlib.import_module(f"{scope}.registry")).values()
    found = [registry.get(kind) for registry in registries if isinstance(registry, Registry)]
    return list(dict.fromkeys(made for made in found if made is not None))


def arguments_of(made: Any) -> tuple[set[str], bool]:
    """The named arguments of a class, with those of the classes above it that it may hand others on to,
    or of a function; and whether it takes further ones. This package's classes answer for themselves."""
    if made.__module__.startswith(f"{PACKAGE}."):
        return set(), True
    if not inspect.isclass(made):
        return _named(made)
    names: set[str] = set()
    further = None
    for owner in made.__mro__:
        if owner in (object, nn.Module) or further is False:
            break
        if "__init__" in vars(owner):
            own, more = _named(owner.__init__)
            names |= own
            further = more if further is None else further
    return names, bool(further)


def _named(function: Any) -> tuple[set[str], bool]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # in C
        return set(), True
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    more = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return {p.name for p in parameters if p.kind in kinds} - {"self"}, more


def strangers(node: Mapping, scope: str) -> list[tuple[str, str | None]]:
    """The keys of a typed entry that its class does not take, each with the name that it is near. A class
    that may take further ones is only asked about names near its own."""
    answers = []
    for made in classes_of(node["type"], scope):
        names, more = arguments_of(made)
        names |= OF_BUILDERS
        found = [(key, near(key, names)) for key in node if key not in names]
        answers.append([(key, name) for key, name in found if name or not more])
    return min(answers, key=len, default=[])


def keys_of(path: Sequence[str], node: Mapping, scope: str) -> set[str] | None:
    """The keys that the entry at `path` may get beside those it has; None: any."""
    name = path[-1] if path else ""
    if name in FREE or name in HELPERS:
        return None
    if name in UNTYPED:
        return UNTYPED[name]
    if name.endswith("_dataloader"):
        return LOADER | arguments_of(DataLoader)[0]
    kinds = [node["type"]] if "type" in node else _default_kinds(path)
    if not kinds:
        return set()
    found = [arguments_of(made) for kind in kinds for made in classes_of(kind, scope)]
    if not any(names for names, _ in found):
        return None
    return set.union(OF_BUILDERS, *(names for names, _ in found))


def _default_kinds(path: Sequence[str]) -> list[str]:
    """What MMEngine builds at an entry that has no type."""
    return (
        {
            "train_cfg": ["EpochBasedTrainLoop", "IterBasedTrainLoop"],
            "val_cfg": ["ValLoop"],
            "test_cfg": ["TestLoop"],
            "optim_wrapper": ["OptimWrapper"],
            "log_processor": ["LogProcessor"],
            "visualizer": ["Visualizer"],
        }.get(path[0], [])
        if len(path) == 1
        else []
    )
