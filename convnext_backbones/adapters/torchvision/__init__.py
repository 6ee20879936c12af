"""ConvNeXt and ConvNeXt V2 as backbones of torchvision's detectors and segmentors.

from torchvision.models.detection import FasterRCNN
from convnext_backbones.adapters.torchvision import convnext_fpn_backbone

backbone = convnext_fpn_backbone("convnextv2_tiny", pretrained="convnextv2_tiny.fcmae_ft_in1k")
model = FasterRCNN(backbone, num_classes=4)  # the background counted
"""

from .anchors import anchor_generator, check_levels
from .backbone import (
    ConvNeXtFeatures,
    ConvNeXtFPN,
    convnext_fpn_backbone,
    convnext_segmentation_backbone,
)
from .weights import torchvision_state_dict

__all__ = [
    "ConvNeXtFPN",
    "ConvNeXtFeatures",
    "anchor_generator",
    "check_levels",
    "convnext_fpn_backbone",
    "convnext_segmentation_backbone",
    "torchvision_state_dict",
]
