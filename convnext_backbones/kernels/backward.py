"""The backward pass of a block, part by part; see block.py.

Behind the first pointwise layer, z, the branch is

    a = gelu(z)
    ((a * scale + beta) @ pwconv2.T + bias) * gamma        V1 has gamma alone, V2 scale and beta

The gradients of gamma and of beta come from those of pwconv2, without another pass over a map.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from . import depthwise
from .grn import grn_scale, grn_scale_backward, wide_dtype
from .linear import multiplies, product, weight_gradient
from .steps import (
    Inside,
    Settings,
    Visible,
    Weights,
    cast,
    counted,
    gelu,
    norm,
    parts_of,
    put_back,
    scales_layer,
    scales_weight,
    scratch,
    seen,
    taken,
)


class Kept(NamedTuple):
    """What the forward pass keeps beside its input; (N, V, 1, ..) of a Visible."""

    y: Tensor  # (N, H, W, C), the depthwise convolution's result
    mean: Tensor  # (N, H, W, 1), of LayerNorm, as rstd, 1 / std
    rstd: Tensor
    z: Tensor  # (N, T, 4C), the first pointwise layer's result
    energy: Tensor | None  # (N, 4C), GRN's sums of squares


def backward(
    gradient: Tensor,
    x: Tensor,
    keep: Tensor | None,
    inside: Inside,
    kept: Kept,
    weights: Weights,
    settings: Settings,
    needs: tuple[bool, ...],
) -> tuple[Tensor | None, Weights]:
    """The gradients of x and of the weights, from (N, C, H, W), that of the result.

    needs: whether that of x, and that of each weight, will be used.
    """
    w = cast(weights, settings)
    normed, _, _ = norm(kept.y, w, settings.norm_eps)
    branch = _of_branch(gradient, keep, inside, normed)
    if w.grn_gamma is None:
        second = _Second(branch, w)
    elif scales_weight(*normed.shape[1:]):
        second = _SecondWithScaledWeight(branch, w, _Scale(kept, inside, weights, settings))
    else:
        second = _SecondWithScaledMap(branch, w, _Scale(kept, inside, weights, settings))
    of_normed, of_pwconv1, of_pwconv1_bias = _through_pointwise_layers(second, normed, kept.z, w)
    of_pwconv2, of_pwconv2_bias, of_gamma, of_grn_beta = _of_second_weights(second, w)
    wide = w.norm.dtype
    of_y, of_norm, of_norm_bias = torch.ops.aten.native_layer_norm_backward(
        of_normed.view_as(kept.y).to(wide), kept.y.to(wide), w.norm.shape, kept.mean, kept.rstd,
        w.norm, w.norm_bias, (True, True, True),
    )  # fmt: skip
    of_y = on_zeros(of_y.to(normed.dtype), x, inside)
    of_x, of_dwconv, of_dwconv_bias = depthwise.backward(
        of_y.permute(0, 3, 1, 2), seen(x, inside), w.dwconv, settings.dilation, needs[:2]
    )
    if of_x is not None:
        of_x = seen(of_x, inside)
        of_x = of_x.add_(gradient) if of_x.dtype == gradient.dtype else of_x + gradient
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
        grn_gamma=None if w.grn_gamma is None else second.scale.of_gamma,
        grn_beta=of_grn_beta,
    )


def on_zeros(rows: Tensor, x: Tensor, inside: Inside) -> Tensor:
    """The (N, H, W, C) gradient of the depthwise convolution's result, from that of what was taken of it."""
    if not isinstance(inside, Visible):
        return rows
    n, c, height, width = x.shape
    return put_back(rows, rows.new_zeros(1).expand(n, height, width, c), inside)


def _of_branch(gradient: Tensor, keep: Tensor | None, inside: Inside, normed: Tensor) -> Tensor:
    """(N, T, C): the gradient of what drop path multiplies."""
    out = taken(gradient.permute(0, 2, 3, 1), inside).reshape(normed.shape)
    if keep is not None:
        out = out * keep.view(-1, 1, 1).to(out.dtype)
    return out.to(normed.dtype)


def _through_pointwise_layers(
    second: "_Second", normed: Tensor, z: Tensor, w: Weights
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of LayerNorm's result and of pwconv1's weight and bias; fills `second`."""
    parts = parts_of(normed, whole_images=second.takes_whole_images)
    memory = scratch(0, z[parts[0]]), scratch(1, z[parts[0]])  # of a and of its gradient
    a = second.begin(parts, z, memory[0])
    of_normed = torch.empty_like(normed)
    of_weight, of_bias = None, torch.zeros_like(w.pwconv1_bias)
    for part in parts:
        if a is None or len(parts) > 1:
            a = gelu(z[part], memory[0])
        of_a = second.of_a(part, a, out=memory[1][: len(a), : a.shape[1]])
        of_z = torch.ops.aten.gelu_backward.grad_input(of_a, z[part], grad_input=of_a)
        of_z = of_z.flatten(0, 1)
        of_weight = weight_gradient(of_z, normed[part].flatten(0, 1), of_weight)
        of_bias += of_z.sum(0)
        place = of_normed[part].flatten(0, 1)
        value = product(of_z, w.pwconv1, out=place)
        if value is not place:
            place.copy_(value)
    return of_normed, of_weight, of_bias


def _of_second_weights(
    second: "_Second", w: Weights
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The gradients of pwconv2's weight and bias, of layer scale and of GRN's beta."""
    of_weight, of_bias = second.of_weight, second.branch.sum((0, 1))
    of_gamma = of_beta = None
    if w.gamma is not None:
        wide = w.gamma.dtype
        by_row = torch.bmm(of_weight[:, None].to(wide), w.pwconv2[:, :, None].to(wide)).flatten()
        of_gamma = by_row + of_bias * w.pwconv2_bias
        of_weight *= w.gamma[:, None]
        of_bias = of_bias * w.gamma
    if w.grn_gamma is not None:
        of_weight.addr_(of_bias, w.grn_beta)
        of_beta = of_bias @ w.pwconv2
    return of_weight, of_bias, of_gamma, of_beta


class _Second:
    """The second pointwise layer in V1, and what the other ways to pass it have in common."""

    takes_whole_images = False

    def __init__(self, branch: Tensor, w: Weights):
        self.branch = self.behind_layer = branch
        self.weight = w.pwconv2
        self.of_weight: Tensor | None = None  # (C, 4C), whole once every part has passed
        if scales_layer(branch, w):
            self.weight = w.pwconv2 * w.gamma[:, None]
        elif w.gamma is not None:
            self.behind_layer = (branch * w.gamma).to(branch.dtype)

    def begin(self, parts: list, z: Tensor, memory: Tensor) -> Tensor | None:
        """What needs a pass of its own over all parts; the last part's a, if it was computed."""

    def of_a(self, part: tuple[slice, slice], a: Tensor, out: Tensor) -> Tensor:
        """The gradient of a part of a = gelu(z), in the memory of `out` or in its own."""
        out = self._through_layer(part, out)
        self._add_to_weight(part, a)
        return out

    def _through_layer(self, part: tuple[slice, slice], out: Tensor) -> Tensor:
        value = product(self.behind_layer[part].flatten(0, 1), self.weight, out=out.flatten(0, 1))
        return value.view_as(out)

    def _add_to_weight(self, part: tuple[slice, slice], a: Tensor) -> None:
        branch = self.branch[part].flatten(0, 1)
        self.of_weight = weight_gradient(branch, a.flatten(0, 1), self.of_weight)


class _Scale:
    """GRN's factor (N, 1, 4C), and what its gradient gives: those of gamma and of the energies."""

    def __init__(self, kept: Kept, inside: Inside, weights: Weights, settings: Settings):
        self.gamma, self.eps = weights.grn_gamma, settings.grn_eps
        scale, self.norm = grn_scale(kept.energy, self.gamma, self.eps)
        self.factor = scale[:, None].to(settings.dtype)
        counts = counted(inside)
        self.counted = None if counts is None else counts.to(settings.dtype)
        self.of_energy, self.of_gamma = torch.empty_like(kept.energy), 0

    def take(self, images: slice, gradient: Tensor) -> None:
        """The (n, 4C) gradient of these images' factors."""
        self.of_energy[images], of_gamma = grn_scale_backward(
            gradient, self.norm[images], self.gamma, self.eps
        )
        self.of_gamma += of_gamma

    def add_through_energy(self, part: tuple[slice, slice], a: Tensor, of_a: Tensor) -> None:
        """Add to the gradient of a what comes through the sums of its squares."""
        counted = a if self.counted is None else a * self.counted[part][..., None]
        of_a.addcmul_(counted, 2 * self.of_energy[part[0], None].to(a.dtype))


class _SecondWithScaledMap(_Second):
    """V2 where maps are small: a is multiplied by GRN's factor."""

    takes_whole_images = True  # the gradient of the factor is a sum over an image

    def __init__(self, branch: Tensor, w: Weights, scale: _Scale):
        super().__init__(branch, w)
        self.scale = scale

    def of_a(self, part: tuple[slice, slice], a: Tensor, out: Tensor) -> Tensor:
        out = self._through_layer(part, out)
        factor = self.scale.factor[part[0]]
        self.scale.take(part[0], (out.to(wide_dtype(out)) * a).sum(1))
        out *= factor
        self._add_to_weight(part, a * factor)
        self.scale.add_through_energy(part, a, out)
        return out


class _SecondWithScaledWeight(_Second):
    """V2 where maps are large: each image has a weight multiplied by GRN's factor."""

    def __init__(self, branch: Tensor, w: Weights, scale: _Scale):
        super().__init__(branch, w)
        self.scale = scale
        self.unscaled, self.weight = w.pwconv2, w.pwconv2 * scale.factor  # (N, C, 4C)

    def begin(self, parts: list, z: Tensor, memory: Tensor) -> Tensor:
        """The gradients of the images' weights, which give those of the factors."""
        of_weight = torch.empty_like(self.weight)
        for part in parts:
            a = gelu(z[part], memory)
            first = part[1].start == 0
            if multiplies(a):
                images = zip(of_weight[part[0]], self.branch[part], a, strict=True)
                for of_image, branch, image in images:
                    of_image.copy_(weight_gradient(branch, image, None if first else of_image))
                continue
            of_weight[part[0]].baddbmm_(
                self.branch[part].transpose(1, 2), a, beta=0 if first else 1
            )
        of_scale = (of_weight.to(wide_dtype(of_weight)) * self.unscaled).sum(1)
        self.scale.take(slice(0, len(z)), of_scale)
        self.of_weight = (of_weight * self.scale.factor).sum(0)
        return a

    def of_a(self, part: tuple[slice, slice], a: Tensor, out: Tensor) -> Tensor:
        branch, weight = self.branch[part], self.weight[part[0]]
        if multiplies(branch) and len(branch) == 1:
            out = product(branch[0], weight[0], out=out[0])[None]
        elif multiplies(branch):
            for of_image, image, factors in zip(out, branch, weight, strict=True):
                of_image.copy_(product(image, factors, out=of_image))  # in its own memory
        else:
            torch.bmm(branch, weight, out=out)
        self.scale.add_through_energy(part, a, out)
        return out
