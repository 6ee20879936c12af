"""Adaptive average pooling that is exact at every size of an exported graph.

Exporters freeze its windows at the size that they traced: the graph is then silently wrong at every other.
"""

import torch
from torch import Tensor, nn


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """torch's own; in an exported graph the same as two products with a matrix of each side."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.compiler.is_compiling():
            return super().forward(x)
        rows, columns = self._size(x)
        dtype, x = x.dtype, x.float()  # sums over a whole map
        x = torch.matmul(windows(x.shape[2], rows), x)
        return torch.matmul(x, windows(x.shape[3], columns).transpose(0, 1)).to(dtype)

    def _size(self, x: Tensor) -> tuple[int, int]:
        size = self.output_size
        rows, columns = size if isinstance(size, (tuple, list)) else (size, size)
        return rows or x.shape[2], columns or x.shape[3]


def windows(length: int, count: int) -> Tensor:
    """(count, length): row i averages positions floor(i * length / count) to ceil((i + 1) * length / count)."""
    number = torch.arange(count)[:, None]
    first = (number * length) // count
    end = ((number + 1) * length + count - 1) // count
    position = torch.arange(length)[None]
    inside = (position >= first) & (position < end)
    return inside.float() / (end - first)


def make_exact(network: nn.Module) -> None:
    """Put the exact form in the place of every adaptive average pooling."""
    for module in network.modules():
        for name, child in module.named_children():
            if type(child) is nn.AdaptiveAvgPool2d:
                setattr(module, name, AdaptiveAvgPool2d(child.output_size))
