"""transformers' own classes of both versions, by the version, and a small network of theirs."""

import transformers

CONFIGS = {1: transformers.ConvNextConfig, 2: transformers.ConvNextV2Config}
CLASSIFIERS = {
    1: transformers.ConvNextForImageClassification,
    2: transformers.ConvNextV2ForImageClassification,
}
BACKBONES = {1: transformers.ConvNextBackbone, 2: transformers.ConvNextV2Backbone}
SMALL = {"depths": [1, 2, 1, 1], "hidden_sizes": [8, 16, 24, 32]}  # a configuration's fields
