"""Time and memory against area, images of varying shapes, and the start of a process."""

import itertools
import statistics
import subprocess
import sys
from collections.abc import Iterable

from torch import nn

from ...errors import UserError
from ...network.classifier import ConvNeXtClassifier
from ...network.variants import VARIANTS
from .contests import CONTESTS, OURS, infer, our_entry, peer_entry, prepare, random_images
from .machine import compiles_in_seconds
from .measuring import interleaved, peak_memory, seconds

DOUBLING = ((256, 256), (256, 512), (512, 512), (512, 1024))  # each twice the area before
# Height and width as COCO's pictures have them, the short side 480 to 800, the long at most 1333.
STREAM = (
    (480, 640), (576, 768), (800, 1067), (640, 480), (672, 1008), (704, 939), (768, 512), (800, 800),
    (544, 725), (800, 1199), (608, 912), (960, 640), (736, 981), (480, 853), (1067, 800), (512, 683),
)  # fmt: skip


def _our_forms(ours: ConvNeXtClassifier) -> tuple[dict[str, nn.Module], str]:
    """Name to model, of ours as it is and prepared as fast as the device allows; the latter's form."""
    prepared, form = prepare(ours, compile=compiles_in_seconds(next(ours.parameters()).device))
    return {OURS: ours, "ours, prepared": prepared}, form


def measure_growth(
    ours: ConvNeXtClassifier,
    peer: str | None,
    *,
    layout: str = "NCHW",
    sizes: Iterable[tuple[int, int]] = DOUBLING,
    rounds: int = 7,
    new_shapes: int = 3,
) -> dict:
    """Seconds and training memory against area, ours and a peer's, eager float32, one image; and
    the first call at a new shape over the calls after it, for the first new_shapes of the sizes.

    In the result, growth and memory_growth list t(2A) / t(A) and the same of the memory.
    """
    sizes = [tuple(size) for size in sizes]
    result = {"sizes": sizes, "pixels": [height * width for height, width in sizes]}
    result |= _against_area(ours, peer, layout, sizes, rounds)
    result["growth"] = [b / a for a, b in itertools.pairwise(result["seconds"][OURS])]
    result["memory_growth"] = [b / a for a, b in itertools.pairwise(result["memory"][OURS])]
    forms, result["prepared"] = _our_forms(ours)
    result["new_shape"] = {
        name: _new_shape(model, sizes[:new_shapes]) for name, model in forms.items()
    }
    return result


def _against_area(ours, peer, layout, sizes, rounds) -> dict:
    """Medians of inference, and peaks of a training step, of each contestant at each size."""
    device = next(ours.parameters()).device
    inference, training = CONTESTS["inference, eager fp32"], CONTESTS["training, eager fp32"]
    runs, steps, names = {}, {}, [OURS]
    for size in sizes:
        images = random_images(ours, (1, *size))
        runs[OURS, size] = lambda images=images: infer(ours, images)
        steps[OURS, size] = our_entry(ours, images, training).run
        if peer is not None:
            entry = peer_entry(peer, ours, images, inference, layout)
            names = [OURS, entry.name]
            runs[entry.name, size] = entry.run
            steps[entry.name, size] = peer_entry(peer, ours, images, training, layout).run
    for run in runs.values():
        run()
    measured = interleaved(runs, rounds, device)
    times = {name: [statistics.median(measured[name, size]) for size in sizes] for name in names}
    memory = {name: [peak_memory(steps[name, size], device) for size in sizes] for name in names}
    return {"seconds": times, "memory": memory}


def _new_shape(model: nn.Module, sizes: Iterable[tuple[int, int]]) -> float:
    """Seconds of the first call at a shape over those of the next three; the median of the shapes."""
    costs = []
    for height, width in sizes:
        images = random_images(model, (1, height + 32, width))  # a shape that was not seen
        first, *later = (seconds(lambda x=images: infer(model, x), images.device) for _ in range(4))
        costs.append(first / statistics.median(later))
    return statistics.median(costs)


def measure_stream(
    ours: ConvNeXtClassifier,
    peer: str,
    *,
    layout: str,
    shapes: Iterable[tuple[int, int]] = STREAM,
) -> dict:
    """Total seconds for images of varying shapes, each shape for the first time; eager float32, and
    ours prepared. The contestants take each image in turn."""
    device = next(ours.parameters()).device
    forms, form = _our_forms(ours)
    totals, shapes, warm = {}, list(shapes), False
    for height, width in [(448, 448), *shapes]:  # the first one is not counted
        images = random_images(ours, (1, height, width))
        other = peer_entry(peer, ours, images, CONTESTS["inference, eager fp32"], layout)
        runs = {n: lambda m=m, x=images: infer(m, x) for n, m in forms.items()}
        for name, run in (runs | {other.name: other.run}).items():
            taken = seconds(run, device)
            if warm:
                totals[name] = totals.get(name, 0.0) + taken
        warm = True
    return {"shapes": shapes, "seconds": totals, "prepared": form}


_START_UP = """
import time
started = time.perf_counter()
import torch
torch_seconds = time.perf_counter() - started
{imported}
imported = time.perf_counter() - started - torch_seconds
{build}
print(torch_seconds, imported, time.perf_counter() - started)
"""
_BUILDS = {
    OURS: ("from convnext_backbones import create_classifier", "create_classifier({name!r})"),
    "timm": ("import timm", "timm.create_model({name!r})"),
    "transformers": (
        "import transformers",
        "transformers.{family}ForImageClassification(transformers.{family}Config())",
    ),
    "torchvision": ("import torchvision", "torchvision.models.{name}()"),
}


def measure_start_up(name: str, peers: Iterable[str] = (), processes: int = 3) -> dict:
    """Seconds in fresh processes, the median: import of torch, of the package beyond it, and in all
    until the model of this name is built. transformers builds its default, Tiny."""
    family = "ConvNextV2" if VARIANTS[name].version == 2 else "ConvNext"
    result = {}
    for package in (OURS, *peers):
        if package not in _BUILDS:
            continue
        imported, build = _BUILDS[package]
        code = _START_UP.format(imported=imported, build=build.format(name=name, family=family))
        runs = []
        for _ in range(processes):
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{package} does not start: {done.stderr.strip().splitlines()[-1]}")
            runs.append([float(word) for word in done.stdout.split()])
        medians = [statistics.median(values) for values in zip(*runs, strict=True)]
        result[package] = dict(zip(("torch", "import", "total"), medians, strict=True))
    return result
