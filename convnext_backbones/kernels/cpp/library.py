"""The families of kernels in C++: which of them this machine can run, their compilation and their calls.

They are compiled by the system's C++ compiler when they are first asked for, and kept in torch's
folder of extensions (TORCH_EXTENSIONS_DIR).
"""

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from ..processor import cxx_compiler, processor_has

_AVX512 = ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl")
_FLAGS = ("-O3", "-std=c++17", "-ffp-contract=fast", "-shared", "-fPIC", "-fopenmp", "-mfma")


class Family(NamedTuple):
    """Kernels out of one source for one kind of processor and one type of maps."""

    source: str  # a file beside this one
    dtype: torch.dtype
    needed: tuple[str, ...]  # of the processor, in torch's names
    lanes: int  # channels that are convolved together
    width: int  # channels to which a matrix's columns are padded

    @property
    def flags(self) -> list[str]:
        """The compiler's."""
        needed = [name.replace("avx512_", "avx512").replace("_", "-") for name in self.needed]
        return [
            *_FLAGS,
            *(f"-m{name}" for name in needed),
            f"-DLANES={self.lanes}",
            f"-DWIDTH={self.width}",
        ]

    def function(self, kernel: str) -> str:
        """A kernel's name in C++."""
        return f"convnext_{kernel}_{str(self.dtype).removeprefix('torch.')}"


# By name, the fastest of a type first.
FAMILIES = {
    "amx": Family("amx.cpp", torch.bfloat16, ("amx_tile", "amx_bf16", *_AVX512, "avx512_bf16"), 16, 32),
    "avx512_bf16": Family("vector.cpp", torch.bfloat16, (*_AVX512, "avx512_bf16"), 16, 48),
    "avx512": Family("vector.cpp", torch.float32, _AVX512, 16, 48),
    "avx2": Family("vector.cpp", torch.float32, ("avx2",), 8, 16),
}  # fmt: skip


def choice(dtype: torch.dtype) -> tuple[str | None, str | None]:
    """The family that computes in this type here, or why none does. Neither: none is written for it."""
    reason = None
    for name, family in FAMILIES.items():
        if family.dtype == dtype and (reason := why_not(name)) is None:
            return name, None
    return None, reason


def why_not(name: str) -> str | None:
    """Why a family cannot run on this machine, in a few words; None where it can."""
    if platform.system() != "Linux":
        return f"it is written for Linux, not {platform.system()}"
    missing = [needed for needed in FAMILIES[name].needed if not processor_has(needed)]
    if missing:
        return f"this processor lacks {', '.join(missing)}"
    compiler = cxx_compiler()
    if compiler is None:
        return "no C++ compiler was found; install g++ or set CXX"
    return _why_not_built(name, compiler)


@functools.cache
def runs_here(name: str) -> bool:
    """why_not() is None, found out once: it is asked at every call of a prepared model."""
    return why_not(name) is None


def run(name: str, kernel: str, *arguments) -> None:
    """Call a family's stem, downsample or block; MemoryError where its maps find no memory."""
    if _kernel(name, kernel)(*arguments):
        raise MemoryError("there is no memory left for the maps of these images")


@functools.cache
def _why_not_built(name: str, compiler: str) -> str | None:
    try:
        _load(name, build(name, compiler))
    except (OSError, subprocess.SubprocessError) as error:
        output = (getattr(error, "stderr", None) or str(error)).strip()
        return f"the C++ compiler did not build it ({output.splitlines()[-1] if output else error})"
    return None


@functools.cache
def _kernel(name: str, kernel: str) -> Callable[..., int]:
    return getattr(_load(name, build(name, cxx_compiler())), FAMILIES[name].function(kernel))


def build(name: str, compiler: str) -> Path:
    """Compile a family, unless this compiler has done so; the path of the library.

    Raises:
        OSError: no place to write.
        subprocess.CalledProcessError: the compiler failed.
    """
    family = FAMILIES[name]
    source = Path(__file__).with_name(family.source)
    text = source.read_bytes() + source.with_name("tiles.h").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cache / "torch_extensions")
    key = hashlib.sha256(text + " ".join([compiler, *family.flags]).encode()).hexdigest()
    path = root / "convnext_backbones" / f"{name}_{key[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_suffix(f".{os.getpid()}.tmp")
        command = [compiler, *family.flags, str(source), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        made.replace(path)  # in one step: another process may be building it too
    return path


def _load(name: str, path: Path) -> ctypes.CDLL:
    """The library; OSError where the system does not let this process use AMX."""
    library, function = ctypes.CDLL(str(path)), FAMILIES[name].function
    pointer, integer, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    getattr(library, function("block")).argtypes = [
        *(pointer, pointer, integer, integer, integer, integer, integer, pointer, pointer, real),
        *(pointer, pointer, pointer, pointer, pointer, real),
    ]
    getattr(library, function("downsample")).argtypes = [
        *(pointer, pointer, integer, integer, integer, integer, integer, real, pointer, pointer),
    ]
    getattr(library, function("stem")).argtypes = [
        *(pointer, pointer, integer, integer, integer, integer, integer, integer),
        *(pointer, pointer, pointer, pointer, real),
    ]
    if name == "amx" and library.convnext_prepare() != 0:
        raise OSError("the system does not let this process use AMX")
    return library
