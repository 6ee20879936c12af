"""ConvNeXt and ConvNeXt V2 backbones. Importing this package imports no framework but torch."""

from .create import create_backbone, create_classifier
from .network.classifier import ConvNeXtClassifier
from .network.convnext import GRN, Block, ConvNeXt, ConvNeXtV2, LayerNorm2d
from .network.prepared import prepare_for_inference
from .network.variants import VARIANTS, Variant

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
