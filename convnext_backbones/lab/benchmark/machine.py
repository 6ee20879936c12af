"""The machine of a run: what it is, how fast it is, and the limit that follows for a network."""

import datetime
import importlib
import importlib.metadata
import platform
import re
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from ...kernels import cpp, processor
from ...kernels.linear import linear
from ...network.prepared import fastest_dtype
from .measuring import interleaved

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Size = tuple[int, int, int]  # N, H, W
MOST_SECONDS = 2.0  # of the machine's speed in one kind of work
# From the oldest to the newest.
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


def describe_machine(device: torch.device) -> dict:
    """Processor, its flags for low precision, threads, versions, date."""
    name, flags = _processor()
    machine = {
        "device": device.type,
        "processor": name,
        "flags": flags,
        "threads": torch.get_num_threads(),
        "packages": _packages(),
        "date": datetime.date.today().isoformat(),
    }
    if processor.masked():
        machine["masked"] = sorted(processor.masked())
    if device.type == "cuda":
        machine["processor"] = torch.cuda.get_device_name(device)
        machine["cuda"] = torch.version.cuda
        machine["tf32"] = torch.backends.cuda.matmul.allow_tf32
        machine["tf32_convolutions"] = torch.backends.cudnn.allow_tf32
    return machine


def _packages() -> dict[str, str]:
    """Name to version, of what is measured and what it runs on."""
    versions = {}
    for package in ("torch", "torchvision", "timm", "transformers", "triton", "numpy"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    versions["convnext_backbones"] = importlib.import_module("convnext_backbones").__version__
    versions["python"] = platform.python_version()
    return versions


def _processor() -> tuple[str, list[str]]:
    """Its name, and those of _FLAGS that it has; none where the system does not list them."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return name, []
    text = cpuinfo.read_text()
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    listed = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
    flags = [flag for flag in _FLAGS if listed and flag in listed[1].split()]
    return named[1] if named else name, flags


def slug(machine: dict) -> str:
    """A file name for a kind of machine: intel-xeon-processor-amx-bf16, amd-epyc-avx2.

    A CPU's name alone, as virtual machines give it, stands for several generations; what they compute with differs.
    """
    words = re.sub(r"\((r|tm)\)", "", machine["processor"].lower())
    flags = [flag for flag in machine["flags"] if flag != "amx_tile"]
    if machine["device"] == "cpu" and flags:
        words += f" {flags[-1]}"
    return re.sub(r"[^a-z0-9]+", "-", words).strip("-")


def computes_in_bfloat16(device: torch.device) -> bool:
    """Has it instructions for bfloat16? It is what prepare_for_inference asks for its dtype."""
    return fastest_dtype(nn.Linear(1, 1, device=device)) == torch.bfloat16


def can_compile(device: torch.device) -> bool:
    """Can torch.compile work there? On a CPU it calls the C++ compiler."""
    return device.type != "cpu" or processor.cxx_compiler() is not None


def compiles_in_seconds(device: torch.device) -> bool:
    """Does prepare_for_inference(compile=True) build kernels of ours there, or for a GPU?

    On other CPUs it is torch.compile, which takes a minute a network and gains little.
    """
    return device.type != "cpu" or cpp.choice(torch.float32)[0] is not None


# ---- its speed, and the computed limit ---------------------------------------------------------
def flops(arch: dict, size: Size) -> float:
    """Two per multiply-accumulate, of the trunk's convolutions and pointwise layers."""
    batch, height, width = size
    total, before = 0, 3 * 4  # the stem's 4x4 pixels are 2x2 of 2x2
    for i, (depth, dim) in enumerate(zip(arch["depths"], arch["dims"], strict=True)):
        positions = batch * (height // 4 // 2**i) * (width // 4 // 2**i)
        total += positions * dim * (4 * before + depth * (49 + 8 * dim))
        before = dim
    return 2.0 * total


def traffic(arch: dict, size: Size, itemsize: int) -> float:
    """Bytes that three kernels a block read and write: 13 maps of N x C x H x W.

    Depthwise+LN reads and writes one map, fc1+GELU reads one and writes four, fc2+scale+residual
    reads four and one and writes one.
    """
    batch, height, width = size
    maps = 13
    return float(
        sum(
            maps * depth * batch * (height // 4 // 2**i) * (width // 4 // 2**i) * dim * itemsize
            for i, (depth, dim) in enumerate(zip(arch["depths"], arch["dims"], strict=True))
        )
    )


def machine_speed(device: torch.device, rounds: int = 7) -> dict[str, float]:
    """Matrix products in FLOP/s per dtype, and a copy in bytes/s, read and written both counted.

    The fastest of the rounds, which end after MOST_SECONDS each; on a CPU of two libraries, since MKL, which torch
    multiplies matrices with, is held back on some processors, and oneDNN, which computes the blocks' layers, is not.
    bfloat16 only where the device computes in it: emulated, its speed is no limit of anything.
    """
    gpu = device.type == "cuda"
    side, length = (8192, 2**28) if gpu else (2048, 2**26)
    speeds = {}
    for name, dtype in DTYPES.items():
        if dtype == torch.bfloat16 and not computes_in_bfloat16(device):
            continue
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        a @ b
        fastest = _fastest(lambda a=a, b=b: a @ b, rounds, device)
        if not gpu:
            bias = b.new_zeros(side)
            by_layer = _fastest(lambda a=a, b=b, c=bias: linear(a[None], b, c), rounds, device)
            fastest = min(fastest, by_layer)
        speeds[f"matrix product {name}, FLOP/s"] = 2 * side**3 / fastest
    source = torch.ones(length, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    fastest = _fastest(lambda: target.copy_(source), rounds, device)
    speeds["copy, bytes/s"] = 2 * source.numel() * source.element_size() / fastest
    return speeds


def _fastest(run: Callable[[], object], rounds: int, device: torch.device) -> float:
    """Seconds of the fastest call."""
    (measured,) = interleaved({"": run}, rounds, device, MOST_SECONDS).values()
    return min(measured)


def limits(arch: dict, size: Size, dtype: str, speeds: dict[str, float]) -> dict[str, float]:
    """Seconds that the arithmetic and the traffic take at the measured speeds; no run is faster
    than the greater of the two, unless it fuses more."""
    itemsize = DTYPES[dtype].itemsize
    return {
        "arithmetic": flops(arch, size) / speeds[f"matrix product {dtype}, FLOP/s"],
        "traffic": traffic(arch, size, itemsize) / speeds["copy, bytes/s"],
    }
