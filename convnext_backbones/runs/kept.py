"""What the modules of a model keep beside parameters and buffers, which no state dict holds: the picture size
that a batch was last resized to, the IoUs by which Dynamic R-CNN sets its thresholds, RetinaNet's mean number
of objects. A run that goes on would begin them anew, and train on as another one.

Nobody lists such attributes. So those count that are plain data and that a training has changed.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from ..network.wrappers import unwrapped

LARGEST = 10**6  # elements of a tensor that is kept; a larger one is a map of features
_MODULES_OWN = frozenset(vars(nn.Module()))
_OTHER = object()  # no plain data


class Kept:
    """Made before a training's first step, or before what was saved is put back."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.before = _attributes(model)

    def changes(self) -> dict[str, dict]:
        """The module's name -> the attribute's -> plain data, of what is not as it was."""
        now = _attributes(self.model)
        return {
            module: changed
            for module, values in now.items()
            if (changed := _differing(values, self.before.get(module, {})))
        }

    def put_back(self, saved: dict[str, dict]) -> None:
        """Set what a run had saved, where the modules have plain data, or nothing of the name."""
        owners = dict(_owners(self.model))
        device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
        for module, values in saved.items() if isinstance(saved, dict) else ():
            for name, value in values.items() if isinstance(values, dict) else ():
                path, _, attribute = str(name).rpartition(".")
                owner, copy = owners.get((module, path)), _copied(value)
                own = attribute in _MODULES_OWN or attribute.startswith("__")
                if owner is None or own or copy is _OTHER:
                    continue
                if _copied(getattr(owner, attribute, None)) is _OTHER:
                    continue
                setattr(owner, attribute, copy.to(device) if isinstance(copy, Tensor) else copy)


def _owners(model: nn.Module) -> Iterator[tuple[tuple[str, str], object]]:
    """The modules, and what they hold that is of their own package and no module, such as a head's assigner:
    (the module's name, "" or the attribute's) and the object."""
    for name, module in model.named_modules():
        package = type(module).__module__.partition(".")[0]
        if package == "torch" or _wraps(module):
            continue
        yield (unwrapped(name), ""), module
        for attribute, value in vars(module).items():
            theirs = type(value).__module__.partition(".")[0]
            if theirs == package and hasattr(value, "__dict__") and not isinstance(value, type):
                yield (unwrapped(name), attribute), value


def _wraps(module: nn.Module) -> bool:
    """Whether it is a wrapper such as DDP, which keeps what is of its process."""
    return any(name == "module" for name, _ in module.named_children())


def _attributes(model: nn.Module) -> dict[str, dict]:
    found = {}
    for (name, path), owner in _owners(model):
        values = found.setdefault(name, {})
        for attribute, value in vars(owner).items():
            if attribute not in _MODULES_OWN and (copy := _copied(value)) is not _OTHER:
                values[f"{path}.{attribute}" if path else attribute] = copy
    return found


def _copied(value):
    """A copy of plain data, with Python's numbers for NumPy's."""
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        small = value.numel() <= LARGEST and not value.is_meta
        return value.detach().cpu().clone() if small else _OTHER
    if type(value) is dict:
        copies = dict(zip(value, map(_copied, value.values()), strict=True))
        plain = all(type(key) in (str, int) for key in copies)
        return copies if plain and _are_plain(copies.values()) else _OTHER
    if isinstance(value, list | tuple):
        copies = [_copied(item) for item in value]
        kind = list if isinstance(value, list) else tuple
        return kind(copies) if _are_plain(copies) else _OTHER
    return _OTHER


def _are_plain(copies) -> bool:
    return all(copy is not _OTHER for copy in copies)


def _differing(now: dict, before: dict) -> dict:
    return {n: v for n, v in now.items() if n not in before or not _same(v, before[n])}


def _same(one, other) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    return one == other or (one != one and other != other)  # two NaNs
