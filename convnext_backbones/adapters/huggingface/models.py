"""Models from Hugging Face's ConvNeXt configurations (config.json).

    backbone = backbone_from_config("facebook--convnext-tiny-224/config.json")
    classifier = classifier_from_config(json.load(file))

What a field is here stands in checkpoints/huggingface_config.py; transformers need not be installed.
"""

from collections.abc import Mapping
from pathlib import Path

from ...checkpoints.huggingface_config import (
    backbone_options,
    classifier_options,
    read_config,
    version_of,
)
from ...network.classifier import ConvNeXtClassifier
from ...network.convnext import ConvNeXt, ConvNeXtV2


def backbone_from_config(source: str | Path | Mapping, **options) -> ConvNeXt:
    """The backbone equal to Hugging Face's ConvNextBackbone or ConvNextV2Backbone.

    Options are ConvNeXt's own, such as frozen_stages or with_cp, and win over the config's.
    """
    values = read_config(source)
    model = ConvNeXtV2 if version_of(values) == 2 else ConvNeXt
    own = backbone_options(values)
    if "out_features" in options or "out_indices" in options:
        del own["out_features"]
    return model(**{**own, **options})


def classifier_from_config(source: str | Path | Mapping, **options) -> ConvNeXtClassifier:
    """The classifier equal to ConvNextForImageClassification or ConvNextV2ForImageClassification.

    With num_classes=0, its forward_features equal ConvNextModel's outputs.
    """
    return ConvNeXtClassifier(**{**classifier_options(read_config(source)), **options})
