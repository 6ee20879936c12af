"""Labelled pictures as a classifier is trained and validated with them: timm's and torchvision's transforms."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from ..data.pictures import read_picture
from ..errors import UserError
from ..network.preprocessing import EvaluationTransform
from ..recipes.finetuning import FineTuningRecipe
from .class_folders import Sample, find_class_folders, read_sample


class Labelled(NamedTuple):
    """pixels: (3, H, W) of float32, normalised. label: the number of its class; -1: the picture cannot be
    read, and `reason` says why. path: of the picture."""

    pixels: Tensor
    label: int
    path: str
    reason: str = ""


class LabelledPictures(Dataset):
    """The pictures of class folders that train, or those that validate, as Labelled.

    Args:
        root, val_share, seed: as of find_class_folders.
        split: "train", whose pictures are drawn from by the recipe, or "val", shown as they are.
        size: height and width in pixels.
        recipe: its fields, for "train".
        preprocessing: options of EvaluationTransform but its size; mean and std count for both splits.

    Raises:
        UserError: as find_class_folders; a training sample whose picture cannot be read.
    """

    def __init__(
        self,
        root: str | Path,
        split: str,
        *,
        size: int,
        recipe: dict | None = None,
        preprocessing: dict | None = None,
        val_share: float,
        seed: int,
    ):
        folders = find_class_folders(root, val_share=val_share, seed=seed)
        self.samples: Sequence[Sample] = getattr(folders, split)
        self.metainfo = {"classes": list(folders.classes)}  # MMEngine keeps it in checkpoints
        options = {**(preprocessing or {}), "image_size": size}
        self.shown = EvaluationTransform(**options)
        self.drawn = (
            training_transform(FineTuningRecipe(**recipe), self.shown) if split == "train" else None
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Labelled:
        path, label = self.samples[index]
        if self.drawn is not None:
            return Labelled(self.drawn(Image.fromarray(read_picture(path))), label, str(path))
        try:
            picture = read_sample(path)
        except UserError as error:
            size = self.shown.image_size
            return Labelled(torch.zeros(3, size, size), -1, str(path), str(error))
        return Labelled(self.shown(picture), label, str(path))


def training_transform(recipe: FineTuningRecipe, shown: EvaluationTransform) -> Callable:
    """A picture to (3, H, W) pixels by timm's transform of the recipe, as the official code has it."""
    return create_transform(
        shown.image_size,
        is_training=True,
        scale=(recipe.smallest_crop, 1.0),
        color_jitter=None,
        auto_augment=recipe.rand_augment,
        interpolation="bicubic",
        re_prob=recipe.erasing,
        re_mode="pixel",
        mean=tuple(shown.mean),
        std=tuple(shown.std),
    )


def mixing(recipe: FineTuningRecipe, classes: int) -> Callable | None:
    """(N, C, H, W) pixels and (N,) labels to mixed pixels and (N, classes) targets; None mixes nothing.

    torchvision's: each picture is mixed with the one before it, in timm's with the one opposite in the batch.
    """
    ways = []
    if recipe.mixup:
        ways.append(v2.MixUp(alpha=recipe.mixup, num_classes=classes))
    if recipe.cutmix:
        ways.append(v2.CutMix(alpha=recipe.cutmix, num_classes=classes))
    return v2.RandomChoice(ways) if len(ways) > 1 else ways[0] if ways else None
