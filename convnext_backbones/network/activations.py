"""Activations by Hugging Face's names; the papers' own is "gelu", the exact one, which fast paths know.

Source: transformers 5.23, activations.py (ACT2FN).
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .variants import nearest


class Elementwise(nn.Module):
    """A function of single numbers for which torch has no module."""

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function  # of this file, by name: it is pickled with the model

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.function.__name__


def clipped_gelu(x: Tensor) -> Tensor:
    return F.gelu(x).clamp(-10, 10)


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


def laplace(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf((x - 0.707107) / (0.282095 * math.sqrt(2))))


def sqrt_softplus(x: Tensor) -> Tensor:
    return F.softplus(x).sqrt()


_TANH_GELU = functools.partial(nn.GELU, approximate="tanh")
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_python": nn.GELU,
    "gelu_10": functools.partial(Elementwise, clipped_gelu),
    "gelu_accurate": _TANH_GELU,
    "gelu_fast": _TANH_GELU,
    "gelu_new": _TANH_GELU,
    "gelu_python_tanh": _TANH_GELU,
    "gelu_pytorch_tanh": _TANH_GELU,
    "hardswish": nn.Hardswish,
    "laplace": functools.partial(Elementwise, laplace),
    "leaky_relu": nn.LeakyReLU,
    "linear": nn.Identity,
    "mish": nn.Mish,
    "prelu": nn.PReLU,  # one weight a block
    "quick_gelu": functools.partial(Elementwise, quick_gelu),
    "relu": nn.ReLU,
    "relu2": functools.partial(Elementwise, squared_relu),
    "relu6": nn.ReLU6,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "sqrtsoftplus": functools.partial(Elementwise, sqrt_softplus),
    "swish": nn.SiLU,
    "tanh": nn.Tanh,
}


def check_activation(name) -> None:
    """Refuse what is no name of ACTIVATIONS."""
    if isinstance(name, str) and name in ACTIVATIONS:
        return
    if name == "xielu":
        raise UserError(
            "activation='xielu' keeps constants beside its weights in every block, which no layout of "
            "weights here has; choose another, or leave it out for the papers' 'gelu'"
        )
    raise UserError(
        f"activation must be the name of an activation, got {name!r}; {nearest(str(name), ACTIVATIONS)}"
    )
