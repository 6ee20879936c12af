"""ConvNeXt and ConvNeXt V2 as models of timm, under its contract and their names here with "cb_" before them.

    import timm
    import convnext_backbones.adapters.timm

    model = timm.create_model("cb_convnextv2_tiny", pretrained=True, num_classes=10)
    maps = timm.create_model("cb_convnextv2_tiny.fcmae_ft_in22k_in1k_384", features_only=True, output_stride=16)

Importing it registers every size with timm. Tags are those of the published weights in
checkpoints.CATALOGUE; pretrained=True loads by our reader, whole or not at all.
"""

try:
    import timm  # noqa: F401
except ImportError as error:
    raise ImportError(
        "convnext_backbones.adapters.timm needs timm, 1.0.31 or later: pip install "
        "'convnext_backbones[timm]'"
    ) from error

from .model import TimmConvNeXt
from .registration import PREFIX
from .weights import timm_state_dict

__all__ = ["PREFIX", "TimmConvNeXt", "timm_state_dict"]
