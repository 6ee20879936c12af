"""Whole detectors and segmentors whose ConvNeXt has other names: its parameters under ours, in place."""

from collections.abc import Mapping

from torch import Tensor

from ..errors import CheckpointError
from ..network.wrappers import unwrapped
from .layouts import Found, find_layouts, from_layout, root_of


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
