"""Our ConvNeXt against the other implementations: same weights, same process, turn about.

A contest lets ours and its peers do the same work on the same images. Each contestant's outputs must
first equal ours in float32; then all are timed in rounds, one call each, so that a slow moment of the
machine hits them alike. What counts is the median over the rounds of (our seconds) / (the best peer's).
docs/benchmarks/README.md says what each contest means, and how the limit is computed.
"""

import copy
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...errors import UserError
from ...kernels.cpp import CppBlock
from ...network.classifier import ConvNeXtClassifier
from ...network.prepared import fastest_dtype, prepare_for_inference
from ..peers import MORE_PEERS, PEERS, MissingPeerError, build_peer
from .machine import DTYPES, Size, can_compile, computes_in_bfloat16
from .measuring import interleaved, peak_memory, ratio, seconds
from .runtimes import RUNTIMES, exported, why_no_runtime

OURS = "ours"
BY_DEFAULT = "default"
LAYOUTS = {"NCHW": torch.contiguous_format, "channels_last": torch.channels_last}
# How far outputs may lie from ours in float32, relative to the greatest. bfloat16 has 8 bits: twenty
# blocks differ by some of its units.
TOLERANCES = {"fp32": 1e-4, "bf16": 0.1}
TF32 = 5e-3  # the same where a GPU rounds float32 to TF32 on its way into convolutions, as torch lets it
# Seconds in which a runtime's threads fall asleep: PyTorch's go on for 10 ms after a run, waiting for the
# next, on the cores of another runtime with threads of its own.
FALLS_ASLEEP = 0.03


class Contest(NamedTuple):
    """What is compared.

    group: what --only selects. work: "inference" or "training" (forward and backward). prepared:
    ours is prepare_for_inference's module, in this dtype; BY_DEFAULT is that function's own choice.
    dtype, compiled: of the peers, and of ours where it is not prepared; bf16 is pure in inference and
    autocast in training. typed: no layout is chosen for anyone. compile_ours: where ours differs from
    the peers in that. captured: ours is replayed as a CUDA graph. runtime: a key of runtimes.RUNTIMES,
    which runs our exported graph in the peers' place, in the same dtype where it has it.
    """

    group: str
    work: str
    dtype: str = "fp32"
    compiled: bool = False
    prepared: str | None = None
    typed: bool = False
    compile_ours: bool | None = None
    captured: bool = False
    runtime: str | None = None

    @property
    def ours_compiled(self) -> bool:
        return self.compiled if self.compile_ours is None else self.compile_ours

    def our_dtype(self, device: torch.device) -> str:
        """A key of DTYPES."""
        if self.prepared == BY_DEFAULT:
            return "bf16" if computes_in_bfloat16(device) else "fp32"
        return self.prepared or self.dtype


def _runtime(runtime: str, prepared: str) -> Contest:
    return Contest("runtimes", "inference", prepared=prepared, compile_ours=True, runtime=runtime)


CONTESTS = {
    "inference, eager fp32": Contest("inference", "inference"),
    "inference, as typed": Contest("inference", "inference", typed=True),
    "inference, compiled fp32": Contest("inference", "inference", compiled=True),
    "prepared bf16 / eager bf16": Contest("prepared", "inference", "bf16", prepared="bf16"),
    "prepared captured bf16 / eager bf16": Contest(
        "prepared", "inference", "bf16", prepared="bf16", captured=True
    ),
    "prepared compiled bf16 / compiled bf16": Contest(
        "prepared", "inference", "bf16", compiled=True, prepared="bf16"
    ),
    "prepared compiled bf16 / eager fp32": Contest(
        "prepared", "inference", prepared="bf16", compile_ours=True
    ),
    "prepared compiled fp32 / eager fp32": Contest(
        "prepared", "inference", prepared="fp32", compile_ours=True
    ),
    "prepared bf16 / eager fp32": Contest("prepared", "inference", prepared="bf16"),
    "prepared / eager fp32": Contest("prepared", "inference", prepared=BY_DEFAULT),
    "prepared compiled / onnxruntime": _runtime("onnxruntime", BY_DEFAULT),
    "prepared compiled / openvino": _runtime("openvino", BY_DEFAULT),
    "prepared compiled fp32 / onnxruntime fp32": _runtime("onnxruntime", "fp32"),
    "prepared compiled fp32 / openvino fp32": _runtime("openvino", "fp32"),
    "training, eager fp32": Contest("training", "training"),
    "training, as typed": Contest("training", "training", typed=True),
    "training, compiled fp32": Contest("compiled_training", "training", compiled=True),
    "training, eager bf16 autocast": Contest("training", "training", "bf16"),
    "training, compiled bf16 autocast": Contest(
        "compiled_training", "training", "bf16", compiled=True
    ),
}


def why_not(contest: Contest, device: torch.device) -> str | None:
    """Why the contest says nothing on this device; None where it does."""
    if "bf16" in (contest.dtype, contest.prepared) and not computes_in_bfloat16(device):
        return "this device has no instructions for bfloat16 and would emulate it"
    if contest.runtime:
        if device.type != "cpu":
            return "other runtimes are compared on CPUs"
        if reason := why_no_runtime(contest.runtime):
            return reason
        if contest.prepared == "fp32" and not computes_in_bfloat16(device):
            return f"here it is the same as prepared compiled / {contest.runtime}, in float32"
    if contest.captured and device.type != "cuda":
        return "CUDA graphs need an NVIDIA GPU"
    if (contest.compiled or contest.ours_compiled) and not can_compile(device):
        return "torch.compile needs a C++ compiler, and there is none; install g++ or set CXX"
    return None


# ---- contestants -------------------------------------------------------------------------------
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
    """One contestant, ready to run: `run` does the work of the contest and returns the output.

    form: of a prepared network, its dtype and what computes it, in words.
    """

    name: str
    layout: str
    run: Callable[[], Tensor]
    form: str | None = None


def peer_entry(
    peer: str, ours: ConvNeXtClassifier, images: Tensor, contest: Contest, layout: str
) -> Entry:
    """The peer with our weights: its own copy of them where dtype or layout ask for one."""
    built = build_peer(peer, ours)
    return _entry(built.name, built.model, built.output, images, contest, layout)


def our_entry(ours: ConvNeXtClassifier, images: Tensor, contest: Contest) -> Entry:
    """Ours takes NCHW images and lays them out by itself."""
    if not contest.prepared:
        model = copy.deepcopy(ours)
        return _entry(OURS, model, model, images, contest, "NCHW")
    prepared, form = prepare(
        ours,
        dtype=DTYPES[contest.our_dtype(images.device)],
        compile=contest.ours_compiled,
        capture=contest.captured,
    )
    return Entry(OURS, "NCHW", lambda: infer(prepared, images), form)


def _entry(
    name: str,
    model: nn.Module,
    output: Callable[[Tensor], Tensor],
    images: Tensor,
    contest: Contest,
    layout: str,
) -> Entry:
    """`model` does the contest's work through `output`, which calls it; both are the entry's own."""
    training = contest.work == "training"
    device, dtype = images.device, DTYPES[contest.dtype]
    for module in model.modules():  # train() of MMPretrain's backbone returns None
        module.training = training
    if not training:
        model.to(dtype)
        images = images.to(dtype)
    if layout == "channels_last":
        model.to(memory_format=torch.channels_last)
    images = images.contiguous(memory_format=LAYOUTS[layout])
    if contest.compiled:
        freeze = not training and device.type == "cpu"
        model.compile(dynamic=False, options={"freezing": True} if freeze else None)

    def step():
        with torch.autocast(device.type, dtype) if contest.dtype == "bf16" else nullcontext():
            result = output(images)
        result.float().sum().backward()
        model.zero_grad(set_to_none=True)
        return result.detach()

    return Entry(name, layout, step if training else lambda: infer(output, images))


def infer(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(images)


_LEFT_OUT = "the kernels for CPUs are left out"  # prepare_for_inference warns so, and says why


def prepare(
    ours: ConvNeXtClassifier,
    *,
    dtype: torch.dtype | None = None,
    compile: bool,
    capture: bool = False,
) -> tuple[nn.Module, str]:
    """prepare_for_inference's network, and its form in words: its dtype, and what computes it.

    dtype None is that function's own choice on the device.
    """
    dtype = dtype or fastest_dtype(ours)
    path = "eager steps"
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings("always", _LEFT_OUT)  # an answer here, also where it is an error
        prepared = prepare_for_inference(ours, dtype=dtype, compile=compile, capture=capture)
    if compile:
        family = next((m.family for m in prepared.modules() if isinstance(m, CppBlock)), None)
        path = f"the C++ kernels ({family})" if family else "torch.compile"
    for warning in caught:
        if str(warning.message).startswith(_LEFT_OUT):
            path = str(warning.message)
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if capture:
        path += ", a CUDA graph"
    name = next((name for name, known in DTYPES.items() if known == dtype), str(dtype))
    return prepared, f"{name}, {path}"


# ---- contests ----------------------------------------------------------------------------------
class DisagreementError(UserError):
    """A contestant whose outputs are not ours: it would be timed at other work."""


class Trial(NamedTuple):
    """A peer before the rounds: its name in peers.py, its entry in the layout that was fastest, the
    seconds of each layout, and the greatest difference of its outputs from ours."""

    peer: str
    entry: Entry
    seconds: dict[str, float]
    difference: float


def run_contest(
    title: str,
    ours: ConvNeXtClassifier,
    peers: list[str],
    size: Size,
    *,
    rounds: int = 7,
    finalists: int | None = None,
    layouts: Iterable[str] = tuple(LAYOUTS),
    most_seconds: float | None = None,
) -> dict:
    """One row of the results: see docs/benchmarks/README.md for its fields.

    Args:
        title: a key of CONTESTS.
        ours: the model whose weights all hold; its device is the one measured.
        peers: keys of peers.PEERS or MORE_PEERS.
        size: N, H, W of the images.
        finalists: how many peers, the fastest of the trial, run in the rounds; None for all.
        layouts: those that each peer tries.
        most_seconds: no further round begins after them; three are run in any case.

    Raises:
        DisagreementError: the outputs of a contestant are not ours.
        UserError: a peer is missing.
    """
    contest = CONTESTS[title]
    layouts = ["NCHW"] if contest.typed else list(layouts)
    images = random_images(ours, size, torch.Generator().manual_seed(1))
    reference = infer(ours, images).float()
    own = our_entry(ours, images, contest)
    own_dtype = contest.our_dtype(images.device)
    own_difference = difference(own, reference, tolerance(own_dtype, images.device))
    if contest.runtime:
        trials = [try_runtime(contest.runtime, ours, images, own_dtype, reference)]
    else:
        trials = [try_layouts(peer, ours, images, contest, layouts, reference) for peer in peers]
    trials.sort(key=lambda trial: min(trial.seconds.values()))
    running = [own, *(trial.entry for trial in trials[:finalists])]
    if contest.compiled or contest.prepared:
        own.run()  # a second call may compile again
    measured = interleaved(
        {entry.name: entry.run for entry in running},
        rounds,
        images.device,
        most_seconds,
        pause=FALLS_ASLEEP if contest.runtime else 0.0,
    )
    row = {"contest": title, "size": list(size), **_outcome(running, measured, trials)}
    row["relative_differences"] = {OURS: own_difference} | {
        trial.entry.name: trial.difference for trial in trials
    }
    if own.form:
        row["prepared"] = own.form
    if contest.work == "training" or images.device.type == "cuda":
        row |= _memory(running, images.device)
    return row


def random_images(model: nn.Module, size: Size, generator: torch.Generator | None = None) -> Tensor:
    """(N, 3, H, W) on the model's device."""
    batch, height, width = size
    images = torch.randn(batch, 3, height, width, generator=generator)
    return images.to(next(model.parameters()).device)


def tolerance(dtype: str, device: torch.device) -> float:
    """How far outputs may lie from ours in float32, relative to the greatest."""
    rounds = torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32
    return TF32 if dtype == "fp32" and device.type == "cuda" and rounds else TOLERANCES[dtype]


def difference(entry: Entry, reference: Tensor, most: float) -> float:
    """The greatest difference of its outputs, relative to the greatest of the reference."""
    output = entry.run().float()
    found = ((output - reference).abs().max() / reference.abs().max()).item()
    if not found <= most:  # NaN too
        raise DisagreementError(
            f"{entry.name} gives other outputs than ours in float32: they differ by {found:.2g} of the "
            f"greatest, {most:g} is allowed; nothing was timed"
        )
    return found


def try_layouts(
    peer: str,
    ours: ConvNeXtClassifier,
    images: Tensor,
    contest: Contest,
    layouts: Iterable[str],
    reference: Tensor,
) -> Trial:
    """Compare the peer's outputs with the reference and time one call, in each layout."""
    tried, greatest = {}, 0.0
    for layout in layouts:
        entry = peer_entry(peer, ours, images, contest, layout)
        # The call that is compared warms up too; a training step is long enough to be the trial.
        started = time.perf_counter()
        found = difference(entry, reference, tolerance(contest.dtype, images.device))
        tried[layout] = time.perf_counter() - started
        greatest = max(found, greatest)
        if contest.compiled or contest.work == "inference" or images.device.type == "cuda":
            tried[layout] = seconds(entry.run, images.device)
        if tried[layout] == min(tried.values()):
            fastest = entry
    return Trial(peer, fastest, tried, greatest)


def try_runtime(
    runtime: str, ours: ConvNeXtClassifier, images: Tensor, dtype: str, reference: Tensor
) -> Trial:
    """Our graph in another runtime, in our dtype or else in float32, compared with the reference."""
    dtype = dtype if dtype in RUNTIMES[runtime][2] else "fp32"
    name, run = exported(runtime, ours, images, dtype)
    entry = Entry(f"{name} {dtype}", "NCHW", run)
    found = difference(entry, reference, tolerance(dtype, images.device))
    return Trial(runtime, entry, {"NCHW": seconds(run, images.device)}, found)


def _outcome(running: list[Entry], measured: dict[str, list[float]], trials: list[Trial]) -> dict:
    """The ratio to the peer with the least median, and what it comes from."""
    medians = {name: statistics.median(values) for name, values in measured.items()}
    best = min((entry for entry in running if entry.name != OURS), key=lambda e: medians[e.name])
    ranked = sorted(trials, key=lambda trial: trial.entry.name != best.name)  # the best comes first
    return {
        "best_peer": best.name,
        "best_layout": best.layout,
        "peers_ranked": [trial.peer for trial in ranked],
        "ratio": ratio(measured[OURS], measured[best.name])._asdict(),
        "medians": medians,
        "seconds": measured,
        "layouts": {entry.name: entry.layout for entry in running},
        "trial_seconds": {trial.entry.name: trial.seconds for trial in trials},
    }


def _memory(running: list[Entry], device: torch.device) -> dict:
    """The peak of each, and ours over the least of the others'."""
    memory = {entry.name: peak_memory(entry.run, device) for entry in running}
    least = min(held for name, held in memory.items() if name != OURS)
    return {"memory": memory, "memory_ratio": memory[OURS] / least}
