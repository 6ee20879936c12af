"""ConvNeXt and ConvNeXtV2 as Detectron2's backbones, and the builders that YAML names."""

import itertools
import logging
import math

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from omegaconf import OmegaConf
from torch import Tensor

from ...errors import UserError
from ...network import convnext
from ...network.padding import Sizes, noted_image_sizes
from ...network.refusals import refuse_unknown_options
from ...network.variants import nearest, resolve_arch
from .data import register_data_sets
from .patches import SIZE_NOTES
from .yaml_keys import network_keys

LOGGER = logging.getLogger("detectron2.convnext_backbones")
INHERITED = (
    "where a LazyConfig inherits another backbone's options, replace that backbone by L(ConvNeXt)(...) as a "
    "whole instead of its _target_ alone; otherwise leave them out"
)


class _ForDetectron2:
    """What detectron2.modeling.Backbone promises, and freeze_at in Detectron2's meaning.

    freeze_at stands in the place of frozen_stages: 0 freezes nothing, 1 the stem, 2 the stem and
    stage1, and so on, so that freeze_at=k + 1 is frozen_stages=k for k > 0.

    With ignore_padding, each image's maps are those that it has without the padding of its batch.
    """

    def __init__(self, arch="tiny", *, freeze_at: int = 0, ignore_padding: bool = False, **options):
        refuse_unknown_options(
            type(self).__name__, options, convnext.ConvNeXt.__init__, _ForDetectron2.__init__,
            others=INHERITED,
            frozen_stages="write freeze_at=k + 1 for frozen_stages=k, and 0 to freeze nothing",
            pretrained="write train.init_checkpoint, or MODEL.WEIGHTS in a YAML config",
        )  # fmt: skip
        arch = _plain(arch)
        _check_freeze_at(freeze_at, num_stages=len(resolve_arch(arch, type(self).version)[0]))
        self.freeze_at = freeze_at  # before the parent's constructor, which calls _freeze
        options = {name: _plain(value) for name, value in options.items()}
        super().__init__(arch, frozen_stages=max(freeze_at - 1, 0), **options)
        self.ignore_padding = ignore_padding
        if ignore_padding:
            SIZE_NOTES.apply()

    def forward(self, images: Tensor, image_sizes: Sizes | None = None) -> dict[str, Tensor]:
        """(N, in_channels, H, W) to one (N, C, H // stride, W // stride) map per feature name.

        The maps lie channels-last in memory, which Detectron2's operators read rightly.
        """
        if image_sizes is None and self.ignore_padding:
            image_sizes = noted_image_sizes(images)
        return dict(zip(self.out_features, super().forward(images, image_sizes), strict=True))

    def output_shape(self) -> dict[str, ShapeSpec]:
        """Channels and stride of each map."""
        return {
            name: ShapeSpec(channels=channels, stride=stride)
            for name, channels, stride in zip(
                self.out_features, self.channels, self.strides, strict=True
            )
        }

    @property
    def size_divisibility(self) -> int:
        """The greatest stride: images padded to it have a pixel in every map, and no map is cut."""
        return self.strides[-1]

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.strides[-1]}

    def _freeze(self) -> None:
        super()._freeze()
        if self.freeze_at == 1:
            for module in (self.downsample_layers[0], getattr(self, "norm_stem", None)):
                if module is not None:
                    module.eval().requires_grad_(False)

    def __prepare_scriptable__(self):
        """What torch.jit.script takes in place of this module."""
        if self.ignore_padding:
            raise UserError(
                "torch.jit.script knows no image sizes: trace the model (TracingAdapter), which keeps "
                "ignore_padding=True, or build it with ignore_padding=False"
            )
        return _Traced(self)


class ConvNeXt(_ForDetectron2, convnext.ConvNeXt, Backbone):
    """convnext_backbones.ConvNeXt with its options, but freeze_at in the place of frozen_stages."""


class ConvNeXtV2(_ForDetectron2, convnext.ConvNeXtV2, Backbone):
    """convnext_backbones.ConvNeXtV2 with its options, but freeze_at in the place of frozen_stages."""


class _Traced(Backbone):
    """A backbone as TorchScript can take it: torch.jit.script knows no super() and no getattr().

    The trace is good for every image, as no operator depends on the images' number or size.
    """

    def __init__(self, backbone):
        super().__init__()
        weight = backbone.first_layer().weight
        side = 2 * backbone.strides[-1]
        images = weight.new_zeros(1, weight.shape[1], side, side)
        self.network = torch.jit.trace(backbone, images, strict=False)  # strict refuses a dict
        self.total_stride: int = backbone.strides[-1]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.network(images)

    @property
    def size_divisibility(self) -> int:
        return self.total_stride

    @property
    def padding_constraints(self) -> dict[str, int]:
        return {"size_divisibility": self.total_stride}


def _registered(build):
    """Register a builder by its name; by this package's and its name, and with a warning, where
    somebody else has the name."""
    name = build.__name__
    if name not in BACKBONE_REGISTRY:
        BACKBONE_REGISTRY.register(build)
    elif BACKBONE_REGISTRY.get(name).__module__ != build.__module__:  # else it is reloaded
        theirs, own = BACKBONE_REGISTRY.get(name).__module__, f"convnext_backbones.{name}"
        BACKBONE_REGISTRY._do_register(own, build)
        LOGGER.warning(
            f"Detectron2's backbone {name!r} is that of {theirs}, registered before, and stays so. Write "
            f"MODEL.BACKBONE.NAME: {own} for this package's"
        )
    return build


@_registered
def build_convnext_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Backbone:
    """The backbone of MODEL.CONVNEXT, with MODEL.BACKBONE.FREEZE_AT in Detectron2's meaning."""
    return _build(cfg, input_shape, _node(cfg).OUT_FEATURES)


@_registered
def build_convnext_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The FPN of MODEL.FPN over MODEL.CONVNEXT, with P6 pooled from P5 as R-CNNs have it."""
    bottom_up = _bottom_up(cfg, input_shape)
    top_block = LastLevelMaxPool()
    top_block.in_feature = f"p{int(math.log2(bottom_up.strides[-1]))}"
    return _fpn(cfg, bottom_up, top_block)


@_registered
def build_retinanet_convnext_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """The FPN of MODEL.FPN over MODEL.CONVNEXT, with P6 and P7 convolved from the last stage."""
    bottom_up = _bottom_up(cfg, input_shape)
    top_block = LastLevelP6P7(
        bottom_up.channels[-1], cfg.MODEL.FPN.OUT_CHANNELS, bottom_up.out_features[-1]
    )
    return _fpn(cfg, bottom_up, top_block)


def _build(cfg: CfgNode, input_shape: ShapeSpec, out_features) -> ConvNeXt | ConvNeXtV2:
    node = _node(cfg)
    register_data_sets(*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)  # before a trainer asks for them
    if node.VERSION not in (1, 2):
        raise UserError(f"MODEL.CONVNEXT.VERSION must be 1 or 2, got {node.VERSION!r}")
    arch = node.ARCH
    if arch == "custom":
        arch = dict(depths=node.DEPTHS, dims=node.DIMS)
    elif node.DEPTHS or node.DIMS:
        raise UserError(
            f"MODEL.CONVNEXT.ARCH={arch!r} has its own DEPTHS and DIMS; "
            "for others set ARCH to 'custom'"
        )
    return (ConvNeXt if node.VERSION == 1 else ConvNeXtV2)(
        arch,
        in_channels=input_shape.channels,
        patch_size=node.PATCH_SIZE,
        out_features=list(out_features) or None,
        drop_path_rate=node.DROP_PATH_RATE,
        layer_scale_init_value=node.LAYER_SCALE_INIT_VALUE,
        output_norm=node.OUTPUT_NORM,
        output_stride=node.OUTPUT_STRIDE or None,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        with_cp=node.WITH_CP,
        ignore_padding=node.IGNORE_PADDING,
    )


def _node(cfg: CfgNode) -> CfgNode:
    """MODEL.CONVNEXT, refused when it is missing or has other keys than add_convnext_config's."""
    if "CONVNEXT" not in cfg.MODEL:
        raise UserError(
            "the config has no MODEL.CONVNEXT: call "
            "convnext_backbones.adapters.detectron2.add_convnext_config(cfg) before merging a file"
        )
    known = network_keys()
    unknown = [key for key in cfg.MODEL.CONVNEXT if key not in known]
    if unknown:
        raise UserError(
            f"MODEL.CONVNEXT has no key {', '.join(map(repr, unknown))}; {nearest(unknown[0], known)}"
        )
    return cfg.MODEL.CONVNEXT


def _bottom_up(cfg: CfgNode, input_shape: ShapeSpec) -> ConvNeXt | ConvNeXtV2:
    """The network below an FPN: it has the features that the FPN takes, and no others."""
    taken, named = list(cfg.MODEL.FPN.IN_FEATURES), list(_node(cfg).OUT_FEATURES)
    if not taken:
        raise UserError("MODEL.FPN.IN_FEATURES is empty; name features, e.g. ['stage1', 'stage2']")
    if named and named != taken:
        raise UserError(
            f"MODEL.CONVNEXT.OUT_FEATURES={named} and MODEL.FPN.IN_FEATURES={taken} disagree, which "
            "would leave norms without a gradient; leave OUT_FEATURES empty"
        )
    bottom_up = _build(cfg, input_shape, taken)
    strides = bottom_up.strides
    if any(coarse != 2 * fine for fine, coarse in itertools.pairwise(strides)):
        raise UserError(
            f"MODEL.FPN.IN_FEATURES={taken} have the strides {list(strides)}; an FPN needs each twice "
            "the one before. stem and stage1 have equal strides: take one of the two"
        )
    return bottom_up


def _fpn(cfg: CfgNode, bottom_up, top_block) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=bottom_up.out_features,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )


def _check_freeze_at(freeze_at: int, num_stages: int) -> None:
    whole = isinstance(freeze_at, int) and not isinstance(freeze_at, bool)
    if not whole or not 0 <= freeze_at <= num_stages + 1:
        raise ValueError(
            "freeze_at (MODEL.BACKBONE.FREEZE_AT) must be a whole number: 0 freezes nothing, 1 the "
            f"stem, 2 the stem and stage1, {num_stages + 1} all stages; got {freeze_at!r}"
        )


def _plain(value):
    """Lists and dicts of a LazyConfig as Python's own."""
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
