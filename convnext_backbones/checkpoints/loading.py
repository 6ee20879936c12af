"""Load pretrained weights with a verdict: every key is renamed, dropped by name, or an error."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..network.activations import ACTIVATIONS
from ..network.classifier import ConvNeXtClassifier
from ..network.convnext import Trunk
from .class_names import names_of
from .huggingface_config import OF_TRANSFORMERS, activation_beside
from .inspection import Inspected, describe, inspect_checkpoint
from .stem import RGB, STEM, STEMS, check_stem, fit_stem

OUTPUT_NORM = re.compile(r"norm(\d+|_stem)\.(weight|bias)$")
OWN = ("stages", "downsample_layers", "backbone", "encoder", "visual")
LAYER_SCALE = re.compile(r"stages\.\d+\.\d+\.gamma$")
CLASSIFIER = re.compile(r"(norm|head)\.(weight|bias)$")


@dataclass(frozen=True)
class LoadReport:
    """What load_pretrained did; str() is the verdict in three lines, four where a layer was adapted.

    layout, recognised: how the file names its parameters, and which network it holds. loaded,
    reinitialised: the model's parameters that came from the file, and those that stay as they were
    initialised, on purpose. dropped: the file's names that the model has no use for. share: loaded
    bytes over all bytes of the model's parameters. licence: of the weights, where it is known.
    adapted: which of the loaded was made out of the file's, and how, in words.
    """

    source: str
    layout: str
    recognised: str
    loaded: tuple[str, ...]
    reinitialised: tuple[str, ...]
    dropped: tuple[str, ...]
    share: float
    licence: str | None = None
    other_sections: tuple[str, ...] = ()
    adapted: str | None = None

    @property
    def non_commercial(self) -> bool:
        """Whether the licence is known to forbid commercial use."""
        return bool(self.licence) and bool(re.search("-NC-|Noncommercial", self.licence))

    def __str__(self) -> str:
        new = f"new: {_groups(self.reinitialised)}" if self.reinitialised else "nothing is new"
        licence = f"; licence {self.licence}" if self.licence else ""
        licence += ", not for commercial use" if self.non_commercial else ""
        also = f"; not taken: {', '.join(self.other_sections)}" if self.other_sections else ""
        adapted = f"\n  adapted: {self.adapted}" if self.adapted else ""
        return (
            f"pretrained weights: {self.source} is {self.recognised} "
            f"({self.layout} names{licence})\n"
            f"  loaded: {len(self.loaded)} of {len(self.loaded) + len(self.reinitialised)} "
            f"parameters, {_percent(self.share)} of the model's bytes; {new}\n"
            f"  not needed from the file: {_groups(self.dropped) or 'nothing'}{also}{adapted}"
        )


def load_pretrained(
    model: Trunk,
    source: str | Path,
    *,
    prefix: str | None = None,
    section: str | None = None,
    stem: str | None = None,
    allow_random: Iterable[str] = (),
    last_norm_from_classifier: bool = False,
) -> LoadReport:
    """Load a checkpoint of any layout into a backbone or classifier, all of it or nothing.

    Output norms, which no classifier's file has, stay as initialised, and so does a head of another
    size, or a classifier's final norm and head where the file is a backbone's. Any other parameter
    that would stay random is an error.

    Args:
        model: a ConvNeXt, ConvNeXtV2 or ConvNeXtClassifier.
        source: a file, a Hugging Face folder, a URL, or a name of the catalogue. The next three options may
            follow it: "weights.pth?section=model_ema&stem=mean".
        prefix: take only the file's names with this prefix; see inspect_checkpoint.
        section: take this entry of the file, e.g. "model_ema".
        stem: how the first layer is made out of one for RGB images where the model takes other channels:
            "repeat" (as timm's in_chans), "mean" or "first", see stem.STEMS; None: that is refused.
        allow_random: modules or parameters that may stay as initialised, e.g.
            ("downsample_layers.0.0",) for a first layer of other patches.
        last_norm_from_classifier: give the last stage's output norm the classifier's final norm.

    Raises:
        UserError: another stem.
        CheckpointError: unreadable, another network, a name or shape without a counterpart, or a
            parameter of the model that would stay random. The model is as it was.
    """
    _check_model(model)
    check_stem(stem)
    file = inspect_checkpoint(source, prefix=prefix, section=section)
    return load_inspected(
        model,
        file,
        stem=stem,
        allow_random=allow_random,
        last_norm_from_classifier=last_norm_from_classifier,
    )


def load_inspected(
    model: Trunk,
    file: Inspected,
    *,
    stem: str | None = None,
    allow_random: Iterable[str] = (),
    last_norm_from_classifier: bool = False,
) -> LoadReport:
    """As load_pretrained, from a checkpoint that was read and inspected already."""
    _check_model(model)
    loaded, report = judge_inspected(
        model,
        file,
        stem=stem,
        allow_random=allow_random,
        last_norm_from_classifier=last_norm_from_classifier,
    )
    _apply(loaded, dict(model.named_parameters()))
    if isinstance(model, ConvNeXtClassifier) and "head.weight" in loaded:
        located = file.located
        model.class_names = names_of(
            located.weights, located.path, model.num_classes, file.class_names
        )
    return report


def judge_inspected(
    model: Trunk,
    file: Inspected,
    *,
    stem: str | None = None,
    allow_random: Iterable[str] = (),
    last_norm_from_classifier: bool = False,
) -> tuple[dict[str, Tensor], LoadReport]:
    """What load_inspected would load, and its verdict; the model, which may be on the meta device,
    is left as it is."""
    stem = file.located.options.get("stem") if stem is None else stem
    plan = _plan(model, file, tuple(allow_random), last_norm_from_classifier, stem)
    _judge(plan, model, file)
    report = LoadReport(
        source=file.source,
        layout=file.layout,
        recognised=str(file.network),
        loaded=tuple(plan.loaded),
        reinitialised=tuple(plan.reinitialised),
        dropped=tuple(plan.dropped),
        share=_bytes(plan.wanted[name] for name in plan.loaded)
        / max(_bytes(plan.wanted.values()), 1),
        licence=file.located.weights.licence if file.located.weights else None,
        other_sections=file.other_sections,
        adapted=plan.adapted,
    )
    return plan.loaded, report


class Plan(NamedTuple):
    """What of a file goes where.

    wanted: the model's parameters. state: the file's, under our names. allowed: what may stay as
    initialised. loaded: our names to what they get. dropped: the file's names that the model has no
    use for. misfits: a sentence for each of the file's parameters that does not fit. adapted: see LoadReport.
    """

    wanted: dict[str, nn.Parameter]
    state: dict[str, Tensor]
    allowed: tuple[str, ...]
    loaded: dict[str, Tensor]
    dropped: list[str]
    misfits: list[str]
    adapted: str | None

    @property
    def reinitialised(self) -> list[str]:
        return [name for name in self.wanted if name not in self.loaded]


def _plan(
    model: Trunk, file: Inspected, allowed: tuple[str, ...], last_norm: bool, stem: str | None
) -> Plan:
    """Sort the file's parameters; nothing is changed."""
    wanted = dict(model.named_parameters())
    state = dict(file.state)
    if last_norm:
        _copy_final_norm(model, state, wanted, file.source)
    kernels, adapted = f"{STEM}.weight", None
    if stem is not None and kernels in state:
        state[kernels], adapted = fit_stem(state[kernels], wanted[kernels], stem, file.source)
    loaded, dropped = {}, [*file.outside, *file.dropped]
    misfits = [f"{name} has no place in the model" for name in file.unknown]
    for name, value in state.items():
        theirs, expected = file.names.get(name, name), wanted.get(name)
        if not_needed(name, value, expected, model):
            dropped.append(theirs)
        elif expected is None:
            misfits.append(f"{theirs} has no place in the model")
        elif expected.shape != value.shape:
            if not _within(name, allowed):
                misfits.append(f"{theirs} is {_shape(value)}, not {_shape(expected)}")
        elif not value.is_floating_point():
            misfits.append(f"{theirs} holds {value.dtype}, not floating-point numbers")
        elif not value.isfinite().all():
            misfits.append(f"{theirs} holds NaN or infinite numbers")
        else:
            loaded[name] = value
    return Plan(wanted, state, allowed, loaded, dropped, misfits, adapted)


def _judge(plan: Plan, model: Trunk, file: Inspected) -> None:
    """Refuse what would leave the model another network, or random where nobody asked for it."""
    _refuse_another_network(model, file)
    _refuse_another_activation(model, file)
    problems = []
    if random := _left_random(plan):
        count = "1 parameter" if len(random) == 1 else f"{len(random)} parameters"
        problems.append(f"{count} would stay random, in {_groups(random)}")
    problems += plan.misfits
    problems += [
        f"allow_random names {name!r}, which the model does not have"
        for name in plan.allowed
        if not any(_within(parameter, (name,)) for parameter in plan.wanted)
    ]
    if problems:
        raise CheckpointError(
            f"{file.source}: this is {file}, as is the model, but not all of it fits. "
            f"Nothing was loaded: {_first(problems)}{_way_on(plan)}"
        )


def _left_random(plan: Plan) -> list[str]:
    """The parameters that would stay as initialised and are no output norms nor allowed to."""
    on_purpose = ("head",) if "head.weight" in plan.state else ("head", "norm")
    return [
        name
        for name in plan.reinitialised
        if not OUTPUT_NORM.match(name)
        and not _within(name, (*on_purpose, *plan.allowed))
        and name not in plan.state
    ]


def _way_on(plan: Plan) -> str:
    """The end of a refusal: what to do where a network's options differ, not its weights."""
    stem = f"{STEM}.weight"
    theirs, ours = plan.state.get(stem), plan.wanted.get(stem)
    ways = []
    if theirs is not None and ours is not None and theirs.dim() == 4 and theirs.shape != ours.shape:
        ways.append(
            f"the file's first layer takes {_first_layer(theirs)}, the model's {_first_layer(ours)}: "
            f"build the model so, or let that layer start at random with load_pretrained(model, "
            f'source, allow_random=("{STEM}",))'
        )
        if theirs.shape[1] == RGB != ours.shape[1] and theirs.shape[2:] == ours.shape[2:]:
            others = " or ".join(map(repr, list(STEMS)[1:]))
            ways.append(
                f"or make that layer out of the file's with stem='repeat' (or {others}), as an option or "
                "after its name: FILE?stem=repeat"
            )
    with_scale = [any(LAYER_SCALE.match(n) for n in names) for names in (plan.state, plan.wanted)]
    if with_scale == [False, True]:
        ways.append("the file has no layer scale: build with layer_scale_init_value=None")
    if with_scale == [True, False]:
        ways.append("the file has layer scale: build with layer_scale_init_value=1e-6")
    return "".join(f". {way[0].upper()}{way[1:]}" for way in ways)


def _first_layer(kernel: Tensor) -> str:
    _, channels, height, width = kernel.shape
    return f"{channels} channel{'s' * (channels != 1)} in patches of {height}x{width}"


def _apply(loaded: dict[str, Tensor], parameters: dict[str, nn.Parameter]) -> None:
    with torch.no_grad():
        for name, value in loaded.items():
            parameters[name].copy_(value)


def _check_model(model) -> None:
    if not isinstance(model, Trunk):
        raise TypeError(
            f"model must be a ConvNeXt, ConvNeXtV2 or ConvNeXtClassifier, got a "
            f"{type(model).__name__}; give the backbone inside it, such as model.backbone"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError(
            "the model is on the meta device and cannot hold weights; call "
            "model.to_empty(device='cpu') first"
        )


def _refuse_another_network(model: Trunk, file: Inspected) -> None:
    """Compare the stages that both have: version, depths and dims."""
    built, network = len(model.stages), file.network
    theirs = network.version, network.depths[:built], network.dims[:built]
    if theirs == (model.version, model.depths[:built], model.dims[:built]):
        return
    model_is = describe(model.state_dict())._replace(depths=model.depths, dims=model.dims)
    raise CheckpointError(
        f"{file.source}: this is {file}; the model is {model_is}. Nothing was loaded: build "
        f"{network.variant or 'that network'}, or give a checkpoint of {model_is}"
    )


def _refuse_another_activation(model: Trunk, file: Inspected) -> None:
    """No weight tells it; the config.json beside those of a Hugging Face folder does."""
    if file.layout not in OF_TRANSFORMERS:
        return
    theirs = activation_beside(file.located.path)
    if theirs is None or ACTIVATIONS.get(theirs) is ACTIVATIONS[model.activation]:
        return
    raise CheckpointError(
        f"{file.source}: its config.json has hidden_act={theirs!r}, and the model "
        f"activation={model.activation!r}. Nothing was loaded: build the model with "
        f"activation={theirs!r}"
    )


def _copy_final_norm(model: Trunk, state: dict, wanted: dict, label: str) -> None:
    last = f"norm{len(model.depths) - 1}"
    if f"{last}.weight" not in wanted:
        raise ValueError(
            f"last_norm_from_classifier needs the output norm of the last stage ({last}), which this "
            "model does not have; select the last stage with output_norm=True"
        )
    if "norm.weight" not in state or "norm.bias" not in state:
        raise CheckpointError(
            f"{label}: has no final norm, as a classifier has, to give to {last}; leave out "
            "last_norm_from_classifier"
        )
    for kind in ("weight", "bias"):
        state[f"{last}.{kind}"] = state[f"norm.{kind}"]


def not_needed(name: str, value: Tensor, expected: Tensor | None, model: Trunk) -> bool:
    """Heads of another size, norms that the model does not select, stages that it does not build."""
    if CLASSIFIER.match(name):
        return expected is None or expected.shape != value.shape
    stage = re.match(r"(?:stages|downsample_layers)\.(\d+)\.", name)
    if stage:
        return len(model.stages) <= int(stage[1]) < len(model.depths)
    return expected is None and bool(OUTPUT_NORM.match(name))


def _within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def _first(problems: list[str]) -> str:
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def _groups(names: Iterable[str]) -> str:
    """Names shortened to their modules: "norm0, norm1"; three parts of the network's own."""
    parts = (name.split(".") for name in names)
    groups = dict.fromkeys(".".join(p[:3]) if p[0] in OWN else p[0] for p in parts)
    return ", ".join(list(groups)[:8]) + (", ..." if len(groups) > 8 else "")


def _percent(share: float) -> str:
    return "all" if share == 1 else f"{min(100 * share, 99.9):.1f} %"


def _shape(value: Tensor) -> tuple[int, ...]:
    return tuple(value.shape)


def _bytes(values: Iterable[Tensor]) -> int:
    return sum(value.numel() * value.element_size() for value in values)
