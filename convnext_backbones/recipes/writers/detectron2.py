"""configs/detectron2: a LazyConfig and a YAML file a recipe, and their _base_."""

from ...network.variants import VARIANTS
from ..schedule import images_per_gpu, iterations, unit
from ..schema import Protocol, Recipe
from ..table import DATASETS, METHODS, MILESTONE_FACTOR, PROTOCOLS, RECIPES
from . import text
from .render import render

FOLDER = "configs/detectron2"
# Where Detectron2's networks are not those whose scores the table has.
DIFFERENCES = {
    "mask_rcnn": "Detectron2's heads, of the same size",
    "cascade_mask_rcnn": "Detectron2's heads: one mask head where the published network has three, "
    "class-agnostic boxes, gradients averaged over the stages",
    "faster_rcnn": "Detectron2's heads, of the same size",
    "cascade_rcnn": "Detectron2's heads: class-agnostic boxes, gradients averaged over the stages",
    "sem_seg_fpn": "Detectron2's own segmentor; tested on whole pictures",
}
# files of _base_: the LazyConfig's data and schedule, the LazyConfig's model, all of a YAML config
LAZY_DATA = {
    "coco_3x": "coco",
    "coco_boxes_3x": "coco_boxes",
    "coco_lsj_3x": "coco_lsj",
    "ade20k_160k": "ade20k_sem_seg_fpn",
}
LAZY_MODEL = {
    "mask_rcnn": "mask_rcnn_fpn",
    "cascade_mask_rcnn": "cascade_mask_rcnn_fpn",
    "faster_rcnn": "faster_rcnn_fpn",
    "cascade_rcnn": "cascade_rcnn_fpn",
    "sem_seg_fpn": "ade20k_sem_seg_fpn",
}
YAML_DATA = {**LAZY_DATA, "ade20k_160k": "ade20k"}


def files() -> dict[str, str]:
    recipes = [r for r in RECIPES.values() if "detectron2" in METHODS[r.method].hosts]
    protocols = dict.fromkeys(PROTOCOLS[recipe.protocol] for recipe in recipes)
    return {
        **{f"{FOLDER}/{recipe.name}.py": lazy_config(recipe) for recipe in recipes},
        **{f"{FOLDER}/{recipe.name}.yaml": yaml_config(recipe) for recipe in recipes},
        **{f"{FOLDER}/_base_/{LAZY_DATA[p.name]}.py": lazy_data(p) for p in protocols},
        **{
            f"{FOLDER}/_base_/{LAZY_MODEL[method]}.py": lazy_r_cnn(method)
            for method in LAZY_MODEL
            if method.endswith("rcnn")
        },
        **{f"{FOLDER}/_base_/{_yaml_base(recipe)}": yaml_base(recipe) for recipe in recipes},
    }


def header(recipe: Recipe, path: str) -> str:
    protocol = PROTOCOLS[recipe.protocol]
    differs = DIFFERENCES[recipe.method]
    if protocol.soft_nms:
        differs += "; no soft-NMS, which Detectron2 does not have"
    scores = text.scores(recipe)
    expected = f"{scores} with the published heads" if scores else "no score is published"
    status = f"the recipe is {recipe.status}: {recipe.source}. Not trained here in Detectron2"
    return text.comment(
        text.title(recipe),
        [
            ("Paper", text.papers(recipe)),
            ("Command", f"python tools/train_detectron2.py {path} --num-gpus {protocol.gpus}"),
            ("Hardware", text.hardware(protocol)),
            ("Recipe", text.figures(recipe)),
            ("Data", text.augmentation(_without_soft_nms(protocol))),
            ("Schedule", text.schedule(protocol)),
            ("Weights", text.weights(recipe)),
            ("Expected", f"{expected}. Here {differs}"),
            ("Status", status),
        ],
    )


# ---- LazyConfig ----------------------------------------------------------------------------------
def lazy_config(recipe: Recipe) -> str:
    """configs/detectron2/<recipe>.py."""
    variant = VARIANTS[recipe.variant]
    return render(
        "detectron2/config.py",
        header=header(recipe, f"{FOLDER}/{recipe.name}.py"),
        recipe=recipe,
        variant=variant,
        network="ConvNeXtV2" if variant.version == 2 else "ConvNeXt",
        data_base=LAZY_DATA[recipe.protocol],
        model_base=LAZY_MODEL[recipe.method],
        scales_comment=text.scales(recipe),
    )


def lazy_data(protocol: Protocol) -> str:
    """_base_/coco*.py, _base_/ade20k_sem_seg_fpn.py: data, optimizer, schedule."""
    return render(
        f"detectron2/{'coco' if protocol.dataset == 'coco' else 'ade20k_sem_seg_fpn'}.py",
        header=_protocol_header(protocol),
        **_protocol_figures(protocol),
    )


def lazy_r_cnn(method: str) -> str:
    """_base_/*_rcnn_fpn.py: the model but its backbone."""
    return render(
        "detectron2/r_cnn.py",
        cascade=method.startswith("cascade"),
        masks="mask" in method,
        classes=DATASETS["coco"].classes,
    )


# ---- YAML ----------------------------------------------------------------------------------------
def yaml_config(recipe: Recipe) -> str:
    """configs/detectron2/<recipe>.yaml."""
    return render(
        "detectron2/config.yaml",
        header=header(recipe, f"{FOLDER}/{recipe.name}.yaml"),
        recipe=recipe,
        variant=VARIANTS[recipe.variant],
        base=_yaml_base(recipe),
        scales_comment=text.scales(recipe),
    )


def _yaml_base(recipe: Recipe) -> str:
    return f"{YAML_DATA[recipe.protocol]}_{recipe.method}.yaml"


def yaml_base(recipe: Recipe) -> str:
    """_base_/*.yaml: data, model and schedule."""
    protocol = PROTOCOLS[recipe.protocol]
    return render(
        f"detectron2/{'coco' if protocol.dataset == 'coco' else 'ade20k_sem_seg_fpn'}.yaml",
        header=_protocol_header(protocol, METHODS[recipe.method].title),
        cascade=recipe.method.startswith("cascade"),
        multi_scale=PROTOCOLS["coco_3x"],
        **_protocol_figures(protocol),
    )


# ---- protocols -----------------------------------------------------------------------------------
def _without_soft_nms(protocol: Protocol) -> Protocol:
    return protocol._replace(soft_nms=False)  # which Detectron2 does not have


def _protocol_header(protocol: Protocol, *model: str) -> str:
    parts = [DATASETS[protocol.dataset].title, *model]
    return text.comment(
        f"{', '.join(parts)}: what the configs of the protocol {protocol.name} share",
        [
            ("Data", text.augmentation(_without_soft_nms(protocol))),
            ("Batch", text.hardware(protocol)),
            ("Schedule", text.schedule(protocol)),
        ],
    )


def _protocol_figures(protocol: Protocol) -> dict:
    """What the bases of both kinds of config say of a protocol."""
    steps = [milestone * unit(protocol) for milestone in protocol.milestones]
    figures = {
        "protocol": protocol,
        "hardware": f"{protocol.gpus} GPUs x {images_per_gpu(protocol)} images",
        "length": text.length(protocol),
        "iterations": iterations(protocol),
        "period": protocol.validate_every * unit(protocol),
        "steps": tuple(steps),
        "ends": [*steps, iterations(protocol)],
        "falls": [round(MILESTONE_FACTOR**fall, 9) for fall in range(len(steps) + 1)],
        "lr": min(r.lr for r in RECIPES.values() if r.protocol == protocol.name),
        "classes": DATASETS[protocol.dataset].classes,
    }
    if protocol.dataset == "ade20k":
        (low, high), (long, short) = protocol.ratio_range, protocol.scale
        figures |= {
            "short_sides": [int(short * low), int(short * high)],
            "long_side": int(long * high),
            "jitter": f"{short} * ({low} to {high}), with a long side <= {long} * {high}",
        }
    return figures
