"""What a config for a folder of pictures says, and why: model, weights, sizes, batch, schedule.

The figures that come from a recipe are those of the table of recipes; the others are for data much
smaller than COCO and ADE20K, and those for random weights were tried on BCCD's 205 training pictures.
"""

import math
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

from ...errors import UserError
from ...network.variants import VARIANTS, Variant, nearest
from ...recipes import METHODS, PROTOCOLS, RECIPES, Protocol, Recipe
from ...recipes import iterations as iterations_of
from ..found import Found

# ---- choices -------------------------------------------------------------------------------------
TASKS = {
    "detection": "boxes without masks",
    "instance": "boxes with masks",
    "semantic": "label maps",
}
# A name of the command line -> what it is for which task, by the names of METHODS.
MODELS = {
    "mask_rcnn": {"instance": "mask_rcnn"},
    "faster_rcnn": {"detection": "faster_rcnn"},
    "cascade": {"detection": "cascade_rcnn", "instance": "cascade_mask_rcnn"},
    "rtmdet": {"detection": "rtmdet"},
    "dino": {"detection": "dino"},
    "mask2former": {"instance": "mask2former", "semantic": "mask2former"},
    "upernet": {"semantic": "upernet"},
    "sem_seg_fpn": {"semantic": "sem_seg_fpn"},
}
# A framework's name -> its host by the names of METHODS, and the tasks that it trains.
FRAMEWORKS = {
    "mmdet": ("openmmlab", ("detection", "instance")),
    "mmseg": ("openmmlab", ("semantic",)),
    "detectron2": ("detectron2", tuple(TASKS)),
}
# host and task -> the model that is taken unless one is asked for. RTMDet for boxes: a step
# takes about a fifth of Faster R-CNN's time (224 pixels, V2-Atto, on a CPU), and it learns from few
# pictures: BCCD with V2-Atto and random weights, 16 epochs at 224 pixels, box AP 28.8, AP50 54.7.
DEFAULTS = {
    ("openmmlab", "detection"): "rtmdet",
    ("openmmlab", "instance"): "mask_rcnn",
    ("openmmlab", "semantic"): "upernet",
    ("detectron2", "detection"): "faster_rcnn",
    ("detectron2", "instance"): "mask_rcnn",
    ("detectron2", "semantic"): "sem_seg_fpn",
}
# Of the weights in the catalogue those that transfer best to little data: fine-tuned on labels.
TAGS = ("fcmae_ft_in1k", "fb_in1k_no_ema", "fb_in22k", "d2_in1k", "d1_in1k", "d1h_in1k")

# ---- figures -------------------------------------------------------------------------------------
# Pictures of the recipe's size that a step with Tiny takes on one GPU of 16 GB.
IMAGES = {"rtmdet": 16, "upernet": 8, "sem_seg_fpn": 8, "dino": 2, "mask2former": 2}
IMAGES_R_CNN = 4
TINY = 30e6  # parameters; a larger network takes fewer, by the root of its own
MOST_IMAGES, LEAST_STEPS = 16, 4  # a batch, and steps that an epoch has at least
STEPS = {"boxes": 2000, "label maps": 4000}  # that fine-tuning takes at least
EPOCHS, MOST_EPOCHS = 12, 200  # over the data: at least, and however few pictures there are
SEGMENTATION_EPOCHS = 60
# RTMDet on BCCD, as above: 1e-3 gave half a point less box AP.
SCRATCH_LR, SCRATCH_TIMES = 5e-4, 2  # random weights: one rate for all layers, and a longer run
# R-CNN's heads take most of a step, by the boxes that they train on, a quarter of them on objects.
R_CNN = ("faster_rcnn", "mask_rcnn")
ROIS, LEAST_ROIS, ROIS_PER_OBJECT, FEW = 512, 64, 12, 2000  # the recipes'; of FEW pictures, fewer
BOX = 32  # pixels that the median box has in the resized picture if enlarging reaches it...
ENLARGED = 2.0  # ...by this factor at most
MULTIPLE = 32  # of the strides: sides of crops and of squares
VALIDATIONS = 10  # a run


class Wishes(NamedTuple):
    """What the user asks for; None for what is to be decided.

    weights: a name of the catalogue or a file; "none" for random ones.
    size: in pixels: boxes, the long side of the pictures; label maps, the side of the crop.
    length: epochs; for a schedule in steps, those.
    """

    model: str | None = None
    backbone: str = "convnextv2_tiny"
    framework: str | None = None
    weights: str | None = None
    size: int | None = None
    epochs: int | None = None
    iterations: int | None = None
    batch: int | None = None


class Plan(NamedTuple):
    """What the config will say.

    method, recipe: whose shipped config is its base; `variant` may be another size than the recipe's.
    weights: None for random ones.
    scale: (long, short) side in pixels that test pictures are resized into; keeps the aspect ratio.
    crop: (height, width) of training pictures, None where they are not cropped.
    epochs or iterations: the length, of `steps` steps; validate_every counts in the same unit.
    lr, layer_decay, drop_path, warmup: of the run, in steps.
    rois: boxes a picture that R-CNN's heads train on; None where that is the recipe's.
    why: a sentence for each decision, by its name.
    """

    found: Found
    model: str
    framework: str
    method: str
    recipe: Recipe
    variant: Variant
    weights: str | None
    scale: tuple[int, int]
    crop: tuple[int, int] | None
    batch: int
    steps: int
    epochs: int | None
    iterations: int | None
    validate_every: int
    lr: float
    layer_decay: float
    drop_path: float
    warmup: int
    rois: int | None
    why: dict[str, str]

    @property
    def protocol(self) -> Protocol:
        return PROTOCOLS[self.recipe.protocol]

    @property
    def channels(self) -> list[int]:
        """Of the maps that go into neck or head."""
        return [self.variant.dims[stage - 1] for stage in METHODS[self.method].stages]

    @property
    def out_indices(self) -> tuple[int, ...]:
        return tuple(stage - 1 for stage in METHODS[self.method].stages)


def planned(found: Found, wishes: Wishes, installed: Collection[str] = tuple(FRAMEWORKS)) -> Plan:
    """The decisions for a data set.

    Args:
        found: what look() or keep() says.
        installed: the frameworks that are there.

    Raises:
        UserError: the model, the framework and the data do not go together, or a name is unknown.
    """
    variant = _variant(wishes.backbone)
    framework = wishes.framework or framework_for(found.task, wishes.model, installed)
    model, method = _model(found.task, wishes.model, framework)
    recipe = _nearest_recipe(method, variant, found.task)
    protocol, why = PROTOCOLS[recipe.protocol], {}
    weights = _weights(variant, wishes.weights, why)
    scale, crop = _sizes(found, method, protocol, wishes.size, why)
    count = found.splits["train"].count
    batch = _batch(method, variant, protocol, crop or scale, count, wishes.batch, why)
    by_epoch = protocol.epochs is not None and FRAMEWORKS[framework][0] == "openmmlab"
    length = _length(found.task, protocol, by_epoch, count, batch, weights is None, wishes, why)
    steps, epochs, iterations = length
    lr, layer_decay, drop_path = _rates(recipe, protocol, batch, weights, why)
    warmup = max(1, min(protocol.warmup_iterations or 1000, steps // 20))
    return Plan(
        found=found, model=model, framework=framework, method=method, recipe=recipe, variant=variant,
        weights=weights, scale=scale, crop=crop, batch=batch, steps=steps, epochs=epochs,
        iterations=iterations, validate_every=max(1, (epochs or iterations) // VALIDATIONS), lr=lr,
        layer_decay=layer_decay, drop_path=drop_path, warmup=warmup, rois=_rois(found, method, why), why=why,
    )  # fmt: skip


# ---- names ---------------------------------------------------------------------------------------
def framework_for(task: str, model: str | None, installed: Collection[str]) -> str:
    """OpenMMLab's framework for the task if it is installed, else Detectron2.

    Raises:
        UserError: neither is installed.
    """
    own = "mmseg" if task == "semantic" else "mmdet"
    if own in installed:
        return own
    if "detectron2" in installed:
        return "detectron2"
    raise UserError(
        f"neither {own} nor detectron2 is installed, so nothing could train the config: pip install "
        f'"convnext_backbones[openmmlab]", or say for which it is written: --framework {own}'
    )


def _variant(name: str) -> Variant:
    if name not in VARIANTS:
        raise UserError(f"there is no backbone {name!r}; {nearest(name, VARIANTS)}")
    return VARIANTS[name]


def _model(task: str, model: str | None, framework: str) -> tuple[str, str]:
    """The model's name and its method; UserError for what does not go together."""
    host, tasks = FRAMEWORKS[framework]
    if task not in tasks:
        able = [name for name, row in FRAMEWORKS.items() if task in row[1]]
        raise UserError(
            f"{framework} does not train on {TASKS[task]}, which the data have; take --framework "
            f"{' or '.join(able)}"
        )
    model = model or DEFAULTS[host, task]
    if model not in MODELS:
        raise UserError(f"there is no model {model!r}; {nearest(model, MODELS)}")
    fitting = [name for name, methods in MODELS.items() if host in _hosts(methods.get(task))]
    method = MODELS[model].get(task)
    if method is None:
        other = next(iter(MODELS[model]))
        advice = (
            "; or let it learn the boxes alone: --task detection"
            if (task, other) == ("instance", "detection")
            else ""
        )
        raise UserError(
            f"{model} trains on {TASKS[other]}, and the data have {TASKS[task]}; take --model "
            f"{' or '.join(fitting)}{advice}"
        )
    if host not in _hosts(method):
        able = [n for n, row in FRAMEWORKS.items() if row[0] in _hosts(method) and task in row[1]]
        raise UserError(
            f"{framework} has no {model} here; take --framework {' or '.join(able)}, or --model "
            f"{' or '.join(fitting)}"
        )
    return model, method


def _hosts(method: str | None) -> tuple[str, ...]:
    return METHODS[method].hosts if method else ()


def _nearest_recipe(method: str, variant: Variant, task: str) -> Recipe:
    """The method's recipe for the network, else for that of its size, else for the nearest size."""
    dataset = "ade20k" if task == "semantic" else "coco"
    rows = [
        row
        for row in RECIPES.values()
        if row.method == method and PROTOCOLS[row.protocol].dataset == dataset
    ]

    def distance(row: Recipe):
        other = VARIANTS[row.variant]
        ratio = abs(math.log(other.classifier_params / variant.classifier_params))
        return other != variant, other.dims != variant.dims, ratio, "22k" in row.name

    return min(rows, key=distance)


def _weights(variant: Variant, wish: str | None, why: dict[str, str]) -> str | None:
    from ...checkpoints.catalogue import CATALOGUE  # here: it imports torch

    if wish == "none":
        why["weights"] = "random weights: more data, or --weights, would help much"
        return None
    if wish and (any(mark in wish for mark in "/\\:") or "." not in wish or wish.endswith(".pth")):
        why["weights"] = "your own"
        if "://" in wish:
            return wish
        file = Path(wish).expanduser().resolve()
        if not file.is_file():
            raise UserError(f"there is no file of weights {wish}")
        return str(file)
    published = [f"{variant.name}.{tag}" for tag in TAGS]
    name = wish or next((name for name in published if name in CATALOGUE), None)
    if name is None:
        raise UserError(f"no weights of {variant.name} are known; give --weights FILE or none")
    if name not in CATALOGUE:
        raise UserError(f"there are no weights {name!r}; {nearest(name, CATALOGUE)}")
    if CATALOGUE[name].variant != variant.name:
        raise UserError(
            f"the weights {name!r} are {CATALOGUE[name].variant}'s, not {variant.name}'s: give "
            f"--backbone {CATALOGUE[name].variant}, or other weights"
        )
    why["weights"] = f"fine-tuned on ImageNet's labels; licence {CATALOGUE[name].licence}"
    return name


# ---- figures -------------------------------------------------------------------------------------
def _sizes(
    found: Found, method: str, protocol: Protocol, size: int | None, why: dict[str, str]
) -> tuple[tuple[int, int], tuple[int, int] | None]:
    """(long, short) of the resized pictures, and (height, width) of the training crop."""
    width, height = found.sizes.width.median, found.sizes.height.median
    long, short = max(width, height), min(width, height)
    median = f"the median picture has {width:g}x{height:g} pixels"
    if found.task == "semantic":
        side = size or min(short, protocol.scale[1])
        crop = max(_multiple(side), MULTIPLE)
        scale = round(side * long / short), round(side)
        why["size"] = f"{median}; the recipe's short side is {protocol.scale[1]}"
        return scale, (crop, crop)
    most = min(protocol.scale[0] / long, protocol.scale[1] / short)
    factor = size / long if size else min(1.0, most)
    why["size"] = f"{median}; the recipe's have {protocol.scale[0]}x{protocol.scale[1]} at most"
    box = found.sizes.boxes.median if found.sizes.boxes else None
    if box and not size and box * factor < BOX:
        factor = min(max(factor, BOX / box), most, ENLARGED)
    if box:
        why["size"] += f"; the median box is {box * factor:.0f} wide at this size"
    if method == "rtmdet":  # squares
        side = max(math.ceil(long * factor / MULTIPLE - 1e-9), 2) * MULTIPLE
        return (side, side), (side, side)
    return (round(long * factor), round(short * factor)), None


def _multiple(side: float) -> int:
    return int(side // MULTIPLE) * MULTIPLE


def _batch(
    method: str,
    variant: Variant,
    protocol: Protocol,
    size: tuple[int, int],
    count: int,
    wish: int | None,
    why: dict[str, str],
) -> int:
    if wish:
        why["batch"] = "as asked"
        return wish
    recipes_size = protocol.crop_size or protocol.scale
    images = IMAGES.get(method, IMAGES_R_CNN) * math.prod(recipes_size) / math.prod(size)
    images *= min(1.0, math.sqrt(TINY / variant.classifier_params))
    fits = 2 ** int(math.log2(max(1, min(images, MOST_IMAGES))))
    few = max(1, count // LEAST_STEPS)
    why["batch"] = (
        f"of {count} pictures, so that an epoch has steps"
        if few < fits
        else "should fit a GPU of 16 GB; halve it if not, double it if there is room"
    )
    return min(fits, few)


def _length(
    task: str,
    protocol: Protocol,
    by_epoch: bool,
    count: int,
    batch: int,
    scratch: bool,
    wishes: Wishes,
    why: dict[str, str],
) -> tuple[int, int | None, int | None]:
    """Steps, and the epochs or iterations that are asked of the framework."""
    an_epoch = math.ceil(count / batch)
    if not by_epoch and wishes.epochs:
        wishes = wishes._replace(iterations=wishes.epochs * an_epoch)
    elif by_epoch and wishes.iterations:
        wishes = wishes._replace(epochs=math.ceil(wishes.iterations / an_epoch))
    floor = STEPS["label maps" if task == "semantic" else "boxes"] * (
        SCRATCH_TIMES if scratch else 1
    )
    least = SEGMENTATION_EPOCHS if task == "semantic" else EPOCHS
    epochs = min(max(least, math.ceil(floor / an_epoch)), MOST_EPOCHS)
    if not by_epoch:
        most = iterations_of(protocol)
        iterations = wishes.iterations or min(max(100, epochs * an_epoch // 100 * 100), most)
        seen = iterations * batch / count
        why["length"] = f"{iterations} steps * {batch} / {count} pictures = {seen:.0f} epochs"
        return iterations, None, iterations
    epochs = wishes.epochs or epochs
    why["length"] = f"{epochs} epochs * {an_epoch} steps ({count} pictures / {batch}) = {epochs * an_epoch} steps"  # fmt: skip
    return epochs * an_epoch, epochs, None


def _rates(
    recipe: Recipe, protocol: Protocol, batch: int, weights: str | None, why: dict[str, str]
) -> tuple[float, float, float]:
    """lr, layer decay, drop path."""
    if weights is None:
        why["lr"] = "random weights: one rate for every layer, and no drop path"
        return SCRATCH_LR, 1.0, 0.0
    lr = recipe.lr * min(1.0, math.sqrt(batch / protocol.batch))
    lr = round(lr, -math.floor(math.log10(lr)))
    why["lr"] = f"the recipe's {recipe.lr:g} * sqrt({batch} / its batch of {protocol.batch})"
    return lr, recipe.layer_decay, recipe.drop_path


def _rois(found: Found, method: str, why: dict[str, str]) -> int | None:
    train = found.splits["train"]
    if method not in R_CNN or train.count >= FEW or not train.objects:
        return None
    objects = train.objects / train.count
    rois = max(LEAST_ROIS, 2 ** math.ceil(math.log2(ROIS_PER_OBJECT * objects)))
    if rois >= ROIS:
        return None
    why["rois"] = f"{objects:.0f} objects a picture; the recipe's {ROIS} would take longer"
    return rois
