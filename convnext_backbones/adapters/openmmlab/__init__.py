"""ConvNeXt and ConvNeXtV2 for MMDetection, MMSegmentation and whatever else is built on MMEngine.

    custom_imports = dict(imports=["convnext_backbones.adapters.openmmlab"])
    model = dict(backbone=dict(type="ConvNeXtV2", arch="tiny", out_indices=(0, 1, 2, 3),
                               pretrained="convnextv2_tiny.fcmae_ft_in1k"), ...)

Importing it registers the backbones and ConvNeXtLayerDecay, and makes MMEngine read checkpoints
without executing them, keep them whole and go on from them bit for bit, MMDetection number classes by name, and mmcv's transforms read pictures and label
maps as everything else here does (patches.py).
"""

try:
    import mmengine  # noqa: F401
except ImportError as error:
    raise ImportError(
        "convnext_backbones.adapters.openmmlab needs MMEngine: pip install mmengine "
        "(or onedl-mmengine, the maintained fork)"
    ) from error

from ...console import hide

hide(("mmengine", "mmdet", "mmseg"))  # what they print while they are imported

from .backbone import ConvNeXt, ConvNeXtV2  # noqa: E402
from .early_stopping import StopEarly  # noqa: E402
from .guards import Guard  # noqa: E402
from .optimizer import ConvNeXtLayerDecay  # noqa: E402
from .patches import (  # noqa: E402
    COCO_CLASSES,
    EXACT_RESUME,
    GUARDS,
    PICTURES,
    SAFE_READING,
    SAVING,
    WHOLE_LOADING,
)

__all__ = ["ConvNeXt", "ConvNeXtLayerDecay", "ConvNeXtV2", "Guard", "StopEarly"]

GUARDS.apply()
SAFE_READING.apply()
SAVING.apply()
EXACT_RESUME.apply()
WHOLE_LOADING.apply()
COCO_CLASSES.apply()
PICTURES.apply()
