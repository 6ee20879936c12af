"""Our ConvNeXt against the other implementations: same weights, same process, turn about.

A contest lets ours and its peers do the same work on the same images. Each contestant's outputs must
first equal ours in float32; then all are timed in rounds, one call each, so that a slow moment of the
machine hits them alike. What counts is the median over the rounds of (our seconds) / (the best peer's).
docs/benchmarks/README.md says what each contest means, and how the limit is computed.
"""

import copy
import datetime
import gc
import importlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...network.classifier import ConvNeXtClassifier
from ...network.variants import VARIANTS
from ..peers import MORE_PEERS, PEERS, MissingPeerError, build_peer

OURS = "ours"
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# How far outputs may lie from ours in float32, relative to the greatest. bfloat16 has 8 bits: twenty
# blocks differ by some of its units.
TOLERANCES = {"fp32": 1e-4, "bf16": 0.1}
Size = tuple[int, int, int]  # N, H, W


class Contest(NamedTuple):
    """What is compared.

    group: what --only selects. work: "inference" or "training" (forward and backward). prepared:
    ours is prepare_for_inference's module, in bfloat16. dtype, compiled: of the peers, and of ours
    where it is not prepared; bf16 is pure in inference and autocast in training. typed: no layout is
    chosen for anyone. compile_ours: where ours differs from the peers in that.
    """

    group: str
    work: str
    dtype: str = "fp32"
    compiled: bool = False
    prepared: bool = False
    typed: bool = False
    compile_ours: bool | None = None

    @property
    def ours_compiled(self) -> bool:
        return self.compiled if self.compile_ours is None else self.compile_ours


CONTESTS = {
    "inference, eager fp32": Contest("inference", "inference"),
    "inference, as typed": Contest("inference", "inference", typed=True),
    "inference, compiled fp32": Contest("inference", "inference", compiled=True),
    "prepared bf16 / eager bf16": Contest("prepared", "inference", "bf16", prepared=True),
    "prepared compiled bf16 / compiled bf16": Contest(
        "prepared", "inference", "bf16", compiled=True, prepared=True
    ),
    "prepared compiled bf16 / eager fp32": Contest(
        "prepared", "inference", prepared=True, compile_ours=True
    ),
    "prepared bf16 / eager fp32": Contest("prepared", "inference", prepared=True),
    "training, eager fp32": Contest("training", "training"),
    "training, as typed": Contest("training", "training", typed=True),
    "training, compiled fp32": Contest("compiled_training", "training", compiled=True),
    "training, eager bf16 autocast": Contest("training", "training", "bf16"),
    "training, compiled bf16 autocast": Contest(
        "compiled_training", "training", "bf16", compiled=True
    ),
}


class Figure(NamedTuple):
    """A figure to reach: the ratio of a contest at a size, Tiny; quantity "time" or "memory"."""

    contest: str
    version: int
    size: Size
    most: float
    quantity: str = "time"


_CPU, _GPU = (1, 512, 512), ((2, 512, 512), (2, 800, 1344))
FIGURES = {
    "cpu": (
        Figure("inference, eager fp32", 1, _CPU, 0.80),
        Figure("inference, eager fp32", 2, _CPU, 0.40),
        Figure("training, eager fp32", 1, _CPU, 0.85),
        Figure("training, eager fp32", 2, _CPU, 0.55),
        Figure("training, eager fp32", 2, _CPU, 0.60, "memory"),
        Figure("prepared compiled bf16 / compiled bf16", 1, _CPU, 0.85),
        Figure("prepared compiled bf16 / compiled bf16", 2, _CPU, 0.70),
        Figure("prepared compiled bf16 / eager fp32", 1, _CPU, 0.12),
        Figure("prepared compiled bf16 / eager fp32", 2, _CPU, 0.12),
        Figure("prepared bf16 / eager fp32", 1, _CPU, 0.12),
        Figure("prepared bf16 / eager fp32", 2, _CPU, 0.12),
    ),
    "cuda": tuple(
        Figure(contest, version, size, most, quantity)
        for contest, most, quantity in (
            ("training, eager bf16 autocast", 0.60, "time"),
            ("training, compiled bf16 autocast", 0.85, "time"),
            ("training, eager bf16 autocast", 0.60, "memory"),
        )
        for version in (1, 2)
        for size in _GPU
    ),
}
# On a GPU: inference in at most twice the computed limit.
MOST_OF_FLOOR, _FLOOR_CONTEST = 2.0, "prepared compiled bf16 / compiled bf16"
# On every device. Time and training memory at twice the area; the first call at a new shape over the
# next ones; seconds.
MOST_GROWTH, MOST_MEMORY_GROWTH, MOST_NEW_SHAPE = 2.2, 2.05, 2.0
MOST_START_UP, MOST_IMPORT = 3.0, 0.2


# ---- measuring ---------------------------------------------------------------------------------
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
    runs: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each run in each round. Every round begins with another run than the last."""
    names, measured = list(runs), {name: [] for name in runs}
    for i in range(rounds):
        first = i % len(names)
        for name in names[first:] + names[:first]:
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


# ---- the computed limit ------------------------------------------------------------------------
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
    """Matrix products in FLOP/s per dtype, and a copy in bytes/s, read and written both counted."""
    gpu = device.type == "cuda"
    side, length = (8192, 2**28) if gpu else (2048, 2**26)
    speeds = {}
    for name, dtype in DTYPES.items():
        a, b = torch.randn(2, side, side, device=device).to(dtype)
        a @ b
        fastest = min(seconds(lambda a=a, b=b: a @ b, device) for _ in range(rounds))
        speeds[f"matrix product {name}, FLOP/s"] = 2 * side**3 / fastest
    source = torch.ones(length, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    fastest = min(seconds(lambda: target.copy_(source), device) for _ in range(rounds))
    speeds["copy, bytes/s"] = 2 * source.numel() * source.element_size() / fastest
    return speeds


def limits(arch: dict, size: Size, dtype: str, speeds: dict[str, float]) -> dict[str, float]:
    """Seconds that the arithmetic and the traffic take at the measured speeds; no run is faster
    than the greater of the two, unless it fuses more."""
    itemsize = DTYPES[dtype].itemsize
    return {
        "arithmetic": flops(arch, size) / speeds[f"matrix product {dtype}, FLOP/s"],
        "traffic": traffic(arch, size, itemsize) / speeds["copy, bytes/s"],
    }


# ---- contestants -------------------------------------------------------------------------------
def fill_randomly(model: nn.Module, seed: int = 0) -> nn.Module:
    """Weights under which every parameter matters: new models have layer scale 1e-6 and GRN 0."""
    generator = torch.Generator().manual_seed(seed)
    norms = {name for name, part in model.named_modules() if isinstance(part, nn.LayerNorm)}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.3
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))
            module, _, kind = name.rpartition(".")
            if module in norms and kind == "weight":
                parameter.add_(1)
    return model.eval()


def available_peers(names: Iterable[str] | None, ours: ConvNeXtClassifier):
    """Names of peers that hold this network, and name to reason for those that do not.

    Raises:
        UserError: a peer named by the caller is not installed, or none is left.
    """
    held, left_out = [], {}
    for name in names or ():
        if name not in PEERS | MORE_PEERS:
            raise UserError(
                f"there is no peer {name!r}; choose out of {', '.join(PEERS | MORE_PEERS)}"
            )
    for name in names or (PEERS | MORE_PEERS):
        try:
            build_peer(name, ours)
            held.append(name)
        except MissingPeerError as error:
            if names:
                raise
            left_out[name] = str(error)
        except UserError as error:
            left_out[name] = str(error)
    if not held:
        raise UserError(f"no peer is left to compare with: {'; '.join(left_out.values())}")
    return held, left_out


class Entry(NamedTuple):
    """One contestant, ready to run: `run` does the work of the contest and returns the output."""

    name: str
    layout: str
    run: Callable[[], Tensor]


def _entry(name, model, output, images, contest, *, layout="NCHW", dtype="fp32", compiled=False):
    """`model` does the contest's work through `output`, which calls it; both are the entry's own."""
    training = contest.work == "training"
    device = images.device
    for module in model.modules():  # train() of MMPretrain's backbone returns None
        module.training = training
    if not training:
        model.to(DTYPES[dtype])
        images = images.to(DTYPES[dtype])
    if layout == "channels_last":
        model.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=LAYOUTS[layout])
    if compiled:
        freeze = not training and device.type == "cpu"
        model.compile(dynamic=False, options={"freezing": True} if freeze else None)
    if not training:

        def run():
            with torch.inference_mode():
                return output(images)
    else:
        amp = dtype == "bf16"

        def run():
            with torch.autocast(device.type, torch.bfloat16) if amp else nullcontext():
                result = output(images)
            result.float().sum().backward()
            model.zero_grad(set_to_none=True)
            return result.detach()

    return Entry(name, layout, run)


def peer_entry(
    peer: str, ours: ConvNeXtClassifier, images: Tensor, contest: Contest, layout: str
) -> Entry:
    """The peer with our weights: its own copy of them where dtype or layout ask for one."""
    built = build_peer(peer, ours)
    return _entry(
        built.name,
        built.model,
        built.output,
        images,
        contest,
        layout=layout,
        dtype=contest.dtype,
        compiled=contest.compiled,
    )


def our_entry(ours: ConvNeXtClassifier, images: Tensor, contest: Contest) -> Entry:
    """Ours takes NCHW images and lays them out by itself.

    Raises:
        NotPreparedError: the contest is one of prepared inference, which this package does not have.
    """
    if contest.prepared:
        prepared = prepared_model(ours, compile=contest.ours_compiled)

        def run():
            with torch.inference_mode():
                return prepared(images)

        return Entry(OURS, "NCHW", run)
    model = copy.deepcopy(ours)
    return _entry(
        OURS, model, model, images, contest, dtype=contest.dtype, compiled=contest.compiled
    )


class NotPreparedError(UserError):
    """This version of the package prepares nothing for inference."""


def prepared_model(ours: ConvNeXtClassifier, *, compile: bool) -> nn.Module:
    try:
        from ... import prepare_for_inference
    except ImportError:
        raise NotPreparedError(
            "prepare_for_inference is not in this version of the package"
        ) from None
    return prepare_for_inference(ours, dtype=torch.bfloat16, compile=compile)


# ---- contests ----------------------------------------------------------------------------------
class DisagreementError(UserError):
    """A contestant whose outputs are not ours: it would be timed at other work."""


def difference(entry: Entry, reference: Tensor, tolerance: float) -> float:
    """The greatest difference of its outputs, relative to the greatest of the reference."""
    output = entry.run().float()
    found = ((output - reference).abs().max() / reference.abs().max()).item()
    if not found <= tolerance:  # NaN too
        raise DisagreementError(
            f"{entry.name} gives other outputs than ours in float32: they differ by {found:.2g} of the "
            f"greatest, {tolerance:g} is allowed; nothing was timed"
        )
    return found


def run_contest(
    title: str,
    ours: ConvNeXtClassifier,
    peers: list[str],
    size: Size,
    *,
    rounds: int = 7,
    finalists: int | None = None,
    layouts: Iterable[str] = tuple(LAYOUTS),
) -> dict:
    """One row of the results: see docs/benchmarks/README.md for its fields.

    Args:
        title: a key of CONTESTS.
        ours: the model whose weights all hold; its device is the one measured.
        peers: keys of peers.PEERS or MORE_PEERS.
        size: N, H, W of the images.
        finalists: how many peers, the fastest of the trial, run in the rounds; None for all.
        layouts: those that each peer tries.

    Raises:
        DisagreementError: the outputs of a contestant are not ours.
        UserError: a peer, or prepared inference, is missing.
    """
    contest = CONTESTS[title]
    device = next(ours.parameters()).device
    batch, height, width = size
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, height, width, generator=generator).to(device)
    with torch.inference_mode():
        reference = ours(images).float()
    differences, trial, best_entries, keys = {}, {}, {}, {}

    own = our_entry(ours, images, contest)
    low = contest.prepared or contest.dtype == "bf16"
    differences[OURS] = difference(own, reference, TOLERANCES["bf16" if low else "fp32"])
    for peer in peers:
        tried = {}
        for layout in ["NCHW"] if contest.typed else layouts:
            entry = peer_entry(peer, ours, images, contest, layout)
            # The call that is compared warms up too; a training step is long enough to be the trial.
            started = time.perf_counter()
            found = difference(entry, reference, TOLERANCES[contest.dtype])
            tried[layout] = time.perf_counter() - started
            differences[entry.name] = max(found, differences.get(entry.name, 0.0))
            if contest.compiled or contest.work == "inference" or device.type == "cuda":
                tried[layout] = seconds(entry.run, device)
            if tried[layout] == min(tried.values()):
                best_entries[entry.name] = entry
        trial[entry.name], keys[entry.name] = tried, peer
    ranked = sorted(best_entries, key=lambda name: min(trial[name].values()))
    running = {OURS: own} | {name: best_entries[name] for name in ranked[:finalists]}
    if contest.compiled or contest.prepared:
        own.run()  # a second call may compile again
    measured = interleaved({n: e.run for n, e in running.items()}, rounds, device)
    medians = {name: statistics.median(values) for name, values in measured.items()}
    best = min((n for n in medians if n != OURS), key=medians.get)
    row = {
        "contest": title,
        "size": list(size),
        "best_peer": best,
        "best_layout": running[best].layout,
        "peers_ranked": [keys[best], *(keys[name] for name in ranked if name != best)],
        "ratio": ratio(measured[OURS], measured[best])._asdict(),
        "medians": medians,
        "seconds": measured,
        "layouts": {name: entry.layout for name, entry in running.items()},
        "trial_seconds": trial,
        "relative_differences": differences,
    }
    if contest.work == "training" or device.type == "cuda":
        row["memory"] = {name: peak_memory(entry.run, device) for name, entry in running.items()}
        least = min(m for name, m in row["memory"].items() if name != OURS)
        row["memory_ratio"] = row["memory"][OURS] / least
    return row


# ---- growth, varying shapes, start-up ----------------------------------------------------------
DOUBLING = ((256, 256), (256, 512), (512, 512), (512, 1024))  # each twice the area before
# Height and width as COCO's pictures have them, the short side 480 to 800, the long at most 1333.
STREAM = (
    (480, 640), (576, 768), (800, 1067), (640, 480), (672, 1008), (704, 939), (768, 512), (800, 800),
    (544, 725), (800, 1199), (608, 912), (960, 640), (736, 981), (480, 853), (1067, 800), (512, 683),
)  # fmt: skip


def _images(model: nn.Module, size: Size) -> Tensor:
    parameter = next(model.parameters())
    batch, height, width = size
    return torch.randn(batch, 3, height, width).to(parameter.device)


def _infer(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


def _our_forms(ours: ConvNeXtClassifier) -> tuple[dict, dict]:
    """Name to model, of ours as it is and prepared; name to reason for what is missing."""
    try:
        return {OURS: ours, "ours, prepared": prepared_model(ours, compile=True)}, {}
    except NotPreparedError as error:
        return {OURS: ours}, {"ours, prepared": str(error)}


def measure_growth(
    ours: ConvNeXtClassifier,
    peer: str | None,
    *,
    layout: str = "NCHW",
    sizes: Iterable[tuple[int, int]] = DOUBLING,
    rounds: int = 7,
) -> dict:
    """Seconds and training memory against area, ours and a peer's, eager float32, one image; and
    the first call at a new shape over the calls after it.

    In the result, growth and memory_growth list t(2A) / t(A) and the same of the memory.
    """
    device = next(ours.parameters()).device
    sizes = [tuple(size) for size in sizes]
    inference, training = CONTESTS["inference, eager fp32"], CONTESTS["training, eager fp32"]
    runs, steps, names = {}, {}, [OURS]
    for size in sizes:
        images = _images(ours, (1, *size))
        runs[OURS, size] = lambda images=images: _infer(ours, images)
        steps[OURS, size] = our_entry(ours, images, training).run
        if peer is not None:
            entry = peer_entry(peer, ours, images, inference, layout)
            names = [OURS, entry.name]
            runs[entry.name, size] = entry.run
            steps[entry.name, size] = peer_entry(peer, ours, images, training, layout).run
    for run in runs.values():
        run()
    measured = interleaved(runs, rounds, device)
    result = {"sizes": sizes, "pixels": [h * w for h, w in sizes], "seconds": {}, "memory": {}}
    for name in names:
        result["seconds"][name] = [statistics.median(measured[name, size]) for size in sizes]
        result["memory"][name] = [peak_memory(steps[name, size], device) for size in sizes]
    times, memory = result["seconds"][OURS], result["memory"][OURS]
    result["growth"] = [b / a for a, b in itertools.pairwise(times)]
    result["memory_growth"] = [b / a for a, b in itertools.pairwise(memory)]
    result["new_shape"], result["left_out"] = {}, {}
    forms, missing = _our_forms(ours)
    result["left_out"] |= missing
    for name, model in forms.items():
        costs = []
        for height, width in sizes[:3]:
            images = _images(ours, (1, height + 32, width))  # a shape that was not seen
            calls = [seconds(lambda m=model, x=images: _infer(m, x), device) for _ in range(4)]
            costs.append(calls[0] / statistics.median(calls[1:]))
        result["new_shape"][name] = statistics.median(costs)
    return result


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
    forms, missing = _our_forms(ours)
    totals, shapes, warm = {}, list(shapes), False
    for height, width in [(448, 448), *shapes]:  # the first one is not counted
        images = _images(ours, (1, height, width))
        other = peer_entry(peer, ours, images, CONTESTS["inference, eager fp32"], layout)
        runs = {n: lambda m=m, x=images: _infer(m, x) for n, m in forms.items()}
        for name, run in (runs | {other.name: other.run}).items():
            taken = seconds(run, device)
            if warm:
                totals[name] = totals.get(name, 0.0) + taken
        warm = True
    return {"shapes": shapes, "seconds": totals, "left_out": missing}


_START_UP = """
import time
started = time.perf_counter()
import torch
torch_seconds = time.perf_counter() - started
import {package}
imported = time.perf_counter() - started - torch_seconds
{build}
print(torch_seconds, imported, time.perf_counter() - started)
"""
_BUILDS = {
    OURS: ("convnext_backbones", "convnext_backbones.create_classifier({name!r})"),
    "timm": ("timm", "timm.create_model({name!r})"),
    "transformers": (
        "transformers",
        "transformers.{family}ForImageClassification(transformers.{family}Config())",
    ),
    "torchvision": ("torchvision", "torchvision.models.{name}()"),
}


def measure_start_up(name: str, peers: Iterable[str] = (), processes: int = 3) -> dict:
    """Seconds in fresh processes, the median: import of torch, of the package beyond it, and in all
    until the model of this name is built. transformers builds its default, Tiny."""
    family = "ConvNextV2" if VARIANTS[name].version == 2 else "ConvNext"
    result = {}
    for package in (OURS, *peers):
        if package not in _BUILDS:
            continue
        module, build = _BUILDS[package]
        code = _START_UP.format(package=module, build=build.format(name=name, family=family))
        runs = []
        for _ in range(processes):
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{package} does not start: {done.stderr.strip().splitlines()[-1]}")
            runs.append([float(word) for word in done.stdout.split()])
        medians = [statistics.median(values) for values in zip(*runs, strict=True)]
        result[package] = dict(zip(("torch", "import", "total"), medians, strict=True))
    return result


# ---- the machine -------------------------------------------------------------------------------
_FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")


def describe_machine(device: torch.device) -> dict:
    """Processor, its flags for low precision, threads, versions, date."""
    packages = {}
    for package in ("torch", "torchvision", "timm", "transformers", "triton", "numpy"):
        try:
            packages[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    packages["convnext_backbones"] = importlib.import_module("convnext_backbones").__version__
    packages["python"] = platform.python_version()
    processor, flags = platform.processor() or platform.machine(), []
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text()
        named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        processor = named[1] if named else processor
        listed = re.search(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
        flags = [f for f in _FLAGS if listed and f in listed[1].split()]
    machine = {
        "device": device.type,
        "processor": processor,
        "flags": flags,
        "threads": torch.get_num_threads(),
        "packages": packages,
        "date": datetime.date.today().isoformat(),
    }
    if device.type == "cuda":
        machine["processor"] = torch.cuda.get_device_name(device)
        machine["cuda"] = torch.version.cuda
        machine["tf32"] = torch.backends.cuda.matmul.allow_tf32
        machine["tf32_convolutions"] = torch.backends.cudnn.allow_tf32
    return machine


def slug(processor: str) -> str:
    """A file name: Intel(R) Xeon(R) Processor -> intel-xeon-processor."""
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", processor.lower())).strip("-")


# ---- the report --------------------------------------------------------------------------------
def _variant(version: int, arch: str):
    return next(v for v in VARIANTS.values() if (v.version, v.size) == (version, arch))


def figures(results: dict) -> list[dict]:
    """Each figure to reach that was measured: its words, what was reached, and whether it holds."""
    rows = []

    def add(what, reached, most):
        rows.append({"figure": what, "most": most, "reached": reached, "holds": reached <= most})

    for figure in FIGURES[results["machine"]["device"]]:
        for row in results["contests"]:
            same = (row.get("contest"), row["version"], tuple(row["size"]), row["arch"])
            if same != (figure.contest, figure.version, figure.size, "tiny") or "ratio" not in row:
                continue
            of = row["memory_ratio"] if figure.quantity == "memory" else row["ratio"]["median"]
            size = "{}x3x{}x{}".format(*figure.size)
            add(f"V{figure.version}-T {size} {figure.contest}: {figure.quantity}", of, figure.most)
    for row in results["contests"]:
        at_floor = row["contest"] == _FLOOR_CONTEST and tuple(row["size"]) in _GPU
        if results["machine"]["device"] == "cuda" and at_floor and "ratio" in row:
            variant = _variant(row["version"], row["arch"])
            arch = {"depths": variant.depths, "dims": variant.dims}
            floor = max(limits(arch, row["size"], "bf16", results["machine"]["speeds"]).values())
            size = "{}x3x{}x{}".format(*row["size"])
            what = f"V{row['version']} {size} prepared compiled bf16: time / limit"
            add(what, row["medians"][OURS] / floor, MOST_OF_FLOOR)
    for version, growth in results["growth"].items():
        add(f"V{version} t(2A) / t(A), greatest", max(growth["growth"]), MOST_GROWTH)
        reached = max(growth["memory_growth"])
        add(f"V{version} training memory at twice the area, greatest", reached, MOST_MEMORY_GROWTH)
        for name, cost in growth["new_shape"].items():
            add(f"V{version} first call at a new shape / later calls, {name}", cost, MOST_NEW_SHAPE)
    for name, packages in results["start_up"].items():
        add(f"{name}: import and build, seconds", packages[OURS]["total"], MOST_START_UP)
        add(f"{name}: import beyond torch, seconds", packages[OURS]["import"], MOST_IMPORT)
    return rows


def contest_table(results: dict) -> list[tuple[str, ...]]:
    """Header and rows: contest, size, our milliseconds, the best peer's, ratio, memory."""
    lines = [("network", "contest", "images", "ours", "best peer", "time ratio", "memory ratio")]
    for row in results["contests"]:
        network = f"V{row['version']} {row['arch']}"
        size = "{}x3x{}x{}".format(*row["size"])
        if "skipped" in row:
            lines.append(
                (network, row["contest"], size, "-", "-", f"skipped: {row['skipped']}", "")
            )
            continue
        best, ratio_ = row["best_peer"], row["ratio"]
        peer = f"{1000 * row['medians'][best]:.1f} ms {best}, {row['layouts'][best]}"
        spread = f"{ratio_['median']:.2f} ({ratio_['low']:.2f} to {ratio_['high']:.2f})"
        memory = f"{row['memory_ratio']:.2f}" if "memory_ratio" in row else ""
        own = f"{1000 * row['medians'][OURS]:.1f} ms"
        lines.append((network, row["contest"], size, own, peer, spread, memory))
    return lines


def figure_table(results: dict) -> list[tuple[str, ...]]:
    lines = [("figure", "at most", "reached", "")]
    for row in figures(results):
        words = "holds" if row["holds"] else "missed"
        lines.append((row["figure"], f"{row['most']:g}", f"{row['reached']:.3f}", words))
    return lines


def as_text(lines: list[tuple[str, ...]]) -> str:
    """Columns side by side."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def as_markdown(lines: list[tuple[str, ...]]) -> str:
    rule = ("---",) * len(lines[0])
    return "\n".join("| " + " | ".join(line) + " |" for line in (lines[0], rule, *lines[1:]))


def report(results: dict, plots: Iterable[str] = ()) -> str:
    """The results as a page in Markdown: machine, contests, figures to reach, growth, start-up."""
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    flags = f" ({', '.join(machine['flags'])})" if machine["flags"] else ""
    parts = [
        f"# {machine['processor']}, {machine['date']}",
        f"`{results['command']}`",
        f"{machine['device'].upper()}{flags}, {machine['threads']} threads; {versions}.",
    ]
    if "tf32" in machine:
        state = {True: "on", False: "off"}
        parts.append(
            f"TF32: {state[machine['tf32']]} in matrix products, "
            f"{state[machine['tf32_convolutions']]} in convolutions."
        )
    speeds = machine["speeds"]
    parts.append(
        "Measured on the machine: "
        + ", ".join(f"matrix product {d} {_product(speeds, d) / 1e9:.0f} GFLOP/s" for d in DTYPES)
        + f", copy {speeds['copy, bytes/s'] / 1e9:.1f} GB/s."
    )
    parts += [f"![{name}]({name})" for name in plots]
    parts += ["## Contests", as_markdown(contest_table(results))]
    if len(figure_table(results)) > 1:
        parts += ["## Figures to reach", as_markdown(figure_table(results))]
    if results["growth"]:
        parts += ["## Growth with area", as_markdown(growth_table(results))]
    if results["stream"]:
        parts += ["## A stream of varying shapes", as_markdown(stream_table(results))]
    if results["start_up"]:
        parts += ["## Start-up", as_markdown(start_up_table(results))]
    missing = dict(results["left_out"])
    for part in (results["growth"], results["stream"]):
        for version, row in part.items():
            missing |= {f"V{version} {name}": reason for name, reason in row["left_out"].items()}
    if missing:
        parts += ["## Left out", "\n".join(f"- {n}: {reason}" for n, reason in missing.items())]
    return "\n\n".join(parts) + "\n"


def growth_table(results: dict) -> list[tuple[str, ...]]:
    lines = [("network", "image", "contestant", "inference", "t(2A) / t(A)", "training memory")]
    for version, growth in results["growth"].items():
        for name, times in growth["seconds"].items():
            before = [None, *times]
            for size, earlier, now, memory in zip(
                growth["sizes"], before, times, growth["memory"][name], strict=False
            ):
                grown = f"{now / earlier:.2f}" if earlier else ""
                image, bytes_ = "{}x{}".format(*size), f"{memory / 2**20:.0f} MiB"
                lines.append((f"V{version}", image, name, f"{1000 * now:.1f} ms", grown, bytes_))
    return lines


def stream_table(results: dict) -> list[tuple[str, ...]]:
    lines = [("network", "contestant", "images", "seconds in all")]
    for version, stream in results["stream"].items():
        for name, total in stream["seconds"].items():
            lines.append((f"V{version}", name, str(len(stream["shapes"])), f"{total:.2f}"))
    return lines


def start_up_table(results: dict) -> list[tuple[str, ...]]:
    lines = [("model", "package", "import torch", "import beyond torch", "import and build")]
    for model, packages in results["start_up"].items():
        for package, times in packages.items():
            cells = (f"{times[key]:.2f} s" for key in ("torch", "import", "total"))
            lines.append((model, package, *cells))
    return lines


def _product(speeds: dict, dtype: str) -> float:
    return speeds[f"matrix product {dtype}, FLOP/s"]


def plot_ratios(results: dict, path: Path) -> None:
    """One dot a contest, its quartiles as a line, and a bar at each figure to reach."""
    from matplotlib.figure import Figure as Canvas

    rows = [row for row in results["contests"] if "ratio" in row]
    limits_ = {
        (f.contest, f.version, f.size): f.most
        for f in FIGURES[results["machine"]["device"]]
        if f.quantity == "time"
    }
    canvas = Canvas(figsize=(9, 1.6 + 0.3 * len(rows)), layout="constrained")
    axes = canvas.subplots()
    colours = {1: "tab:blue", 2: "tab:orange"}
    for y, row in enumerate(rows):
        middle, low, high = (row["ratio"][k] for k in ("median", "low", "high"))
        colour = colours[row["version"]]
        axes.plot([low, high], [y, y], color=colour, linewidth=2)
        axes.plot([middle], [y], "o", color=colour)
        axes.annotate(f"{middle:.2f}", (middle, y), (0, 5), textcoords="offset points",
                      ha="center", fontsize=7)  # fmt: skip
        most = limits_.get((row["contest"], row["version"], tuple(row["size"])))
        if most and row["arch"] == "tiny":
            axes.plot([most], [y], "|", color="black", markersize=12)
    labels = ["V{}-{}  {}  {}x{}x{}".format(r["version"], r["arch"], r["contest"], *r["size"])
              for r in rows]  # fmt: skip
    axes.set_yticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylim(len(rows) - 0.4, -0.8)
    axes.axvline(1, color="grey", linewidth=1)
    axes.set_xlim(0, max(1.1, axes.get_xlim()[1]))
    axes.grid(axis="x", alpha=0.3)
    axes.set_xlabel(
        "our time / the best peer's (median of the rounds, line: quartiles; | to reach)"
    )
    machine = results["machine"]
    axes.set_title(f"{machine['processor']}, {machine['threads']} threads, {machine['date']}",
                   fontsize=10)  # fmt: skip
    canvas.savefig(path, dpi=120)


def plot_area(results: dict, path: Path) -> None:
    """Time and training memory against image area, and the computed limit."""
    from matplotlib.figure import Figure as Canvas

    growths, machine = results["growth"], results["machine"]
    canvas = Canvas(figsize=(max(7, 5.2 * len(growths)), 8), layout="constrained")
    all_axes = canvas.subplots(2, len(growths), squeeze=False, sharey="row")
    for (version, growth), (above, below) in zip(growths.items(), all_axes.T, strict=True):
        arch = VARIANTS[growth["model"]]
        network = {"depths": arch.depths, "dims": arch.dims}
        pixels = [p / 1e6 for p in growth["pixels"]]
        for name, times in growth["seconds"].items():
            marker = "o-" if name == OURS else "s--"
            above.plot(pixels, [1000 * t for t in times], marker, label=name)
            below.plot(pixels, [m / 2**20 for m in growth["memory"][name]], marker, label=name)
        bounds = [limits(network, (1, *s), "fp32", machine["speeds"]) for s in growth["sizes"]]
        words = {"arithmetic": "limit: FLOPs / matrix-product speed",
                 "traffic": "limit: 13 maps a block / copy bandwidth"}  # fmt: skip
        for (kind, label), style in zip(words.items(), ("k-", "k:"), strict=True):
            above.plot(pixels, [1000 * b[kind] for b in bounds], style, linewidth=1, label=label)
        above.set_title(f"V{version}-{arch.size}, eager fp32, one image", fontsize=10)
        names = [f"{height}x{width}" for height, width in growth["sizes"]]
        for axes in (above, below):
            axes.grid(alpha=0.3)
            axes.legend(fontsize=8, loc="upper left")
            axes.set_xlabel("image, on a scale of its area")
        above.set_xscale("log", base=2)
        above.set_yscale("log", base=2)
        above.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        above.minorticks_off()
        below.set_xlim(left=0)
        below.set_ylim(bottom=0)
        above.set_xticks(pixels, names)
        below.set_xticks(pixels, names, fontsize=8, rotation=20)
    all_axes[0][0].set_ylim(top=5 * all_axes[0][0].get_ylim()[1])  # room for the legend
    all_axes[0][0].set_ylabel("inference, milliseconds")
    all_axes[1][0].set_ylabel("peak memory of a training step, MiB")
    speeds = machine["speeds"]
    canvas.suptitle(
        f"{machine['processor']}, {machine['threads']} threads, {machine['date']}: fp32 matrix product "
        f"{_product(speeds, 'fp32') / 1e9:.0f} GFLOP/s,\ncopy {speeds['copy, bytes/s'] / 1e9:.0f} GB/s, "
        "both measured in the same run",
        fontsize=10,
    )
    canvas.savefig(path, dpi=120)


def write(results: dict, folder: Path) -> list[Path]:
    """SLUG.json, SLUG.md and the plots SLUG-ratios.png and SLUG-area.png; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = results["machine"]
    name = slug(machine["processor"])
    paths = [folder / f"{name}.json", folder / f"{name}.md"]
    paths[0].write_text(json.dumps(results | {"figures": figures(results)}, indent=1) + "\n")
    plots = []
    if any("ratio" in row for row in results["contests"]):
        plots.append(folder / f"{name}-ratios.png")
        plot_ratios(results, plots[-1])
    if results["growth"]:
        plots.append(folder / f"{name}-area.png")
        plot_area(results, plots[-1])
    paths[1].write_text(report(results, [path.name for path in plots]))
    return [*paths, *plots]
