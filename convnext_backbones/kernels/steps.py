"""What a block's forward and backward pass are made of; see block.py."""

import math
import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .linear import linear, linear_add, linear_add_each, multiplies

PART = 2**21  # values of a 4C wide map at a time

_SCRATCH = threading.local()


class Weights(NamedTuple):
    """A block's parameters; gamma is None without layer scale, grn_gamma and grn_beta are in V1."""

    dwconv: Tensor  # (C, 1, 7, 7)
    dwconv_bias: Tensor  # (C,)
    norm: Tensor  # (C,)
    norm_bias: Tensor  # (C,)
    pwconv1: Tensor  # (4C, C)
    pwconv1_bias: Tensor  # (4C,)
    pwconv2: Tensor  # (C, 4C)
    pwconv2_bias: Tensor  # (C,)
    gamma: Tensor | None = None  # (C,)
    grn_gamma: Tensor | None = None  # (4C,)
    grn_beta: Tensor | None = None  # (4C,)


class Settings(NamedTuple):
    """What a block's arithmetic depends on beside its tensors."""

    dilation: int
    norm_eps: float
    grn_eps: float
    dtype: torch.dtype  # of the convolution and of the linear layers
    stream: torch.dtype  # of layer scale, of the residual sum and of the result
    kernels: dict | None = None  # the Triton kernels that run, by name, with their configurations


def cast(weights: Weights, settings: Settings) -> Weights:
    """The weights in the data types of the arithmetic."""
    w = Weights(*(None if t is None else t.to(settings.dtype) for t in weights))
    if norm_is_wide(w.norm):
        w = w._replace(norm=weights.norm.float(), norm_bias=weights.norm_bias.float())
    return w if w.gamma is None else w._replace(gamma=weights.gamma.to(settings.stream))


def norm_is_wide(x: Tensor) -> bool:
    """Does LayerNorm have float32 weights beside this map? See layer_norm in network/convnext.py."""
    return x.dtype == torch.bfloat16 and x.device.type == "cpu"


class Visible(NamedTuple):
    """As many positions of each image, which alone are computed: a masked autoencoder's.

    A block's result is elsewhere its input, or whatever its plain steps make of it.
    """

    mask: Tensor  # (N, H, W), True where a position is one of them
    rows: Tensor  # (N * V,), their places among the N * H * W, image by image


Inside = Tensor | Visible | None  # (N, H, W), False in padding; None: all positions count


def mask_of(inside: Inside) -> Tensor | None:
    """(N, H, W), True where a position counts; None where all do."""
    return inside.mask if isinstance(inside, Visible) else inside


def counted(inside: Inside) -> Tensor | None:
    """(N, T), which of the positions that are computed count; None where all do."""
    return None if inside is None or isinstance(inside, Visible) else inside.flatten(1)


def seen(x: Tensor, inside: Inside) -> Tensor:
    """What the depthwise convolution sees: zeros in padding, as beyond the map."""
    mask = mask_of(inside)
    return x if mask is None else x * mask[:, None].to(x.dtype)


def taken(x: Tensor, inside: Inside) -> Tensor:
    """The positions of an (N, H, W, C) map that are computed: (N, V, 1, C) of what is visible, else all."""
    if not isinstance(inside, Visible):
        return x
    rows = x.reshape(-1, x.shape[3]).index_select(0, inside.rows)
    return rows.view(len(x), -1, 1, x.shape[3])


def put_back(rows: Tensor, onto: Tensor, inside: Inside) -> Tensor:
    """taken the other way round: an (N, H, W, C) map, `onto` where no row comes from."""
    if not isinstance(inside, Visible):
        return rows
    onto = onto.clone(memory_format=torch.contiguous_format)
    onto.view(-1, onto.shape[3]).index_copy_(0, inside.rows, rows.reshape(-1, onto.shape[3]))
    return onto


def depthwise(x: Tensor, w: Weights, settings: Settings) -> Tensor:
    """The (N, C, H, W) convolution of an (N, C, H, W) map."""
    padding = settings.dilation * (w.dwconv.shape[-1] // 2)
    return F.conv2d(
        x, w.dwconv, w.dwconv_bias, padding=padding, dilation=settings.dilation, groups=x.shape[1]
    )


def norm(y: Tensor, w: Weights, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """LayerNorm of an (N, H, W, C) map as (N, T, C), its means and 1 / std."""
    n, height, width, c = y.shape
    normed, mean, rstd = torch.native_layer_norm(y, (c,), w.norm, w.norm_bias, eps)
    return normed.view(n, height * width, c), mean, rstd


def gelu(z: Tensor, out: Tensor) -> Tensor:
    """GELU of (n, t, K), in the memory of the first n, t of `out`."""
    return torch.ops.aten.gelu.out(z, out=out[: z.shape[0], : z.shape[1]])


def scales_weight(positions: int, channels: int) -> bool:
    """Is it less work to scale pwconv2's weight for each image than a map that is 4C wide?"""
    return 2 * channels <= positions


def scales_layer(x: Tensor, w: Weights) -> bool:
    """Is it less work to scale pwconv2 by layer scale than its result, (N, T, C)?

    Not where layer scale is of a wider data type, which the weight would round off.
    """
    if w.gamma is None or w.gamma.dtype != w.pwconv2.dtype:
        return False
    return x.shape[2] <= x.shape[0] * x.shape[1]


class Second(NamedTuple):
    """The second half of a block: shortcut + factor * (a @ weight.T + bias)."""

    weight: Tensor  # (C, 4C), or (N, C, 4C)
    bias: Tensor  # (C,), or (N, 1, C) beside an (N, C, 4C) weight
    factor: Tensor | None  # (C,), (N, 1, 1) or (N, 1, C)

    def of(self, images: slice) -> "Second":
        return Second(*(t[images] if t is not None and t.dim() == 3 else t for t in self))

    def __call__(self, a: Tensor, shortcut: Tensor) -> Tensor:
        weight, bias, factor = self
        if weight.dim() == 3 and len(a) > 1:
            if multiplies(a) and shortcut.dtype == a.dtype:
                return linear_add_each(a, weight, bias, shortcut)
            if shortcut.dtype != a.dtype:
                return torch.baddbmm(bias, a, weight.transpose(1, 2)) + shortcut
            return torch.baddbmm(shortcut, a, weight.transpose(1, 2)).add_(bias)
        weight, bias = weight.view(-1, a.shape[2]), bias.view(-1)
        if factor is None:
            return linear_add(a, weight, bias, shortcut)
        return torch.addcmul(shortcut, linear(a, weight, bias), factor)


def second_half(
    shortcut: Tensor, keep: Tensor | None, scale: Tensor | None, w: Weights
) -> tuple[Second, Tensor | None]:
    """The second half; and GRN's factor, (N, 1, 4C), where a map is so small that a itself is to be multiplied by
    it: GRN's beta is to be added there too, which saves a pass over the weight."""
    weight, bias, gamma = w.pwconv2, w.pwconv2_bias, w.gamma
    keep = None if keep is None else keep.view(-1, 1, 1)
    if scale is not None:
        scale = scale[:, None].to(weight.dtype)
        if scales_weight(*shortcut.shape[1:]):
            if w.grn_beta is not None:
                bias = torch.addmv(bias, weight, w.grn_beta)
            weight, bias = weight * scale, bias.expand(len(shortcut), 1, -1)
            if keep is not None:
                weight, bias = weight * keep.to(weight.dtype), bias * keep.to(weight.dtype)
            return Second(weight, bias, None), None
    if scales_layer(shortcut, w):
        weight, bias, gamma = weight * gamma[:, None], bias * gamma, None
    factors = [f.to(shortcut.dtype) for f in (keep, gamma) if f is not None]
    return Second(weight, bias, math.prod(factors) if factors else None), scale


def parts_of(x: Tensor, whole_images: bool = False) -> list[tuple[slice, slice]]:
    """Which images and positions of an (N, T, C) map to treat at a time: PART values 4C wide."""
    return list(_parts(x, whole_images))


def _parts(x: Tensor, whole_images: bool) -> Iterator[tuple[slice, slice]]:
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


def put(out: Tensor, part: tuple[slice, slice], parts: list, value: Tensor) -> Tensor:
    """The whole result, with the value of a part in it."""
    if len(parts) == 1:
        return value
    out[part] = value
    return out


def scratch(slot: int, like: Tensor) -> Tensor:
    """Memory of like's shape and type, which the next call in this thread for this slot reuses.

    Fresh memory of this size comes from the system page by page: 4 % of a training step on a CPU.
    """
    if like.device.type != "cpu" or like.dtype != torch.float32 or like.numel() > PART:
        return torch.empty_like(like)
    slots = _SCRATCH.__dict__.setdefault("slots", {})
    if slot not in slots or slots[slot].numel() < like.numel():
        with torch.inference_mode(False):
            slots[slot] = torch.empty(PART, dtype=torch.float32, device="cpu")
    return slots[slot][: like.numel()].view(like.shape)
