"""What can be exported: a network, how pixels come into it, and what a framework says of its results."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError

FEATURES, CLASSES, LABEL_MAP, INSTANCES = "features", "classes", "label map", "instances"
BATCH, SIZE = "batch", "hw"  # what --dynamic names


@dataclass
class Exportable:
    """A network ready for export.

    network: (N, C, H, W) normalised images to a tuple of tensors. outputs: their names. task: FEATURES,
    any maps; CLASSES, logits (N, K); LABEL_MAP, logits (N, K, H, W); INSTANCES, boxes (N, k, 4), scores
    (N, k), labels (N, k) and masks (N, k, m, m), a score below 0 where there is none. reference: the same
    as arrays by name, as the framework itself computes them from normalised images. masks: its masks,
    (N, k, m, m), for normalised images in given regions, boxes (N, k, 4) with labels (N, k).

    mean, std: of RGB pixels in 0..255; None: images come normalised. bgr: the network takes BGR.
    multiple, least: of height and width. fixed: what cannot be dynamic, BATCH or SIZE, and why.
    low: names of the modules that a file of lower precision computes in it; "" is the network itself.
    tracing: what the network is traced in.
    about: more for the file's metadata, JSON's types.
    """

    network: nn.Module
    outputs: tuple[str, ...]
    task: str
    reference: Callable[[Tensor], tuple[Tensor, ...]] | None = None
    masks: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None
    channels: int = 3
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    bgr: bool = False
    multiple: int = 1
    least: int = 32
    fixed: Mapping[str, str] = field(default_factory=dict)
    low: tuple[str, ...] = ("",)
    tracing: Callable[[], contextlib.AbstractContextManager] = contextlib.nullcontext
    about: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.reference = self.reference or self.network
        self.network.eval().requires_grad_(False)

    def check_size(self, height: int, width: int) -> None:
        """UserError for a height and width that the network does not take."""
        for side in (height, width):
            if side < self.least or side % self.multiple:
                rule = f"at least {self.least} pixels"
                rule += f", multiples of {self.multiple}" if self.multiple > 1 else ""
                near = max(self.least, round(side / self.multiple) * self.multiple)
                raise UserError(
                    f"{height}x{width}: this network takes heights and widths of {rule}; {near} is the "
                    f"one next to {side}"
                )


class Graph(nn.Module):
    """What a file computes: images, (N, C, H, W) float32, to float32 outputs.

    pixels: the images are RGB in 0..255, and are normalised here; else they come normalised.
    """

    def __init__(self, model: Exportable, *, pixels: bool, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.network, self.dtype, self.pixels, self.bgr = model.network, dtype, pixels, model.bgr
        mean = torch.tensor(model.mean if pixels else (0.0,) * model.channels)
        std = torch.tensor(model.std if pixels else (1.0,) * model.channels)
        self.register_buffer("mean", mean.view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", std.view(1, -1, 1, 1), persistent=False)

    def normalised(self, images: Tensor) -> Tensor:
        if not self.pixels:
            return images
        images = (images - self.mean) / self.std
        return images[:, [2, 1, 0]] if self.bgr else images

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs = self.network(
            self.normalised(images).to(self.dtype)
        )  # float32 where parts are low
        outputs = (outputs,) if isinstance(outputs, Tensor) else tuple(outputs)
        return tuple(y.float() if y.is_floating_point() else y for y in outputs)
