"""float16 and bfloat16 that keep their statistics in float32.

A sum of squares overflows in float16 from |x| = 300 on. GRN casts by itself; the norms of torch leave it to
the runtime, and some runtimes compute them in float16: the cast stands in the graph.
"""

import functools
from collections.abc import Iterable

import torch
from torch import Tensor, nn

LOW = {"fp16": torch.float16, "bf16": torch.bfloat16}
NORMS = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)  # fmt: skip


def lower(network: nn.Module, dtype: torch.dtype, wide: Iterable[str] = ()) -> None:
    """Compute a network in dtype, in place, but the statistics of its norms and the modules named `wide`."""
    wide = [network.get_submodule(name) for name in wide]
    outside = {id(part) for module in wide for part in module.modules()}
    network.to(dtype)
    for module in wide:
        module.float()
        module.register_forward_pre_hook(_to_float32, with_kwargs=True)
    for module in network.modules():
        if isinstance(module, NORMS) and id(module) not in outside:
            module.float()
            module.forward = functools.partial(_in_float32, type(module), module)


def _in_float32(kind: type[nn.Module], module: nn.Module, x: Tensor) -> Tensor:
    return kind.forward(module, x.float()).to(x.dtype)


def _to_float32(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    return cast(args, torch.float32), cast(kwargs, torch.float32)


def cast(value, dtype: torch.dtype):
    """Every floating-point tensor in tuples, lists and dicts, in dtype."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: cast(entry, dtype) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(cast(entry, dtype) for entry in value)
    return value
