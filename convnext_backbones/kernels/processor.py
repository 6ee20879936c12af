"""What this machine's processor has: the one place that asks for its instructions and compiler.

CONVNEXT_BACKBONES_MASK names what is to be treated as missing, for tests: words out of MASKS with
commas between them, such as "amx,avx512,bf16,compiler". It masks what this package asks for; torch's
own kernels are held to AVX2 by ATEN_CPU_CAPABILITY=avx2 and ONEDNN_MAX_CPU_ISA=AVX2.
"""

import functools
import os
import platform
import re
import shutil
from pathlib import Path

from ..errors import UserError

VARIABLE = "CONVNEXT_BACKBONES_MASK"
_BFLOAT16 = ("avx512_bf16", "amx_bf16")  # instructions that multiply it
_INT8 = ("avx512_vnni", "avx_vnni", "amx_int8")  # that multiply 8-bit integers, and add up in 32
_ASKED = (
    *("avx2", "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16"),
    *("amx_tile", "amx_bf16"),
    *_INT8,
)  # fmt: skip
_COMPILER = "a C++ compiler"
# A word of the variable -> what is missing then, in torch's names.
MASKS = {
    "amx": tuple(name for name in _ASKED if name.startswith("amx")),
    "avx512": tuple(name for name in _ASKED if name.startswith("avx") and name != "avx2"),
    "avx2": ("avx2",),
    "bf16": _BFLOAT16,
    "compiler": (_COMPILER,),
}


def processor_has(name: str) -> bool:
    """Has this processor a capability, by torch's name for it: amx_bf16, avx512_bf16?"""
    return bool(_capabilities().get(name, False)) and name not in masked()


def computes_in_bfloat16() -> bool:
    """Has it instructions that multiply bfloat16? Elsewhere bfloat16 is slower than float32."""
    return any(processor_has(name) for name in _BFLOAT16)


def computes_in_int8() -> bool:
    """Has it instructions that multiply 8-bit integers? Elsewhere int8 gains less, or nothing."""
    return any(processor_has(name) for name in _INT8)


@functools.cache
def mkl_is_held_back() -> bool:
    """Does MKL, which torch multiplies float32 with on x86, use less than this processor has?

    On AMD's it takes its kernels for AVX2, also where there is AVX-512.
    """
    import torch

    if not torch.backends.mkl.is_available() or platform.machine() not in ("x86_64", "AMD64"):
        return False
    try:
        vendors = re.findall(
            r"^vendor_id\s*:\s*(\S+)", Path("/proc/cpuinfo").read_text(), re.MULTILINE
        )
        vendor = vendors[0] if vendors else ""
    except OSError:
        vendor = platform.processor()  # Windows: "AMD64 Family 25 Model 1 Stepping 1, AuthenticAMD"
    return "AMD" in vendor.removeprefix("AMD64") or "Hygon" in vendor


def cxx_compiler() -> str | None:
    """The path of the system's C++ compiler: of CXX, c++ or g++; None without one."""
    if _COMPILER in masked():
        return None
    return shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")


def masked() -> frozenset[str]:
    """What CONVNEXT_BACKBONES_MASK hides, in torch's names.

    Raises:
        UserError: the variable holds another word than those of MASKS.
    """
    return _masked(os.environ.get(VARIABLE, ""))


@functools.cache
def _masked(value: str) -> frozenset[str]:
    words = [word.strip() for word in value.split(",") if word.strip()]
    for word in words:
        if word not in MASKS:
            raise UserError(
                f"{VARIABLE}={value!r} holds {word!r}; it takes {', '.join(MASKS)}, with commas "
                "between them; unset it to use all that the processor has"
            )
    return frozenset(name for word in words for name in MASKS[word])


@functools.cache
def _capabilities() -> dict[str, bool]:
    import torch  # here: doctor asks for the compiler where torch may be broken

    if hasattr(torch.cpu, "get_capabilities"):  # newer than torch 2.4, the oldest we take
        return dict(torch.cpu.get_capabilities())
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return {}
    return {name: name in words or name.replace("_", "") in words for name in _ASKED}
