"""ConvNeXt and ConvNeXt V2 backbones. Importing this package imports nothing, torch neither: its names
and rooms come when they are first asked for, so that the command line answers at once."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .create import create_backbone, create_classifier
    from .network.classifier import ConvNeXtClassifier
    from .network.convnext import GRN, Block, ConvNeXt, ConvNeXtV2, LayerNorm2d
    from .network.prepared import prepare_for_inference
    from .network.preprocessing import EvaluationTransform
    from .network.variants import VARIANTS, Variant
    from .runs.preparation import shipped_config

__version__ = "0.1.0"

__all__ = [
    "GRN",
    "VARIANTS",
    "Block",
    "ConvNeXt",
    "ConvNeXtClassifier",
    "ConvNeXtV2",
    "EvaluationTransform",
    "LayerNorm2d",
    "Variant",
    "create_backbone",
    "create_classifier",
    "prepare_for_inference",
    "shipped_config",
]

_NAMES = {
    "create": ("create_backbone", "create_classifier"),
    "network.classifier": ("ConvNeXtClassifier",),
    "network.convnext": ("GRN", "Block", "ConvNeXt", "ConvNeXtV2", "LayerNorm2d"),
    "network.prepared": ("prepare_for_inference",),
    "network.preprocessing": ("EvaluationTransform",),
    "network.variants": ("VARIANTS", "Variant"),
    "runs.preparation": ("shipped_config",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_ROOMS = ("checkpoints", "create", "errors", "kernels", "network")


def __getattr__(name: str):
    if name in _HOME:
        value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
        globals()[name] = value  # found at once from now on
        return value
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_ROOMS})
