"""What transformers' Auto classes are told of our classes."""

from transformers import AutoBackbone, AutoConfig, AutoModel, AutoModelForImageClassification

from .configuration import ConvNeXtConfig
from .modeling import ConvNeXtBackbone, ConvNeXtForImageClassification, ConvNeXtModel


def register() -> None:
    """Register configuration and models; again is no harm."""
    AutoConfig.register(ConvNeXtConfig.model_type, ConvNeXtConfig, exist_ok=True)
    AutoModel.register(ConvNeXtConfig, ConvNeXtModel, exist_ok=True)
    AutoModelForImageClassification.register(
        ConvNeXtConfig, ConvNeXtForImageClassification, exist_ok=True
    )
    AutoBackbone.register(ConvNeXtConfig, ConvNeXtBackbone, exist_ok=True)
