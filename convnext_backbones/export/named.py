"""A backbone or classifier by its name and a checkpoint of any source, ready for export."""

from collections.abc import Sequence
from pathlib import Path

from ..checkpoints.inspection import inspect_checkpoint
from ..checkpoints.loading import load_inspected
from ..errors import UserError
from ..network.classifier import ConvNeXtClassifier
from ..network.convnext import ConvNeXt, ConvNeXtV2
from ..network.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from ..network.selection import select_features
from ..network.variants import get_variant
from .exportable import CLASSES, FEATURES, Exportable


def named(name: str, checkpoint: str | Path, features: Sequence[str] | None = None) -> Exportable:
    """The classifier of a name in VARIANTS, or with `features` its backbone, such as ("stage3", "stage4").

    Raises:
        UserError: an unknown name or feature; a checkpoint that is missing or another network's, or has
            no head and no features are asked for.
    """
    try:
        variant = get_variant(name)
        select_features(len(variant.depths), features)
    except ValueError as error:
        raise UserError(str(error)) from error
    file = inspect_checkpoint(checkpoint)
    network = file.network
    options = dict(in_channels=network.in_channels, patch_size=network.patch_size)
    if features is None and network.num_classes is None:
        raise UserError(
            f"{checkpoint} has no head: it classifies nothing. Give --features stage1,stage2,stage3,stage4 "
            "for the maps of the backbone"
        )
    if features is None:
        model = ConvNeXtClassifier(
            variant.size, version=variant.version, num_classes=network.num_classes, **options
        )
    else:
        kind = ConvNeXtV2 if variant.version == 2 else ConvNeXt
        model = kind(variant.size, out_features=list(features), **options)
    report = load_inspected(model, file)
    exportable = of_classifier(model) if features is None else of_backbone(model)
    exportable.about["weights"] = str(report)
    return exportable


def of_classifier(model: ConvNeXtClassifier) -> Exportable:
    """A classifier, with the names of its classes where they are known."""
    try:
        names = model.class_names
    except UserError:  # the library that carries them is missing
        names = None
    about = {"classes": list(names or ())}
    return Exportable(model, ("logits",), CLASSES, about=about, **_pixels(model))


def of_backbone(model: ConvNeXt) -> Exportable:
    """A backbone: its maps by the names of its features."""
    about = {"strides": list(model.strides), "channels": list(model.channels)}
    return Exportable(model, model.out_features, FEATURES, about=about, **_pixels(model))


def _pixels(model) -> dict:
    """ImageNet's normalisation, where the images are RGB; and the least size: a position in the last map."""
    channels = model.first_layer().in_channels
    least = model.feature_strides[len(model.stages)]
    if channels != 3:
        return dict(channels=channels, least=least)
    mean, std = (tuple(255 * v for v in values) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return dict(mean=mean, std=std, least=least)
