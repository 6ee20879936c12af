"""Triton kernels of GRN's factor and its gradients: one launch each for a dozen of small operators.

Their plain twins are those of kernels/grn.py, of the same arguments and results.
"""

# ruff: noqa: N803  (compile-time constants are upper case, as everywhere in Triton)

import torch
import triton
import triton.language as tl
from torch import Tensor

GRN_CONFIGS = ({"num_warps": 4}, {"num_warps": 8})


@triton.jit
def _grn_scale_kernel(energy, gamma, scale, norm, eps, channels, CHANNELS: tl.constexpr):
    """A program an image."""
    channel = tl.arange(0, CHANNELS)
    exists = channel < channels
    at = tl.program_id(0) * channels + channel
    square = tl.load(energy + at, mask=exists, other=0.0)
    root = tl.where(exists, tl.sqrt(tl.maximum(square, 1e-30)), 0.0)
    mean = tl.sum(root, axis=0) / channels + eps
    slope = tl.load(gamma + channel, mask=exists, other=0.0).to(tl.float32)
    tl.store(norm + at, root, mask=exists)
    tl.store(scale + at, 1 + slope * root / mean, mask=exists)


@triton.jit
def _grn_scale_backward_kernel(
    gradient, norm, gamma, of_energy, of_gamma, eps, channels, CHANNELS: tl.constexpr
):
    """A program an image; of_gamma: (N, channels), to be summed over the images."""
    channel = tl.arange(0, CHANNELS)
    exists = channel < channels
    at = tl.program_id(0) * channels + channel
    root = tl.load(norm + at, mask=exists, other=0.0)
    mean = tl.sum(root, axis=0) / channels + eps
    relative = root / mean
    of_scale = tl.load(gradient + at, mask=exists, other=0.0)
    tl.store(of_gamma + at, of_scale * relative, mask=exists)
    through = of_scale * tl.load(gamma + channel, mask=exists, other=0.0).to(tl.float32)
    of_norm = (through - tl.sum(through * relative, axis=0) / channels) / mean
    some = root > 1e-15
    tl.store(
        of_energy + at, tl.where(some, of_norm / (2 * tl.where(some, root, 1.0)), 0.0), mask=exists
    )


def grn_scale(
    energy: Tensor, gamma: Tensor, eps: float, *, config: dict | None = None
) -> tuple[Tensor, Tensor]:
    """As kernels.grn.grn_scale."""
    scale, norm = torch.empty_like(energy), torch.empty_like(energy)
    _grn_scale_kernel[(len(energy),)](energy, gamma, scale, norm, eps, **_options(energy, config))
    return scale, norm


def grn_scale_backward(
    gradient: Tensor, norm: Tensor, gamma: Tensor, eps: float, *, config: dict | None = None
) -> tuple[Tensor, Tensor]:
    """As kernels.grn.grn_scale_backward."""
    of_energy, of_gamma = torch.empty_like(norm), torch.empty_like(norm)
    _grn_scale_backward_kernel[(len(norm),)](
        gradient, norm, gamma, of_energy, of_gamma, eps, **_options(norm, config)
    )
    return of_energy, of_gamma.sum(0)


def _options(x: Tensor, config: dict | None) -> dict:
    channels = x.shape[1]
    config = config or GRN_CONFIGS[0]
    return {"channels": channels, "CHANNELS": triton.next_power_of_2(channels), **config}
