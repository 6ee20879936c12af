"""Triton kernels of what is small: one launch each for a dozen of operators on vectors and weights.

The plain twins of GRN's two are those of kernels/grn.py, of the same arguments and results.
"""

# ruff: noqa: N803  (compile-time constants are upper case, as everywhere in Triton)

import torch
import triton
import triton.language as tl
from torch import Tensor

SMALL_CONFIGS = ({"num_warps": 4}, {"num_warps": 8})


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


@triton.jit
def _second_gradients_kernel(
    product,
    of_bias,
    weight,
    bias,
    gamma,  # (outputs,) or None
    beta,  # (inputs,) or None
    of_weight,
    of_layer_bias,
    of_gamma,
    inputs,
    INPUTS: tl.constexpr,
):
    """A program a row of the weight."""
    row = tl.program_id(0)
    column = tl.arange(0, INPUTS)
    exists = column < inputs
    at = row.to(tl.int64) * inputs + column
    given = tl.load(product + at, mask=exists, other=0.0).to(tl.float32)
    total = tl.load(of_bias + row).to(tl.float32)
    if gamma is not None:
        factor = tl.load(gamma + row).to(tl.float32)
        own = tl.load(weight + at, mask=exists, other=0.0).to(tl.float32)
        along = tl.sum(given * own, axis=0) + total * tl.load(bias + row).to(tl.float32)
        tl.store(of_gamma + row, along.to(of_gamma.dtype.element_ty))
        tl.store(of_layer_bias + row, total * factor)
        given *= factor
    if beta is not None:
        given += total * tl.load(beta + column, mask=exists, other=0.0).to(tl.float32)
    tl.store(of_weight + at, given.to(of_weight.dtype.element_ty), mask=exists)


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


def second_gradients(
    product: Tensor,
    of_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
    *,
    config: dict | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As plain_second_gradients."""
    outputs, inputs = weight.shape
    of_weight = torch.empty_like(weight)
    of_layer_bias, of_gamma = of_bias, None
    if gamma is not None:
        of_layer_bias, of_gamma = torch.empty_like(of_bias), torch.empty_like(gamma)
    _second_gradients_kernel[(outputs,)](
        product, of_bias, weight, bias, gamma, beta, of_weight, of_layer_bias, of_gamma,
        inputs, INPUTS=triton.next_power_of_2(inputs), **(config or SMALL_CONFIGS[0]),
    )  # fmt: skip
    return of_weight, of_layer_bias, of_gamma


def plain_second_gradients(
    product: Tensor,
    of_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    gamma: Tensor | None,
    beta: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The gradients of the second pointwise layer's weight and bias, and of layer scale.

    From `product`, (C, 4C), of the branch's gradient and of what the layer takes without GRN's beta, and
    from of_bias, (C,), the sum of the former over all positions.
    """
    if gamma is not None:
        of_gamma = (product * weight).sum(1) + of_bias * bias
        return product * gamma[:, None], of_bias * gamma, of_gamma
    if beta is not None:
        wide = torch.promote_types(product.dtype, of_bias.dtype)
        product = torch.addr(product.to(wide), of_bias.to(wide), beta.to(wide))
    return product, of_bias, None


def _options(x: Tensor, config: dict | None) -> dict:
    channels = x.shape[1]
    config = config or SMALL_CONFIGS[0]
    return {"channels": channels, "CHANNELS": triton.next_power_of_2(channels), **config}
