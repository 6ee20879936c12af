"""Load pretrained weights with a verdict: every key is loaded, dropped by name, or an error."""

import re
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from ..errors import CheckpointError
from .official import (
    CLASSIFIER,
    DECODER,
    parameter_bytes,
    recognise,
    state_dict_of,
    to_model_layout,
)
from .reading import read_checkpoint

OUTPUT_NORM = re.compile(r"^norm(\d+|_stem)\.(weight|bias)$")


@dataclass(frozen=True)
class LoadReport:
    """What load_pretrained did; str() is the verdict in three lines."""

    source: str
    recognised: str
    loaded: tuple[str, ...]
    reinitialised: tuple[str, ...]
    dropped: tuple[str, ...]
    share: float

    def __str__(self) -> str:
        return (
            f"pretrained weights: {self.source} is {self.recognised}\n"
            f"  loaded: {len(self.loaded)} parameters, {100 * self.share:.1f} % of the model's bytes\n"
            f"  new: {_groups(self.reinitialised)}; not needed: {_groups(self.dropped)}"
        )


def load_pretrained(
    model: nn.Module, source: str | Path, *, prefix: str | None = None
) -> LoadReport:
    """Load an official checkpoint into a backbone or classifier, all of it or nothing.

    Output norms, which no classifier has, stay as initialised, and so does a head of another size.

    Args:
        model: a ConvNeXt, ConvNeXtV2 or ConvNeXtClassifier.
        source: path or URL of a file in the official layout (V1, V2, FCMAE).
        prefix: take only the file's names with this prefix, without it.

    Raises:
        CheckpointError: unreadable, another network, a name or shape without a counterpart, or a
            parameter of the model that would stay random.
    """
    state = state_dict_of(read_checkpoint(source))
    if prefix:
        start = prefix.rstrip(".") + "."
        state = {n.removeprefix(start): v for n, v in state.items() if n.startswith(start)}
        if not state:
            raise CheckpointError(f"{source}: no parameter's name starts with {start!r}")
    state = to_model_layout(state)
    recognised, wanted = recognise(state), model.state_dict()
    model_is = recognise(wanted)
    built = {name.split(".")[1] for name in wanted if name.startswith("stages.")}

    loaded, dropped, problems = {}, [], []
    for name, value in state.items():
        expected = wanted.get(name)
        stage = re.match(r"^(stages|downsample_layers)\.(\d+)\.", name)
        if expected is not None and expected.shape == value.shape:
            loaded[name] = value
        elif (
            DECODER.match(name)
            or CLASSIFIER.match(name)
            or (expected is None and OUTPUT_NORM.match(name))
            or (expected is None and stage and stage[2] not in built)
        ):
            dropped.append(name)
        elif expected is None:
            problems.append(f"{name} has no place in the model")
        else:
            problems.append(f"{name} is {tuple(value.shape)}, the model's {tuple(expected.shape)}")
    reinitialised = [name for name in wanted if name not in loaded]
    random = [
        name
        for name in reinitialised
        if not OUTPUT_NORM.match(name) and not (name.startswith("head.") and name in dropped)
    ]
    problems += [f"{name} would stay random" for name in random]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(
            f"{source}: this is {recognised}; the model is {model_is}. Nothing was loaded: "
            + "; ".join(problems[:3])
            + more
        )
    model.load_state_dict(loaded, strict=False)
    share = parameter_bytes({n: wanted[n] for n in loaded}) / max(parameter_bytes(wanted), 1)
    return LoadReport(
        str(source), recognised, tuple(loaded), tuple(reinitialised), tuple(dropped), share
    )


def _groups(names) -> str:
    """Parameter names shortened to their modules, e.g. "norm0, norm1"."""
    modules = sorted({name.split(".")[0] for name in names})
    return ", ".join(modules) if modules else "nothing"
