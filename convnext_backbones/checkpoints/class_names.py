"""Names and WordNet ids of the classes of published classifiers, out of the libraries that carry them.

ImageNet-1K's names are torchvision's. The names of ImageNet-12K and 22K, and the WordNet ids of all
three, are timm's, which need not be installed: who asks for them is told.
"""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import UserError
from ..network.variants import nearest
from .catalogue import CATALOGUE, Weights, find_weights
from .huggingface_config import labels_beside

# By the number of a classifier's outputs: timm's name of the data set, in the order of its classes.
DATA_SETS = {1000: "imagenet-1k", 11821: "imagenet-12k", 21841: "imagenet-22k"}


def class_names(weights: str) -> tuple[str, ...]:
    """One name per class of a classifier of the catalogue, in the order of its outputs.

    Args:
        weights: a name or alias of the catalogue, such as "convnext_base.fb_in22k".

    Raises:
        UserError: no such weights, weights without classes, or a library that is not installed.
    """
    return _names(_data_set(weights))


def wordnet_ids(weights: str) -> tuple[str, ...]:
    """As class_names, the classes' WordNet ids, such as "n02123045"."""
    data_set = _data_set(weights)
    return tuple(_imagenet_info(data_set, "WordNet ids").label_names())


def names_of(
    weights: Weights | None,
    path: Path | None,
    count: int,
    inside: tuple[str, ...] | None = None,
) -> tuple[str, ...] | Callable[[], tuple[str, ...]] | None:
    """The names of the classes of a checkpoint with a head of `count` outputs; None where none are known.

    Those that the file itself holds come first. Those of a Hugging Face folder are read; those of the catalogue
    are a function that looks them up.

    Args:
        weights: its row of the catalogue.
        path: of the file or folder; None: there is no config.json beside it.
        inside: what the file holds, see names_inside.
    """
    if inside is not None and len(inside) == count:
        return inside
    labels = labels_beside(path, count) if path else None
    if labels is not None:
        return labels
    if weights is None or weights.num_classes != count or weights.task != "imagenet":
        return None
    return functools.partial(_names, DATA_SETS[count]) if count in DATA_SETS else None


def names_inside(content: Mapping) -> tuple[str, ...] | None:
    """The names of the classes that a checkpoint itself holds: as `finetune` writes them ("class_names"), or
    as MMEngine's and MMPretrain's runs do (meta's dataset_meta)."""
    meta = content.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    data = meta.get("dataset_meta")
    places = [content.get("class_names")]
    for place in (data if isinstance(data, Mapping) else {}, meta):
        places += [place.get("classes"), place.get("CLASSES")]
    for names in places:
        if isinstance(names, list | tuple) and names and all(isinstance(n, str) for n in names):
            return tuple(names)
    return None


def names_or_reason(
    weights: Weights | None,
    path: Path | None,
    count: int,
    inside: tuple[str, ...] | None = None,
) -> tuple[tuple[str, ...] | None, str | None]:
    """As names_of, looked up already; and why they are missing where they could be had."""
    names = names_of(weights, path, count, inside)
    try:
        return (names() if callable(names) else names), None
    except UserError as error:
        return None, str(error)


def _data_set(name: str) -> str:
    weights = find_weights(name)
    if weights is None:
        raise UserError(
            f"{name!r} is no name of published weights; {nearest(str(name), CATALOGUE)}"
        )
    if weights.task != "imagenet" or weights.num_classes not in DATA_SETS:
        raise UserError(
            f"{weights.name} has no classes of ImageNet: it is {weights.training_data}, with "
            f"{weights.num_classes} outputs; name a classifier, e.g. 'convnextv2_tiny.fcmae_ft_in1k'"
        )
    return DATA_SETS[weights.num_classes]


@functools.cache
def _names(data_set: str) -> tuple[str, ...]:
    if data_set == DATA_SETS[1000]:
        # What torchvision's weights have as meta["categories"].
        from torchvision.models import ConvNeXt_Tiny_Weights

        return tuple(ConvNeXt_Tiny_Weights.IMAGENET1K_V1.meta["categories"])
    return tuple(_imagenet_info(data_set, "names").label_descriptions())


def _imagenet_info(data_set: str, what: str):
    try:
        from timm.data import ImageNetInfo
    except ImportError as error:
        raise UserError(
            f"the {what} of {data_set}'s classes are in timm, which is not installed: pip install "
            "'convnext_backbones[names]'"
        ) from error
    return ImageNetInfo(data_set)
