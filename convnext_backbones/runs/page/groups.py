"""An optimizer's parameter groups in a few words each."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from ...network.wrappers import unwrapped
from ..host import Optimized


class Group(NamedTuple):
    """Parameters that train alike.

    of: the parts of the model that they belong to. lr: the learning rate that they began with. rate: it as a
    part of that of the group whose rate the log holds. factor: by what the schedule had multiplied it at the
    end; None where that is not known.
    """

    of: str
    lr: float
    weight_decay: float
    tensors: int
    parameters: int
    rate: float = 1.0
    factor: float | None = None


def modules_of(names: Iterable[str]) -> str:
    """The parts of a model that parameters belong to: "downsampling 1, stage2 0-2, neck"."""
    blocks: dict[str, set[int]] = {}
    others: dict[str, None] = {}
    for name in map(unwrapped, names):
        if block := re.search(r"(?:^|\.)stages\.(\d+)\.(\d+)\.", name):
            blocks.setdefault(f"stage{int(block[1]) + 1}", set()).add(int(block[2]))
        elif down := re.search(r"(?:^|\.)downsample_layers\.(\d+)\.", name):
            others["stem" if down[1] == "0" else f"downsampling {down[1]}"] = None
        elif re.match(r"backbone\.norm\w*\.", name):
            others["output norms"] = None
        else:
            others[name.split(".")[0]] = None
    stages = [f"{stage} {min(found)}-{max(found)}" for stage, found in blocks.items()]
    return ", ".join([*others, *stages])


def groups_of(optimized: Optimized) -> list[Group]:
    """The groups, those of one learning rate and weight decay as one, the highest rate first."""
    names = {id(p): name for name, p in optimized.model.named_parameters()}
    logged = _initial(optimized.groups[optimized.logged]) if optimized.groups else 1.0
    alike: dict[tuple[float, float], list] = {}
    for group in optimized.groups:
        if group["params"]:
            key = (_initial(group), float(group.get("weight_decay", 0.0)))
            alike.setdefault(key, []).append(group)
    found = []
    for (lr, decay), members in sorted(alike.items(), reverse=True):
        parameters = [p for group in members for p in group["params"]]
        ends = {group["lr"] / lr for group in members if "initial_lr" in group and lr}
        found.append(Group(
            of=modules_of(names.get(id(p), "other") for p in parameters),
            lr=lr,
            weight_decay=decay,
            tensors=len(parameters),
            parameters=sum(p.numel() for p in parameters),
            rate=lr / logged if logged else 1.0,
            factor=ends.pop() if len(ends) == 1 else None,
        ))  # fmt: skip
    return found


def _initial(group) -> float:
    return float(group.get("initial_lr", group["lr"]))
