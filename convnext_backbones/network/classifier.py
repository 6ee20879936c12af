"""The ImageNet classifier: a trunk, global average pooling, LayerNorm and a linear head."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.nn import functional as F

from ..errors import UserError
from .convnext import EPS, INIT_STD, Trunk, draw_weight
from .refusals import refuse_in_graph, refuse_unknown_options
from .variants import resolve_arch


class Features(NamedTuple):
    """What forward_features returns, named as Hugging Face's ConvNextModel names it.

    last_hidden_state: (N, C, H // 32, W // 32), the last stage. pooler_output: (N, C), its spatial
    mean after the final norm. hidden_states: the stem and every stage, without norms.
    """

    last_hidden_state: Tensor
    pooler_output: Tensor
    hidden_states: tuple[Tensor, ...]


class LossAndLogits(NamedTuple):
    """What forward returns when labels are given: a scalar and (N, num_classes)."""

    loss: Tensor
    logits: Tensor


class ConvNeXtClassifier(Trunk):
    """ConvNeXt (version=1) or ConvNeXt V2 (version=2) with its classification head.

    Args:
        arch: a size or dict(depths=..., dims=...), as for ConvNeXt.
        version: 1 or 2.
        num_classes: outputs of the head; 0 for none (forward then gives pooled features).
        norm_eps: of the final norm; 1e-6 in the official models, 1e-12 in Hugging Face's.
        head_init_scale: factor on the head's initial weights (official fine-tuning uses 0.001).
        in_channels, patch_size, output_stride, drop_path_rate: as for ConvNeXt.
        layer_scale_init_value, activation, init_std, with_cp: as for ConvNeXt.

    Attributes:
        class_names: a name for each class, where the weights came with names; else None.
    """

    def __init__(
        self,
        arch: str | dict = "tiny",
        *,
        version: int,
        num_classes: int = 1000,
        norm_eps: float = EPS,
        head_init_scale: float = 1.0,
        in_channels: int = 3,
        patch_size: int = 4,
        output_stride: int | None = None,
        drop_path_rate: float = 0.0,
        layer_scale_init_value: float | None = 1e-6,
        activation: str = "gelu",
        init_std: float = INIT_STD,
        with_cp: bool = False,
        **unknown,
    ):
        refuse_unknown_options(type(self).__name__, unknown, ConvNeXtClassifier.__init__)
        if version not in (1, 2):
            raise ValueError(f"version must be 1 or 2, got {version!r}")
        if not isinstance(num_classes, int) or isinstance(num_classes, bool) or num_classes < 0:
            raise ValueError(f"num_classes must be a whole number from 0 on, got {num_classes!r}")
        if not isinstance(norm_eps, (int, float)) or not norm_eps > 0:
            raise ValueError(f"norm_eps must be a positive number, got {norm_eps!r}")
        depths, dims = resolve_arch(arch, version)
        super().__init__(
            depths,
            dims,
            version=version,
            num_built=len(depths),
            in_channels=in_channels,
            patch_size=patch_size,
            output_stride=output_stride,
            drop_path_rate=drop_path_rate,
            layer_scale_init_value=layer_scale_init_value,
            activation=activation,
            init_std=init_std,
            with_cp=with_cp,
        )
        self.num_classes = num_classes
        self.norm = nn.LayerNorm(dims[-1], eps=norm_eps)
        self.head = nn.Linear(dims[-1], num_classes) if num_classes else nn.Identity()
        self.head_init_scale = head_init_scale
        self._class_names = None
        self._reset_head()

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """A name for each class; set to names, or to a function that looks them up when they are asked for.

        Raises:
            UserError: other names than classes; the function's own, such as a library that is missing.
        """
        return self._class_names() if callable(self._class_names) else self._class_names

    @class_names.setter
    def class_names(self, names: Sequence[str] | Callable[[], tuple[str, ...]] | None) -> None:
        if names is not None and not callable(names):
            if isinstance(names, str) or len(names) != self.num_classes:
                raise UserError(
                    f"class_names must be {self.num_classes} names, one a class, got {names!r:.80}"
                )
            names = tuple(names)
        self._class_names = names

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self._reset_head()

    def _reset_head(self) -> None:
        if isinstance(self.head, nn.Linear):
            draw_weight(self.head.weight, self.init_std)
            nn.init.zeros_(self.head.bias)
            with torch.no_grad():
                self.head.weight.mul_(self.head_init_scale)

    def forward_features(self, images: Tensor) -> Features:
        """(N, in_channels, H, W) to the maps of all stages and the pooled, normed last one."""
        maps = self.stage_maps(images)
        pooled = self.norm(maps[-1].mean(dim=(2, 3)))
        return Features(maps[-1], pooled, tuple(maps))

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor | LossAndLogits:
        """Logits (N, num_classes); with labels, a LossAndLogits.

        The loss, by Hugging Face's rules: mean squared error for one class, cross-entropy for
        integer labels (N,), binary cross-entropy with logits for float labels (N, num_classes).
        """
        logits = self.head(self.forward_features(images).pooler_output)
        if isinstance(labels, Proxy):  # torch.fx traces arguments that were left out, too
            return refuse_in_graph(logits, "labels", labels)
        if labels is None:
            return logits
        has_head = not isinstance(self.head, nn.Identity)
        num_classes = logits.shape[-1] if has_head else 0  # of a head that was replaced, too
        return LossAndLogits(classification_loss(logits, labels, num_classes), logits)


def classification_loss(logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """The loss that the labels' type and the number of classes call for; see forward."""
    if not isinstance(labels, Tensor):
        raise TypeError(
            f"labels must be a tensor, got a {type(labels).__name__}; write torch.tensor(labels)"
        )
    if num_classes == 0:
        raise ValueError(
            "labels were given, but the classifier has no head (num_classes=0); give num_classes"
        )
    if num_classes == 1:
        if labels.numel() != logits.numel():
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}; for one class give {logits.shape[0]} values"
            )
        return F.mse_loss(logits.flatten(), labels.flatten().to(logits.dtype))
    if not labels.is_floating_point():
        if labels.shape != logits.shape[:1]:
            raise ValueError(
                f"integer labels must have shape ({logits.shape[0]},), got {tuple(labels.shape)}; "
                "labels of several classes at once are given as floats (N, num_classes)"
            )
        return F.cross_entropy(logits, labels.long())
    if labels.shape != logits.shape:
        raise ValueError(
            f"float labels must have shape {tuple(logits.shape)}, got {tuple(labels.shape)}; "
            "class numbers are given as integers (N,)"
        )
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
