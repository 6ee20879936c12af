"""GRN's factor and its gradients, for the fast paths; GRN in network/convnext.py is the reference."""

import torch
from torch import Tensor

ROWS = 1024  # positions at a time whose squares are summed


def wide_dtype(x: Tensor) -> torch.dtype:
    """What statistics are computed in: float32, or float64 for float64."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def energy(x: Tensor, inside: Tensor | None = None) -> Tensor:
    """(N, ..., K) to the (N, K) sums of squares over positions, in float32 at least.

    inside: (N, ...), the positions that count.
    """
    squares = x.to(wide_dtype(x)).square()
    if inside is not None:
        squares = squares * inside[..., None]
    return squares.flatten(1, -2).sum(1)


def fast_energy(x: Tensor, inside: Tensor | None = None) -> Tensor:
    """As energy, without gradients: (N, T, K) and (N, T) to (N, K) without a wide map in memory."""
    dtype = wide_dtype(x)
    if x.device.type != "cpu":
        x = x if inside is None else x * inside[..., None]
        return torch.linalg.vector_norm(x, dim=1, dtype=dtype).square()
    counted = None if inside is None else inside.to(dtype)[..., None]
    squares = x.new_empty(min(ROWS, x.shape[1]), x.shape[2], dtype=dtype)
    totals = []
    for k in range(x.shape[0]):
        sums = []
        for first in range(0, x.shape[1], ROWS):
            rows = x[k, first : first + ROWS]
            part = squares[: len(rows)]
            torch.mul(rows, rows, out=part) if x.dtype == dtype else part.copy_(rows).square_()
            if counted is not None:
                part *= counted[k, first : first + ROWS]
            sums.append(part.sum(0))
        totals.append(sum(sums[1:], sums[0]))
    return torch.stack(totals)


def grn_scale(energy: Tensor, gamma: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(N, 4C) sums of squares to GRN's factor 1 + gamma * norm / mean(norm), and the norm."""
    norm = energy.clamp_min(1e-30).sqrt()  # the clamp keeps the gradient of an all-zero map 0
    wide = gamma.to(wide_dtype(gamma))
    return 1 + wide * norm / (norm.mean(-1, keepdim=True) + eps), norm


def grn_scale_backward(
    gradient: Tensor, norm: Tensor, gamma: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """(N, 4C) gradient of the factor to those of the sums of squares and of gamma, (4C,)."""
    mean = norm.mean(-1, keepdim=True) + eps
    relative = norm / mean
    through = gradient * gamma.to(wide_dtype(gamma))
    of_norm = (through - (through * relative).mean(-1, keepdim=True)) / mean
    of_energy = of_norm / (2 * norm)
    return of_energy.masked_fill(norm <= 1e-15, 0), (gradient * relative).sum(0)
