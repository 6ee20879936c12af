"""Hugging Face configurations (config.json) read into equal models; transformers is not needed."""

from .models import (
    FIELDS,
    WITHOUT_EFFECT,
    backbone_from_config,
    classifier_from_config,
    read_config,
)

__all__ = [
    "FIELDS",
    "WITHOUT_EFFECT",
    "backbone_from_config",
    "classifier_from_config",
    "read_config",
]
