"""What it costs a training step to give freed memory back to the system: kernels/allocation.py."""

import resource
import statistics
from collections.abc import Callable

from ...kernels.allocation import keep_freed_memory
from ...network.classifier import ConvNeXtClassifier
from .contests import CONTESTS, our_entry, random_images
from .machine import Size
from .measuring import ratio, seconds

KEPT, GIVEN_BACK = "kept", "given back"


def measure_allocation(
    ours: ConvNeXtClassifier,
    size: Size,
    *,
    rounds: int = 7,
    keep: Callable[[bool], bool] = keep_freed_memory,
) -> dict:
    """Seconds and page faults of an eager float32 training step, freed memory kept and given back.

    Each round takes both in turn. The step after a change of the setting takes the memory that the
    setting then deals with, and is not counted. Afterwards memory is given back, as glibc does by itself.

    Returns:
        size, seconds and faults by KEPT and GIVEN_BACK (a list of the rounds), and ratio, kept over
        given back; or size and skipped, the reason, where this system's memory cannot be told so.
    """
    if not keep(False):
        return {"size": list(size), "skipped": "this system's C library has no mallopt (glibc has)"}
    images = random_images(ours, size)
    step = our_entry(ours, images, CONTESTS["training, eager fp32"]).run
    measured = {KEPT: [], GIVEN_BACK: []}
    faults = {KEPT: [], GIVEN_BACK: []}
    try:
        step()
        for i in range(rounds):
            for name in (KEPT, GIVEN_BACK) if i % 2 == 0 else (GIVEN_BACK, KEPT):
                keep(name == KEPT)
                step()
                before = _faults()
                measured[name].append(seconds(step, images.device))
                faults[name].append(_faults() - before)
    finally:
        keep(False)
    return {
        "size": list(size),
        "seconds": measured,
        "medians": {name: statistics.median(values) for name, values in measured.items()},
        "faults": {name: statistics.median(values) for name, values in faults.items()},
        "ratio": ratio(measured[KEPT], measured[GIVEN_BACK])._asdict(),
    }


def _faults() -> int:
    """Pages that the process was given so far without reading a disk."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
