"""What a checkpoint is: which network, named in which layout, wrapped in what."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from ..errors import CheckpointError
from ..network.variants import VARIANTS
from ..network.wrappers import unwrapped
from .layouts import Found, find_layouts, from_layout
from .reading import read_checkpoint

# Entries that hold parameters, in the order in which they are taken where a file has several. Averaged
# weights come last: who wants them says so.
SECTIONS = ("model", "state_dict", "model_state_dict", "module", "network", "teacher", "student",
            "model_ema", "state_dict_ema", "ema_state_dict", "ema_state", "ema")  # fmt: skip


class Network(NamedTuple):
    """The shape of a network, read off its parameters. num_classes is None without a head."""

    version: int
    depths: tuple[int, ...]
    dims: tuple[int, ...]
    in_channels: int
    patch_size: int
    num_classes: int | None

    @property
    def variant(self) -> str | None:
        """The name in VARIANTS, or None for another size."""
        for variant in VARIANTS.values():
            if variant[1:2] + variant[3:5] == (self.version, self.depths, self.dims):
                return variant.name
        return None

    def __str__(self) -> str:
        size = f"a ConvNeXt V{self.version} of depths {self.depths} and dims {self.dims}"
        return self.variant or size


@dataclass(frozen=True)
class Inspected:
    """A checkpoint under our names.

    layout: a key of layouts.LAYOUTS. section: the entry that held the parameters, such as "model";
    other_sections: further entries that hold a ConvNeXt. prefix: what their names start with.
    state: our names to tensors; names: ours to theirs. outside, dropped, unknown: their names that
    were not taken, see layouts.Translated. weights: the catalogue's row of this file, or None.
    """

    source: str
    layout: str
    network: Network
    section: str
    other_sections: tuple[str, ...]
    prefix: str
    state: dict[str, Tensor]
    names: dict[str, str]
    outside: tuple[str, ...]
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]

    def __str__(self) -> str:
        where = f", under {self.prefix!r}" if self.prefix else ""
        return f"{self.network} ({self.layout} names{where})"


def inspect_checkpoint(
    source: str | Path, *, prefix: str | None = None, section: str | None = None
) -> Inspected:
    """Read a checkpoint of any layout and say what it is.

    Args:
        source: a file, a Hugging Face folder, a URL, or a name of the catalogue.
        prefix: take only the names that start with it; needed where a file holds several networks.
        section: take this entry of the file, e.g. "model_ema"; see SECTIONS.

    Raises:
        CheckpointError: unreadable, no ConvNeXt in it, or several.
    """
    return inspect_content(read_checkpoint(source), str(source), prefix=prefix, section=section)


def inspect_content(
    content: Mapping, source: str, *, prefix: str | None = None, section: str | None = None
) -> Inspected:
    """As inspect_checkpoint, for what a file holds; `source` names it in messages."""
    candidates = _sections(content)
    if section is not None:
        candidates = [c for c in candidates if section in (c[0], c[0].split(".")[0])]
        if not candidates:
            raise CheckpointError(
                f"{source}: has no entry {section!r} that holds parameters; its entries are "
                f"{_some(content)}"
            )
    found = [(name, state, _found(state, prefix)) for name, state in candidates]
    found = [entry for entry in found if entry[2]]
    if not found:
        names = next((list(state) for _, state in candidates if state), list(content))
        start = f" whose names start with {prefix!r}" if prefix else ""
        raise CheckpointError(
            f"{source}: no parameter of a ConvNeXt{start} was recognised; it holds "
            f"{len(names)} entries such as {_some(names)}"
        )
    name, state, choices = found[0]
    if len(choices) > 1:
        raise CheckpointError(
            f"{source}: holds {len(choices)} ConvNeXts, with names that start with "
            f"{', '.join(repr(c.prefix) for c in choices)}; choose one with prefix="
        )
    translated = from_layout(state, choices[0])
    return Inspected(
        source=source,
        layout=choices[0].layout.name,
        network=describe(translated.state),
        section=name,
        other_sections=tuple(other for other, _, _ in found[1:]),
        prefix=choices[0].prefix,
        **translated._asdict(),
    )


def describe(state: Mapping[str, Tensor]) -> Network:
    """The network whose parameters these are, under our names."""
    depths: dict[int, int] = {}
    dims: dict[int, int] = {}
    for name, value in state.items():
        match = re.match(r"stages\.(\d+)\.(\d+)\.dwconv\.weight$", name)
        if match and value.dim() > 0:
            stage, block = int(match[1]), int(match[2])
            depths[stage] = max(depths.get(stage, 0), block + 1)
            dims[stage] = value.shape[0]
    stem = state.get("downsample_layers.0.0.weight")
    head = state.get("head.weight")
    square = stem is not None and stem.dim() == 4
    return Network(
        version=2 if any(".grn." in name for name in state) else 1,
        depths=tuple(depths[k] for k in sorted(depths)),
        dims=tuple(dims[k] for k in sorted(dims)),
        in_channels=stem.shape[1] if square else 3,
        patch_size=stem.shape[2] if square else 4,
        num_classes=head.shape[0] if head is not None and head.dim() else None,
    )


def _sections(content: Mapping) -> list[tuple[str, dict[str, Tensor]]]:
    """Every dictionary of tensors in a file, with its place ("" for the file itself), best first."""
    found, seen = [], set()

    def visit(place: str, value: Mapping, depth: int) -> None:
        if id(value) in seen or depth > 3:
            return
        seen.add(id(value))
        state = {unwrapped(k): v for k, v in value.items()
                 if isinstance(k, str) and isinstance(v, Tensor)}  # fmt: skip
        if state:
            found.append((place, state))
        for key, inner in value.items():
            if isinstance(inner, Mapping) and isinstance(key, str):
                visit(f"{place}.{key}" if place else key, inner, depth + 1)

    visit("", content, 0)

    def rank(entry) -> int:
        first = entry[0].split(".")[0]
        return SECTIONS.index(first) if first in SECTIONS else -1 if first == "" else len(SECTIONS)

    return sorted(found, key=rank)


def _found(state: dict[str, Tensor], prefix: str | None) -> list[Found]:
    found = find_layouts(state)
    if prefix:
        start = unwrapped(prefix.rstrip(".")) + "."
        found = [f for f in found if f.prefix.startswith(start) or f.prefix == start]
    return found


def _some(names) -> str:
    names = [str(name)[:60] for name in names]
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
