"""Sizes of maps that stay numbers while a network of one size is traced.

MMDetection's transformers keep them as tensors and count with them; an exporter would take the results for
data, by which nothing can be split or reshaped.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_flatten, tree_map


class Known(torch.Tensor):
    """A tensor whose values are known: what is computed out of such ones alone is known, too; beside
    any other it is a constant of the graph."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        leaves = tree_flatten((args, kwargs))[0]
        values = [leaf for leaf in leaves if isinstance(leaf, (Tensor, torch.SymInt))]
        if all(isinstance(value, Known) for value in values):
            with torch._C.DisableTorchFunctionSubclass(), _disable_current_modes():
                args, kwargs = tree_map(_plain, (args, kwargs))
                return tree_map(_known, func(*args, **kwargs))
        with torch._C.DisableTorchFunctionSubclass():
            args, kwargs = tree_map(_constant, (args, kwargs))
            return func(*args, **kwargs)


def _plain(value):
    return value.as_subclass(torch.Tensor) if isinstance(value, Known) else value


def _known(value):
    return value.as_subclass(Known) if isinstance(value, Tensor) else value


def _constant(value):
    if not isinstance(value, Known):
        return value
    with torch._C.DisableTorchFunctionSubclass(), _disable_current_modes():
        values, dtype = value.as_subclass(torch.Tensor).tolist(), value.dtype
    return torch.tensor(values, dtype=dtype)


@contextlib.contextmanager
def known_sizes() -> Iterator[None]:
    """In it, torch._shape_as_tensor gives known ones; of the batch, which nobody counts with, 0."""
    before = torch._shape_as_tensor

    def shape(x: Tensor) -> Known:
        with _disable_current_modes():
            sides = [int(side) for side in x.shape[2:]]
            return torch.tensor([0, x.shape[1], *sides]).as_subclass(Known)

    torch._shape_as_tensor = shape
    try:
        yield
    finally:
        torch._shape_as_tensor = before
