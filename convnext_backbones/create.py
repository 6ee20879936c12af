"""Models by their full names, with published or own weights."""

import logging
from pathlib import Path

from .checkpoints import load_pretrained
from .errors import UserError
from .network.classifier import ConvNeXtClassifier
from .network.convnext import ConvNeXt, ConvNeXtV2
from .network.variants import get_variant

logger = logging.getLogger("convnext_backbones")


def create_backbone(
    name: str, *, pretrained: str | Path | None = None, stem: str | None = None, **options
) -> ConvNeXt:
    """The backbone of a full name in VARIANTS, e.g. create_backbone("convnextv2_tiny").

    Args:
        name: a key of VARIANTS.
        pretrained: a name of the catalogue such as "convnextv2_tiny.fcmae_ft_in1k", a file, a
            Hugging Face folder or a URL; see checkpoints.load_pretrained, whose verdict is logged.
        stem: how the first layer is made out of one for RGB images where in_channels is not 3; see there.
        options: those of ConvNeXt.
    """
    variant = get_variant(name)
    model = (ConvNeXtV2 if variant.version == 2 else ConvNeXt)(variant.size, **options)
    return _with_weights(model, pretrained, stem)


def create_classifier(
    name: str, *, pretrained: str | Path | None = None, stem: str | None = None, **options
) -> ConvNeXtClassifier:
    """The classifier of a full name in VARIANTS; pretrained and stem as for create_backbone.

    A head of another size than the file's stays as initialised. Where the weights come with names of
    their classes, the classifier's class_names has them.
    """
    variant = get_variant(name)
    model = ConvNeXtClassifier(variant.size, version=variant.version, **options)
    return _with_weights(model, pretrained, stem)


def _with_weights(model, pretrained, stem):
    if pretrained is None and stem is not None:
        raise UserError(f"stem={stem!r} adapts the first layer of weights; give pretrained= too")
    if pretrained is not None:
        report = load_pretrained(model, pretrained, stem=stem)
        # A licence that forbids commercial use is shown whether or not logging is set up.
        logger.log(logging.WARNING if report.non_commercial else logging.INFO, "%s", report)
    return model
