"""Whole detectors and segmentors with a ConvNeXt in them: found in a file, and its ConvNeXt's parameters
under our names, in place."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from torch import Tensor

from ..errors import CheckpointError
from ..network.wrappers import unwrapped
from .inspection import sections_of
from .layouts import COUNTERS, Found, find_layouts, from_layout, root_of

# What only the names of a framework's detectors and segmentors start with.
_HEADS = {
    "MMDetection or MMSegmentation": (
        "neck.", "roi_head.", "rpn_head.", "bbox_head.", "mask_head.", "decode_head.", "auxiliary_head.",
        "panoptic_head.", "segm_head.",
    ),
    "Detectron2": (
        "proposal_generator.", "roi_heads.", "sem_seg_head.", "backbone.fpn_",
    ),
    "torchvision": ("rpn.head.", "backbone.fpn."),
}  # fmt: skip


class WholeModel(NamedTuple):
    """A whole model as a file holds it, under its own names.

    state: its parameters and buffers, without what wrapping modules and averages put there. networks: its
    ConvNeXts. framework: whose detector or segmentor it is, None where names do not tell or it is a
    ConvNeXt alone. notes: a clause each for what was taken from elsewhere in the file or left out.
    """

    state: dict[str, Tensor]
    networks: list[Found]
    framework: str | None
    notes: list[str]


def whole_model(
    content: Mapping,
    source: str = "the checkpoint",
    *,
    section: str | None = None,
    prefix: str = "",
) -> WholeModel:
    """The whole model in what was read from a file: a run's of MMEngine or Detectron2, a bare state dict,
    one that DDP, FSDP, averaging or another module wrapped.

    Args:
        content: see read_checkpoint.
        source: what to call it in messages.
        section: take this entry, e.g. "ema_state_dict"; None: the first that holds a ConvNeXt.
        prefix: what the ConvNeXt's names start with in the model, "backbone."; what stands before it in
            all of the file's names is left out.

    Raises:
        CheckpointError: no ConvNeXt in it, or no such entry.
    """
    sections = sections_of(content)
    found = [s for s in sections if find_layouts(s.state)]
    if section is not None:
        found = [s for s in found if section in (s.place, s.place.split(".")[0])]
    if not found:
        names = next((list(s.state) for s in sections), list(content))
        entry = f" in an entry {section!r}" if section else ""
        raise CheckpointError(
            f"{source}: no parameter of a ConvNeXt was recognised{entry}; it holds {len(names)} entries "
            f"such as {', '.join(str(name)[:60] for name in names[:4])}"
        )
    state = {name: value for name, value in found[0].state.items() if name not in COUNTERS}
    networks, notes = find_layouts(state), []
    if found[0].place not in ("", "state_dict", "model"):
        notes.append(f"taken from its entry {found[0].place!r}")
    outer = networks[0].prefix.removesuffix(prefix) if len(networks) == 1 and prefix else ""
    if outer and networks[0].prefix != outer and all(name.startswith(outer) for name in state):
        state = {name.removeprefix(outer): value for name, value in state.items()}
        networks = find_layouts(state)
        notes.append(f"{outer!r}, with which all its names start, left out")
    inside = tuple(network.prefix for network in networks)
    framework = framework_of_names(name for name in state if not name.startswith(inside))
    return WholeModel(state, networks, framework, notes)


def framework_of_names(names: Iterable[str]) -> str | None:
    """Whose detector or segmentor has parameters of these names; None where they do not tell."""
    names = list(names)
    counts = {f: sum(name.startswith(heads) for name in names) for f, heads in _HEADS.items()}
    most = max(counts, key=counts.__getitem__)
    return most if counts[most] else None


def with_our_names(
    state: Mapping[str, Tensor], source: str = "the checkpoint", *, into: str | None = None
) -> dict[str, Tensor]:
    """The parameters of a whole model, in which every ConvNeXt has our names and shapes.

    "backbone.stages.0.0.depthwise_conv.weight" of MMPretrain's backbone becomes
    "backbone.stages.0.0.dwconv.weight"; neck, heads and buffers stay as they are. What wrapping modules
    put into names is taken out of all of them. The state that is given is not changed.

    Args:
        state: of the whole model, e.g. the entry "state_dict" of a file; see read_checkpoint.
        source: what to call it in messages.
        into: what our names start with, e.g. "backbone." where a wrapper stood between; None: what
            theirs start with.

    Raises:
        CheckpointError: no ConvNeXt in it, several where `into` is given, or a name below a ConvNeXt's
            prefix that is none of its parameters.
    """
    state = {unwrapped(name): value for name, value in state.items()}
    networks = find_layouts(state)
    if not networks:
        raise CheckpointError(
            f"{source}: no parameter of a ConvNeXt was recognised among its {len(state)} names"
        )
    if into is not None and len(networks) > 1:
        raise CheckpointError(
            f"{source}: holds {len(networks)} ConvNeXts, with names that start with "
            f"{', '.join(repr(network.prefix) for network in networks)}; they cannot all go to {into!r}"
        )
    for network in networks:
        state = _renamed(state, network, source, root_of(network) if into is None else into)
    return state


def _renamed(
    state: dict[str, Tensor], network: Found, source: str, start: str
) -> dict[str, Tensor]:
    translated = from_layout(state, network)
    if translated.unknown:
        raise CheckpointError(
            f"{source}: {translated.unknown[0]} and {len(translated.unknown) - 1} other names below "
            f"{network.prefix!r} belong to no parameter of a ConvNeXt"
        )
    taken = {*translated.names.values(), *translated.dropped}
    kept = {name: value for name, value in state.items() if name not in taken}
    result = {start + name: value for name, value in translated.state.items()}
    if clash := kept.keys() & result.keys():
        raise CheckpointError(f"{source}: holds {min(clash)} under its own name and a foreign one")
    return kept | result
