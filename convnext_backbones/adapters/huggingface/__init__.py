"""ConvNeXt and ConvNeXt V2 for Hugging Face's transformers, and its configurations read without it.

    from convnext_backbones.adapters.huggingface import ConvNeXtBackboneConfig, ConvNeXtForImageClassification

    model = ConvNeXtForImageClassification.from_pretrained("convnextv2_tiny.fcmae_ft_in1k")
    RTDetrConfig(backbone_config=ConvNeXtBackboneConfig(variant="convnextv2_tiny", out_indices=[2, 3, 4]))

Importing it registers our classes with transformers' AutoConfig, AutoModel, AutoModelForImageClassification,
AutoBackbone and AutoImageProcessor under the model type "convnext_backbones".
"""

from ...checkpoints.huggingface_config import FIELDS, WITHOUT_EFFECT, read_config
from .models import backbone_from_config, classifier_from_config

__all__ = [
    "FIELDS",
    "WITHOUT_EFFECT",
    "ConvNeXtBackbone",
    "ConvNeXtBackboneConfig",
    "ConvNeXtConfig",
    "ConvNeXtForImageClassification",
    "ConvNeXtImageProcessor",
    "ConvNeXtModel",
    "ConvNeXtPreTrainedModel",
    "backbone_from_config",
    "classifier_from_config",
    "load_backbone_weights",
    "read_config",
]

try:
    import transformers  # noqa: F401
except ImportError as error:
    _missing = error

    def __getattr__(name: str):
        if name in __all__:
            raise ImportError(
                f"{__name__}.{name} needs transformers, 5.23 or later: pip install "
                "'convnext_backbones[huggingface]'"
            ) from _missing
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

else:
    from .configuration import ConvNeXtConfig
    from .detectors import load_backbone_weights
    from .image_processing import ConvNeXtImageProcessor
    from .modeling import (
        ConvNeXtBackbone,
        ConvNeXtForImageClassification,
        ConvNeXtModel,
        ConvNeXtPreTrainedModel,
    )
    from .registration import register

    ConvNeXtBackboneConfig = ConvNeXtConfig  # as it reads in a detector's backbone_config=
    register()
