"""A ConvNeXt block in few passes over memory, with its own backward pass.

The plain reference is Block.forward in convnext.py. The same steps in another arrangement:

- Layer scale and GRN's factor are diagonal matrices beside the second pointwise layer: where maps
  are large they are multiplied into its weight. GRN's beta goes through the layer into its bias, and
  the residual sum is the layer's last step.
- The backward pass keeps the input, the output of the depthwise convolution and that of the first
  pointwise layer: 6 values for each of the input's. LayerNorm and GELU are computed again. Gradients
  of the factors are taken from that of the second weight, without another pass over a map.
- On a CPU, what is 4C wide and not kept is computed for a part of the positions at a time and stays
  in the cache.
- Under autocast everything after the first block's input is in autocast's dtype; LayerNorm and GRN
  take their statistics in float32.

Between the pointwise layers maps are (N, T, C) and (N, T, 4C), T being H * W positions.
"""

import math
import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import depthwise
from .linear import linear, linear_add, linear_gelu

PART = 2**21  # values of a 4C wide map at a time
ROWS = 1024  # positions at a time whose squares are summed


_SCRATCH = threading.local()


class Weights(NamedTuple):
    """A block's parameters; gamma is None without layer scale, grn_gamma and grn_beta are in V1."""

    dwconv: Tensor  # (C, 1, k, k)
    dwconv_bias: Tensor  # (C,)
    norm: Tensor  # (C,)
    norm_bias: Tensor  # (C,)
    pwconv1: Tensor  # (4C, C)
    pwconv1_bias: Tensor  # (4C,)
    pwconv2: Tensor  # (C, 4C)
    pwconv2_bias: Tensor  # (C,)
    gamma: Tensor | None  # (C,)
    grn_gamma: Tensor | None  # (4C,)
    grn_beta: Tensor | None  # (4C,)


class Settings(NamedTuple):
    """What a block's arithmetic depends on beside its tensors."""

    dilation: int
    norm_eps: float
    grn_eps: float
    dtype: torch.dtype  # of the arithmetic and of the result


def fast_block(
    x: Tensor, keep: Tensor | None, inside: Tensor | None, weights: Weights, settings: Settings
) -> Tensor:
    """(N, C, H, W) channels-last to the same.

    keep: (N, 1, 1, 1) factors of the branch. inside: (N, H, W), False where a batch is padding.
    """
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *weights)):
        return _Block.apply(x, keep, inside, settings, *weights)
    with torch.autocast(x.device.type, enabled=False):
        return _inference(x, keep, inside, weights, settings)


def plain_block(
    x: Tensor, keep: Tensor | None, inside: Tensor | None, weights: Weights, settings: Settings
) -> Tensor:
    """The same in the steps of Block.forward, for the gradients of gradients."""
    x, w = x.to(settings.dtype), _cast(weights, settings.dtype)
    y = _depthwise(_seen(x, inside), w, settings).permute(0, 2, 3, 1)
    y = F.layer_norm(y, y.shape[-1:], w.norm, w.norm_bias, settings.norm_eps)
    y = F.gelu(F.linear(y, w.pwconv1, w.pwconv1_bias))
    if w.grn_gamma is not None:
        energy = _wide(y).square()
        if inside is not None:
            energy = energy * inside[..., None]
        energy = energy.sum((1, 2))
        scale, _ = grn_scale(energy, weights.grn_gamma, settings.grn_eps)
        y = y * scale[:, None, None].to(y.dtype) + w.grn_beta
    y = F.linear(y, w.pwconv2, w.pwconv2_bias)
    if w.gamma is not None:
        y = y * w.gamma
    y = y.permute(0, 3, 1, 2)
    return (y if keep is None else y * keep.to(y.dtype)) + x


# The steps


def _cast(weights: Weights, dtype: torch.dtype) -> Weights:
    return Weights(*(None if t is None else t.to(dtype) for t in weights))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _seen(x: Tensor, inside: Tensor | None) -> Tensor:
    """What the depthwise convolution sees: zeros in padding, as beyond the map."""
    return x if inside is None else x * inside[:, None]


def _depthwise(x: Tensor, w: Weights, settings: Settings) -> Tensor:
    padding = settings.dilation * (w.dwconv.shape[-1] // 2)
    return F.conv2d(
        x, w.dwconv, w.dwconv_bias, padding=padding, dilation=settings.dilation, groups=x.shape[1]
    )


def _depthwise_and_norm(
    x: Tensor, w: Weights, settings: Settings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The convolution's result, its LayerNorm as (N, T, C), and the norm's means and 1 / std."""
    y = _depthwise(x, w, settings).permute(0, 2, 3, 1)  # NCHW -> NHWC
    n, height, width, c = y.shape
    normed, mean, rstd = torch.native_layer_norm(y, (c,), w.norm, w.norm_bias, settings.norm_eps)
    return y, normed.view(n, height * width, c), mean, rstd


def grn_scale(energy: Tensor, gamma: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """(N, 4C) sums of squares to GRN's factor 1 + gamma * norm / mean(norm), and the norm."""
    norm = energy.clamp_min(1e-30).sqrt()  # the clamp keeps the gradient of an all-zero map 0
    return 1 + _wide(gamma) * norm / (norm.mean(-1, keepdim=True) + eps), norm


def _grn_scale_backward(
    gradient: Tensor, norm: Tensor, gamma: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """(N, 4C) gradient of the factor to those of the sums of squares and of gamma, (4C,)."""
    mean = norm.mean(-1, keepdim=True) + eps
    relative = norm / mean
    through = gradient * _wide(gamma)
    of_norm = (through - (through * relative).mean(-1, keepdim=True)) / mean
    of_energy = of_norm / (2 * norm)
    return of_energy.masked_fill(norm <= 1e-15, 0), (gradient * relative).sum(0)


def _energy(x: Tensor, inside: Tensor | None) -> Tensor:
    """(N, T, K) to the (N, K) sums of squares over positions, in float32 at least.

    inside: (N, T), the positions that count.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    if x.device.type != "cpu":
        x = x if inside is None else x * inside[..., None]
        return torch.linalg.vector_norm(x, dim=1, dtype=dtype).square()
    energy = x.new_zeros(x.shape[0], 1, x.shape[2], dtype=dtype)
    if inside is None:
        inside = x.new_ones(1, 1).expand(x.shape[:2])
    counted = inside.to(dtype)[:, None]
    squares = x.new_empty(ROWS, x.shape[2], dtype=dtype)
    for k in range(x.shape[0]):
        for rows, ones in zip(x[k].split(ROWS), counted[k].split(ROWS, dim=1), strict=True):
            part = squares[: len(rows)]
            torch.mul(rows, rows, out=part) if x.dtype == dtype else part.copy_(rows).square_()
            energy[k].addmm_(ones, part)
    return energy[:, 0]


def _scales_weight(positions: int, channels: int) -> bool:
    """Is it less work to scale pwconv2's weight for each image than a map that is 4C wide?"""
    return 2 * channels <= positions


def _scales_layer(x: Tensor) -> bool:
    """Is it less work to scale pwconv2 by layer scale than its result, (N, T, C)?"""
    return x.shape[2] <= x.shape[0] * x.shape[1]


class _Second(NamedTuple):
    """The second half of a block: shortcut + factor * (a @ weight.T + bias)."""

    weight: Tensor  # (C, 4C), or (N, C, 4C)
    bias: Tensor  # (C,), or (N, 1, C) beside an (N, C, 4C) weight
    factor: Tensor | None  # (C,), (N, 1, 1) or (N, 1, C)

    def of(self, images: slice) -> "_Second":
        return _Second(*(t[images] if t is not None and t.dim() == 3 else t for t in self))

    def __call__(self, a: Tensor, shortcut: Tensor) -> Tensor:
        weight, bias, factor = self
        if weight.dim() == 3 and len(a) > 1:
            return torch.baddbmm(shortcut, a, weight.transpose(1, 2)).add_(bias)
        weight, bias = weight.view(-1, a.shape[2]), bias.view(-1)
        if factor is None:
            return linear_add(a, weight, bias, shortcut)
        return torch.addcmul(shortcut, linear(a, weight, bias), factor)


def _second(
    shortcut: Tensor, keep: Tensor | None, scale: Tensor | None, w: Weights
) -> tuple[_Second, Tensor | None]:
    """The second half; and GRN's factor (N, 1, 4C) where a itself is to be multiplied by it."""
    weight, bias, gamma = w.pwconv2, w.pwconv2_bias, w.gamma
    dtype = shortcut.dtype
    keep = None if keep is None else keep.view(-1, 1, 1).to(dtype)
    if scale is not None:
        scale = scale[:, None].to(dtype)
        bias = torch.addmv(bias, weight, w.grn_beta)
        if _scales_weight(*shortcut.shape[1:]):
            weight, bias = weight * scale, bias.expand(len(shortcut), 1, -1)
            if keep is not None:
                weight, bias = weight * keep, bias * keep
            return _Second(weight, bias, None), None
    if gamma is not None and _scales_layer(shortcut):
        weight, bias, gamma = weight * gamma[:, None], bias * gamma, None
    factors = [f for f in (keep, gamma) if f is not None]
    return _Second(weight, bias, math.prod(factors) if factors else None), scale


def _parts(x: Tensor, whole_images: bool = False) -> Iterator[tuple[slice, slice]]:
    """Which images and positions of an (N, T, C) map to treat at a time: PART values 4C wide."""
    n, positions, channels = x.shape
    values = positions * 4 * channels
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        yield slice(0, n), slice(0, positions)  # weight gradients would add up in low precision
    elif values <= PART or whole_images:
        images = max(1, PART // values)
        for k in range(0, n, images):
            yield slice(k, k + images), slice(0, positions)
    else:
        rows = math.ceil(positions / math.ceil(values / PART))
        for k in range(n):
            for i in range(0, positions, rows):
                yield slice(k, k + 1), slice(i, i + rows)


# Without gradients


def _inference(
    x: Tensor, keep: Tensor | None, inside: Tensor | None, weights: Weights, settings: Settings
) -> Tensor:
    w, x = _cast(weights, settings.dtype), x.to(settings.dtype)
    y, normed, _, _ = _depthwise_and_norm(_seen(x, inside), w, settings)
    shortcut = x.permute(0, 2, 3, 1).reshape_as(normed)
    if w.grn_gamma is None:
        second, _ = _second(shortcut, keep, None, w)
        parts = list(_parts(normed))
        out = normed  # each part of it is needed once
        for part in parts:
            a = linear_gelu(normed[part], w.pwconv1, w.pwconv1_bias)
            out = _put(out, part, parts, second.of(part[0])(a, shortcut[part]))
    else:
        a = linear_gelu(normed, w.pwconv1, w.pwconv1_bias)
        counted = None if inside is None else inside.flatten(1)
        scale, _ = grn_scale(_energy(a, counted), weights.grn_gamma, settings.grn_eps)
        second, scale = _second(shortcut, keep, scale, w)
        if scale is not None:
            a *= scale
        out = second(a, shortcut)
    return out.view(y.shape).permute(0, 3, 1, 2)  # NHWC -> NCHW


# With gradients


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, keep, inside, settings, *weights):
        weights = Weights(*weights)
        with torch.autocast(x.device.type, enabled=False):
            out, kept = _forward(x, keep, inside, weights, settings)
        ctx.save_for_backward(x, keep, inside, *kept, *weights)
        ctx.settings = settings
        return out

    @staticmethod
    def backward(ctx, gradient):
        x, keep, inside, y, mean, rstd, z, energy, *weights = ctx.saved_tensors
        weights, settings = Weights(*weights), ctx.settings
        needs = (ctx.needs_input_grad[0], *ctx.needs_input_grad[4:])
        with torch.autocast(x.device.type, enabled=False):
            if torch.is_grad_enabled():  # the gradients are to be differentiated again
                inputs = [t for t, need in zip((x, *weights), needs, strict=True) if need]
                out = plain_block(x, keep, inside, weights, settings)
                found = iter(torch.autograd.grad(out, inputs, gradient, create_graph=True))
                of_x, *of_weights = (next(found) if need else None for need in needs)
            else:
                kept = (y, mean, rstd, z, energy)
                of_x, of_weights = _backward(
                    gradient, x, keep, inside, *kept, weights, settings, needs
                )
                of_weights = [
                    g.to(t.dtype) if need and g is not None else None
                    for g, t, need in zip(of_weights, weights, needs[1:], strict=True)
                ]
                of_x = None if of_x is None else of_x.to(x.dtype)
        return of_x, None, None, None, *of_weights


def _forward(x, keep, inside, weights, settings):
    """The result, and what the backward pass keeps beside x."""
    w, x = _cast(weights, settings.dtype), x.to(settings.dtype)
    y, normed, mean, rstd = _depthwise_and_norm(_seen(x, inside), w, settings)
    z = linear(normed, w.pwconv1, w.pwconv1_bias)
    parts = list(_parts(normed))
    memory = _scratch(0, z[parts[0]])  # of a, for a part
    energy = scale = a = None
    if w.grn_gamma is not None:
        energy = z.new_zeros(len(z), z.shape[2], dtype=_wide(z[:0]).dtype)
        for part in parts:
            a = _gelu(z[part], memory)
            counted = None if inside is None else inside.flatten(1)[part]
            energy[part[0]] += _energy(a, counted)
        scale, _ = grn_scale(energy, weights.grn_gamma, settings.grn_eps)
    shortcut = x.permute(0, 2, 3, 1).reshape_as(normed)
    second, scale = _second(shortcut, keep, scale, w)
    out = normed  # takes its place part by part: the backward pass computes it again
    for part in parts:
        if a is None or len(parts) > 1:
            a = _gelu(z[part], memory)
        if scale is not None:
            a *= scale[part[0]]
        out = _put(out, part, parts, second.of(part[0])(a, shortcut[part]))
    return out.view(y.shape).permute(0, 3, 1, 2), (y, mean, rstd, z, energy)


def _scratch(slot: int, like: Tensor) -> Tensor:
    """Memory of like's shape and type, which the next call in this thread for this slot reuses.

    Fresh memory of this size comes from the system page by page: 4 % of a training step on a CPU.
    """
    if like.device.type != "cpu" or like.dtype != torch.float32 or like.numel() > PART:
        return torch.empty_like(like)
    slots = _SCRATCH.__dict__.setdefault("slots", {})
    if slot not in slots or slots[slot].numel() < like.numel():
        with torch.inference_mode(False):
            slots[slot] = torch.empty(PART)
    return slots[slot][: like.numel()].view(like.shape)


def _put(out: Tensor, part: tuple[slice, slice], parts: list, value: Tensor) -> Tensor:
    if len(parts) == 1:
        return value
    out[part] = value
    return out


def _add_mm(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    return a @ b if total is None else total.addmm_(a, b)


def _gelu(z: Tensor, out: Tensor) -> Tensor:
    return torch.ops.aten.gelu.out(z, out=out[: z.shape[0], : z.shape[1]])


def _backward(gradient, x, keep, inside, y, mean, rstd, z, energy, weights, settings, needs):
    """The gradients of x and of the weights, from (N, C, H, W), that of the result."""
    dtype = settings.dtype
    w = _cast(weights, dtype)
    n, positions, _ = z.shape
    c = x.shape[1]
    gradient = gradient.to(dtype)
    out = gradient.permute(0, 2, 3, 1).reshape(n, positions, c)  # of the branch's result
    if keep is not None:
        out = out * keep.view(n, 1, 1).to(dtype)
    normed = torch.native_layer_norm(y, (c,), w.norm, w.norm_bias, settings.norm_eps)[0]
    normed = normed.view(n, positions, c)
    of_normed = torch.empty_like(normed)
    of_pwconv1 = of_pwconv2 = None
    of_pwconv1_bias = torch.zeros_like(w.pwconv1_bias)
    of_pwconv2_bias = out.sum((0, 1))
    of_gamma = of_grn_gamma = of_grn_beta = None

    version2 = w.grn_gamma is not None
    per_image = version2 and _scales_weight(positions, c)
    parts = list(_parts(normed, whole_images=version2 and not per_image))
    memory = _scratch(0, z[parts[0]]), _scratch(1, z[parts[0]])

    # The branch is ((a * scale + beta) @ pwconv2.T + bias) * gamma, with scale and beta in V2 alone.
    weight2, out2 = w.pwconv2, out
    if w.gamma is not None and _scales_layer(out):
        weight2 = w.pwconv2 * w.gamma[:, None]
    elif w.gamma is not None:
        out2 = out * w.gamma
    if version2:
        scale, norm = grn_scale(energy, weights.grn_gamma, settings.grn_eps)
        scale = scale[:, None].to(dtype)  # (N, 1, 4C)
        of_energy, of_grn_gamma = torch.empty_like(energy), 0

    def through_scale(images: slice, of_scale: Tensor) -> None:
        nonlocal of_grn_gamma
        of_energy[images], more = _grn_scale_backward(
            of_scale, norm[images], weights.grn_gamma, settings.grn_eps
        )
        of_grn_gamma += more

    if per_image:
        weight2 = w.pwconv2 * scale
        of_weight2 = torch.empty_like(weight2)  # (N, C, 4C)
        for part in parts:
            a = _gelu(z[part], memory[0])
            first = part[1].start == 0
            of_weight2[part[0]].baddbmm_(out[part].transpose(1, 2), a, beta=0 if first else 1)
        through_scale(slice(0, n), (_wide(of_weight2) * w.pwconv2).sum(1))
        of_pwconv2 = (of_weight2 * scale).sum(0)

    for part in parts:
        images = part[0]
        if not per_image or len(parts) > 1:
            a = _gelu(z[part], memory[0])
        of_a = memory[1][: len(a), : a.shape[1]]
        if per_image:
            torch.bmm(out[part], weight2[images], out=of_a)
        else:
            torch.mm(out2[part].flatten(0, 1), weight2, out=of_a.flatten(0, 1))
            if version2:
                through_scale(images, (_wide(of_a) * a).sum(1))
                of_a *= scale[images]
            scaled = a * scale[images] if version2 else a
            of_pwconv2 = _add_mm(of_pwconv2, out[part].flatten(0, 1).t(), scaled.flatten(0, 1))
        if version2:
            counted = a if inside is None else a * inside.flatten(1)[part][..., None]
            of_a.addcmul_(counted, 2 * of_energy[images, None].to(dtype))
        of_z = torch.ops.aten.gelu_backward.grad_input(of_a, z[part], grad_input=of_a)
        of_z = of_z.flatten(0, 1)
        of_pwconv1 = _add_mm(of_pwconv1, of_z.t(), normed[part].flatten(0, 1))
        of_pwconv1_bias += of_z.sum(0)
        torch.mm(of_z, w.pwconv1, out=of_normed[part].flatten(0, 1))

    if w.gamma is not None:
        by_row = torch.bmm(of_pwconv2[:, None], w.pwconv2[:, :, None]).flatten()
        of_gamma = by_row + of_pwconv2_bias * w.pwconv2_bias
        of_pwconv2 *= w.gamma[:, None]
        of_pwconv2_bias = of_pwconv2_bias * w.gamma
    if version2:
        of_pwconv2.addr_(of_pwconv2_bias, w.grn_beta)
        of_grn_beta = of_pwconv2_bias @ w.pwconv2

    of_y, of_norm, of_norm_bias = torch.ops.aten.native_layer_norm_backward(
        of_normed.view_as(y), y, (c,), mean, rstd, w.norm, w.norm_bias, (True, True, True)
    )
    of_x, of_dwconv, of_dwconv_bias = depthwise.backward(
        of_y.permute(0, 3, 1, 2), _seen(x, inside), w.dwconv, settings.dilation, needs[:2]
    )
    if of_x is not None:
        of_x = _seen(of_x, inside).add_(gradient)
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
