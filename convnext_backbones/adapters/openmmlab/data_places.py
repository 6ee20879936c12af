"""Whether the files of a config's data sets lie where it says, told with the config's own paths."""

import collections
import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ...errors import UserError
from ...runs import preparation
from ...runs.randomness import seeded_by
from .config_mistakes import data_sets
from .signatures import classes_of, walk

KINDS = {
    "mmdet": "coco",
    "mmseg": "ade20k",
}  # default scope to the kind of its shipped configs' data
LOOKED_AT = 200  # pictures whose annotations are looked at for masks


def check(cfg: Config, split: str) -> None:
    """
    Raises:
        UserError: files of the split's data sets or of its evaluator are missing, or none of them has the
            suffix that the config says.
    """
    for path, dataset in data_sets(cfg, split):
        if "://" in str(dataset.get("data_root")):  # a store that MMEngine reads by itself
            continue
        places = _places(dataset)
        for key, place in places.items():
            if not place.exists():
                raise preparation.missing_data(
                    split, place, _layout(cfg, dataset, places),
                    way="set data_root at the top of the config, or --cfg-options data_root=FOLDER",
                )  # fmt: skip
            if place.is_dir() and not any(place.iterdir()):
                raise UserError(f"{place} is an empty folder, the {key} of {path}")
        if cfg.default_scope == "mmseg":
            _check_suffixes(path, dataset, places, cfg.default_scope)
    if split != "train":
        _check_evaluator(cfg, split)


def _places(dataset: Mapping) -> dict[str, Path]:
    """The folders and files that a data set's entry names, by the entries' names."""
    root = Path(dataset.get("data_root") or ".")
    parts = {**(dataset.get("data_prefix") or {}), "ann_file": dataset.get("ann_file")}
    return {key: root / part for key, part in parts.items() if isinstance(part, str) and part}


def _layout(cfg: Config, dataset: Mapping, places: Mapping[str, Path]) -> str:
    """What the config looks for, a line each, and where the shipped configs' data is from."""
    suffixes = {"img_path": "img_suffix", "seg_map_path": "seg_map_suffix"}
    root = dataset.get("data_root")
    lines = [f"    {str(root).rstrip('/')}/"] if root else []
    for key, place in places.items():
        inside = place.relative_to(root) if root and place.is_relative_to(root) else place
        suffix = _suffix(dataset, suffixes[key], cfg.default_scope) if key in suffixes else None
        name = f"{inside}/*{suffix}" if suffix else f"{inside}"
        lines.append(f"      {name:48} {key}{'' if place.exists() else ', missing'}")
    kind = str(getattr(dataset.get("type"), "__name__", dataset.get("type")))
    of_shipped = kind == "ADE20KDataset" or "2017.json" in str(dataset.get("ann_file"))
    if of_shipped and not (dataset.get("metainfo") or {}).get("classes"):
        lines.append(preparation.LAYOUTS[KINDS[cfg.default_scope]].splitlines()[-1])
    return "\n".join(lines)


def _suffix(dataset: Mapping, key: str, scope: str) -> str | None:
    """The suffix that a data set looks for: its entry's, or its class's own."""
    if key in dataset:
        return dataset[key]
    for made in classes_of(dataset.get("type"), scope):
        for owner in getattr(made, "__mro__", ()):
            parameter = inspect.signature(owner.__init__).parameters.get(key)
            if parameter and isinstance(parameter.default, str):
                return parameter.default
    return None


def _check_suffixes(path: str, dataset: Mapping, places: Mapping[str, Path], scope: str) -> None:
    """Refuse a folder without a file of the suffix, and pictures without label maps of their names."""
    names: dict[str, set[str]] = {}
    for key, name in (("img_path", "img_suffix"), ("seg_map_path", "seg_map_suffix")):
        folder, suffix = places.get(key), _suffix(dataset, name, scope)
        if folder is None or suffix is None or not folder.is_dir():
            return
        files = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
        names[key] = {file.removesuffix(suffix) for file in files if file.endswith(suffix)}
        if not names[key]:
            counts = collections.Counter(Path(file).suffix or "suffixless" for file in files)
            said = ", ".join(f"{count} {kind} files" for kind, count in counts.most_common(3))
            raise UserError(
                f"{said or 'no files'} in {folder}, none ends in {suffix}: set {path}.{name}"
            )
    if dataset.get("ann_file") or dataset.get("test_mode"):
        return
    without = sorted(names["img_path"] - names["seg_map_path"])
    if without:
        raise UserError(
            f"{len(without)} of {len(names['img_path'])} pictures in {places['img_path']} have no label map of "
            f"their name in {places['seg_map_path']}, e.g. "
            f"{without[0]}{_suffix(dataset, 'seg_map_suffix', scope)}: set {path}.seg_map_suffix, or remove them"
        )


def _check_evaluator(cfg: Config, split: str) -> None:
    for place, node in walk(cfg.get(f"{split}_evaluator") or {}, f"{split}_evaluator"):
        file = node.get("ann_file")
        if isinstance(file, str) and "://" not in file and not Path(file).exists():
            own = next((_places(d).get("ann_file") for _, d in data_sets(cfg, split)), None)
            raise UserError(
                f"{place}.ann_file is {file}, which is missing"
                + (f"; the {split} data set's is {own}: set {place}.ann_file={own}" if own else "")
            )


def try_pipeline(dataset: Any, split: str) -> None:
    """Take the first picture of a data set that is built through its pipeline.

    Raises:
        UserError: a transform cannot take it, for its arguments as a rule; it names both.
    """
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    if not steps or not len(dataset):
        return
    with seeded_by(0):  # the run draws what it would have drawn
        result = dataset.get_data_info(0)
        picture = result.get("img_path")
        for k, step in enumerate(copy.deepcopy(list(steps))):  # some keep pictures
            try:
                result = step(result)
            except (UserError, OSError):  # of files, which the checks of data name
                return
            except Exception as error:
                raise UserError(
                    f"{type(step).__name__}, number {k} of the pipeline for {split}, cannot take {picture}: "
                    f"{type(error).__name__}: {error}. Compare its arguments with what it is documented "
                    f"to take: {step!r}"
                ) from error
            if result is None:
                return


def check_masks(dataset: Any, split: str) -> None:
    """
    Raises:
        UserError: the pipeline of a data set that is built loads masks, and there are objects without.
    """
    while hasattr(dataset, "dataset"):
        dataset = dataset.dataset
    steps = getattr(getattr(dataset, "pipeline", None), "transforms", ())
    if not any(getattr(step, "with_mask", False) for step in steps) or not len(dataset):
        return
    pictures = range(0, len(dataset), max(1, len(dataset) // LOOKED_AT))
    objects = [thing for k in pictures for thing in dataset.get_data_info(k).get("instances", ())]
    without = sum("mask" not in thing for thing in objects)
    if without:
        names = preparation.shipped_configs()
        others = [
            n for n in ("coco_faster_rcnn_convnextv2_t", "coco_rtmdet_convnextv2_t") if n in names
        ]
        raise UserError(
            f"{without} of {len(objects)} objects looked at in the {split} data ({dataset.ann_file}) have a box and "
            "no mask (segmentation), and this config learns masks. For boxes alone take a config without masks, "
            f"such as {' or '.join(others)}; or add the masks"
        )
