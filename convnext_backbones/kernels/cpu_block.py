"""A ConvNeXt block in bfloat16 on CPUs with AMX, as one kernel in C++ (cpu_block.cpp).

It is compiled by the system's C++ compiler when it is first asked for, and kept in torch's folder
of extensions.
"""

import torch
from torch import nn


def processor_has(name: str) -> bool:
    """Has this processor a capability, by torch's name for it: amx_bf16, avx512_bf16?"""
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get(name, False))


def why_not(dtype: torch.dtype) -> str | None:
    return "not there yet"


def takes(channels: int, dilation: int) -> bool:
    return False


class CpuBlock(nn.Module):
    pass
