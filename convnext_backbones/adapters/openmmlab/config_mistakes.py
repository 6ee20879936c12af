"""What in a config contradicts itself, a sentence each, before anything is built.

    refuse(path, mistakes)       all of them as one UserError
    contradictions(cfg, splits)  classes, metrics, intervals, strides
    schedule_notes(cfg, ...)     what a run's length leaves of its schedule: lines, since it does run

What stands in the files themselves, such as keys that nothing reads, is config_files'.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...console import counted
from ...errors import UserError
from ...network.geometry import strides_and_dilations
from ...network.variants import resolve_arch
from .signatures import classes_of, near, walk

SPLITS = ("train", "val", "test")


def refuse(path: str, mistakes: Sequence[str]) -> None:
    """UserError with all the sentences, if there are any."""
    if len(mistakes) == 1:
        raise UserError(f"config {path}: {mistakes[0]}")
    if mistakes:
        lines = "".join(f"\n  {sentence}" for sentence in dict.fromkeys(mistakes))
        raise UserError(f"config {path} cannot be run as it is:{lines}")


def contradictions(cfg: Config, splits: Sequence[str] = SPLITS) -> list[str]:
    """Everything in a merged config that cannot be meant, for the splits that a run uses."""
    found = [
        *wrong_numbers(cfg),
        *untyped_hooks(cfg),
        *wrong_classes(cfg, splits),
        *wrong_channels(cfg),
        *wrong_strides(cfg),
    ]
    if "val" in splits:
        found += wrong_monitors(cfg)
    return found


# ---- backbones of other packages -----------------------------------------------------------------
def adopt_backbones(cfg: Config) -> list[str]:
    """Let this package's classes stand where a config names MMPretrain's ConvNeXt and MMPretrain is not
    installed; and of pretrained= and init_cfg=, which mean the same, the one that was written later.
    In place; a line for each change."""
    lines = []
    for _, node in walk(cfg.get("model") or {}, "model"):
        kind = node.get("type")
        if kind in ("mmpretrain.ConvNeXt", "mmcls.ConvNeXt") and not find_spec(kind.split(".")[0]):
            node["type"] = "ConvNeXtV2" if node.get("use_grn") else "ConvNeXt"
            lines.append(
                f"{kind} -> {node['type']} of this package: the same network, and MMPretrain is not here"
            )
        given = [key for key in node if key in ("pretrained", "init_cfg") and node[key] is not None]
        if len(given) == 2 and "arch" in node:
            first, last = given  # a dict keeps the order of writing, the base's entries first
            lines.append(
                f"{last} was written after {first} and counts; {first}={node[first]} does not"
            )
            node[first] = None
    imports = (cfg.get("custom_imports") or {}).get("imports") or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    needless = [name for name in imports if name.split(".")[0] in ("mmpretrain", "mmcls")]
    others = [node["type"] for _, node in walk(cfg.get("model") or {}, "model")
              if str(node.get("type")).startswith(("mmpretrain.", "mmcls."))]  # fmt: skip
    if needless and not others and not any(find_spec(name.split(".")[0]) for name in needless):
        cfg.custom_imports = dict(imports=[name for name in imports if name not in needless])
        lines.append(
            f"custom_imports: {', '.join(needless)} left out: it is not here, and nothing in the model is its"
        )
    return lines


# ---- shapes --------------------------------------------------------------------------------------
EVALUATORS = ("val_evaluator", "test_evaluator")  # one dict, or a list of them
DICTS = (
    "model", "optim_wrapper", "default_hooks", "env_cfg", "visualizer", "log_processor", "randomness",
    "auto_scale_lr", *(f"{split}_{part}" for split in SPLITS for part in ("dataloader", "cfg")),
)  # fmt: skip
LISTS = ("custom_hooks", "param_scheduler", "pipeline", "transforms")  # of dicts


def misshapen(cfg: Config, options: Mapping[str, Any]) -> list[str]:
    """Texts and numbers where dicts belong, of --cfg-options most of all, which has no way to write one."""
    found = [
        f"--cfg-options {option}: a dict cannot be given on the command line; write it into a config file, or "
        f"set the entries of one that is there, as {option}.KEY=VALUE"
        for option, value in options.items()
        if any(text.lstrip().startswith(("dict(", "{")) for text in _texts(value))
    ]
    return found or [
        sentence
        for key, value in cfg.items()
        if key in (*EVALUATORS, *DICTS, *LISTS)
        for sentence in _no_dicts(value, key)
    ]


def _texts(value: Any) -> list[str]:
    if isinstance(value, (list, tuple)):
        return [text for part in value for text in _texts(part)]
    return [value] if isinstance(value, str) else []


def _no_dicts(value: Any, place: str) -> Iterator[str]:
    """Sentences for what is no dict, no list of them and not None, at a place and below it."""
    key = place.rpartition(".")[2]
    if key not in EVALUATORS + LISTS:
        if value is not None and not isinstance(value, Mapping):
            yield f"{place} is {value!r}; it takes a dict"
            return
    else:
        parts = value if isinstance(value, (list, tuple)) else [value]
        wrong = next((part for part in parts if not _is_part(part, key)), None)
        if wrong is not None:
            yield f"{place} has {wrong!r} where a dict(type=..) belongs; it takes a list of them"
            return
    for name, inner in value.items() if isinstance(value, Mapping) else ():
        if name in (*LISTS, "dataset") or place == "default_hooks":
            yield from _no_dicts(inner, f"{place}.{name}")


def _is_part(part: Any, key: str) -> bool:
    if key in ("pipeline", "transforms") and (callable(part) or isinstance(part, (list, tuple))):
        return True  # TestTimeAug's lists of ways, and transforms that are built
    return part is None or isinstance(part, Mapping) or hasattr(part, "priority")  # a built hook


# ---- numbers -------------------------------------------------------------------------------------
def wrong_numbers(cfg: Config) -> list[str]:
    """Sizes and intervals below their least."""
    least = {
        **{f"{split}_dataloader.batch_size": 1 for split in SPLITS},
        **{f"{split}_dataloader.num_workers": 0 for split in SPLITS},
        "train_cfg.max_epochs": 1, "train_cfg.max_iters": 1, "train_cfg.val_interval": 1,
        "default_hooks.logger.interval": 1,
    }  # fmt: skip
    found = []
    for place, minimum in least.items():
        *parents, key = place.split(".")
        value = (
            (cfg.get(parents[0]) or {})
            if len(parents) == 1
            else cfg.get(parents[0], {}).get(parents[1], {})
        )
        value = value.get(key)
        whole = (
            isinstance(value, (int, float)) and not isinstance(value, bool) and value == int(value)
        )
        if value is not None and not (whole and value >= minimum):
            found.append(f"{place} is {value!r}; it must be a whole number from {minimum} on")
    return found


def untyped_hooks(cfg: Config) -> list[str]:
    """Hooks that name no class, as a misspelt default hook."""
    hooks = cfg.get("default_hooks") or {}
    nameless = [
        key for key, hook in hooks.items() if isinstance(hook, Mapping) and "type" not in hook
    ]
    found = []
    for key in nameless:
        meant = near(key, [name for name in hooks if name not in nameless])
        hint = f"; did you mean {meant!r}?" if meant else ""
        found.append(f"default_hooks.{key} has no type, so that no hook is built of it{hint}")
    return found


# ---- classes -------------------------------------------------------------------------------------
def data_sets(cfg: Config, split: str) -> Iterator[tuple[str, Mapping]]:
    """The data sets of a split with their paths, below wrappers such as ConcatDataset."""
    loader = cfg.get(f"{split}_dataloader") or {}

    def inner(node: Any, path: str) -> Iterator[tuple[str, Mapping]]:
        if isinstance(node, (list, tuple)):
            for index, part in enumerate(node):
                yield from inner(part, f"{path}.{index}")
        elif isinstance(node, Mapping):
            below = [key for key in ("dataset", "datasets") if key in node]
            for key in below:
                yield from inner(node[key], f"{path}.{key}")
            if not below and node:
                yield path, node

    yield from inner(loader.get("dataset"), f"{split}_dataloader.dataset")


# Data sets whose classes are not those that heads tell apart: tracks, persons, things beside stuff.
TASKS_OF_THEIR_OWN = ("MOT", "ReID", "CocoPanoptic", "Youtube")


def classes_in(dataset: Mapping, scope: str) -> Any:
    """The class names that a data set's entry gives, its class's own where it gives none; None: unknown."""
    metainfo = dataset.get("metainfo")
    given = metainfo.get("classes") if isinstance(metainfo, Mapping) else None
    if isinstance(given, str) and Path(given).is_file():
        return tuple(Path(given).read_text().split("\n")) if given else None
    kind = str(getattr(dataset.get("type"), "__name__", dataset.get("type")))
    if given is not None or "type" not in dataset or kind.startswith(TASKS_OF_THEIR_OWN):
        return given
    return _fixed_classes(dataset, scope)


def _fixed_classes(dataset: Mapping, scope: str) -> Any:
    """The classes of a data set's own class, None for one without."""
    for made in classes_of(dataset.get("type", "none"), scope):
        if own := getattr(made, "METAINFO", {}).get("classes"):
            return own
    return None


def wrong_classes(cfg: Config, splits: Sequence[str]) -> list[str]:
    """Class names that are none, and counts that disagree between data and model."""
    found, counts = [], {}
    for split in splits:
        for path, dataset in data_sets(cfg, split):
            sentences, count = _names(path, dataset, cfg.default_scope)
            found += sentences
            if count is not None:
                counts[path] = count
    if found:
        return found
    heads = head_counts(cfg.get("model") or {})
    wanted = set(counts.values())
    if len(wanted) > 1:
        said = ", ".join(f"{place} {count}" for place, count in counts.items())
        return [
            f"the data sets disagree about the number of classes: {said}; set metainfo.classes of each"
        ]
    if not wanted:
        return []
    (count,) = wanted
    wrong = {place: number for place, number in heads.items() if number != count}
    if wrong:
        said = ", ".join(f"{place} is {number}" for place, number in wrong.items())
        fix = " ".join(f"{place}={count}" for place in wrong)
        found.append(
            f"the data has {count} class{'es' * (count > 1)} ({next(iter(counts))}), but {said}: set {fix}"
        )
    for place, length, right in weight_counts(cfg.get("model") or {}, count):
        found.append(
            f"{place} holds {counted(length, 'number')}; {counted(count, 'class')} need {right}"
        )
    return found


def _names(path: str, dataset: Mapping, scope: str) -> tuple[list[str], int | None]:
    """What is wrong with a data set's class names, and how many there are."""
    metainfo = dataset.get("metainfo")
    if metainfo is not None and not isinstance(metainfo, Mapping):
        return [f"{path}.metainfo must be dict(classes=(...)), not {type(metainfo).__name__}"], None
    names = classes_in(dataset, scope)
    place = f"{path}.metainfo.classes"
    if names is None:
        return [], None
    if isinstance(names, str):
        listed = ", ".join(f'"{name.strip()}"' for name in names.split(",")) + "," * (
            "," not in names
        )
        return [f"{place} is the text {names!r}; write a tuple of names: ({listed})"], None
    names = list(names)
    if len(names) == 1 and "," in str(names[0]):
        listed = ", ".join(f'"{name.strip()}"' for name in names[0].split(","))
        return [f"{place} is one name, {names[0]!r}; write ({listed})"], None
    if not names or not all(isinstance(name, str) for name in names):
        return [f"{place} must be names, at least one, got {names!r}"], None
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        return [f"{place} names {', '.join(map(repr, twice))} more than once"], None
    fixed = _fixed_classes(dataset, scope)
    if scope == "mmseg" and fixed and set(names) - set(fixed):
        kind = getattr(dataset["type"], "__name__", dataset["type"])
        return [
            f"{path} is a {kind}, whose label maps are of its own {len(fixed)} classes, without "
            f"{', '.join(map(repr, sorted(set(names) - set(fixed))[:5]))}: write type='BaseSegDataset', with "
            "img_suffix, seg_map_suffix and reduce_zero_label of your data"
        ], None  # fmt: skip
    palette = metainfo.get("palette") if metainfo else None
    if isinstance(palette, (list, tuple)) and palette and len(palette) != len(names):
        return [
            f"{path}.metainfo.palette has {counted(len(palette), 'colour')} for {counted(len(names), 'class')}"
        ], None
    return [], len(names)


# Parts of a model whose classes are not the data's: objectness, stuff beside things, tracks, and what is
# only there to be learnt from.
OTHER_CLASSES = {"backbone", "rpn_head", "semantic_head", "reid", "teacher", "teacher_config"}


def _heads(model: Mapping) -> Iterator[tuple[str, Mapping]]:
    if "language_model" in model:  # its classes are words
        return
    for path, node in walk(model, "model"):
        if not set(path.split(".")) & OTHER_CLASSES:
            yield path, node


def head_counts(model: Mapping) -> dict[str, int]:
    """Every number of classes below a model, by its place."""
    found = {}
    for path, node in _heads(model):
        things, stuff = node.get("num_things_classes"), node.get("num_stuff_classes", 0)
        if isinstance(things, int):
            found[f"{path}.num_things_classes"] = things + stuff
        elif isinstance(node.get("num_classes"), int) and not node.get("class_agnostic"):
            found[f"{path}.num_classes"] = node["num_classes"]
    return found


def weight_counts(model: Mapping, classes: int) -> list[tuple[str, int, int]]:
    """Class weights of another length than the classes need: place, length, right length. Heads that
    predict masks have one more class, "nothing"."""
    found, kinds = [], {}
    for path, node in _heads(model):
        above = [kind for place, kind in kinds.items() if path.startswith(f"{place}.")]
        kinds[path] = str(getattr(node.get("type"), "__name__", node.get("type", "")))
        weights = node.get("class_weight")
        if isinstance(weights, (list, tuple)):
            masks = any("Mask2Former" in kind or "MaskFormer" in kind for kind in above)
            right = classes + 1 if masks else classes
            if len(weights) not in ((right,) if masks else (right, right + 1)):
                found.append((f"{path}.class_weight", len(weights), right))
    return found


# ---- metrics -------------------------------------------------------------------------------------
def _coco(evaluator: Mapping) -> set[str] | None:
    kinds = evaluator.get("metric", "bbox")
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    if set(kinds) - {"bbox", "segm"} or evaluator.get("classwise") or evaluator.get("metric_items"):
        return None
    sizes = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
    return {f"{kind}_{size}" for kind in kinds for size in sizes}


def _voc(evaluator: Mapping) -> set[str] | None:
    thresholds = evaluator.get("iou_thrs", 0.5)
    thresholds = [thresholds] if isinstance(thresholds, float) else thresholds
    if evaluator.get("metric", "mAP") != "mAP":
        return None
    return {"mAP", *(f"AP{int(100 * threshold):02d}" for threshold in thresholds)}


def _iou(evaluator: Mapping) -> set[str] | None:
    means = {"mIoU": {"mIoU", "mAcc"}, "mDice": {"mDice", "mAcc"},
             "mFscore": {"mFscore", "mPrecision", "mRecall"}}  # fmt: skip
    kinds = evaluator.get("iou_metrics", ["mIoU"])
    return {"aAcc"}.union(*(means.get(kind, set()) for kind in kinds))


GIVEN = {
    "CocoMetric": (_coco, "coco"),
    "VOCMetric": (_voc, "pascal_voc"),
    "IoUMetric": (_iou, None),
}


def metrics_given(evaluators: Any) -> set[str] | None:
    """The names of the metrics that evaluators give; None where one is not known here."""
    evaluators = [evaluators] if isinstance(evaluators, Mapping) else evaluators or []
    given: set[str] = set()
    for evaluator in evaluators:
        kind = evaluator.get("type")
        if kind == "Evaluator":
            names = metrics_given(evaluator.get("metrics"))
        else:
            kind = str(getattr(kind, "__name__", kind)).split(".")[-1]
            names_of, prefix = GIVEN.get(kind, (lambda evaluator: None, None))
            prefix, names = evaluator.get("prefix") or prefix, names_of(evaluator)
            names = (
                {f"{prefix}/{name}" if prefix else name for name in names or ()} if names else names
            )
        if names is None:
            return None
        given |= names
    return given


def monitors(cfg: Config) -> Iterator[tuple[str, str]]:
    """The metrics that hooks wait for: place and name."""
    hooks = [
        (f"default_hooks.{name}", hook) for name, hook in (cfg.get("default_hooks") or {}).items()
    ]
    hooks += [(f"custom_hooks.{k}", hook) for k, hook in enumerate(cfg.get("custom_hooks") or [])]
    for place, hook in hooks:
        for key in ("save_best", "monitor"):
            names = (hook or {}).get(key)
            for name in [names] if isinstance(names, str) else names or []:
                yield f"{place}.{key}", name


def wrong_monitors(cfg: Config) -> list[str]:
    """Metrics that hooks wait for and no evaluator gives."""
    given = metrics_given(cfg.get("val_evaluator"))
    if given is None or not cfg.get("val_dataloader"):
        return []
    return [
        f"{place} waits for {name!r}, which the evaluator does not give; it gives {', '.join(sorted(given))}"
        for place, name in monitors(cfg)
        if name not in given | {"auto", "loss"}
    ]


# ---- strides -------------------------------------------------------------------------------------
# Necks that keep the strides of their maps, and add smaller ones by halving.
PYRAMIDS = ("FPN", "PAFPN", "ChannelMapper", "CSPNeXtPAFPN")


def wrong_strides(cfg: Config) -> list[str]:
    """Anchors laid out for other strides than the maps have: every box then starts at a wrong place."""
    model = cfg.get("model") or {}
    maps = map_strides(model)
    if maps is None:
        return []
    found = []
    for part in ("rpn_head", "bbox_head"):
        head = model.get(part)
        head = head if isinstance(head, Mapping) else {}
        for key in ("anchor_generator", "prior_generator", "point_generator"):
            strides = (head.get(key) or {}).get("strides")
            if not isinstance(strides, (list, tuple)) or not all(
                isinstance(s, int) for s in strides
            ):
                continue
            if list(strides) != maps:
                found.append(
                    f"the neck's maps have strides {maps}, but model.{part}.{key}.strides is "
                    f"{list(strides)}: anchors would lie at other places than what the maps show. Set "
                    "model.backbone.out_indices, model.neck.start_level and num_outs, or the strides, so "
                    "that they agree"
                )
    return found


def wrong_channels(cfg: Config) -> list[str]:
    """Parts built for other channels than the backbone's maps have, as after a change of arch alone."""
    model = cfg.get("model") or {}
    maps = _maps(model)
    if maps is None:
        return []
    channels = [dim for dim, _ in maps]
    if model.get("neck"):
        parts = {"neck": channels}
    else:
        parts = {"panoptic_head": channels}
        for name in ("decode_head", "auxiliary_head"):
            head = model.get(name)
            index = head.get("in_index", -1) if isinstance(head, Mapping) else None
            if isinstance(index, int) and -len(channels) <= index < len(channels):
                parts[name] = channels[index]
            elif isinstance(index, (list, tuple)) and all(k < len(channels) for k in index):
                parts[name] = [channels[k] for k in index]
    found = []
    for name, right in parts.items():
        part = model.get(name)
        given = part.get("in_channels") if isinstance(part, Mapping) else None
        given = list(given) if isinstance(given, (list, tuple)) else given
        if type(given) is type(right) and given != right:
            found.append(
                f"the backbone's maps have {channels} channels, model.{name}.in_channels is {given}: set "
                f"model.{name}.in_channels={right}"
            )
    return found


def map_strides(model: Mapping) -> list[int] | None:
    """The strides of the maps that a neck gives of a ConvNeXt's; None where that is not known here."""
    neck, maps = model.get("neck") or {}, _maps(model)
    if maps is None or not isinstance(neck, Mapping) or neck.get("type") not in PYRAMIDS:
        return None
    strides = [stride for _, stride in maps]
    end = neck.get("end_level", -1)
    strides = strides[neck.get("start_level", 0) : None if end == -1 else end + 1]
    while strides and len(strides) < (neck.get("num_outs") or 0):
        strides.append(strides[-1] * 2)
    return strides


def _maps(model: Mapping) -> list[tuple[int, int]] | None:
    """Channels and stride of each map of this package's backbones; None for others, and for what the
    backbone refuses itself."""
    backbone = model.get("backbone") or {}
    kind = str(getattr(backbone.get("type"), "__name__", backbone.get("type"))).split(".")[-1]
    indices = backbone.get("out_indices")
    if kind not in ("ConvNeXt", "ConvNeXtV2") or not isinstance(indices, (list, tuple)):
        return None
    try:
        depths, dims = resolve_arch(backbone.get("arch", "tiny"), 1 + (kind == "ConvNeXtV2"))
        patch = backbone.get("patch_size", backbone.get("stem_patch_size", 4))
        strides, _ = strides_and_dilations(len(depths), patch, backbone.get("output_stride"))
        return [(dims[index], strides[index]) for index in indices]
    except (ValueError, TypeError, IndexError, KeyError):
        return None


# ---- the schedule --------------------------------------------------------------------------------
def schedule_notes(cfg: Config, iterations: int, epochs: float) -> list[str]:
    """What of param_scheduler and the intervals lies beyond a run of this length, a sentence each."""
    found = []
    total = {False: iterations, True: epochs}
    unit = {False: "steps", True: "epochs"}
    schedulers = cfg.get("param_scheduler") or []
    for scheduler in [schedulers] if isinstance(schedulers, Mapping) else schedulers:
        kind = str(getattr(scheduler.get("type"), "__name__", scheduler.get("type")))
        by_epoch = bool(scheduler.get("by_epoch", True))
        length, of = total[by_epoch], f"a run of {total[by_epoch]:.4g} {unit[by_epoch]}"
        if isinstance(total[by_epoch], int):
            of = f"a run of {total[by_epoch]} {unit[by_epoch]}"
        end = scheduler.get("end")
        end = end if isinstance(end, (int, float)) and end > 0 and end != math.inf else None
        late = [milestone for milestone in scheduler.get("milestones") or [] if milestone >= length]
        if late:
            found.append(
                f"{kind}: milestone{'s' * (len(late) > 1)} {', '.join(map(str, late))} lie{'s' * (len(late) == 1)} "
                f"beyond {of}, and the learning rate does not fall there"
            )
        elif end and end > length and kind in ("LinearLR", "ConstantLR"):
            found.append(
                f"{kind} is a warm-up of {end} {unit[by_epoch]} in {of}: lr is never reached"
            )
        elif end and end > length and "milestones" not in scheduler:
            found.append(
                f"{kind} ends at {end} {unit[by_epoch]}, in {of}: lr does not fall to its end"
            )
    loop = cfg.get("train_cfg") or {}
    by_epoch = "max_epochs" in loop
    interval = loop.get("val_interval", 1)
    if cfg.get("val_dataloader") and interval > math.ceil(total[by_epoch]):
        found.append(
            f"train_cfg.val_interval={interval} is longer than the run ({total[by_epoch]:g} "
            f"{unit[by_epoch]}), which validates once, at its end"
        )
    return found
