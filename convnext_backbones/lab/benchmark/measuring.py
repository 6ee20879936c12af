"""Seconds and bytes of a call, turn about with others, and the ratio of two.

cli/tune_kernels times its kernels with `interleaved` too.
"""

import gc
import os
import statistics
import time
from collections.abc import Callable, Hashable
from typing import NamedTuple, TypeVar

import torch

Key = TypeVar("Key", bound=Hashable)
LEAST_ROUNDS = 3  # a median that one slow moment of the machine does not move


class Ratio(NamedTuple):
    """Median and quartiles of the rounds' ratios."""

    median: float
    low: float
    high: float


def ratio(ours: list[float], theirs: list[float]) -> Ratio:
    """Of the seconds of the same rounds."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    if len(ratios) == 1:
        return Ratio(ratios[0], ratios[0], ratios[0])
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Ratio(median, low, high)


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """Of one call: by CUDA events on a GPU, by the clock elsewhere."""
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize(device)
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1000
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def interleaved(
    runs: dict[Key, Callable[[], object]],
    rounds: int,
    device: torch.device,
    most_seconds: float | None = None,
    pause: float = 0.0,
) -> dict[Key, list[float]]:
    """Seconds of each run in each round. Every round begins with another run than the last.

    After most_seconds no further round begins; but LEAST_ROUNDS are run, or as many as were asked for.
    pause: seconds before each run.
    """
    names, measured = list(runs), {name: [] for name in runs}
    started = time.perf_counter()
    for i in range(rounds):
        spent = most_seconds is not None and time.perf_counter() - started > most_seconds
        if spent and i >= LEAST_ROUNDS:
            break
        first = i % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(pause)
            measured[name].append(seconds(runs[name], device))
    return measured


def peak_memory(run: Callable[[], object], device: torch.device) -> int:
    """The greatest number of bytes that a call holds beside what was there before it.

    On a GPU by torch.cuda.max_memory_allocated. On the CPU by PyTorch's allocator, whose every
    allocation and release the profiler lists: the same figure in every run. It counts activations,
    gradients and the operators' buffers; not the weights, the images, or what libraries allocate by
    themselves.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it writes two lines a measurement
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True, acc_events=True
    ) as profile:
        run()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak
