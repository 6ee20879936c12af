"""What this machine and environment have, without importing a framework."""

import contextlib
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..kernels.processor import cxx_compiler

# Names in a registry whose versions are told, in the order of the table.
TOLD = (
    *("convnext_backbones", "torch", "torchvision", "triton", "numpy", "setuptools"),
    *("mmengine", "mmcv", "mmdet", "mmsegmentation", "mmpretrain"),
    *("onedl-mmengine", "onedl-mmcv", "onedl-mmdetection", "onedl-mmsegmentation"),
    *("mmcv-lite", "mmcv-full", "detectron2", "omegaconf", "hydra-core", "fvcore"),
    *("opencv-python", "opencv-python-headless", "opencv-contrib-python", "pycocotools"),
    *("timm", "transformers", "keras", "tensorflow", "safetensors", "supervision"),
)
GIB = 1 << 30


@dataclass
class Facts:
    """sizes in bytes; versions by the name in a registry, lower case with hyphens."""

    python: str
    platform: str
    prefix: str
    versions: dict[str, str]
    requires: dict[str, list[str]]  # what some of them ask for
    processor: str
    instructions: list[str]
    compiler: str | None
    memory: int | None
    free: dict[str, int | None]  # of the folders that are written; None where one cannot write
    torch: dict[str, object] = field(default_factory=dict)  # what the trial of torch told

    def has(self, name: str) -> bool:
        return normal(name) in self.versions

    def version(self, name: str) -> tuple[int, ...]:
        """The numbers of a version: (2, 12, 1) of 2.12.1+cpu; () where it is not installed."""
        return numbers(self.versions.get(normal(name), ""))

    def as_json(self) -> dict[str, object]:
        return asdict(self)


def normal(name: str) -> str:
    """As registries compare names."""
    return re.sub(r"[-_.]+", "-", name).lower()


def numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def read_facts() -> Facts:
    versions, requires = {}, {}
    for distribution in importlib.metadata.distributions():
        name = normal(distribution.metadata["Name"] or "")
        if name and name not in versions:  # the first on the path is the one that is imported
            versions[name] = distribution.version
            if name in ("torchvision", "mmdet", "mmsegmentation"):
                requires[name] = distribution.requires or []
    model, instructions = _processor()
    return Facts(
        python=platform.python_version(),
        platform=platform.platform(),
        prefix=sys.prefix,
        versions=versions,
        requires=requires,
        processor=model,
        instructions=instructions,
        compiler=cxx_compiler(),
        memory=_memory(),
        free={str(folder): _free(folder) for folder in _written()},
    )


def _processor() -> tuple[str, list[str]]:
    """Its name, and which of the instruction sets that matter here it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), []
    entries = dict(
        [part.strip() for part in line.split(":", 1)] for line in reversed(lines) if ":" in line
    )
    words = entries.get("flags", entries.get("Features", "")).split()
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "asimd")
    return entries.get("model name", platform.machine()), [w for w in wanted if w in words]


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _written() -> list[Path]:
    """Folders that commands write into: torch's downloads, runs, temporary files."""
    cache = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    downloads = Path(os.environ.get("TORCH_HOME", f"{cache}/torch"), "hub/checkpoints")
    folders = [downloads.expanduser(), Path.cwd() / "work_dirs"]
    with contextlib.suppress(FileNotFoundError):  # no folder for temporary files can be written
        folders.append(Path(tempfile.gettempdir()))
    return folders


def _free(folder: Path) -> int | None:
    """Bytes that may be written there or in the nearest folder above; None where one cannot write."""
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return shutil.disk_usage(folder).free
    except OSError:
        return None
