"""The classifier with the face of a timm model: its options, attributes and methods."""

import logging
from collections.abc import Sequence
from os import PathLike

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ...checkpoints import LoadReport
from ...checkpoints.inspection import inspect_checkpoint
from ...checkpoints.loading import load_inspected
from ...errors import UserError
from ...network.classifier import ConvNeXtClassifier
from ...network.variants import nearest
from .weights import named_as_ours

POOLS = ("avg", "max", "avgmax", "fast", "fastavg", "fastmax", "fastavgmax", "")
STRIDES = (8, 16, 32)

logger = logging.getLogger("convnext_backbones")


class TimmConvNeXt(ConvNeXtClassifier):
    """ConvNeXt or ConvNeXt V2 as timm has its own: the same values, the official parameter names.

    Maps are those of the stages, without output norms, as of timm's convnext; 0 is stage1.

    Args:
        arch, version: as of ConvNeXtClassifier.
        in_chans: channels of the images.
        num_classes: outputs of the head; 0 for none.
        global_pool: one of POOLS; "" for none, norm and head then hold for every position.
        output_stride: 8, 16 or 32; dilates the later stages.
        patch_size, head_init_scale, drop_path_rate: as of ConvNeXtClassifier.
        ls_init_value: initial layer scale of V1, None for none.
        act_layer: a name of network.activations.ACTIVATIONS.
        norm_eps: of the norm before the head.
        drop_rate: of the dropout before the head.
        device, dtype: of the parameters.

    Attributes:
        feature_info: a dictionary a stage: num_chs, reduction and module.
        num_features, head_hidden_size: channels before the head.
    """

    def __init__(
        self,
        arch: str | dict,
        *,
        version: int,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        output_stride: int = 32,
        patch_size: int = 4,
        ls_init_value: float | None = 1e-6,
        act_layer: str = "gelu",
        head_init_scale: float = 1.0,
        norm_eps: float | None = None,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        if output_stride not in STRIDES:
            raise UserError(f"output_stride must be one of {STRIDES}, got {output_stride!r}")
        if not isinstance(drop_rate, (int, float)) or not 0 <= drop_rate <= 1:
            raise UserError(f"drop_rate must be between 0 and 1, got {drop_rate!r}")
        narrower = isinstance(patch_size, int) and output_stride > 8 * patch_size
        with torch.device(device if device is not None else torch.get_default_device()):
            super().__init__(
                arch,
                version=version,
                num_classes=num_classes,
                in_channels=in_chans,
                patch_size=patch_size,
                output_stride=None if narrower else output_stride,
                drop_path_rate=drop_path_rate,
                layer_scale_init_value=ls_init_value,
                activation=act_layer,
                head_init_scale=head_init_scale,
                **({} if norm_eps is None else {"norm_eps": norm_eps}),
            )
        self.to(dtype)
        self.in_chans = in_chans
        self.drop_rate = drop_rate
        self.num_features = self.head_hidden_size = self.dims[-1]
        self.feature_info = [
            {"num_chs": channels, "reduction": stride, "module": f"stages.{i}"}
            for i, (channels, stride) in enumerate(
                zip(self.dims, self.feature_strides[1:], strict=True)
            )
        ]
        self.global_pool = _pool(global_pool)
        self.head_drop = nn.Dropout(drop_rate)

    # ---- images to maps, to logits
    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, C, H // 32, W // 32), the last stage's map."""
        return self.stage_maps(x)[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """A map (N, C, H, W) to (N, num_classes); with pre_logits to what the head is given, (N, C).

        Without pooling (N, num_classes, H, W).
        """
        x = self.global_pool(x).permute(0, 2, 3, 1)  # NCHW -> NHWC
        x = self.head_drop(self.norm(x))
        if not pre_logits:
            x = self.head(x)
        x = x.permute(0, 3, 1, 2)  # NHWC -> NCHW
        return x if self.global_pool.is_identity() else x.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """The maps of the stages that indices name (a number: the last so many; None: all), after the last
        map; with intermediates_only without it.

        norm: changes nothing, as with timm's: the norm is one of pooled features. stop_early: stop after
        the last of them, whose map is then the last. output_fmt: "NCHW" alone.
        """
        if output_fmt != "NCHW":
            raise UserError(f"output_fmt={output_fmt!r}: maps of a ConvNeXt are 'NCHW'")
        taken = self._taken(indices)
        _, *maps = self.stage_maps(x, count=taken[-1] + 1 if stop_early else None)
        chosen = [maps[index] for index in taken]
        return chosen if intermediates_only else (maps[-1], chosen)

    # ---- what is changed after it was made
    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the stages after the last that indices name, and with them norm and head; the indices, from
        the first stage.

        prune_head: drop norm and head in any case. prune_norm: changes nothing without it, as with timm's.
        """
        taken = self._taken(indices)
        kept = taken[-1] + 1
        shorter = kept < len(self.stages)
        del self.stages[kept:], self.downsample_layers[kept:]
        if shorter:
            self.num_features = self.head_hidden_size = self.dims[kept - 1]
        if shorter or prune_head:
            self.reset_classifier(0, "", reset_other=True)
        return taken

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(
        self, num_classes: int, global_pool: str | None = None, reset_other: bool = False
    ) -> None:
        """A new head of num_classes, 0 for none. reset_other: without the norm before it."""
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 0:
            raise UserError(f"num_classes must be a whole number from 0 on, got {num_classes!r}")
        if global_pool is not None:
            self.global_pool = _pool(global_pool)
        if reset_other:
            self.norm = nn.Identity()
        weight = self.downsample_layers[0][0].weight
        head = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.head = head.to(weight.device, weight.dtype)
        self.num_classes, self.class_names = num_classes, None
        self._reset_head()
        self.train(self.training)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.with_cp = enable

    def __prepare_scriptable__(self):
        raise UserError(
            "torch.jit.script cannot read this network's steps; torch.export takes it, and torch.compile"
        )

    # ---- how timm groups parameters
    def group_matcher(self, coarse: bool = False) -> dict:
        """Layers for layer decay, as timm's convnext has them: a downsampling counts to the block after it."""
        fine = [(r"^downsample_layers\.(\d+)", (0,)), (r"^stages\.(\d+)\.(\d+)", None)]
        blocks = r"^(?:downsample_layers|stages)\.(\d+)" if coarse else fine
        return {"stem": r"^downsample_layers\.0\.", "blocks": blocks}

    def no_weight_decay(self) -> set[str]:
        """None by name: what has none here is 1-D (biases, norms, layer scale and GRN)."""
        return set()

    # ---- weights
    def load_pretrained(self, source: str | PathLike) -> LoadReport:
        """Load a file or a name of the catalogue, as checkpoints.load_pretrained does; for other than three
        channels timm's rule makes the first layer out of the file's."""
        file = inspect_checkpoint(source)
        report = load_inspected(self, file, stem=file.located.options.get("stem", "repeat"))
        logger.log(logging.WARNING if report.non_commercial else logging.INFO, "%s", report)
        return report

    def _load_from_state_dict(self, state_dict, prefix, *rest) -> None:
        """Also with timm's names, and with those of every other layout."""
        own = {
            name.removeprefix(prefix): value
            for name, value in state_dict.items()
            if name.startswith(prefix)
        }
        for name in own:
            del state_dict[prefix + name]
        state_dict.update((prefix + n, value) for n, value in named_as_ours(own).items())
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _taken(self, indices: int | Sequence[int] | None) -> list[int]:
        """The indices from the first stage, in order; a sentence for what is none."""
        count = len(self.stages)
        try:
            taken, _ = feature_take_indices(count, indices)
        except (AssertionError, TypeError, ValueError) as error:
            raise UserError(
                f"out_indices={indices!r}: this network has {count} maps, 0 to {count - 1}, or -{count} to "
                f"-1; a number alone, 1 to {count}, is the last so many"
            ) from error
        if taken != sorted(set(taken)):
            raise UserError(
                f"out_indices={indices!r} must rise, each once; write {sorted(set(taken))}"
            )
        return taken


def _pool(kind: str) -> SelectAdaptivePool2d:
    if kind not in POOLS:
        why = "doubles the channels, which norm and head have not; " if kind in _DOUBLING else ""
        raise UserError(f"global_pool={kind!r} {why or 'is unknown; '}{nearest(str(kind), POOLS)}")
    return SelectAdaptivePool2d(pool_type=kind)


_DOUBLING = ("catavgmax", "fastcatavgmax")
