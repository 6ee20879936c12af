"""The kernels of kernels.cpp: whether this machine can run them, their compilation and their calls.

They are compiled by the system's C++ compiler when they are first asked for, and kept in torch's
folder of extensions (TORCH_EXTENSIONS_DIR).
"""

import ctypes
import functools
import hashlib
import os
import platform
import subprocess
from pathlib import Path

from ..processor import cxx_compiler, processor_has

SOURCE = Path(__file__).with_name("kernels.cpp")
NEEDED = ("amx_tile", "amx_bf16", "avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_bf16")
FLAGS = [
    "-O3",
    "-std=c++17",
    "-shared",
    "-fPIC",
    "-fopenmp",
    "-mfma",
    "-mavx512f",
    "-mavx512bw",
    "-mavx512dq",
    "-mavx512vl",
    "-mavx512bf16",
    "-mamx-tile",
    "-mamx-bf16",
]


def why_not() -> str | None:
    """Why the kernels cannot run on this machine, in a few words; None where they can."""
    if platform.system() != "Linux":
        return f"it is written for Linux, not {platform.system()}"
    missing = [name for name in NEEDED if not processor_has(name)]
    if missing:
        return f"this processor lacks {', '.join(missing)}"
    compiler = cxx_compiler()
    if compiler is None:
        return "no C++ compiler was found; install g++ or set CXX"
    return _why_not_built(compiler)


@functools.cache
def runs_here() -> bool:
    """why_not() is None, found out once: it is asked at every call of a prepared model."""
    return why_not() is None


def run(name: str, *arguments) -> None:
    """Call a kernel by its name in kernels.cpp; MemoryError where its maps find no memory."""
    if getattr(_library(), name)(*arguments):
        raise MemoryError("there is no memory left for the maps of these images")


@functools.cache
def _why_not_built(compiler: str) -> str | None:
    try:
        _load(build(compiler))
    except (OSError, subprocess.SubprocessError) as error:
        output = (getattr(error, "stderr", None) or str(error)).strip()
        return f"the C++ compiler did not build it ({output.splitlines()[-1] if output else error})"
    return None


@functools.cache
def _library() -> ctypes.CDLL:
    return _load(build(cxx_compiler()))


def build(compiler: str) -> Path:
    """Compile the kernels, unless this compiler has done so; the path of the library.

    Raises:
        OSError: no place to write.
        subprocess.CalledProcessError: the compiler failed.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cache / "torch_extensions")
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join([compiler, *FLAGS]).encode()).hexdigest()
    path = root / "convnext_backbones" / f"amx_{key[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_suffix(f".{os.getpid()}.tmp")
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        made.replace(path)  # in one step: another process may be building it too
    return path


def _load(path: Path) -> ctypes.CDLL:
    """The library; OSError where the system does not let this process use AMX."""
    library = ctypes.CDLL(str(path))
    pointer, integer, real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float
    library.convnext_block.argtypes = [
        *(pointer, pointer, integer, integer, integer, integer, integer, pointer, pointer, real),
        *(pointer, pointer, pointer, pointer, pointer, real),
    ]
    library.convnext_downsample.argtypes = [
        *(pointer, pointer, integer, integer, integer, integer, integer, real, pointer, pointer),
    ]
    library.convnext_stem.argtypes = [
        *(pointer, pointer, integer, integer, integer, integer, integer, integer),
        *(pointer, pointer, pointer, pointer, real),
    ]
    if library.convnext_prepare() != 0:
        raise OSError("the system does not let this process use AMX")
    return library
