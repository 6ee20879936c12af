"""What a run goes on from is all there and its own, or is refused."""

import copy

import pytest
import torch
from torch import nn

from convnext_backbones import ConvNeXtV2
from convnext_backbones.checkpoints import CheckpointError
from convnext_backbones.runs.resuming import check_complete, check_optimizer, check_weights

SIZE = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))


def model(size=SIZE, classes=3):
    built = nn.Module()
    built.backbone, built.head = ConvNeXtV2(size, out_indices=(3,)), nn.Linear(32, classes)
    return built


def test_weights_must_be_the_models_own():
    own = model()
    check_weights(own, own.state_dict(), "run.pth")
    deeper = model(dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))).state_dict()
    with pytest.raises(CheckpointError, match=r"checkpoint is .*\(1, 1, 2, 1\).*model's is"):
        check_weights(own, deeper, "run.pth")
    with pytest.raises(
        CheckpointError, match=r"head\.weight is \(4, 32\), not \(3, 32\).*--weights"
    ):
        check_weights(own, model(classes=4).state_dict(), "run.pth")
    more = own.state_dict() | {"more": torch.ones(1)}
    with pytest.raises(CheckpointError, match=r"averaged weights are of.*more has no place"):
        check_weights(own, more, "run.pth", averages=True)
    bad = copy.deepcopy(own.state_dict())
    bad["head.bias"][1] = float("nan")
    with pytest.raises(CheckpointError, match=r"NaN or infinite.*head\.bias"):
        check_weights(own, bad, "run.pth")


def test_what_is_missing_is_named_with_what_to_do():
    check_complete({"a": 1}, {"a": "x"}, "run.pth")
    with pytest.raises(CheckpointError, match=r"no 'b' \(the b\), no 'c' \(the c\); it holds a\."):
        check_complete({"a": 1}, {"b": "the b", "c": "the c"}, "run.pth")


def stepped(kind=torch.optim.AdamW, groups=1, size=3, rate=0.1, names=None, **options):
    """An optimizer that has made a step."""
    layers = [nn.Linear(size, 2) for _ in range(groups)]
    parts = [{"params": list(layer.parameters()), "initial_lr": rate} for layer in layers]
    for part, name in zip(parts, names or [], strict=False):
        part["param_names"] = name
    optimizer = kind(parts, lr=rate, **options)
    sum(layer(torch.ones(1, size)).sum() for layer in layers).backward()
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (lambda: stepped(torch.optim.SGD, momentum=0.9), "of another kind"),
        (lambda: stepped(torch.optim.RMSprop), "of another kind"),
        (lambda: stepped(groups=2), "2 parameter groups, the config's AdamW has 1"),
        (lambda: stepped(size=4), r"exp_avg of parameter 0 is \(2, 4\), the parameter \(2, 3\)"),
        (lambda: stepped(names=[["bias", "weight"]]), "group 0 holds bias, weight, the config's weight, bias"),
    ],
)  # fmt: skip
def test_another_optimizer_is_refused(other, words):
    own = stepped(names=[["weight", "bias"]])
    with pytest.raises(CheckpointError, match=words):
        check_optimizer(other().state_dict(), own, "run.pth")


def test_an_optimizers_own_state_fits_and_other_rates_are_told():
    assert check_optimizer(stepped().state_dict(), stepped(), "run.pth") is None
    line = check_optimizer(stepped().state_dict(), stepped(rate=0.01), "run.pth")
    assert "up to 0.1; those of the config, up to 0.01" in line
    with pytest.raises(CheckpointError, match="no state of an optimizer"):
        check_optimizer({"state": {}}, stepped(), "run.pth")
    layer = nn.Linear(3, 2)
    half = torch.optim.AdamW([layer.weight])
    with pytest.raises(CheckpointError, match="group 0 has 1 parameters, the config's 2"):
        check_optimizer(half.state_dict(), torch.optim.AdamW(layer.parameters()), "run.pth")
