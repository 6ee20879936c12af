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


def lower(network: nn.Module, dtype: torch.dtype, names: Iterable[str]) -> None:
    """Compute the modules of these names in dtype, in place, but the statistics of their norms. What comes
    out of them is float32 again, but for the network itself."""
    for name in names:
        part = network.get_submodule(name)
        if isinstance(part, nn.ModuleList):  # which is never called itself
            lower(part, dtype, (str(k) for k in range(len(part))))
            continue
        part.to(dtype)
        for module in part.modules():
            if isinstance(module, NORMS):
                module.float()
                module.forward = functools.partial(_in_float32, type(module), module)
        if name:
            part.register_forward_pre_hook(
                lambda module, args, kwargs: (cast(args, dtype), cast(kwargs, dtype)),
                with_kwargs=True,
            )
            part.register_forward_hook(lambda module, args, output: cast(output, torch.float32))


def _in_float32(kind: type[nn.Module], module: nn.Module, x: Tensor) -> Tensor:
    return kind.forward(module, x.float()).to(x.dtype)


def cast(value, dtype: torch.dtype):
    """Every floating-point tensor in tuples, lists and dicts, in dtype."""
    if isinstance(value, Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, dict):
        return {key: cast(entry, dtype) for key, entry in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(cast(entry, dtype) for entry in value)
    return value
