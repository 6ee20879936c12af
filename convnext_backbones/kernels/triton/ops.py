"""A ConvNeXt block out of Triton kernels, as PyTorch operators with gradients.

Import this only where triton_choice.available says so: it imports Triton.

    depthwise_norm         depthwise 7x7, bias, LayerNorm
    linear_gelu            pointwise C -> 4C, GELU, and the sums of squares that GRN needs
    linear_scale_residual  GRN's factor, pointwise 4C -> C, layer scale, drop path, residual sum

Maps are (N, H, W, C), contiguous. For the backward pass a block keeps its input, the depthwise
convolution's output, its normalisation and the first pointwise layer's output z: 7 values for each of
the input's. GELU and GRN's scaling are computed again. Vectors (biases, norms, GRN, layer scale) may
be of another data type than the maps; gradients have the data type of what they belong to.

Every operator takes `use`, the names out of KERNELS that run as kernels, separated by commas, or TUNED:
those that triton_choice.tuned names for the shape at hand. The others run as plain PyTorch.
torch.compile takes the operators whole (torch.library.custom_op, not
triton_op): which kernel and which tiles run is decided anew for every shape, by sizes that a traced
graph does not know.
"""

from collections.abc import Collection

import torch
from torch import Tensor

from ..grn import grn_scale, wide_dtype
from ..steps import Settings, Weights
from . import depthwise as triton_depthwise
from . import linear as triton_linear
from .choice import tuned

# name -> what runs as a kernel, and its plain twin
KERNELS = {
    kernel.__name__: (kernel, plain)
    for kernel, plain in (
        (triton_depthwise.depthwise_norm, triton_depthwise.plain_depthwise_norm),
        (triton_depthwise.layer_norm_backward, triton_depthwise.plain_layer_norm_backward),
        (
            triton_depthwise.depthwise_input_gradient,
            triton_depthwise.plain_depthwise_input_gradient,
        ),
        (
            triton_depthwise.depthwise_weight_gradient,
            triton_depthwise.plain_depthwise_weight_gradient,
        ),
        (triton_linear.linear_gelu, triton_linear.plain_linear_gelu),
        (triton_linear.gelu_backward, triton_linear.plain_gelu_backward),
        (triton_linear.linear_scale_residual, triton_linear.plain_linear_scale_residual),
        (triton_linear.scale_backward, triton_linear.plain_scale_backward),
    )
}
OF_WIDE_MAPS = (
    "gelu_backward",
    "linear_scale_residual",
    "scale_backward",
)  # first given 4C channels
ALL = ",".join(KERNELS)
TUNED = "tuned"


def triton_block(
    x: Tensor,
    keep: Tensor | None,
    weights: Weights,
    settings: Settings,
    *,
    use: Collection[str] | None = None,
) -> Tensor:
    """As block.plain_block; the kernels named in `use` run, and plain operators for the others.

    Without `use` those run that were measured to be faster on this device, at this shape.
    """
    unknown = set(use or ()) - set(KERNELS)
    if unknown:
        raise ValueError(f"unknown kernels {sorted(unknown)}; there are {', '.join(KERNELS)}")
    names = TUNED if use is None else ",".join(name for name in KERNELS if name in use)
    w = weights
    training = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *w))
    shortcut = x.permute(0, 2, 3, 1).to(settings.stream).contiguous()  # NCHW -> NHWC
    x = x.permute(0, 2, 3, 1).to(settings.dtype).contiguous()
    normed, *_ = depthwise_norm(
        x, w.dwconv, w.dwconv_bias, w.norm, w.norm_bias, settings.norm_eps, training, names
    )
    h, z, energy = linear_gelu(
        normed, w.pwconv1.to(x.dtype), w.pwconv1_bias, w.grn_gamma is not None, training, names
    )
    scale = None if w.grn_gamma is None else grn_scale(energy, w.grn_gamma, settings.grn_eps)[0]
    keep = None if keep is None else keep.flatten()
    out = linear_scale_residual(
        h, z, w.pwconv2.to(x.dtype), w.pwconv2_bias, shortcut, scale, w.grn_beta, w.gamma, keep, names
    )  # fmt: skip
    return out.permute(0, 3, 1, 2)  # NHWC -> NCHW


def _run(name: str, use: str, version: int, *args, **options):
    """The kernel, or its plain twin. Outside autocast, which would choose data types anew."""
    kernel, plain = KERNELS[name]
    x = args[0]
    with torch.autocast(x.device.type, enabled=False):
        return (kernel if _chosen(name, use, version, x) else plain)(*args, **options)


def _chosen(name: str, use: str, version: int, x: Tensor) -> bool:
    """Does the kernel run for a map x, in a block of this version?"""
    if use != TUNED:
        return name in use.split(",")
    n, h, w, channels = x.shape
    c = channels // 4 if name in OF_WIDE_MAPS else channels
    return name in tuned(x.device, x.dtype, n, h, w, c, version)


def _nothing(x: Tensor) -> Tensor:
    """Stands for None, which an operator cannot return."""
    return x.new_empty(0)


# Depthwise 7x7, bias, LayerNorm


@torch.library.custom_op("convnext_backbones::depthwise_norm", mutates_args=())
def depthwise_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    keep_y: bool,
    use: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """LayerNorm(y), y = depthwise(x) + bias; then y, mean and 1 / deviation, for the backward pass."""
    normed, y, mean, rstd = _run(
        "depthwise_norm", use, 1, x, weight, bias, norm_weight, norm_bias, eps, keep_y=keep_y
    )
    return normed, _nothing(x) if y is None else y, mean, rstd


@depthwise_norm.register_fake
def _(x, weight, bias, norm_weight, norm_bias, eps, keep_y, use):
    mean = x.new_empty(*x.shape[:3], 1, dtype=wide_dtype(x))
    return torch.empty_like(x), torch.empty_like(x) if keep_y else _nothing(x), mean, mean.clone()


@torch.library.custom_op("convnext_backbones::depthwise_norm_backward", mutates_args=())
def _depthwise_norm_backward(
    gradient: Tensor,
    x: Tensor,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    use: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    of_y, of_norm_weight, of_norm_bias, of_bias = _run(
        "layer_norm_backward", use, 1, gradient.contiguous(), y, mean, rstd, norm_weight
    )
    of_x = _run("depthwise_input_gradient", use, 1, of_y, weight)
    of_weight = _run("depthwise_weight_gradient", use, 1, x, of_y)
    return (
        of_x,
        of_weight.to(weight.dtype, memory_format=torch.contiguous_format),
        of_bias.to(bias.dtype),
        of_norm_weight.to(norm_weight.dtype),
        of_norm_bias.to(norm_bias.dtype),
    )


@_depthwise_norm_backward.register_fake
def _(gradient, x, y, mean, rstd, weight, bias, norm_weight, norm_bias, use):
    given = (x, weight, bias, norm_weight, norm_bias)
    return tuple(t.new_empty(t.shape) for t in given)


def _keep_for_depthwise_norm(ctx, inputs, output):
    x, weight, bias, norm_weight, norm_bias, _, _, ctx.use = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, *output[1:], weight, bias, norm_weight, norm_bias)


def _backward_of_depthwise_norm(ctx, gradient, *_):
    if gradient is None:
        return (None,) * 8
    return *_depthwise_norm_backward(gradient, *ctx.saved_tensors, ctx.use), None, None, None


depthwise_norm.register_autograd(
    _backward_of_depthwise_norm, setup_context=_keep_for_depthwise_norm
)


# Pointwise C -> 4C, GELU, GRN's sums of squares


@torch.library.custom_op("convnext_backbones::linear_gelu", mutates_args=())
def linear_gelu(
    x: Tensor, weight: Tensor, bias: Tensor, with_energy: bool, keep_z: bool, use: str
) -> tuple[Tensor, Tensor, Tensor]:
    """h = gelu(z), z = x @ weight.T + bias, and the (N, 4C) sums of squares of h over each image.

    z, for the backward pass, has no gradient of its own. Without keep_z it is empty, and so are the
    sums without with_energy.
    """
    version = 2 if with_energy else 1
    h, z, energy = _run(
        "linear_gelu", use, version, x, weight, bias, with_energy=with_energy, keep_z=keep_z
    )
    return h, _nothing(x) if z is None else z, _nothing(x) if energy is None else energy


@linear_gelu.register_fake
def _(x, weight, bias, with_energy, keep_z, use):
    h = x.new_empty(*x.shape[:3], weight.shape[0])
    energy = _nothing(x)
    if with_energy:
        energy = x.new_empty(x.shape[0], weight.shape[0], dtype=wide_dtype(x))
    return h, torch.empty_like(h) if keep_z else _nothing(x), energy


@torch.library.custom_op("convnext_backbones::linear_gelu_backward", mutates_args=())
def _linear_gelu_backward(
    gradient: Tensor,
    of_energy: Tensor | None,
    x: Tensor,
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    use: str,
) -> tuple[Tensor, Tensor, Tensor]:
    of_energy = None if of_energy is None else of_energy.contiguous()
    version = 1 if of_energy is None else 2
    of_z, of_bias = _run("gelu_backward", use, version, gradient.contiguous(), z, of_energy)
    with torch.autocast(x.device.type, enabled=False):
        of_weight = of_z.flatten(0, 2).t() @ x.flatten(0, 2)
        return of_z @ weight, of_weight, of_bias.to(bias.dtype)


@_linear_gelu_backward.register_fake
def _(gradient, of_energy, x, z, weight, bias, use):
    return tuple(t.new_empty(t.shape) for t in (x, weight, bias))


def _keep_for_linear_gelu(ctx, inputs, output):
    x, weight, bias, ctx.with_energy, _, ctx.use = inputs
    _, z, energy = output
    ctx.mark_non_differentiable(*((z,) if ctx.with_energy else (z, energy)))
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, z, weight, bias)


def _backward_of_linear_gelu(ctx, gradient, _, of_energy):
    x, z, weight, bias = ctx.saved_tensors
    if gradient is None:
        if of_energy is None:
            return (None,) * 6
        gradient = torch.zeros_like(z)
    of_energy = of_energy if ctx.with_energy else None
    found = _linear_gelu_backward(gradient, of_energy, x, z, weight, bias, ctx.use)
    return *found, None, None, None


linear_gelu.register_autograd(_backward_of_linear_gelu, setup_context=_keep_for_linear_gelu)


# GRN's factor, pointwise 4C -> C, layer scale, drop path, residual sum


@torch.library.custom_op("convnext_backbones::linear_scale_residual", mutates_args=())
def linear_scale_residual(
    h: Tensor,
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    gamma: Tensor | None,
    keep: Tensor | None,
    use: str,
) -> Tensor:
    """residual + keep * gamma * ((h * scale + shift) @ weight.T + bias), h being gelu(z).

    In the data type of the residual, which may be wider than that of h.
    scale: (N, 4C), with shift (4C,), GRN's; gamma: (C,), layer scale; keep: (N,), drop path, which
    gets no gradient. z is kept for the backward pass in place of h and may be empty without one.
    """
    return _run(
        "linear_scale_residual", use, 1 if scale is None else 2, h, weight, bias, residual,
        scale=scale, shift=shift, gamma=gamma, keep=keep,
    )  # fmt: skip


@linear_scale_residual.register_fake
def _(h, z, weight, bias, residual, scale, shift, gamma, keep, use):
    return torch.empty_like(residual)


@torch.library.custom_op("convnext_backbones::linear_scale_residual_backward", mutates_args=())
def _linear_scale_residual_backward(
    gradient: Tensor,
    z: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    gamma: Tensor | None,
    keep: Tensor | None,
    use: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradients of h, weight, bias, scale, shift and gamma; empty where there is none."""
    with torch.autocast(z.device.type, enabled=False):
        branch = gradient.contiguous()  # the gradient of gamma * (.. @ weight.T + bias)
        if keep is not None:
            branch = branch * keep.to(branch.dtype)[:, None, None, None]
        branch = branch.to(z.dtype)
        rows = branch.flatten(0, 2)
        if gamma is None:
            of_a = branch @ weight
        elif z.dtype == torch.float16:  # the initial layer scale, 1e-6, times a weight would be 0
            of_a = (branch * gamma.to(z.dtype)) @ weight
        else:
            of_a = branch @ (weight * gamma.to(z.dtype)[:, None])
    if scale is None:
        of_h, a, of_scale = of_a, torch.nn.functional.gelu(z), None
    else:
        of_h, a, of_scale = _run("scale_backward", use, 2, of_a, z, scale.contiguous(), shift)
    with torch.autocast(z.device.type, enabled=False):
        of_weight, of_bias = rows.t() @ a.flatten(0, 2), rows.sum(0, dtype=wide_dtype(z))
        of_gamma = of_shift = None
        if gamma is not None:
            wide = gamma.to(of_bias.dtype)
            of_gamma = (of_weight * weight).sum(1, dtype=wide.dtype) + of_bias * bias
            of_weight, of_bias = (of_weight * wide[:, None]).to(weight.dtype), of_bias * wide
        if scale is not None:
            of_shift = of_bias @ weight.to(of_bias.dtype)
    found = ((of_scale, scale), (of_shift, shift), (of_gamma, gamma))
    return (
        of_h,
        of_weight,
        of_bias.to(bias.dtype),
        *(_nothing(z) if t is None else g.to(t.dtype) for g, t in found),
    )


@_linear_scale_residual_backward.register_fake
def _(gradient, z, weight, bias, scale, shift, gamma, keep, use):
    given = (z, weight, bias, scale, shift, gamma)
    return tuple(_nothing(z) if t is None else t.new_empty(t.shape) for t in given)


def _keep_for_linear_scale_residual(ctx, inputs, output):
    _, z, weight, bias, _, scale, shift, gamma, keep, ctx.use = inputs
    ctx.save_for_backward(z, weight, bias, scale, shift, gamma, keep)


def _backward_of_linear_scale_residual(ctx, gradient):
    z, weight, bias, scale, shift, gamma, keep = ctx.saved_tensors
    of_h, of_weight, of_bias, *found = _linear_scale_residual_backward(
        gradient, z, weight, bias, scale, shift, gamma, keep, ctx.use
    )
    of_scale, of_shift, of_gamma = (
        None if t is None else g for g, t in zip(found, (scale, shift, gamma), strict=True)
    )
    return of_h, None, of_weight, of_bias, gradient, of_scale, of_shift, of_gamma, None, None


linear_scale_residual.register_autograd(
    _backward_of_linear_scale_residual, setup_context=_keep_for_linear_scale_residual
)
