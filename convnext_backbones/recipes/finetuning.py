"""THE table of how a pretrained network is fine-tuned to classify: the published runs, and one for few pictures.

V2      facebookresearch/ConvNeXt-V2, TRAINING.md and the defaults of main_finetune.py: from FCMAE, on ImageNet-1K
V1      facebookresearch/ConvNeXt, TRAINING.md and the defaults of main.py: from ImageNet-22K, and from
        ImageNet-1K at 224 pixels to 384
small   not published: this project's, for some hundreds to some ten thousand pictures

Of the official names `single` is layer decay "block_wise" and `group` "layer_wise" (layer_decay.py). timm and
torchvision draw the pictures' changes; drop path, head and layer decay are the network's and the optimizer's.
"""

import math
from typing import NamedTuple

RAND_AUGMENT = "rand-m9-mstd0.5-inc1"  # timm's name for RandAugment of magnitude 9, deviation 0.5


class FineTuningRecipe(NamedTuple):
    """How a classifier is fine-tuned.

    lr: the learning rate of a whole batch of `batch` pictures, of the head; scaling: how it follows another
    batch, "linear" or "root". epochs, warmup: in passes over the pictures; a cosine to min_lr follows.
    smallest_crop: the least share of a picture's area that a crop has. rand_augment: a policy of timm's, or None.
    erasing: the share of pictures of which a rectangle is erased. mixup, cutmix: alphas, 0 for none; with both,
    either of the two for each batch. ema: decay of the averaged weights, which are then what is validated and
    kept; 0 for none. head_init_scale: factor on the new head's initial weights. pixels: of the published run's
    pictures.
    """

    lr: float
    batch: int
    epochs: int
    warmup: float
    layer_decay: float
    decay_type: str
    weight_decay: float
    drop_path: float
    mixup: float
    cutmix: float
    source: str
    smoothing: float = 0.1
    erasing: float = 0.25
    rand_augment: str | None = RAND_AUGMENT
    smallest_crop: float = 0.08
    ema: float = 0.9999
    head_init_scale: float = 0.001
    min_lr: float = 1e-6
    betas: tuple[float, float] = (0.9, 0.999)
    scaling: str = "linear"
    pixels: int = 224

    def rate(self, batch: int) -> float:
        """The learning rate of a whole batch of so many pictures."""
        share = batch / self.batch
        return self.lr * (math.sqrt(share) if self.scaling == "root" else share)


V2 = "facebookresearch/ConvNeXt-V2, TRAINING.md"
V1 = "facebookresearch/ConvNeXt, TRAINING.md"

ATTO = FineTuningRecipe(
    lr=2e-4 * 1024 / 256, batch=1024, epochs=600, warmup=0, layer_decay=0.9, decay_type="block_wise",
    weight_decay=0.3, drop_path=0.1, mixup=0, cutmix=0, smoothing=0.2, source=V2,
)  # fmt: skip
TINY = FineTuningRecipe(
    lr=8e-4 * 1024 / 256, batch=1024, epochs=300, warmup=40, layer_decay=0.9, decay_type="block_wise",
    weight_decay=0.05, drop_path=0.2, mixup=0.8, cutmix=1.0, source=V2,
)  # fmt: skip
BASE = FineTuningRecipe(
    lr=6.25e-4 * 1024 / 256, batch=1024, epochs=100, warmup=20, layer_decay=0.6, decay_type="layer_wise",
    weight_decay=0.05, drop_path=0.1, mixup=0.8, cutmix=1.0, source=V2,
)  # fmt: skip
BASE_22K = FineTuningRecipe(  # from ImageNet-22K, at 224 and at 384 pixels
    lr=5e-5, batch=512, epochs=30, warmup=0, layer_decay=0.8, decay_type="layer_wise",
    weight_decay=1e-8, drop_path=0.2, mixup=0, cutmix=0, ema=0, source=V1,
)  # fmt: skip
BASE_1K_384 = BASE_22K._replace(layer_decay=0.7, drop_path=0.8, pixels=384)

# By the version and size of a network, and by what it was pretrained with where the recipes differ by that.
PUBLISHED = {
    (2, "atto"): ATTO,
    (2, "tiny"): TINY,
    (2, "base"): BASE,
    (1, "base"): BASE_22K,
    (1, "large"): BASE_22K._replace(drop_path=0.3),
    (1, "xlarge"): BASE_22K._replace(drop_path=0.4, ema=0.9999),
    (1, "base", "in1k"): BASE_1K_384,
    (1, "large", "in1k"): BASE_1K_384._replace(drop_path=0.95),
}
# Sizes without a command of their own there take that of the nearest size, and are told so.
NEAREST = {
    (2, "femto"): "atto", (2, "pico"): "atto", (2, "nano"): "atto", (2, "small"): "tiny",
    (2, "large"): "base", (2, "huge"): "base",
    **{(1, size): "base" for size in ("atto", "femto", "pico", "nano", "tiny", "small")},
}  # fmt: skip

# Published recipes count on 1.28 million pictures: 600 epochs of 500 pictures are 300 steps of a batch of 1024,
# and an average with decay 0.9999 would still be half the start after 7000 steps. What is changed, and why:
#   batch 64 and the root of it for the rate (arXiv:2205.10287): enough steps, each of a rate that moves AdamW
#   50 epochs with 5 of warm-up, 400 steps of 500 pictures: a new head on features that are there already
#   layer decay 0.8 by threes of blocks: early layers stay near what many pictures have taught them
#   no RandAugment, mixup or cutmix: solarised and mixed colours are often what tells classes apart (stains,
#   soils, fruit), and of few pictures the mixtures are most of what is seen
#   crops of a quarter of a picture at least: what tells the class is seldom lost
#   no average of the weights: the cosine to almost 0 does its work in a short run
SMALL = FineTuningRecipe(
    lr=5e-4, batch=64, epochs=50, warmup=5, layer_decay=0.8, decay_type="layer_wise",
    weight_decay=0.05, drop_path=0.1, mixup=0, cutmix=0, erasing=0.1, rand_augment=None,
    smallest_crop=0.25, ema=0, scaling="root", source="for few pictures: this project's, not published",
)  # fmt: skip
FINE_TUNING = ("published", "small")
FEW = 100_000  # pictures, below which a run takes the recipe for few


class Chosen(NamedTuple):
    """A recipe, its name, and whose it is where the network has none of its own, else None."""

    recipe: FineTuningRecipe
    name: str
    nearest: str | None


def fine_tuning_recipe(
    version: int,
    size: str,
    pictures: int,
    name: str | None = None,
    *,
    pretrained_on: str | None = None,
) -> Chosen:
    """The recipe of a name for a network, or that for so many pictures.

    Args:
        version, size: of a network, as in VARIANTS; another network's size counts as "base".
        pretrained_on: "in1k" for V1's of ImageNet-1K that go on at 384 pixels; else that of ImageNet-22K.
    """
    name = name or ("small" if pictures < FEW else "published")
    if name == "small":
        return Chosen(SMALL, name, None)
    for key in ((version, size, pretrained_on), (version, size)):
        if key in PUBLISHED:
            return Chosen(PUBLISHED[key], name, None)
    nearest = NEAREST.get((version, size), "base")
    return Chosen(PUBLISHED[version, nearest], name, nearest)
