"""Linear layers with what follows them in the same pass over memory, and their gradients.

In float32 on a CPU oneDNN computes them, by operators of torch that take what follows. The gradients are
plain products, which MKL computes as fast where it is not held back.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from . import processor


def _onednn_linear():
    """oneDNN's fused linear layer, a private operator of torch; None where torch lacks it."""
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        fused = torch.ops.mkldnn._linear_pointwise
        x, weight = torch.ones(1, 2), torch.full((1, 2), 0.5)
        gelu = fused(x, weight, None, "gelu", [], "none")
        added = fused.binary(x, gelu, weight, None, "add")
        return fused if torch.equal(added, F.gelu(torch.ones(1, 1)) + 1) else None
    except (AttributeError, RuntimeError, TypeError):
        return None


_FUSED = _onednn_linear()


def fuses(x: Tensor) -> bool:
    """Does oneDNN compute a linear layer and what follows it at once?"""
    return _FUSED is not None and x.device.type == "cpu" and x.dtype == torch.float32


def multiplies(x: Tensor) -> bool:
    """Is oneDNN faster than what torch multiplies such a matrix with?"""
    return fuses(x) and processor.mkl_is_held_back()


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x @ weight.T + bias."""
    return _FUSED(x, weight, bias, "none", [], "none") if fuses(x) else F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(x @ weight.T + bias), with the exact GELU."""
    if fuses(x):
        return _FUSED(x, weight, bias, "gelu", [], "none")
    return torch.ops.aten.gelu_(F.linear(x, weight, bias))


def linear_add(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor) -> Tensor:
    """added + x @ weight.T + bias."""
    if fuses(x):
        return _FUSED.binary(x, added, weight, bias, "add")
    return F.linear(x, weight, bias) + added


def linear_add_each(x: Tensor, weights: Tensor, bias: Tensor, added: Tensor) -> Tensor:
    """The same of each image of x by a weight of its own: (N, C, K), and a bias, (C,) or (N, 1, C)."""
    biases = bias.expand(len(x), 1, -1).squeeze(1)
    images = zip(x, weights, biases, added, strict=True)
    found = [linear_add(*image) for image in images]
    return found[0][None] if len(found) == 1 else torch.stack(found)


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """a @ b of (T, K) and (K, C), in the memory of `out` or in its own."""
    if multiplies(a):
        return _FUSED(a, b.t(), None, "none", [], "none")
    return torch.mm(a, b, out=out)


def weight_gradient(gradient: Tensor, x: Tensor, total: Tensor | None = None) -> Tensor:
    """gradient.T @ x of (T, K) and (T, C), added to `total` where that is given."""
    if not multiplies(x):
        return gradient.t() @ x if total is None else total.addmm_(gradient.t(), x)
    if len(x) <= x.shape[1]:
        found = _FUSED(gradient.t(), x.t(), None, "none", [], "none")
    else:  # a sum over many positions: as that of a convolution with one tap
        weight = x.new_empty(gradient.shape[1], x.shape[1], 1, 1)
        images = 16 if len(x) % 16 == 0 else 1  # on one thread torch asks oneDNN for 16 or more
        _, found, _ = torch.ops.aten.convolution_backward(
            _as_images(gradient, images), _as_images(x, images), weight, None,
            [1, 1], [0, 0], [1, 1], False, [0, 0], 1, (False, True, False),
        )  # fmt: skip
        found = found.view(weight.shape[:2])
    return found if total is None else total.add_(found)


def _as_images(x: Tensor, images: int) -> Tensor:
    """(T, C) as a channels-last (images, C, 1, T / images) map in the same memory."""
    return x.view(images, 1, -1, x.shape[1]).permute(0, 3, 1, 2)
