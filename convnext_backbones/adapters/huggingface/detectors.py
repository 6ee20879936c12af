"""Weights for the backbone in a detector or segmentor of transformers."""

from pathlib import Path

from torch import nn

from ...checkpoints import LoadReport
from ...checkpoints.inspection import inspect_content
from ...checkpoints.loading import load_inspected
from ...checkpoints.reading import read_path
from ...errors import UserError
from .modeling import ConvNeXtBackbone
from .pretrained import find


def load_backbone_weights(model: nn.Module, source: str | Path, **options) -> LoadReport:
    """Load published or own weights into the ConvNeXtBackbone of a detector or segmentor.

    transformers builds a detector with random weights in its backbone: this is how they come in.

    Args:
        model: any model of transformers with a ConvNeXtBackbone in it, or the backbone.
        source: as for from_pretrained.
        options: allow_random and last_norm_from_classifier of checkpoints.load_pretrained.

    Raises:
        UserError: there is no such backbone, or several; the weights do not fit.
    """
    found = [module for module in model.modules() if isinstance(module, ConvNeXtBackbone)]
    if len(found) != 1:
        raise UserError(
            f"a {type(model).__name__} has {len(found)} ConvNeXtBackbones, and one is needed; give the "
            "backbone itself, or build the model with backbone_config=ConvNeXtBackboneConfig(...)"
        )
    located = find(source)
    file = inspect_content(read_path(located.path), located)
    report = load_inspected(found[0].network, file, **options)
    found[0].config.weights = located.weights.name if located.weights else None
    return report
