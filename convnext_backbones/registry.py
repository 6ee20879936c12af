"""The MMEngine scope `convnext_backbones`.

`type="convnext_backbones.ConvNeXtV2"` in any config of MMDetection or MMSegmentation finds this
registry, which imports the adapter by itself; custom_imports is not needed.
"""

from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry

MODELS = Registry(
    "model",
    parent=MMENGINE_MODELS,
    scope="convnext_backbones",
    locations=["convnext_backbones.adapters.openmmlab"],
)
