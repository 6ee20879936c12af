"""configs/*.py and configs/_base_: MMDetection's and MMSegmentation's."""

import math

from ...network.variants import VARIANTS
from ..schedule import images_per_gpu, iterations
from ..schema import Protocol, Recipe
from ..table import DATASETS, METHODS, PROTOCOLS, RECIPES
from . import text
from .render import render

SCOPES = {"coco": "mmdet", "ade20k": "mmseg"}
# templates/openmmlab/pictures: what happens to training pictures
PICTURES = {
    "coco_3x": "multi_scale",
    "coco_boxes_3x": "multi_scale",
    "coco_lsj_3x": "large_scale_jitter",
    "coco_dino_12e": "multi_scale",
    "coco_mask2former_50e": "mask2former",
    "coco_rtmdet_100e": "mosaic",
}
WORKERS = {"coco_lsj_3x": 8, "coco_rtmdet_100e": 10}  # for pictures that take longer; else 4


def files() -> dict[str, str]:
    recipes = [r for r in RECIPES.values() if "openmmlab" in METHODS[r.method].hosts]
    return {
        **{f"configs/{recipe.name}.py": config(recipe) for recipe in recipes},
        **{f"configs/_base_/{name}.py": protocol_base(p) for name, p in PROTOCOLS.items()},
        **{f"configs/_base_/{_model_base(recipe)}.py": model_base(recipe) for recipe in recipes},
        **{f"configs/_base_/runtime_{scope}.py": runtime(scope) for scope in SCOPES.values()},
    }


def config(recipe: Recipe) -> str:
    """configs/<recipe>.py."""
    variant, protocol = VARIANTS[recipe.variant], PROTOCOLS[recipe.protocol]
    stages = METHODS[recipe.method].stages
    channels = [variant.dims[stage - 1] for stage in stages]
    return render(
        "openmmlab/config.py",
        header=header(recipe),
        recipe=recipe,
        protocol=protocol,
        variant=variant,
        network="ConvNeXtV2" if variant.version == 2 else "ConvNeXt",
        scope=SCOPES[protocol.dataset],
        base=_model_base(recipe),
        out_indices=tuple(stage - 1 for stage in stages),
        channels=channels,
        norm_groups=norm_groups(channels),
        scales_comment=text.scales(recipe),
    )


def norm_groups(channels: list[int]) -> int:
    """Groups of the GroupNorm in RTMDet's neck, which normalises these widths and their halves: 32, or
    what fits all of them."""
    return math.gcd(32, *(width // 2 for width in channels))


def header(recipe: Recipe) -> str:
    protocol = PROTOCOLS[recipe.protocol]
    command = (
        f"torchrun --nproc-per-node {protocol.gpus} tools/train.py configs/{recipe.name}.py "
        "--launcher pytorch"
    )
    memory = f"; {recipe.memory_gb:g} GB a GPU" if recipe.memory_gb else ""
    expected = text.scores(recipe) or "no score is published"
    reruns = f"; {recipe.reruns}" if recipe.reruns else ""
    measured = recipe.measured or "Not trained here"
    return text.comment(
        text.title(recipe),
        [
            ("Paper", text.papers(recipe)),
            ("Command", command),
            ("Hardware", text.hardware(protocol) + memory),
            ("Recipe", text.figures(recipe)),
            ("Data", text.augmentation(protocol)),
            ("Schedule", text.schedule(protocol)),
            ("Weights", text.weights(recipe)),
            ("Expected", f"{expected}. {text.sizes(recipe)}"),
            ("Status", f"{recipe.status}: {recipe.source}{reruns}. {measured}"),
        ],
    )


def protocol_base(protocol: Protocol) -> str:
    """configs/_base_/<protocol>.py: data, schedule and hooks."""
    load = "LoadImageFromFile"
    boxes = 'dict(type="LoadAnnotations", with_bbox=True'
    pictures = PICTURES.get(protocol.name)
    return render(
        f"openmmlab/{protocol.dataset}.py",
        header=text.comment(
            f"{DATASETS[protocol.dataset].title}: data, schedule and hooks of the recipes of this name",
            [
                ("Data", text.augmentation(protocol)),
                ("Batch", text.hardware(protocol)),
                ("Schedule", text.schedule(protocol)),
            ],
        ),
        protocol=protocol,
        scope=SCOPES[protocol.dataset],
        images_per_gpu=images_per_gpu(protocol),
        images_with_objects=PROTOCOLS["coco_3x"].train_images,
        workers=WORKERS.get(protocol.name, 4),
        pictures=pictures,
        load_image=f'dict(type="{load}"{", to_float32=True" if pictures == "mask2former" else ""})',
        load_annotations=boxes + (", with_mask=True)" if protocol.masks else ")"),
        by_epoch=protocol.epochs is not None,
        length=protocol.epochs or iterations(protocol),
        save_best="mIoU"
        if protocol.dataset == "ade20k"
        else f"coco/{'segm' if protocol.masks else 'bbox'}_mAP",
        pairs=lambda short_sides, long_side: [(side, long_side) for side in short_sides],
    )


def _model_base(recipe: Recipe) -> str:
    """The name of the file in configs/_base_ that has the network's neck and heads."""
    if recipe.method == "mask2former":  # two frameworks' own
        return f"mask2former_{PROTOCOLS[recipe.protocol].dataset}"
    return recipe.method


def model_base(recipe: Recipe) -> str:
    """configs/_base_/<method>.py: neck and heads."""
    protocol = PROTOCOLS[recipe.protocol]
    r_cnn = recipe.method.endswith("rcnn")
    return render(
        f"openmmlab/{'r_cnn' if r_cnn else recipe.method}.py",
        cascade=recipe.method.startswith("cascade"),
        masks=protocol.masks,
        scope=SCOPES[protocol.dataset],
        classes=DATASETS[protocol.dataset].classes,
        crop_size=protocol.crop_size,
    )


def runtime(scope: str) -> str:
    """configs/_base_/runtime_<scope>.py."""
    return render("openmmlab/runtime.py", scope=scope)
