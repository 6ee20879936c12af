"""What transformers' Auto classes are told of our classes."""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
)

from .configuration import ConvNeXtConfig
from .image_processing import ConvNeXtImageProcessor
from .modeling import ConvNeXtBackbone, ConvNeXtForImageClassification, ConvNeXtModel


def register() -> None:
    """Register configuration, models and image processor; again is no harm."""
    AutoConfig.register(ConvNeXtConfig.model_type, ConvNeXtConfig, exist_ok=True)
    AutoModel.register(ConvNeXtConfig, ConvNeXtModel, exist_ok=True)
    AutoModelForImageClassification.register(
        ConvNeXtConfig, ConvNeXtForImageClassification, exist_ok=True
    )
    AutoBackbone.register(ConvNeXtConfig, ConvNeXtBackbone, exist_ok=True)
    AutoImageProcessor.register(
        ConvNeXtConfig, fast_image_processor_class=ConvNeXtImageProcessor, exist_ok=True
    )
