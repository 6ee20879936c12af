"""What modules keep beside parameters and buffers is found, and put back."""

import numpy as np
import torch
from torch import nn

from convnext_backbones.runs.kept import Kept


class Assigner:
    def __init__(self):
        self.threshold, self.call = 0.5, print


class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.classes = 3
        self.history, self.size, self.sums = [], None, torch.zeros(2)
        self.assigner, self.settings, self.other = Assigner(), {"a": [1]}, object()

    def train_a_little(self) -> None:
        self.history.append(np.float64(0.25))
        self.size, self.mean = (4, 6), 1.5
        self.sums = torch.ones(2, requires_grad=True) * 2
        self.assigner.threshold = 0.75
        self.settings["a"].append(2)
        self.features = torch.zeros(10**6 + 1)
        self.loop = self.other
        self.layer.weight.data.zero_()
        self.eval()


CHANGED = {
    "history": [0.25], "size": (4, 6), "mean": 1.5, "assigner.threshold": 0.75, "settings": {"a": [1, 2]},
}  # fmt: skip


def test_what_training_changed_is_found_and_put_back():
    model = nn.ModuleDict({"head": Head()})
    kept = Kept(model)
    assert kept.changes() == {}
    model["head"].train_a_little()
    saved = kept.changes()
    assert list(saved) == ["head"]
    sums = saved["head"].pop("sums")
    assert saved["head"] == CHANGED
    assert sums.tolist() == [2, 2]
    assert not sums.requires_grad
    assert type(saved["head"]["history"][0]) is float
    new = nn.ModuleDict({"head": Head()})
    Kept(new).put_back({"head": {**saved["head"], "sums": sums}})
    assert new["head"].mean == 1.5
    assert new["head"].assigner.threshold == 0.75
    new["head"].history.append(1)
    assert saved["head"] == CHANGED  # put back as a copy
    assert new.training


def test_a_wrapper_changes_no_name():
    class Wrapper(nn.Module):
        def __init__(self, module: nn.Module):
            super().__init__()
            self.module, self.steps = module, 0

    model = Wrapper(nn.Sequential(Head()))
    kept = Kept(model)
    model.steps = 3
    model.module[0].mean = 2.0
    assert kept.changes() == {"0": {"mean": 2.0}}


def test_nothing_but_such_attributes_is_set():
    """A file may say anything."""
    head = Head()
    forward = head.forward
    Kept(head).put_back(
        {
            "": {
                "forward": 1,
                "other": 2,
                "_parameters": {},
                "__class__": "a",
                "__dict__": {},
                "x": print,
            },
            "no": {"a": 1},
        }
    )
    Kept(head).put_back([1])
    Kept(head).put_back({"": 1})
    assert head.forward == forward
    assert type(head.other) is object
    assert type(head) is Head
    assert len(list(head.parameters())) == 2
