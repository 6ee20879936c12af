"""Hugging Face configurations (config.json) read into equal models; transformers is not needed."""

from ...checkpoints.huggingface_config import FIELDS, WITHOUT_EFFECT, read_config
from .models import backbone_from_config, classifier_from_config

__all__ = [
    "FIELDS",
    "WITHOUT_EFFECT",
    "backbone_from_config",
    "classifier_from_config",
    "read_config",
]
