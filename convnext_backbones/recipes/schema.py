"""What a row of the table says: the columns of METHODS, PROTOCOLS and RECIPES."""

from typing import NamedTuple

SHORT_SIZES = {"tiny": "t", "small": "s", "base": "b", "large": "l", "xlarge": "xl", "huge": "h"}


class Dataset(NamedTuple):
    """A data set: its title, its number of classes."""

    title: str
    classes: int


class Method(NamedTuple):
    """A head.

    paper: its arXiv number, "" where the head is ConvNeXt's own.
    hosts: the frameworks that have it.
    stages: those of the backbone that go into neck or head, counted from 1.
    """

    title: str
    paper: str
    hosts: tuple[str, ...]
    stages: tuple[int, ...] = (1, 2, 3, 4)


class DetrCrop(NamedTuple):
    """DETR's branch: with this probability a picture is resized, cropped, and only then resized as
    the others are.

    short_sides, long_side: of that first resizing, in pixels.
    sides: the least and the greatest side of the crop, in pixels.
    """

    probability: float
    short_sides: tuple[int, ...]
    long_side: int
    sides: tuple[int, int]


class Protocol(NamedTuple):
    """Data, augmentation and schedule: what recipes share.

    train_images: per epoch; COCO has 118287, 117266 of them with objects.
    batch, gpus: images per step over all devices, and on how many devices they were.
    epochs or iterations: the length; milestones and validate_every count in the same unit.
    validate_every: between two validations, after each of which a checkpoint is written.
    warmup_iterations, warmup_factor: lr grows linearly from warmup_factor * lr.
    milestones: lr is divided by ten after each.
    power: or falls to 0 polynomially after the warm-up.
    cosine_from, final_lr: or falls as a cosine from this epoch on, in every layer to final_lr.
    clip_norm: the greatest norm of the gradient, None for no limit.
    scale: long and short side of the test picture in pixels; keeps the aspect ratio.
    short_sides: training: short side out of these, long side <= scale[0]...
    ratio_range: ...or scale times a factor out of this range.
    crop_size: of a training picture after that, (height, width).
    one_class_at_most: the crop is tried again while one class covers more of it.
    slide_stride: test: windows of crop_size, this far apart; None for the whole picture.
    multi_scale: what the test picture is multiplied by in multi-scale testing.
    flops_size: (height, width) of the picture whose operations are counted.
    masks: whether instances have masks beside boxes.
    soft_nms: whether boxes that overlap are kept with a lower score.
    mosaic: whether training pictures are mosaics of four, mixed up; plain_epochs: the last ones,
        without both.
    average_momentum: of the averaged weights that are tested, None for the last ones.
    """

    name: str
    dataset: str
    train_images: int
    batch: int
    gpus: int
    scale: tuple[int, int]
    flops_size: tuple[int, int]
    weight_decay: float
    validate_every: int
    epochs: int | None = None
    iterations: int | None = None
    warmup_iterations: int = 0
    warmup_factor: float = 1.0
    milestones: tuple[int, ...] = ()
    power: float | None = None
    cosine_from: int | None = None
    final_lr: float | None = None
    clip_norm: float | None = None
    short_sides: tuple[int, ...] = ()
    detr_crop: DetrCrop | None = None
    ratio_range: tuple[float, float] | None = None
    crop_size: tuple[int, int] | None = None
    one_class_at_most: float | None = None
    slide_stride: tuple[int, int] | None = None
    multi_scale: tuple[float, ...] = ()
    masks: bool = False
    soft_nms: bool = False
    mosaic: bool = False
    plain_epochs: int = 0
    average_momentum: float | None = None


class Recipe(NamedTuple):
    """One network on one data set.

    init: a name out of checkpoints/catalogue.py.
    lr: of the heads. backbone_lr: what the backbone's is multiplied by, beside layer decay.
    layer_decay, decay_type: see layer_decay.py; 1.0 for none.
    amp: whether it was trained in mixed precision.
    small_head: neck and head in the size for small backbones.
    checkpointing: whether the backbone's activations are computed again in the backward pass.
    box_ap, mask_ap, miou, miou_multiscale: scores in percent, on COCO val2017 and ADE20K val.
    params, gflops: as published: millions, and 1e9 multiply-accumulates at protocol.flops_size; see
        COUNTED for every recipe's.
    memory_gb: per GPU, as its source measured.
    reruns: what others got from the same recipe.
    measured: the run that reproduced it here.
    """

    name: str
    method: str
    variant: str
    init: str
    protocol: str
    lr: float
    layer_decay: float
    decay_type: str
    drop_path: float
    status: str
    source: str
    backbone_lr: float = 1.0
    amp: bool = True
    small_head: bool = False
    checkpointing: bool = False
    box_ap: float | None = None
    mask_ap: float | None = None
    miou: float | None = None
    miou_multiscale: float | None = None
    params: float | None = None
    gflops: float | None = None
    memory_gb: float | None = None
    reruns: str = ""
    measured: str = ""


def recipes(columns: str, *rows: tuple, **shared) -> tuple[Recipe, ...]:
    """Recipes of a part of the table: its columns' names, its rows, and what the rows share.

    A row names its initial weights, which say the variant; variant, method and protocol make the
    recipe's name: coco_cascade_mask_rcnn_convnext_b_22k.
    """
    return tuple(_recipe(**shared, **dict(zip(columns.split(), row, strict=True))) for row in rows)


def _recipe(*, method: str, protocol: str, init: str, **figures) -> Recipe:
    variant = init.split(".")[0]
    family, size = variant.split("_")
    suffix = "_22k" if "in22k" in init else ""
    dataset = protocol.split("_")[0]
    name = f"{dataset}_{method}_{family}_{SHORT_SIZES.get(size, size)}{suffix}"
    return Recipe(
        name=name, method=method, variant=variant, init=init, protocol=protocol, **figures
    )
