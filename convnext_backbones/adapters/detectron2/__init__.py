"""ConvNeXt and ConvNeXtV2 as backbones of Detectron2, for both of its config systems.

For LazyConfig

    bottom_up = L(ConvNeXtV2)(arch="tiny", out_features=("stage1", "stage2", "stage3", "stage4"))
    model.backbone.bottom_up = bottom_up

and for YAML, after add_convnext_config(cfg),

    MODEL:
      BACKBONE: {NAME: build_convnext_fpn_backbone, FREEZE_AT: 0}
      CONVNEXT: {VERSION: 2, ARCH: tiny}
      FPN: {IN_FEATURES: [stage1, stage2, stage3, stage4]}
      PIXEL_MEAN: [123.675, 116.28, 103.53]
      PIXEL_STD: [58.395, 57.12, 57.375]
    INPUT: {FORMAT: RGB}

Importing it registers the builders, makes DetectionCheckpointer read every layout of ConvNeXt weights
for models with such a backbone, DefaultTrainer refuse recipes that it would not follow, and mappers read
pictures and label maps as everything else here does (patches.py).
"""

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        "convnext_backbones.adapters.detectron2 needs Detectron2, which is in no package registry: "
        "pip install --no-build-isolation git+https://github.com/facebookresearch/detectron2"
    ) from error

from .backbone import (
    ConvNeXt,
    ConvNeXtV2,
    build_convnext_backbone,
    build_convnext_fpn_backbone,
    build_retinanet_convnext_fpn_backbone,
)
from .data import SemSegMapper, load_label_map, register_data_sets
from .guards import Guard
from .optimizer import layer_decay_groups
from .own_data import register_coco, register_label_maps
from .patches import (
    EXACT_RESUME,
    GUARDS,
    PICTURES,
    READING,
    SAFE_READING,
    SAVING,
    STOCK_TRAINER,
)
from .trainer import RecipeTrainer
from .yaml_keys import add_convnext_config, add_training_config

__all__ = [
    "ConvNeXt",
    "ConvNeXtV2",
    "Guard",
    "RecipeTrainer",
    "SemSegMapper",
    "add_convnext_config",
    "add_training_config",
    "build_convnext_backbone",
    "build_convnext_fpn_backbone",
    "build_retinanet_convnext_fpn_backbone",
    "layer_decay_groups",
    "load_label_map",
    "register_coco",
    "register_data_sets",
    "register_label_maps",
]

GUARDS.apply()
READING.apply()
SAFE_READING.apply()
SAVING.apply()
EXACT_RESUME.apply()
STOCK_TRAINER.apply()
PICTURES.apply()
