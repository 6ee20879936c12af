"""Whole detectors and segmentors: with our backbone, and with timm's ConvNeXt in its place.

Who builds them hands over callables (WholeModel); this module knows no framework. Both hold the same weights,
the output norms too, see the same pictures and draw the same random numbers: losses have to be equal before
anything is timed.
"""

import bisect
import contextlib
import copy
import random
import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent

from ...errors import UserError
from ...network.classifier import ConvNeXtClassifier
from ...network.convnext import EPS, ConvNeXt
from ..peers import build_peer
from .contests import LAYOUTS, OURS, DisagreementError
from .measuring import interleaved, peak_memory, ratio, seconds

# Of one loss, relative to the sum: float32 sums in another order, and where a proposal stands.
TOLERANCE = 1e-3
WORKS = ("training", "inference")
SHOWN = 12  # operators of a profile
# What frameworks call of their parts, beside forward.
CALLED = (
    "loss", "predict", "loss_and_predict", "loss_by_feat", "predict_by_feat", "losses", "inference",
)  # fmt: skip
OWN_PARTS = ("loss_by_feat", "losses")  # which make a part of their own: "bbox_head, losses"
REST = "everything else"


class WholeModel(NamedTuple):
    """A detector or segmentor on some pictures.

    model: its backbone is the one that is timed. losses: name to value, in training mode. found: what
    inference finds in the first picture: a number. parts: name to module, whose share of the time is told.
    """

    model: nn.Module
    losses: Callable[[], dict[str, Tensor]]
    found: Callable[[], float]
    parts: dict[str, nn.Module]


class TimmBackbone(nn.Module):
    """timm's ConvNeXt with the weights of ours in a framework's place for a backbone.

    Its maps are those of ours, output norms included, contiguous. With names, a dict of them.
    """

    def __init__(self, ours: ConvNeXt, *, layout: str = "NCHW", names: tuple[str, ...] = ()):
        from timm.layers import LayerNorm2d

        super().__init__()
        arch = {"depths": ours.depths, "dims": ours.dims}
        whole = ConvNeXtClassifier(arch, version=ours.version, num_classes=0)
        known = whole.state_dict()
        known |= {name: value for name, value in ours.state_dict().items() if name in known}
        whole.load_state_dict(known)
        self.trunk = copy.deepcopy(build_peer("timm", whole).model).requires_grad_(True)
        self.indices, self.layout, self.names = ours.out_indices, layout, names
        if None in self.indices:
            raise UserError(
                "timm's ConvNeXt gives the maps of stages; this backbone gives its stem's"
            )
        self.norms = nn.ModuleList()
        for index in self.indices:
            norm = LayerNorm2d(ours.dims[index], eps=EPS)
            norm.load_state_dict(getattr(ours, f"norm{index}").state_dict())
            self.norms.append(norm)
        self.to(memory_format=LAYOUTS[layout])

    def forward(self, images: Tensor) -> tuple[Tensor, ...] | dict[str, Tensor]:
        images = images.contiguous(memory_format=LAYOUTS[self.layout])
        maps = self.trunk.forward_intermediates(
            images, indices=list(self.indices), intermediates_only=True
        )
        maps = tuple(norm(x).contiguous() for norm, x in zip(self.norms, maps, strict=True))
        return dict(zip(self.names, maps, strict=True)) if self.names else maps


def compare_models(
    title: str,
    ours: WholeModel,
    theirs: dict[str, WholeModel],
    *,
    rounds: int = 7,
    most_seconds: float | None = None,
) -> Iterator[dict]:
    """A row of the results for each of WORKS: a training step, and the inference of a picture.

    Args:
        theirs: the same model with the other backbone, by layout; the faster takes part in the rounds.
        most_seconds: no further round of a work begins after them; three are run in any case.

    A row has the medians, ratio and memory of contests, differences (of losses, relative to their sum),
    found (what inference found) and profile: parts and operators, name to share of the time with ours.

    Raises:
        DisagreementError: the other backbone gives other losses.
    """
    device = next(ours.model.parameters()).device
    greatest = max(_difference(title, ours, model) for model in theirs.values())
    for work in WORKS:
        runs = {layout: _run(model, work) for layout, model in theirs.items()}
        own, trial = _run(ours, work), {}
        for layout, run in runs.items():
            run()
            trial[layout] = seconds(run, device)
        layout = min(trial, key=trial.get)
        own()
        measured = interleaved({OURS: own, "timm": runs[layout]}, rounds, device, most_seconds)
        memory = {OURS: peak_memory(own, device), "timm": peak_memory(runs[layout], device)}
        yield {
            "model": title,
            "work": work,
            "best_layout": layout,
            "ratio": ratio(measured[OURS], measured["timm"])._asdict(),
            "medians": {name: statistics.median(values) for name, values in measured.items()},
            "seconds": measured,
            "trial_seconds": trial,
            "memory": memory,
            "memory_ratio": memory[OURS] / memory["timm"],
            "difference": greatest,
            "found": own(),
            "profile": profile(own, ours.parts),
        }


def _run(whole: WholeModel, work: str) -> Callable[[], object]:
    def step():
        _begin(whole, training=True)
        sum(whole.losses().values()).backward()
        whole.model.zero_grad(set_to_none=True)

    def infer():
        _begin(whole, training=False)
        with torch.inference_mode():
            return whole.found()

    return step if work == "training" else infer  # the former gives nothing


def _begin(whole: WholeModel, *, training: bool) -> None:
    """The mode, and the random numbers that every call draws."""
    if whole.model.training != training:
        whole.model.train(training)
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)


def _difference(title: str, ours: WholeModel, theirs: WholeModel) -> float:
    """The greatest of the losses, relative to their sum."""
    losses = []
    for whole in (ours, theirs):
        _begin(whole, training=True)
        with torch.no_grad():
            losses.append({name: float(value) for name, value in whole.losses().items()})
    own, other = losses
    total = sum(map(abs, own.values()))
    found = max(abs(own[name] - other[name]) for name in own) / total
    if not found <= TOLERANCE:  # NaN too
        raise DisagreementError(
            f"{title}: with timm's backbone the losses differ by {found:.2g} of their sum, {TOLERANCE:g} is "
            f"allowed; nothing was timed. Ours {own}, timm's {other}"
        )
    return found


# ---- where the time goes -------------------------------------------------------------------------
def profile(run: Callable[[], object], parts: dict[str, nn.Module]) -> dict:
    """Shares of the time of one call: of the parts, their backward passes included, and of operators.

    The innermost part counts, by what it calls of CALLED and forward. An operator of the backward pass
    belongs to the part that made its forward one, which their sequence numbers tell.
    """
    with (
        _named(parts),
        torch.profiler.profile(
            activities=[torch.profiler.ProfilerActivity.CPU], acc_events=True
        ) as profiler,
    ):
        run()
    events = profiler.events()
    spans, numbers, owners = {}, [], []
    for event in sorted(events, key=lambda e: e.time_range.start):
        name = _part_above(event)
        spans[id(event)] = name
        if event.sequence_nr >= 0 and not _is_backward(event) and _backward_above(event) is None:
            numbers.append(event.sequence_nr)
            owners.append(name)
    order = sorted(
        range(len(numbers)), key=numbers.__getitem__
    )  # stable: the outer one comes first
    numbers, owners = [numbers[i] for i in order], [owners[i] for i in order]
    of_parts, of_operators = Counter(), Counter()
    for event in events:
        spent = event.self_cpu_time_total
        part = spans[id(event)]
        if (node := _backward_above(event)) is not None and node.sequence_nr >= 0:
            at = bisect.bisect_right(numbers, node.sequence_nr) - 1
            part = owners[at] if at >= 0 else REST
        of_parts[part] += spent
        operator = event.name.removeprefix("autograd::engine::evaluate_function: ")
        if not operator.startswith(PREFIX):
            of_operators[operator] += spent
    total = sum(of_parts.values())
    return {
        "parts": {name: spent / total for name, spent in of_parts.most_common()},
        "operators": {name: spent / total for name, spent in of_operators.most_common(SHOWN)},
    }


PREFIX = "part: "


@contextlib.contextmanager
def _named(parts: dict[str, nn.Module]) -> Iterator[None]:
    """What is called of these modules notes its name for the profiler."""
    changed = defaultdict(list)
    for name, module in parts.items():
        for method in ("forward", *CALLED):
            if callable(getattr(module, method, None)) and method not in vars(module):
                label = f"{name}, losses" if method in OWN_PARTS else name
                setattr(module, method, _noting(PREFIX + label, getattr(module, method)))
                changed[module].append(method)
    try:
        yield
    finally:
        for module, methods in changed.items():
            for method in methods:
                delattr(module, method)


def _noting(label: str, call: Callable) -> Callable:
    def noted(*args, **options):
        with torch.profiler.record_function(label):
            return call(*args, **options)

    return noted


def _part_above(event: FunctionEvent) -> str:
    while event is not None:
        if event.name.startswith(PREFIX):
            return event.name.removeprefix(PREFIX)
        event = event.cpu_parent
    return REST


def _is_backward(event: FunctionEvent) -> bool:
    return event.name.startswith("autograd::engine::evaluate_function")


def _backward_above(event: FunctionEvent) -> FunctionEvent | None:
    while event is not None:
        if _is_backward(event):
            return event
        event = event.cpu_parent
    return None
