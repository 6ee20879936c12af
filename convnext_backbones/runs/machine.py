"""What a machine is and which packages are on it, without importing one of them."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

# Names in a registry whose versions are told, in the order of a table.
TOLD = (
    *("convnext_backbones", "torch", "torchvision", "triton", "numpy", "setuptools"),
    *("mmengine", "mmcv", "mmdet", "mmsegmentation", "mmpretrain"),
    *("onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation"),
    *("mmcv-lite", "mmcv-full", "detectron2", "omegaconf", "hydra-core", "fvcore"),
    *("opencv-python", "opencv-python-headless", "opencv-contrib-python", "pycocotools"),
    *("timm", "transformers", "keras", "tensorflow", "safetensors", "supervision"),
)
INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd")


def normal(name: str) -> str:
    """As registries compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, importlib.metadata.Distribution]:
    """What is installed, by its normal name; of two, the first on the path, which is imported."""
    found: dict[str, importlib.metadata.Distribution] = {}
    for distribution in importlib.metadata.distributions():
        if name := normal(distribution.metadata["Name"] or ""):
            found.setdefault(name, distribution)
    return found


def processor() -> tuple[str, list[str]]:
    """Its name, and which of INSTRUCTIONS it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), []
    entries = dict(
        [part.strip() for part in line.split(":", 1)] for line in reversed(lines) if ":" in line
    )
    words = entries.get("flags", entries.get("Features", "")).split()
    return entries.get("model name", platform.machine()), [w for w in INSTRUCTIONS if w in words]


def memory() -> int | None:
    """Bytes of main memory; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
