"""ConvNeXt and ConvNeXt V2 backbones. Importing this package imports no framework but torch."""

from .classifier import ConvNeXtClassifier
from .convnext import GRN, Block, ConvNeXt, ConvNeXtV2, LayerNorm2d
from .create import create_backbone, create_classifier
from .inference import prepare_for_inference
from .variants import VARIANTS, Variant

__version__ = "0.1.0"

__all__ = [
    "GRN",
    "VARIANTS",
    "Block",
    "ConvNeXt",
    "ConvNeXtClassifier",
    "ConvNeXtV2",
    "LayerNorm2d",
    "Variant",
    "create_backbone",
    "create_classifier",
    "prepare_for_inference",
]
