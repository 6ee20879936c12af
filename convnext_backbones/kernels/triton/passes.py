"""The forward and the backward pass of a block on a GPU, out of Triton kernels and plain operators.

What block.py and backward.py are for a CPU, without parts and without padding; of a Visible, what follows
the depthwise convolution is computed for its positions alone:

    depthwise_norm         depthwise 7x7, bias, LayerNorm
    linear_gelu            pointwise C -> 4C, GELU, and the sums of squares that GRN needs
    linear_scale_residual  GRN's factor, pointwise 4C -> C, layer scale, drop path, residual sum

Matrix products of the backward pass are torch's; what stands between them is one pass over a map. Kept
for it are the input, the depthwise convolution's output and the first pointwise layer's: 6 values for
each of the input's. Matrices are brought to the data type of the arithmetic; vectors and the depthwise
weights stay as they are, and so does an input that is wider.

Import this only where choice.available says so: it imports Triton.
"""

import torch
from torch import Tensor

from .. import grn as plain_grn
from ..backward import Kept, on_zeros
from ..steps import Inside, Settings, Visible, Weights, put_back, seen, taken
from . import depthwise, linear, small

# name -> what runs as a kernel, and its plain twin
KERNELS = {
    kernel.__name__: (kernel, plain)
    for kernel, plain in (
        (depthwise.depthwise_norm, depthwise.plain_depthwise_norm),
        (depthwise.layer_norm_backward, depthwise.plain_layer_norm_backward),
        (depthwise.depthwise_input_gradient, depthwise.plain_depthwise_input_gradient),
        (depthwise.depthwise_weight_gradient, depthwise.plain_depthwise_weight_gradient),
        (linear.linear_gelu, linear.plain_linear_gelu),
        (linear.gelu_backward, linear.plain_gelu_backward),
        (linear.linear_scale_residual, linear.plain_linear_scale_residual),
        (linear.scale_gradient, linear.plain_scale_gradient),
        (small.grn_scale, plain_grn.grn_scale),
        (small.grn_scale_backward, plain_grn.grn_scale_backward),
        (small.second_gradients, small.plain_second_gradients),
    )
}


_KEEPS_SUMS = "dtype" in torch.ops.aten.mm.overloads()  # from torch 2.8 on


def forward(
    x: Tensor,
    keep: Tensor | None,
    inside: Inside,
    w: Weights,
    settings: Settings,
    *,
    training: bool,
) -> tuple[Tensor, Kept | None]:
    """The (N, H, W, C) result for an (N, C, H, W) map; and in training what the backward pass keeps."""
    dtype = settings.dtype
    normed, y, mean, rstd = _run(
        settings, "depthwise_norm", _rows(seen(x, inside)), w.dwconv, w.dwconv_bias, w.norm, w.norm_bias,
        settings.norm_eps, dtype=dtype, keep_y=training,
    )  # fmt: skip
    normed, mean, rstd = (taken(t, inside) for t in (normed, mean, rstd))
    y = taken(y, inside) if training else None
    stream = _rows(x).to(settings.stream)
    with_grn = w.grn_gamma is not None
    a, z, energy = _run(
        settings, "linear_gelu", normed, w.pwconv1.to(dtype), w.pwconv1_bias,
        with_energy=with_grn, keep_z=training,
    )  # fmt: skip
    scale, bias = None, w.pwconv2_bias
    if with_grn:
        scale, _ = _run(settings, "grn_scale", energy, w.grn_gamma, settings.grn_eps)
        bias = torch.addmv(bias, w.pwconv2, w.grn_beta)
    out = _run(
        settings, "linear_scale_residual", a, w.pwconv2.to(dtype), bias, taken(stream, inside),
        scale=scale, gamma=w.gamma, keep=None if keep is None else keep.flatten(),
    )  # fmt: skip
    return put_back(out, stream, inside), Kept(y, mean, rstd, z, energy) if training else None


def backward(
    gradient: Tensor,
    x: Tensor,
    keep: Tensor | None,
    inside: Inside,
    kept: Kept,
    w: Weights,
    settings: Settings,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, Weights]:
    """As backward.backward: the gradients of x, (N, C, H, W), and of the weights."""
    dtype, z = settings.dtype, kept.z
    along_shortcut = _rows(gradient)
    branch = taken(along_shortcut, inside)
    branch = branch if keep is None else branch * keep.view(-1, 1, 1, 1)
    narrow = dtype == torch.float16 and w.gamma is not None
    if narrow:
        unscaled, branch = branch, branch * w.gamma
    branch = branch.to(dtype)
    rows = branch.flatten(0, 2)
    of_a = branch @ _scaled(w.pwconv2, None if narrow else w.gamma, dtype)
    scale = of_energy = of_grn_gamma = None
    if w.grn_gamma is not None:
        options = w.grn_gamma, settings.grn_eps
        scale, norm = _run(settings, "grn_scale", kept.energy, *options)
        of_scale = _run(settings, "scale_gradient", of_a, z)
        of_energy, of_grn_gamma = _run(settings, "grn_scale_backward", of_scale, norm, *options)
    of_z, a, of_pwconv1_bias = _run(settings, "gelu_backward", of_a, z, scale, of_energy)
    del of_a
    product = _product(rows, a)
    total = rows.sum(0, dtype=torch.promote_types(w.pwconv2_bias.dtype, torch.float32))
    if narrow:
        of_pwconv2, of_pwconv2_bias = product, total
        of_gamma = _of_gamma_in_float16(unscaled, a, w)
    else:
        of_pwconv2, of_pwconv2_bias, of_gamma = _run(
            settings, "second_gradients", product, total, w.pwconv2, w.pwconv2_bias, w.gamma, w.grn_beta
        )  # fmt: skip
    of_grn_beta = None if w.grn_beta is None else total.to(w.pwconv2.dtype) @ w.pwconv2
    del a
    of_normed = of_z @ w.pwconv1.to(dtype)
    of_y, normed, of_norm, of_norm_bias, of_dwconv_bias = _run(
        settings, "layer_norm_backward", of_normed, kept.y, kept.mean, kept.rstd, w.norm, w.norm_bias,
        settings.norm_eps,
    )  # fmt: skip
    of_pwconv1 = _product(of_z, normed)
    del of_z, normed, of_normed
    of_y = on_zeros(of_y, x, inside)
    of_x = of_dwconv = None
    if needs[0]:
        of_x = _run(settings, "depthwise_input_gradient", of_y, w.dwconv, along_shortcut)
        if isinstance(inside, Visible):
            of_x = torch.where(inside.mask[..., None], of_x, along_shortcut.to(of_x.dtype))
        of_x = of_x.permute(0, 3, 1, 2)  # NHWC -> NCHW
    if needs[1]:
        of_dwconv = _run(settings, "depthwise_weight_gradient", _rows(seen(x, inside)), of_y)
    return of_x, Weights(
        dwconv=of_dwconv,
        dwconv_bias=of_dwconv_bias,
        norm=of_norm,
        norm_bias=of_norm_bias,
        pwconv1=of_pwconv1,
        pwconv1_bias=of_pwconv1_bias,
        pwconv2=of_pwconv2,
        pwconv2_bias=of_pwconv2_bias,
        gamma=of_gamma,
        grn_gamma=of_grn_gamma,
        grn_beta=of_grn_beta,
    )


def _run(settings: Settings, name: str, *args, **options):
    """The kernel where it is among settings.kernels, else its plain twin."""
    kernel, plain = KERNELS[name]
    if (config := settings.kernels.get(name)) is None:
        return plain(*args, **options)
    return kernel(*args, config=config, **options)


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()  # NCHW -> NHWC


def _scaled(weight: Tensor, gamma: Tensor | None, dtype: torch.dtype) -> Tensor:
    """weight times gamma, row by row, rounded once."""
    if gamma is None:
        return weight.to(dtype)
    out = torch.empty_like(weight, dtype=dtype)
    return torch.mul(weight, gamma[:, None], out=out)


def _product(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of a linear layer's weight, from that of its result and from its input."""
    gradient, x = gradient.flatten(0, -2).t(), x.flatten(0, -2)
    if _KEEPS_SUMS and x.is_cuda and x.dtype in (torch.float16, torch.bfloat16):
        return torch.mm(gradient, x, out_dtype=torch.float32)  # as it was summed, not rounded
    return gradient @ x


def _of_gamma_in_float16(gradient: Tensor, a: Tensor, w: Weights) -> Tensor:
    """The (C,) gradient of layer scale where layer scale, 1e-6 at first, times a weight would be 0, and
    where the gradient before it, so many times larger than behind it, may be too large."""
    largest = 64 * gradient.abs().amax().clamp_min(1e-30)  # so that sums stay in float16's range
    rows = (gradient / largest).to(a.dtype).flatten(0, 2)
    total = rows.sum(0, dtype=largest.dtype)
    return ((_product(rows, a) * w.pwconv2).sum(1) + total * w.pwconv2_bias) * largest
