"""The whole models of `benchmark --models` and `--runtimes`: built by the frameworks' adapters, timed by the lab."""

import copy
import importlib
import importlib.util
from collections.abc import Iterator
from typing import NamedTuple


class Row(NamedTuple):
    """A model of docs/benchmarks: its framework, config (V1's; V2's by its name), and pictures."""

    title: str
    framework: str
    config: str
    pictures: int  # of a training step
    size: tuple[int, int]
    quick: tuple[int, int]


ROWS = (
    Row(
        "UPerNet, MMSegmentation",
        "openmmlab",
        "ade20k_upernet_convnext_t",
        2,
        (512, 512),
        (256, 256),
    ),
    Row(
        "Mask R-CNN, MMDetection",
        "openmmlab",
        "coco_mask_rcnn_convnext_t",
        1,
        (800, 1216),
        (320, 480),
    ),
    Row("RTMDet, MMDetection", "openmmlab", "coco_rtmdet_convnext_t", 1, (800, 1216), (320, 480)),
    Row(
        "Mask R-CNN, Detectron2",
        "detectron2",
        "coco_mask_rcnn_convnext_t",
        1,
        (800, 1216),
        (320, 480),
    ),
)
NEEDED = {"openmmlab": ("mmengine", "mmcv", "mmdet", "mmseg"), "detectron2": ("detectron2",)}


def measure_models(
    versions,
    *,
    rounds: int,
    quick: bool = False,
    shrink: bool = False,
    most_seconds: float | None = None,
) -> Iterator[dict]:
    """A row of results at a time; skipped, with the reason, where a framework is not installed."""
    from ..lab.benchmark.models import compare_models

    for row in ROWS:
        size = row.quick if quick else row.size
        missing = _missing(row.framework)
        for version in versions:
            about = {"version": version, "size": list(size), "pictures": row.pictures}
            if missing:
                yield {"model": row.title, "work": "", "skipped": missing, **about}
                continue
            ours, theirs = contestants(row, version, size, shrink=shrink)
            for found in compare_models(
                row.title, ours, theirs, rounds=rounds, most_seconds=most_seconds
            ):
                yield {**found, **about}


def _missing(framework: str) -> str | None:
    """Why its models cannot be built here; None: they can."""
    missing = [n for n in NEEDED[framework] if importlib.util.find_spec(n) is None]
    return f"{', '.join(missing)}: not installed" if missing else None


def _config(row: Row, version: int) -> str:
    return row.config if version == 1 else row.config.replace("convnext_t", "convnextv2_t")


def contestants(row: Row, version: int, size: tuple[int, int], *, shrink: bool = False):
    """WholeModel of ours, and by layout that with timm's backbone."""
    from ..lab.benchmark.contests import LAYOUTS
    from ..lab.benchmark.models import TimmBackbone, WholeModel
    from ..lab.random_weights import fill_randomly

    config = _config(row, version)
    timing = importlib.import_module(f"..adapters.{row.framework}.timing", __package__)
    folder = "detectron2/" if row.framework == "detectron2" else ""
    model, losses, found, parts = timing.timed_model(
        f"{folder}{config}.py" if folder else config, size, row.pictures, shrink=shrink
    )
    place, name = (model.backbone, "bottom_up") if folder else (model, "backbone")
    ours = fill_randomly(getattr(place, name))
    names = tuple(ours.out_features) if folder else ()

    def whole(model) -> WholeModel:
        modules = dict(model.named_modules())
        return WholeModel(
            model,
            lambda: losses(model),
            lambda: found(model),
            {part: modules[part] for part in parts if part in modules},
        )

    theirs = {}
    for layout in LAYOUTS:
        setattr(place, name, None)  # our backbone is not copied
        other = copy.deepcopy(model)
        setattr(place, name, ours)
        other_place = other.backbone if folder else other
        setattr(other_place, name, TimmBackbone(ours, layout=layout, names=names))
        theirs[layout] = whole(other)
    return whole(model), theirs


# ---- in other runtimes ---------------------------------------------------------------------------
DEPLOYED = {False: (512, 512), True: (256, 256)}  # images, by whether --quick


def measure_deployed(
    versions,
    *,
    rounds: int,
    quick: bool = False,
    shrink: bool = False,
    most_seconds: float | None = None,
) -> Iterator[dict]:
    """A row of a backbone, then one of a UPerNet with it, as PyTorch and other runtimes compute them."""
    import torch

    from ..lab.benchmark.deployed import compare_forms

    size = DEPLOYED[quick]
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    upernet = ROWS[0]
    missing = _missing(upernet.framework)
    options = dict(rounds=rounds, most_seconds=most_seconds)
    for version in versions:
        backbone = _backbone(version, shrink=shrink)
        names = tuple(backbone.out_features)
        yield {
            **compare_forms("backbone", backbone, names, images, **options),
            "version": version,
        }
        about = {"model": upernet.title, "version": version, "size": [1, *size]}
        if missing:
            yield {**about, "skipped": missing}
            continue
        network = _upernet(_config(upernet, version), size, shrink=shrink)
        yield {**compare_forms(upernet.title, network, ("logits",), images, **options), **about}


def _backbone(version: int, *, shrink: bool):
    from ..create import create_backbone
    from ..lab.random_weights import fill_randomly
    from ..network.convnext import ConvNeXt, ConvNeXtV2

    if shrink:
        small = dict(depths=(1, 1), dims=(8, 16))
        backbone = (ConvNeXtV2 if version == 2 else ConvNeXt)(small, out_indices=(0, 1))
    else:
        backbone = create_backbone(f"convnext{'v2' if version == 2 else ''}_tiny")
    return fill_randomly(backbone).eval()


def _upernet(config: str, size: tuple[int, int], *, shrink: bool):
    """Images to logits."""
    from ..adapters.openmmlab.export import Segmentor
    from ..adapters.openmmlab.timing import timed_model
    from ..lab.random_weights import fill_randomly

    model, *_ = timed_model(config, size, 1, shrink=shrink)
    fill_randomly(model.backbone)
    return Segmentor(model).eval()
