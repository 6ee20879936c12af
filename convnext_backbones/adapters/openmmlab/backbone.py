"""ConvNeXt and ConvNeXtV2 as MMEngine's models have them."""

from mmengine.logging import print_log
from mmengine.model import initialize
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import Tensor

from ...checkpoints import load_pretrained
from ...network import convnext
from ...network.padding import Sizes, noted_image_sizes
from ...registry import MODELS
from .patches import SIZE_NOTES
from .registration import register


class _ForMMEngine:
    """init_cfg and init_weights, as MMEngine's models have them, and maps that mmcv can read.

    With ignore_padding, each image's maps are those that it has without the padding of its batch.
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


class ConvNeXt(_ForMMEngine, convnext.ConvNeXt):
    __doc__ = convnext.ConvNeXt.__doc__


class ConvNeXtV2(_ForMMEngine, convnext.ConvNeXtV2):
    __doc__ = convnext.ConvNeXtV2.__doc__


for backbone in (ConvNeXt, ConvNeXtV2):
    register(MODELS, backbone)  # type="convnext_backbones.ConvNeXtV2"
    register(MMENGINE_MODELS, backbone)  # type="ConvNeXtV2"
