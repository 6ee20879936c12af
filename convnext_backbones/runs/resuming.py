"""A run that goes on from a checkpoint of its own: all of it is there and fits, or a sentence says what does
not, and what else can be done."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from ..checkpoints import CheckpointError
from ..network.convnext import Trunk
from ..network.wrappers import name_in_state_dict, unwrapped
from .fine_tuning import compare_networks, refuse_not_finite, some


def check_weights(
    model: nn.Module, state: Mapping[str, Tensor], source: str, averages: bool = False
) -> None:
    """CheckpointError where a state dict is not that of the model, name by name and shape by shape, or is
    not finite. `averages`: of weights beside the model's, as EMA keeps them."""
    wanted = model.state_dict()
    for name, trunk in model.named_modules():
        if isinstance(trunk, Trunk):
            start = name_in_state_dict(name)
            compare_networks(state, f"{start}." if start else "", trunk, source)
    problems = [f"{n} is missing in the file" for n in wanted if n not in state]
    problems += [f"{n} has no place in the model" for n in state if n not in wanted]
    problems += [
        f"{n} is {tuple(state[n].shape)}, not {tuple(wanted[n].shape)}"
        for n in wanted
        if n in state and state[n].shape != wanted[n].shape
    ]
    if problems:
        what = "its averaged weights are" if averages else "it is a checkpoint"
        raise CheckpointError(
            f"{source}: this run cannot go on from it: {what} of another model than the config's: "
            f"{some(problems, 3, '; ')}. Resume with the config that it was trained with, or start a new run "
            "from its weights with --weights (load_from, MODEL.WEIGHTS, train.init_checkpoint)"
        )
    refuse_not_finite(state, source)


def check_complete(content: Mapping, needed: Mapping[str, str], source: str) -> None:
    """CheckpointError that names what a run cannot go on without: entries of a checkpoint and what they
    are."""
    missing = [f"{key!r} ({what})" for key, what in needed.items() if key not in content]
    if missing:
        raise CheckpointError(
            f"{source}: this run cannot go on from it, as it holds no {', no '.join(missing)}; it holds "
            f"{some(sorted(map(str, content)), 6)}. Resume from a checkpoint that a run saved whole, or start a "
            "new run from its weights with --weights (load_from, MODEL.WEIGHTS, train.init_checkpoint)"
        )


def check_optimizer(saved: Mapping, optimizer: torch.optim.Optimizer, source: str) -> str | None:
    """A line where the saved learning rates, with which the run goes on, are not the config's.

    Raises:
        CheckpointError: an optimizer's state is one of another kind, or of other parameter groups, which
            torch would load by position.
    """
    why = _why_not(saved, optimizer)
    if why:
        raise CheckpointError(
            f"{source}: this run cannot go on from its optimizer: {why}. Resume with the optimizer, layer decay "
            "and frozen stages that it was trained with, or start a new run from its weights with --weights "
            "(load_from, MODEL.WEIGHTS, train.init_checkpoint)"
        )
    theirs, ours = _highest_rate(saved["param_groups"]), _highest_rate(optimizer.param_groups)
    if theirs and ours and not math.isclose(theirs, ours, rel_tol=1e-3):
        return (
            f"{source}: the run goes on with the learning rates that it began with, up to {theirs:g}; those "
            f"of the config, up to {ours:g}, count in a new run (--weights)"
        )
    return None


def _highest_rate(groups: Sequence[Mapping]) -> float:
    """Of the rates that a schedule multiplies; 0 where none has noted them."""
    rates = [group.get("initial_lr") for group in groups]
    return max((float(rate) for rate in rates if rate is not None), default=0.0)


def _why_not(saved: Mapping, optimizer: torch.optim.Optimizer) -> str | None:
    kind = type(optimizer).__name__
    groups = saved.get("param_groups") if isinstance(saved, Mapping) else None
    if not isinstance(groups, Sequence) or not all(isinstance(g, Mapping) for g in groups):
        return f"it is no state of an optimizer, and the config's is {kind}"
    ours = optimizer.param_groups
    own_keys = set(optimizer.defaults)
    for group in groups:
        lacking = own_keys - group.keys()
        # what newer versions of torch have added may be missing; torch then takes the defaults
        if (own_keys and len(lacking) > len(own_keys) // 2) or _marks(group) != _marks(ours[0]):
            return f"it is of another kind ({', '.join(sorted(_marks(group))) or 'plain'} of each group) than {kind}"
    if len(groups) != len(ours):
        return f"it has {len(groups)} parameter groups, the config's {kind} has {len(ours)}"
    for k, (theirs, own) in enumerate(zip(groups, ours, strict=True)):
        names = [unwrapped(name) for name in theirs.get("param_names") or ()]
        own_names = [unwrapped(name) for name in own.get("param_names") or ()]
        if names and own_names and names != own_names:
            return (
                f"its parameter group {k} holds {some(names, 2)}, the config's {some(own_names, 2)}"
            )
        count, own_count = len(theirs.get("params", ())), len(own["params"])
        if count != own_count:
            return f"its parameter group {k} has {count} parameters, the config's {own_count}"
        for number, parameter in zip(theirs["params"], own["params"], strict=True):
            for name, value in saved.get("state", {}).get(number, {}).items():
                same_kind = isinstance(value, Tensor) and value.dim() == parameter.dim()
                if same_kind and value.shape != parameter.shape:
                    return (
                        f"its {name} of parameter {number} is {tuple(value.shape)}, the parameter "
                        f"{tuple(parameter.shape)}"
                    )
    return None


def _marks(group: Mapping) -> set[str]:
    """The settings by which kinds of optimizers are told apart."""
    return group.keys() & {"betas", "momentum", "alpha", "rho", "lr_decay", "momentum_decay"}
