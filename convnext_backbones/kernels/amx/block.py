"""Stem, downsampling and block in bfloat16 on CPUs with AMX, a kernel each in C++ (block.cpp).

They are compiled by the system's C++ compiler when it is first asked for, and kept in torch's
folder of extensions (TORCH_EXTENSIONS_DIR).
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SOURCE = Path(__file__).with_suffix(".cpp")
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


def processor_has(name: str) -> bool:
    """Has this processor a capability, by torch's name for it: amx_bf16, avx512_bf16?"""
    return bool(_capabilities().get(name, False))


@functools.cache
def _capabilities() -> dict[str, bool]:
    if hasattr(torch.cpu, "get_capabilities"):  # newer than torch 2.4, the oldest we take
        return dict(torch.cpu.get_capabilities())
    try:
        words = Path("/proc/cpuinfo").read_text().split()
    except OSError:
        return {}
    return {name: name in words or name.replace("_", "") in words for name in NEEDED}


def fits(channels: int) -> bool:
    """Can the kernel compute a block of so many channels?"""
    return channels % 8 == 0


def takes(x: Tensor) -> bool:
    """Can the kernels compute with this tensor: one in memory, seen by nothing but the network?

    What compiles, exports, traces or counts the model sees operators of torch alone.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    return type(x) is Tensor and x.device.type == "cpu" and not torch._C._len_torch_dispatch_stack()


@functools.cache
def why_not() -> str | None:
    """Why the kernel cannot run on this machine, in a few words; None where it can."""
    if platform.system() != "Linux":
        return f"it is written for Linux, not {platform.system()}"
    missing = [name for name in NEEDED if not processor_has(name)]
    if missing:
        return f"this processor lacks {', '.join(missing)}"
    try:
        _library()
    except (OSError, subprocess.SubprocessError) as error:
        output = (getattr(error, "stderr", None) or str(error)).strip()
        return f"the C++ compiler did not build it ({output.splitlines()[-1] if output else error})"
    return None


@functools.cache
def _library() -> ctypes.CDLL:
    """The compiled kernel.

    Raises:
        OSError: no compiler, no place to write, no permission to use AMX.
        subprocess.CalledProcessError: the compiler failed.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++")) or shutil.which("g++")
    if compiler is None:
        raise OSError("no C++ compiler was found; install g++ or set CXX")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cache / "torch_extensions")
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join([compiler, *FLAGS]).encode()).hexdigest()
    path = root / "convnext_backbones" / f"cpu_block_{key[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        made = path.with_suffix(f".{os.getpid()}.tmp")
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(made)]
        subprocess.run(command, check=True, capture_output=True, text=True)
        made.replace(path)  # in one step: another process may be building it too
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


class CpuBlock(nn.Module):
    """A block whose LayerNorm, layer scale and GRN's beta are folded already.

    Args:
        depthwise, depthwise_bias: (C, 1, 7, 7) and (C,).
        weight1, bias1, weight2, bias2: of the pointwise layers, (4C, C), (4C,), (C, 4C), (C,).
        grn_gamma: (4C,), or None in V1.
    """

    def __init__(
        self,
        depthwise: Tensor,
        depthwise_bias: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        grn_gamma: Tensor | None,
        *,
        dilation: int,
        eps: float,
        grn_eps: float,
    ):
        super().__init__()
        self.channels = depthwise.shape[0]
        self.dilation, self.eps, self.grn_eps = dilation, eps, grn_eps
        taps = _chunks(depthwise.flatten(1).t())
        self.register_buffer("depthwise", taps)
        self.register_buffer("depthwise_bias", _chunks(depthwise_bias[None]))
        self.register_buffer("weight1", _blocks(weight1).bfloat16())
        self.register_buffer("bias1", bias1.float())
        self.register_buffer("weight2", _blocks(weight2).bfloat16())
        self.register_buffer("bias2", _padded(bias2))
        self.register_buffer("grn_gamma", None if grn_gamma is None else grn_gamma.float())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in bfloat16, channels-last, to the same."""
        n, c, height, width = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x, memory_format=torch.channels_last)
        if x.numel() == 0:
            return y
        grn = self.grn_gamma is not None
        _run(
            "convnext_block",
            x.data_ptr(), y.data_ptr(), n, height, width, c, self.dilation,
            self.depthwise.data_ptr(), self.depthwise_bias.data_ptr(), self.eps,
            self.weight1.data_ptr(), self.bias1.data_ptr(),
            self.weight2.data_ptr(), self.bias2.data_ptr(),
            self.grn_gamma.data_ptr() if grn else None, self.grn_eps,
        )  # fmt: skip
        return y


class CpuDownsample(nn.Module):
    """LayerNorm without affine and a 2x2 convolution of stride 2.

    Args:
        weight, bias: (O, C, 2, 2) and (O,).
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, eps: float):
        super().__init__()
        self.out, self.channels = weight.shape[:2]
        self.eps = eps
        weight = F.pad(weight.permute(0, 2, 3, 1), (0, -self.channels % 32))
        self.register_buffer("weight", _blocks(weight.flatten(1)).bfloat16())
        self.register_buffer("bias", _padded(bias))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in bfloat16, channels-last, to (N, O, H // 2, W // 2)."""
        n, c, height, width = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        y = _empty(n, self.out, height // 2, width // 2)
        _run(
            "convnext_downsample", x.data_ptr(), y.data_ptr(), n, height, width, c, self.out,
            self.eps, self.weight.data_ptr(), self.bias.data_ptr(),
        )  # fmt: skip
        return y


class CpuStem(nn.Module):
    """A convolution of patches and LayerNorm.

    Args:
        weight, bias: (O, C, p, p) and (O,). norm_weight, norm_bias: (O,).
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, *, eps: float
    ):
        super().__init__()
        self.out, self.patch, self.eps = weight.shape[0], weight.shape[-1], eps
        self.register_buffer("weight", _blocks(weight.flatten(1)).bfloat16())
        self.register_buffer("bias", _padded(bias))
        self.register_buffer("norm_weight", _padded(norm_weight))
        self.register_buffer("norm_bias", _padded(norm_bias))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H // p, W // p) in bfloat16, channels-last."""
        n, c, height, width = images.shape
        images = images.float().contiguous()
        y = _empty(n, self.out, height // self.patch, width // self.patch)
        _run(
            "convnext_stem", images.data_ptr(), y.data_ptr(), n, c, height, width, self.patch,
            self.out, self.weight.data_ptr(), self.bias.data_ptr(), self.norm_weight.data_ptr(),
            self.norm_bias.data_ptr(), self.eps,
        )  # fmt: skip
        return y


def _run(name: str, *arguments) -> None:
    if getattr(_library(), name)(*arguments):
        raise MemoryError("there is no memory left for the maps of these images")


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, memory_format=torch.channels_last)


def _padded(x: Tensor) -> Tensor:
    return F.pad(x.float(), (0, -len(x) % 32))


def _chunks(x: Tensor) -> Tensor:
    """(T, C) to (C / 16, T, 16), the channels padded with zeros."""
    x = F.pad(x.float(), (0, -x.shape[1] % 16))
    return x.unflatten(1, (-1, 16)).transpose(0, 1).contiguous()


def _blocks(weight: Tensor) -> Tensor:
    """(out, in) to (out / 32, in / 32, 2, 16, 16, 2), as AMX reads it; padded with zeros."""
    out, taken = weight.shape
    weight = F.pad(weight, (0, -taken % 32, 0, -out % 32))
    weight = weight.reshape(-(-out // 32), 2, 16, -(-taken // 32), 16, 2)
    return weight.permute(0, 3, 1, 4, 2, 5).contiguous()
