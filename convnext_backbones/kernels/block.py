"""A ConvNeXt block in few passes over memory, with its own backward pass.

The plain reference is Block.forward in convnext.py. The same steps in another arrangement:

- Layer scale and GRN's factor are diagonal matrices beside the second pointwise layer: where maps
  are large they are multiplied into its weight. GRN's beta goes through the layer into its bias
  there, and the residual sum is the layer's last step.
- The backward pass keeps the input, the output of the depthwise convolution and that of the first
  pointwise layer: 6 values for each of the input's. LayerNorm and GELU are computed again. Gradients
  of the factors are taken from that of the second weight, without another pass over a map.
- On a CPU, what is 4C wide and not kept is computed for a part of the positions at a time and stays
  in the cache.
- Of a Visible, what follows the depthwise convolution is computed for its positions alone.
- Under autocast convolution and linear layers are in autocast's dtype, statistics in float32. Layer
  scale and the residual sum are in the data type that the plain steps give them.

Between the pointwise layers maps are (N, T, C) and (N, T, 4C), T being H * W positions, or those of a Visible.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from .backward import Kept, backward
from .depthwise import in_its_layout
from .grn import energy, fast_energy, grn_scale, wide_dtype
from .linear import linear, linear_gelu
from .steps import (
    Inside,
    Settings,
    Visible,
    Weights,
    cast,
    counted,
    depthwise,
    gelu,
    mask_of,
    norm,
    parts_of,
    put,
    put_back,
    scratch,
    second_half,
    seen,
    taken,
)


def fast_block(
    x: Tensor, keep: Tensor | None, inside: Inside, weights: Weights, settings: Settings
) -> Tensor:
    """(N, C, H, W) channels-last to the same.

    keep: (N, 1, 1, 1) factors of the branch. inside: (N, H, W), False where a batch is padding; or what of it
    is visible. With settings.kernels there is no padding.
    """
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, *weights)):
        weights = weights._replace(dwconv=in_its_layout(weights.dwconv))
        return _Block.apply(x, keep, inside, settings, *weights)
    with torch.autocast(x.device.type, enabled=False):
        if settings.kernels:
            return _by_kernels(x, keep, inside, weights, settings, training=False)[0]
        return _inference(x, keep, inside, weights, settings)


def plain_block(
    x: Tensor, keep: Tensor | None, inside: Inside, weights: Weights, settings: Settings
) -> Tensor:
    """The same in the steps of Block.forward: for gradients of gradients, and for comparison."""
    w = cast(weights, settings)
    y = depthwise(seen(x.to(settings.dtype), inside), w, settings).permute(0, 2, 3, 1)
    y = F.layer_norm(y.to(w.norm.dtype), y.shape[-1:], w.norm, w.norm_bias, settings.norm_eps)
    y = F.gelu(F.linear(y.to(settings.dtype), w.pwconv1, w.pwconv1_bias))
    if w.grn_gamma is not None:
        scale, _ = grn_scale(energy(y, mask_of(inside)), weights.grn_gamma, settings.grn_eps)
        y = y * scale[:, None, None].to(y.dtype) + w.grn_beta
    y = F.linear(y, w.pwconv2, w.pwconv2_bias)
    if w.gamma is not None:
        y = y * w.gamma
    y = y.permute(0, 3, 1, 2)
    if isinstance(inside, Visible):
        y = seen(y, inside)
    return (y if keep is None else y * keep.to(y.dtype)) + x.to(settings.stream)


# Without gradients


def _inference(
    x: Tensor, keep: Tensor | None, inside: Inside, weights: Weights, settings: Settings
) -> Tensor:
    w = cast(weights, settings)
    y = depthwise(seen(x.to(settings.dtype), inside), w, settings).permute(0, 2, 3, 1)
    y = taken(y, inside)
    normed, _, _ = norm(y, w, settings.norm_eps)
    stream = _stream(x, settings)
    shortcut = taken(stream, inside).reshape_as(normed)
    parts, out = parts_of(normed), normed  # each part of it is needed once
    if w.grn_gamma is None:
        second, _ = second_half(shortcut, keep, None, w)
        for part in parts:
            a = linear_gelu(normed[part], w.pwconv1, w.pwconv1_bias)
            out = put(out, part, parts, second.of(part[0])(a, shortcut[part]))
    else:
        wide, energy, counts = [], _no_energy(normed), counted(inside)
        for part in parts:
            a = linear_gelu(normed[part], w.pwconv1, w.pwconv1_bias)
            energy[part[0]] += fast_energy(a, None if counts is None else counts[part])
            wide.append(a)
        scale, _ = grn_scale(energy, weights.grn_gamma, settings.grn_eps)
        second, scale = second_half(shortcut, keep, scale, w)
        for k, part in enumerate(parts):
            a, wide[k] = _scaled(wide[k], scale, part, w), None
            out = put(out, part, parts, second.of(part[0])(a, shortcut[part]))
    return put_back(out.view(y.shape), stream, inside).permute(0, 3, 1, 2)  # NHWC -> NCHW


def _no_energy(normed: Tensor) -> Tensor:
    """Sums of squares of what is 4C wide before any is counted, (N, 4C)."""
    n, _, channels = normed.shape
    return normed.new_zeros(n, 4 * channels, dtype=wide_dtype(normed))


def _scaled(a: Tensor, scale: Tensor | None, part: tuple[slice, slice], w: Weights) -> Tensor:
    """A part of a times GRN's factor, and beta, in its memory; as it is where second_half has seen to them."""
    return a if scale is None else torch.addcmul(w.grn_beta, a, scale[part[0]], out=a)


def _stream(x: Tensor, settings: Settings) -> Tensor:
    """x as (N, H, W, C) in the data type of the residual sum."""
    return x.to(settings.stream).permute(0, 2, 3, 1)


def _by_kernels(x, keep, inside, weights, settings, *, training):
    """As _forward, and _inference without training, by the GPU kernels that settings name."""
    from .triton import passes  # here: Triton is large, and not everywhere

    with torch.cuda.device_of(x):
        out, kept = passes.forward(x, keep, inside, weights, settings, training=training)
    return _as_map(out), kept


# With gradients


class _Block(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, keep, inside, settings, *weights):
        weights = Weights(*weights)
        with torch.autocast(x.device.type, enabled=False):
            if settings.kernels:
                out, kept = _by_kernels(x, keep, inside, weights, settings, training=True)
            else:
                out, kept = _forward(x, keep, inside, weights, settings)
        ctx.save_for_backward(x, keep, *kept, *weights)
        ctx.inside, ctx.settings = inside, settings
        return out

    @staticmethod
    def backward(ctx, gradient):
        x, keep, y, mean, rstd, z, energy, *weights = ctx.saved_tensors
        weights, inside, settings = Weights(*weights), ctx.inside, ctx.settings
        needs = (ctx.needs_input_grad[0], *ctx.needs_input_grad[4:])
        with torch.autocast(x.device.type, enabled=False):
            if torch.is_grad_enabled() or _batched(gradient):
                of_x, *of_weights = _plain_gradients(
                    gradient, x, keep, inside, weights, settings, needs
                )
            else:
                kept = Kept(y, mean, rstd, z, energy)
                if settings.kernels:
                    from .triton import passes

                    with torch.cuda.device_of(x):
                        of_x, of_weights = passes.backward(
                            gradient, x, keep, inside, kept, weights, settings, needs
                        )
                else:
                    of_x, of_weights = backward(
                        gradient, x, keep, inside, kept, weights, settings, needs
                    )
                of_weights = [
                    g.to(t.dtype) if need and g is not None else None
                    for g, t, need in zip(of_weights, weights, needs[1:], strict=True)
                ]
                of_x = None if of_x is None else of_x.to(x.dtype)
        return of_x, None, None, None, *of_weights


def _batched(gradient: Tensor) -> bool:
    """Are these several gradients at once, as torch.func.vmap and is_grads_batched=True give them?"""
    functorch = torch._C._functorch
    if functorch.is_legacy_batchedtensor(gradient):
        return True
    return functorch.peek_interpreter_stack() is not None


def _plain_gradients(gradient, x, keep, inside, weights, settings, needs):
    """The gradients of x and the weights by the plain steps, which can be differentiated again."""
    again = torch.is_grad_enabled()
    inputs = [t for t, need in zip((x, *weights), needs, strict=True) if need]
    with torch.enable_grad():
        out = plain_block(x, keep, inside, weights, settings)
    found = iter(torch.autograd.grad(out, inputs, gradient, create_graph=again))
    return [next(found) if need else None for need in needs]


def _forward(x, keep, inside, weights, settings):
    """The result, and what the backward pass keeps beside x."""
    w = cast(weights, settings)
    y = depthwise(seen(x.to(settings.dtype), inside), w, settings).permute(0, 2, 3, 1)
    y = taken(y, inside)
    normed, mean, rstd = norm(y, w, settings.norm_eps)
    z = linear(normed, w.pwconv1, w.pwconv1_bias)
    parts = parts_of(normed)
    memory = scratch(0, z[parts[0]])  # of a, for a part
    energy = scale = a = None
    if w.grn_gamma is not None:
        energy, counts = _no_energy(normed), counted(inside)
        for part in parts:
            a = gelu(z[part], memory)
            of_part = None if counts is None else counts[part]
            energy[part[0]] += fast_energy(a, of_part)
        scale, _ = grn_scale(energy, weights.grn_gamma, settings.grn_eps)
    stream = _stream(x, settings)
    shortcut = taken(stream, inside).reshape_as(normed)
    second, scale = second_half(shortcut, keep, scale, w)
    out = normed  # takes its place part by part: the backward pass computes it again
    for part in parts:
        if a is None or len(parts) > 1:
            a = gelu(z[part], memory)
        a = _scaled(a, scale, part, w)
        out = put(out, part, parts, second.of(part[0])(a, shortcut[part]))
    return _as_map(put_back(out.view(y.shape), stream, inside)), Kept(y, mean, rstd, z, energy)


def _as_map(out: Tensor) -> Tensor:
    """(N, H, W, C) as the (N, C, H, W) map in the same memory.

    A tensor of its own, not a view: no operator may write into a view that a Function returns.
    """
    n, height, width, c = out.shape
    strides = (height * width * c, 1, width * c, c)
    storage = out.untyped_storage()
    return out.new_empty(0).set_(storage, out.storage_offset(), (n, c, height, width), strides)
