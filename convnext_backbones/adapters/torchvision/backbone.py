"""Our backbone with the face that torchvision's models expect: named maps, and a pyramid with out_channels."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models import WeightsEnum
from torchvision.ops.feature_pyramid_network import (
    ExtraFPNBlock,
    FeaturePyramidNetwork,
    LastLevelMaxPool,
)

from ...create import create_backbone
from ...errors import UserError
from ...network.convnext import ConvNeXt
from ...network.variants import get_variant

Weights = str | Path | WeightsEnum


class ConvNeXtFeatures(nn.Module):
    """A backbone whose maps have names, as torchvision's segmentors take it.

    Attributes:
        body: the ConvNeXt or ConvNeXtV2.
        channels, strides: name to channels, and to stride in pixels, of each map.
    """

    def __init__(self, body: ConvNeXt, names: Sequence[str]):
        super().__init__()
        self.body = body
        self.names = tuple(names)

    @property
    def channels(self) -> dict[str, int]:
        return dict(zip(self.names, self.body.channels, strict=True))

    @property
    def strides(self) -> dict[str, int]:
        return dict(zip(self.names, self.body.strides, strict=True))

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) to a map (N, C_i, H // s_i, W // s_i) under each name."""
        return OrderedDict(zip(self.names, self.body(images), strict=True))


class ConvNeXtFPN(ConvNeXtFeatures):
    """A backbone and torchvision's feature pyramid on its maps, as torchvision's BackboneWithFPN.

    Attributes:
        out_channels: of every level.
        levels: name to stride in pixels of each level: "0", "1", .., and those of extra_blocks.
    """

    def __init__(
        self,
        body: ConvNeXt,
        *,
        out_channels: int = 256,
        extra_blocks: ExtraFPNBlock | None = None,
        norm_layer: Callable[..., nn.Module] | None = None,
    ):
        strides = body.strides
        if list(strides) != sorted(set(strides)):
            raise UserError(
                f"out_features={body.out_features} have the strides {strides}, and each level of a pyramid "
                "has a greater one than the level before; leave out one of those that are equal"
                + (", or output_stride" if strides[-1] != body.feature_strides[0] else "")
            )
        super().__init__(body, [str(k) for k in range(len(strides))])
        if not isinstance(out_channels, int) or isinstance(out_channels, bool) or out_channels < 1:
            raise UserError(f"out_channels must be a positive whole number, got {out_channels!r}")
        extra_blocks = LastLevelMaxPool() if extra_blocks is None else extra_blocks
        if not isinstance(extra_blocks, ExtraFPNBlock):
            raise UserError(
                "extra_blocks must be one of torchvision's, such as LastLevelMaxPool() or "
                f"LastLevelP6P7({body.channels[-1]}, {out_channels}), got {extra_blocks!r}"
            )
        self.fpn = FeaturePyramidNetwork(
            list(body.channels), out_channels, extra_blocks=extra_blocks, norm_layer=norm_layer
        )
        self.out_channels = out_channels
        self.levels = self._levels()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """(N, C, H, W) to a map (N, out_channels, H_i, W_i) under the name of each level."""
        return self.fpn(super().forward(images))

    @torch.no_grad()
    def _levels(self) -> dict[str, int]:
        """What extra_blocks make of maps of this network's channels and strides, from empty ones."""
        side = 8 * self.body.strides[-1]
        some = next(self.fpn.parameters())
        maps = [
            some.new_zeros(1, channels, side // stride, side // stride)
            for channels, stride in zip(self.body.channels, self.body.strides, strict=True)
        ]
        pyramid = [some.new_zeros(1, self.out_channels, *x.shape[2:]) for x in maps]
        try:
            pyramid, names = self.fpn.extra_blocks(pyramid, maps, list(self.names))
        except RuntimeError as error:
            raise UserError(
                f"extra_blocks={self.fpn.extra_blocks} do not take this network's maps ({error}); the last "
                f"has {maps[-1].shape[1]} channels, the pyramid {self.out_channels}: write "
                f"LastLevelP6P7({maps[-1].shape[1]}, {self.out_channels})"
            ) from error
        return {name: side // x.shape[-1] for name, x in zip(names, pyramid, strict=True)}


def convnext_fpn_backbone(
    name: str,
    *,
    pretrained: Weights | None = None,
    out_features: Sequence[str] | None = None,
    out_indices: Sequence[int] | None = None,
    out_channels: int = 256,
    extra_blocks: ExtraFPNBlock | None = None,
    norm_layer: Callable[..., nn.Module] | None = None,
    trainable_stages: int | None = None,
    **options,
) -> ConvNeXtFPN:
    """A backbone with a feature pyramid, after torchvision's resnet_fpn_backbone.

    Args:
        name: a key of VARIANTS.
        pretrained: see create_backbone; also an enumeration such as ConvNeXt_Tiny_Weights.IMAGENET1K_V1.
        out_features, out_indices: of the maps below the pyramid; neither: all stages.
        out_channels: of every level.
        extra_blocks: what comes after the last; None: LastLevelMaxPool.
        norm_layer: of the pyramid's convolutions, None for none.
        trainable_stages: so many from the last; the others and the stem are frozen. None: everything
            trains.
        options: those of ConvNeXt.

    Raises:
        UserError: features of equal strides; extra_blocks for other channels.
    """
    stages = len(get_variant(name).depths)
    if out_features is None and out_indices is None:
        out_indices = tuple(range(stages))
    body = create_backbone(
        name,
        pretrained=_source(pretrained),
        out_features=out_features,
        out_indices=out_indices,
        frozen_stages=_frozen(trainable_stages, stages, options),
        **options,
    )
    return ConvNeXtFPN(
        body, out_channels=out_channels, extra_blocks=extra_blocks, norm_layer=norm_layer
    )


def convnext_segmentation_backbone(
    name: str,
    *,
    pretrained: Weights | None = None,
    aux: bool = False,
    output_stride: int = 8,
    trainable_stages: int | None = None,
    **options,
) -> ConvNeXtFeatures:
    """A backbone for torchvision's DeepLabV3 and FCN: the last stage as "out", and with aux the one before
    as "aux".

    Args:
        name, pretrained, trainable_stages, options: as of convnext_fpn_backbone.
        output_stride: of both maps, 8, 16 or 32; the later stages are dilated.
    """
    stages = len(get_variant(name).depths)
    for option in {"out_features", "out_indices"} & options.keys():
        raise UserError(
            f"{option}: leave it out; a segmentor of torchvision takes the last stage as 'out', and with "
            "aux=True the one before as 'aux'"
        )
    body = create_backbone(
        name,
        pretrained=_source(pretrained),
        out_indices=tuple(range(stages))[-2 if aux else -1 :],
        output_stride=output_stride,
        frozen_stages=_frozen(trainable_stages, stages, options),
        **options,
    )
    return ConvNeXtFeatures(body, ("aux", "out") if aux else ("out",))


def _source(pretrained: Weights | None) -> str | Path | None:
    return str(pretrained) if isinstance(pretrained, WeightsEnum) else pretrained


def _frozen(trainable: int | None, stages: int, options: dict) -> int:
    if "frozen_stages" in options:
        raise UserError(
            "frozen_stages: write trainable_stages, which counts from the last stage as torchvision's "
            f"trainable_layers does; {stages} of them are there"
        )
    if trainable is None:
        return 0
    whole = isinstance(trainable, int) and not isinstance(trainable, bool)
    if not whole or not 0 <= trainable <= stages:
        raise UserError(
            f"trainable_stages must be a whole number, 0 (freeze all) to {stages} (freeze nothing), got "
            f"{trainable!r}"
        )
    return stages - trainable
