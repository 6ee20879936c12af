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
from .class_names import names_inside
from .layouts import Found, find_layouts, from_layout, our_name
from .pickle_names import Unbuilt
from .reading import read_path
from .sources import Located, locate

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
    were not taken, see layouts.Translated. located: the file, and its row in the catalogue. class_names,
    preprocessing: what the file itself says of a head's classes, and the options of EvaluationTransform that
    its pictures are prepared with; None where it does not.
    """

    located: Located
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
    class_names: tuple[str, ...] | None = None
    preprocessing: Mapping | None = None

    @property
    def source(self) -> str:
        """What to call the file in messages."""
        return self.located.label

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
    located = locate(source)
    return inspect_content(read_path(located.path), located, prefix=prefix, section=section)


class Section(NamedTuple):
    """A dictionary of tensors in a file: its place, "" for the file itself, and the objects in it."""

    place: str
    state: dict[str, Tensor]
    objects: dict[str, Unbuilt]


def inspect_content(
    content: Mapping, located: Located, *, prefix: str | None = None, section: str | None = None
) -> Inspected:
    """As inspect_checkpoint, for what was read from a file already."""
    prefix = located.options.get("prefix") if prefix is None else prefix
    section = located.options.get("section") if section is None else section
    sections = sections_of(content)
    if section is not None:
        sections = [s for s in sections if section in (s.place, s.place.split(".")[0])]
        if not sections:
            raise CheckpointError(
                f"{located.label}: has no entry {section!r} that holds parameters; its entries are "
                f"{_some(content)}"
            )
    found = [(s, _found(s.state, prefix)) for s in sections]
    found = [(s, choices) for s, choices in found if choices]
    if not found:
        names = next((list(s.state) for s in sections), list(content))
        start = f" whose names start with {prefix!r}" if prefix else ""
        raise CheckpointError(
            f"{located.label}: no parameter of a ConvNeXt{start} was recognised; it holds "
            f"{len(names)} entries such as {_some(names)}{_objects_in(content)}"
        )
    chosen, choices = found[0]
    if len(choices) > 1:
        raise CheckpointError(
            f"{located.label}: holds {len(choices)} ConvNeXts, with names that start with "
            f"{', '.join(repr(c.prefix) for c in choices)}; choose one with prefix="
        )
    for name, value in chosen.objects.items():
        if our_name(name, choices[0])[0] is not None:
            raise CheckpointError(
                f"{located.label}: holds a Python object ({value.name}) in the place of the tensor "
                f"{name}, which is not built; save a state_dict of tensors"
            )
    translated = from_layout(chosen.state, choices[0])
    return Inspected(
        located=located,
        layout=choices[0].layout.name,
        network=describe(translated.state),
        section=chosen.place,
        other_sections=tuple(other.place for other, _ in found[1:]),
        prefix=choices[0].prefix,
        class_names=names_inside(content),
        preprocessing=_preprocessing_in(content),
        **translated._asdict(),
    )


def _preprocessing_in(content: Mapping) -> Mapping | None:
    """As `finetune` writes it."""
    found = content.get("preprocessing")
    return found if isinstance(found, Mapping) else None


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


def sections_of(content: Mapping) -> list[Section]:
    """Every dictionary of tensors in a file, best first."""
    found, seen = [], set()

    def visit(place: str, value: Mapping, depth: int) -> None:
        if id(value) in seen or depth > 3:
            return
        seen.add(id(value))
        named = {unwrapped(k): v for k, v in value.items() if isinstance(k, str)}
        state = {k: v for k, v in named.items() if isinstance(v, Tensor)}
        if state:
            objects = {k: v for k, v in named.items() if isinstance(v, Unbuilt)}
            found.append(Section(place, state, objects))
        for key, inner in value.items():
            if isinstance(inner, Mapping) and isinstance(key, str):
                visit(f"{place}.{key}" if place else key, inner, depth + 1)

    visit("", content, 0)

    def rank(section: Section) -> int:
        first = section.place.split(".")[0]
        return SECTIONS.index(first) if first in SECTIONS else -1 if first == "" else len(SECTIONS)

    return sorted(found, key=rank)


def _found(state: dict[str, Tensor], prefix: str | None) -> list[Found]:
    found = find_layouts(state)
    if prefix:
        start = unwrapped(prefix.rstrip(".")) + "."
        found = [f for f in found if f.prefix.startswith(start) or f.prefix == start]
    return found


def _objects_in(content: Mapping) -> str:
    """The end of a sentence: what in a file may be the network, and is not built."""
    objects = {key: value for key, value in content.items() if isinstance(value, Unbuilt)}
    return "".join(
        f"; {key!r} is a Python object ({value.name}), which is not built: save its state_dict"
        for key, value in list(objects.items())[:1]
    )


def _some(names) -> str:
    names = [str(name)[:60] for name in names]
    return ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
