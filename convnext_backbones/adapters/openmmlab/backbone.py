"""ConvNeXt and ConvNeXtV2 as MMEngine's models have them."""

import logging

from mmengine.logging import print_log
from mmengine.model import initialize
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor

from ...checkpoints import load_pretrained
from ...network import convnext
from ...network.padding import Sizes, noted_image_sizes
from ...network.refusals import refuse_unknown_options
from ...registry import MODELS
from .patches import SIZE_NOTES
from .registration import register

INHERITED = (
    "where the config inherits another backbone's options, add _delete_=True to backbone=dict(...), which "
    "then replaces them instead of adding to them; otherwise leave them out"
)


class _ForMMEngine:
    """init_cfg and init_weights, as MMEngine's models have them, and maps that mmcv can read.

    With ignore_padding, each image's maps are those that it has without the padding of its batch.
    frozen_stages=-1 freezes nothing, as 0 does. MMPretrain's options are taken where they mean what
    these networks have anyway (_from_mmpretrain).
    """

    def __init__(
        self,
        arch="tiny",
        *,
        ignore_padding: bool = False,
        pretrained: str | None = None,
        init_cfg: dict | list[dict] | None = None,
        **options,
    ):
        options = _from_mmpretrain(options, type(self).version)
        constructors = (convnext.ConvNeXt.__init__, _ForMMEngine.__init__)
        refuse_unknown_options(type(self).__name__, options, *constructors, others=INHERITED)
        super().__init__(arch, **options)
        if pretrained is not None and init_cfg is not None:
            raise ValueError(
                f"pretrained={pretrained!r} is short for init_cfg=dict(type='Pretrained', "
                "checkpoint=...), and init_cfg was given too; give one of the two"
            )
        if pretrained is not None:
            init_cfg = dict(type="Pretrained", checkpoint=pretrained)
        self.ignore_padding = ignore_padding
        if ignore_padding:
            SIZE_NOTES.apply()
        self.init_cfg = init_cfg
        self.is_init = False

    def forward(self, images: Tensor, image_sizes: Sizes | None = None) -> tuple[Tensor, ...]:
        """As the backbone's, but contiguous: mmcv's RoIAlign reads memory as NCHW without asking,
        so that channels-last maps give it wrong features and no error (mmcv 2.1.0, onedl 2.3.6)."""
        if image_sizes is None and self.ignore_padding:
            image_sizes = noted_image_sizes(images)
        return tuple(x.contiguous() for x in super().forward(images, image_sizes))

    def init_weights(self) -> None:
        """Apply init_cfg. Type Pretrained takes what load_pretrained takes, and its options."""
        if self.is_init or not self.init_cfg:
            return
        entries = [self.init_cfg] if isinstance(self.init_cfg, dict) else list(self.init_cfg)
        pretrained = [entry for entry in entries if entry["type"] == "Pretrained"]
        initialize(self, [entry for entry in entries if entry["type"] != "Pretrained"])
        for entry in pretrained:
            options = {
                k: v for k, v in entry.items() if k not in ("type", "checkpoint", "map_location")
            }
            print_log(str(load_pretrained(self, entry["checkpoint"], **options)), logger="current")
        self.is_init = True


def _from_mmpretrain(options: dict, version: int) -> dict:
    """The options of a config of MMPretrain's ConvNeXt, or of any other, in our names.

    Those that ask for what the network has anyway are left out; other values stay, to be refused with
    everything else that is no option here. MMPretrain builds both versions as one class.
    """
    the_same = {
        "norm_cfg": _is_our_norm,
        "act_cfg": _is_gelu,
        "linear_pw_conv": lambda linear: isinstance(linear, bool),  # the same numbers either way
        "use_grn": lambda use: use is (version == 2),
        "gap_before_final_norm": lambda pool: pool is False,
    }
    options = {k: v for k, v in options.items() if k not in the_same or not the_same[k](v)}
    if "stem_patch_size" in options and "patch_size" not in options:
        options["patch_size"] = options.pop("stem_patch_size")
    index, frozen = options.get("out_indices"), options.get("frozen_stages")
    if isinstance(index, int) and not isinstance(index, bool):
        options["out_indices"] = (index,)
    if frozen == -1:
        options["frozen_stages"] = 0
    elif frozen == 0:
        print_log(
            "frozen_stages=0 freezes nothing, as in MMPretrain's ConvNeXt. In MMDetection's and "
            "MMSegmentation's ResNet and Swin it freezes the stem; here that is left to frozen_stages=1, "
            "with stage1",
            logger="current", level=logging.WARNING,
        )  # fmt: skip
    return options


def _is_our_norm(norm_cfg) -> bool:
    """LayerNorm with eps 1e-6; MMPretrain's own default, where none is given, is 1e-5."""
    settings = dict(norm_cfg or {})
    name = _name(settings.pop("type", None))
    return name in ("LN", "LN2d", "LayerNorm", "LayerNorm2d") and settings in (
        {"eps": 1e-6},
        {"eps": 1e-6, "requires_grad": True},
    )


def _is_gelu(act_cfg) -> bool:
    settings = dict(act_cfg or {})
    return _name(settings.pop("type", None)) == "GELU" and settings in ({}, {"approximate": "none"})


def _name(kind) -> str:
    return getattr(kind, "__name__", kind)


class ConvNeXt(_ForMMEngine, convnext.ConvNeXt):
    __doc__ = convnext.ConvNeXt.__doc__


class ConvNeXtV2(_ForMMEngine, convnext.ConvNeXtV2):
    __doc__ = convnext.ConvNeXtV2.__doc__


for backbone in (ConvNeXt, ConvNeXtV2):
    register(MODELS, backbone)  # type="convnext_backbones.ConvNeXtV2"
    register(MMENGINE_MODELS, backbone)  # type="ConvNeXtV2"
