"""Which Triton kernels run: those that a measurement on this very device found faster.

tools/tune_kernels.py writes the measurements: for each kernel, data type and shape, the fastest
configuration and the times of kernel and plain operators; and for whole blocks the times with those
kernels and by the plain steps, launches included. Without such a table no kernel runs.
Nothing here imports Triton, so that asking costs nothing on a machine without it.
"""

import functools
import importlib.metadata
import json
import math
import os
import re
import warnings
from pathlib import Path

import torch

PACKAGED = Path(__file__).parent / "tuned"
OLDEST_TRITON = (3, 4)  # tuples of tensors in kernels, triton.knobs
TRAINING, INFERENCE = "block, training", "block, inference"  # rows of whole blocks
GAIN = 0.97  # of the plain operators' time, at most: less is within a measurement's noise
# How far a shape may be from a measured one, as a factor.
POSITIONS, IMAGE, CHANNELS = 4.0, 4.0, 1.5


def available(device: torch.device | str) -> bool:
    """Can the kernels run on tensors of `device`? On a CPU, in Triton's interpreter alone."""
    device = torch.device(device)
    if not _has_triton():
        return False
    if device.type == "cpu":
        return os.environ.get("TRITON_INTERPRET") == "1"
    if device.type != "cuda" or torch.version.hip or not torch.cuda.is_available():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def tuned(
    device: torch.device | str,
    dtype: torch.dtype,
    n: int,
    h: int,
    w: int,
    c: int,
    version: int,
    *,
    training: bool,
) -> dict[str, dict]:
    """Name to configuration of the kernels that make blocks of (n, h, w, c) maps faster.

    They are those that take less time than what they replace, if a block with all of them takes less than
    one of plain steps. A shape stands for the nearest measured one of the same data type and version:
    nearest in the sum of the logarithms' differences of n * h * w, h * w and c. A shape further than a
    factor 4, 4 or 1.5 from every measured one has no kernels.
    """
    if torch.device(device).type != "cuda":
        return {}
    block = TRAINING if training else INFERENCE
    return _chosen(str(device), block, str(dtype), n, h, w, c, version)


def device_slug(device: torch.device | str) -> str:
    """The device's name as part of a file's name: "nvidia-h200"."""
    index = torch.device(device).index
    return _slug(torch.cuda.current_device() if index is None else index)


@functools.cache
def _slug(index: int) -> str:
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(index).lower()).strip("-")


def cache_file(slug: str) -> Path:
    """Where tools/tune_kernels.py keeps this machine's measurements. It goes before the package's."""
    return Path("~/.cache/convnext-backbones/tuned").expanduser() / f"{slug}.json"


@functools.cache
def _has_triton() -> bool:
    try:
        found = importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        return False
    return tuple(int(part) for part in re.findall(r"\d+", found)[:2]) >= OLDEST_TRITON


@functools.cache
def read_table(slug: str) -> list[dict]:
    """The rows measured on a device: of the user's cache, else of the package, else none."""
    for path in (cache_file(slug), PACKAGED / f"{slug}.json"):
        if not path.is_file():
            continue
        try:
            rows = json.loads(path.read_text())["measured"]
            for row in rows:
                _check(row)
            return rows
        except (OSError, ValueError, KeyError, TypeError) as error:
            warnings.warn(
                f"{path} is no table of kernel measurements ({error!r}) and is left out: "
                "write it again with tools/tune_kernels.py, or delete it",
                stacklevel=2,
            )
    return []


def _check(row: dict) -> None:
    for key, kind in (("kernel", str), ("dtype", str), ("config", dict), ("ratio", (int, float))):
        if not isinstance(row[key], kind):
            raise TypeError(f"{key} is {row[key]!r}")
    for key in ("n", "h", "w", "c", "version"):
        if not isinstance(row[key], int) or row[key] < 1:
            raise ValueError(f"{key} is {row[key]!r}")


@functools.lru_cache(maxsize=4096)
def _chosen(device: str, block: str, *shape) -> dict[str, dict]:
    rows = _nearest_rows(device_slug(device), *shape) if available(device) else {}
    return kernels_of(rows) if block in rows and rows[block]["ratio"] <= GAIN else {}


def kernels_of(rows: dict[str, dict]) -> dict[str, dict]:
    """Name to configuration of the kernels among these rows that are faster than what they replace."""
    return {
        name: row["config"]
        for name, row in rows.items()
        if row["ratio"] <= GAIN and name not in (TRAINING, INFERENCE)
    }


def _nearest_rows(
    slug: str, dtype: str, n: int, h: int, w: int, c: int, version: int
) -> dict[str, dict]:
    """Kernel name -> the row of the nearest measured shape."""
    nearest: dict[str, tuple[float, dict]] = {}
    for row in read_table(slug):
        if row["dtype"] != dtype or row["version"] != version:
            continue
        image = row["h"] * row["w"]
        apart = (
            abs(math.log((n * h * w) / (row["n"] * image))),
            abs(math.log((h * w) / image)),
            abs(math.log(c / row["c"])),
        )
        if any(
            a > math.log(b) + 1e-9 for a, b in zip(apart, (POSITIONS, IMAGE, CHANNELS), strict=True)
        ):
            continue
        best = nearest.get(row["kernel"])
        if best is None or sum(apart) < best[0]:
            nearest[row["kernel"]] = (sum(apart), row)
    return {name: row for name, (_, row) in nearest.items()}
