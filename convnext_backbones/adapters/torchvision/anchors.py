"""Anchors for as many levels as a pyramid has."""

from collections.abc import Sequence

from torch import nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from ...errors import UserError
from .backbone import ConvNeXtFPN


def anchor_generator(
    backbone: ConvNeXtFPN,
    *,
    scales: Sequence[float] = (8,),
    aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
) -> AnchorGenerator:
    """Anchors of `scales` times a level's stride in pixels, for every level of the pyramid.

    The default is torchvision's of Faster and Mask R-CNN; that of RetinaNet is scales=(4, 4 * 2 ** (1 / 3),
    4 * 2 ** (2 / 3)), that of FCOS scales=(1,), aspect_ratios=(1.0,).
    """
    for name, numbers in (("scales", scales), ("aspect_ratios", aspect_ratios)):
        if not isinstance(numbers, (list, tuple)) or not numbers or min(numbers) <= 0:
            raise UserError(f"{name} must be positive numbers, such as (8,), got {numbers!r}")
    sizes = tuple(
        tuple(int(scale * stride) for scale in scales) for stride in backbone.levels.values()
    )
    return AnchorGenerator(sizes, (tuple(aspect_ratios),) * len(sizes))


def check_levels(detector: nn.Module) -> nn.Module:
    """The detector of torchvision itself, if its anchors and its RoI pooling fit the levels of its
    ConvNeXtFPN.

    Raises:
        UserError: anchors for another number of levels; RoI pooling from a level that is not there, or from
            none; a detector with another backbone.
    """
    backbone = getattr(detector, "backbone", None)
    if not isinstance(backbone, ConvNeXtFPN):
        raise UserError(
            f"the backbone of this {type(detector).__name__} is a {type(backbone).__name__}, not one of "
            "convnext_fpn_backbone"
        )
    levels = list(backbone.levels)
    for module in detector.modules():
        if isinstance(module, AnchorGenerator) and len(module.sizes) != len(levels):
            raise UserError(
                f"anchors are for {len(module.sizes)} levels, the pyramid has {len(levels)} ({', '.join(levels)}): "
                f"give {_option(detector)}=anchor_generator(backbone), or other out_features or extra_blocks"
            )
        if isinstance(module, MultiScaleRoIAlign):
            missing = [name for name in module.featmap_names if name not in levels]
            if len(missing) == len(module.featmap_names):
                raise UserError(
                    f"RoI pooling takes the levels {', '.join(module.featmap_names)}, of which the pyramid "
                    f"has none: MultiScaleRoIAlign({list(backbone.names)}, output_size=7, sampling_ratio=2)"
                )
    return detector


def _option(detector: nn.Module) -> str:
    return "rpn_anchor_generator" if hasattr(detector, "rpn") else "anchor_generator"
