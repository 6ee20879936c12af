"""What this machine and environment have, without importing a framework."""

import contextlib
import os
import platform
import re
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..kernels.processor import cxx_compiler
from ..runs.machine import installed, memory, normal, processor

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


def numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def read_facts() -> Facts:
    packages = installed()
    asking = [name for name in ("torchvision", "mmdet", "mmsegmentation") if name in packages]
    model, instructions = processor()
    return Facts(
        python=platform.python_version(),
        platform=platform.platform(),
        prefix=sys.prefix,
        versions={name: package.version for name, package in packages.items()},
        requires={name: packages[name].requires or [] for name in asking},
        processor=model,
        instructions=instructions,
        compiler=cxx_compiler(),
        memory=memory(),
        free={str(folder): _free(folder) for folder in _written()},
    )


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
