"""Other activations than the papers': transformers' values, by the plain steps alone."""

import copy
import pickle

import pytest
import torch
from randomness import random_images, randomised
from torch import nn
from transformers.activations import ACT2FN

from convnext_backbones import ConvNeXt, ConvNeXtClassifier, ConvNeXtV2, prepare_for_inference
from convnext_backbones.errors import UserError
from convnext_backbones.kernels import dispatch
from convnext_backbones.network import prepared
from convnext_backbones.network.activations import ACTIVATIONS

ARCH = {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]}
EXACT = [name for name, make in ACTIVATIONS.items() if make is nn.GELU]
OTHERS = [name for name in ACTIVATIONS if name not in EXACT]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_has_the_values_of_transformers(name):
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    ours, peer = ACTIVATIONS[name]().double(), ACT2FN[name].double()
    torch.testing.assert_close(ours(x), peer(x), rtol=1e-8, atol=1e-8)


def test_there_is_every_activation_of_transformers_but_one():
    assert set(ACT2FN) - set(ACTIVATIONS) == {"xielu"}
    assert EXACT == ["gelu", "gelu_python"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_only_the_exact_gelu_has_a_fast_path(monkeypatch, name):
    monkeypatch.setattr(dispatch, "SMALLEST", 0)
    model = randomised(ConvNeXtV2(ARCH, activation=name))
    block, x = model.stages[0][0], random_images(1, 8, 8, 8)
    fast, reason = [], dispatch.why_not(block, x)
    monkeypatch.setattr(dispatch, "compute", lambda *args: fast.append(args))
    block(x)
    assert (reason, len(fast)) == ((None, 1) if name in EXACT else (dispatch.NO_GELU, 0))


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("kind", [ConvNeXt, ConvNeXtV2])
def test_prepared_for_inference_a_block_with_another_activation_is_computed_as_it_is(kind, name):
    model = randomised(kind(ARCH, activation=name))
    fast = prepare_for_inference(model, torch.float32)
    assert all(type(block) is prepared._Plain for stage in fast.stages for block in stage)
    images = random_images(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
def test_a_network_with_another_activation_trains_and_can_be_copied_and_pickled(name):
    model = randomised(ConvNeXt(ARCH, activation=name)).train()
    images = random_images(2, 3, 64, 64)
    (maps,) = model(images)
    maps.square().mean().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            assert torch.equal(again(images)[0], maps)
    assert torch.fx.symbolic_trace(model)(images)[0].isfinite().all()


def test_the_weight_of_a_prelu_is_drawn_again_after_to_empty():
    with torch.device("meta"):
        model = ConvNeXt(ARCH, activation="prelu")
    model.to_empty(device="cpu").reset_parameters()
    assert model.stages[0][0].act.weight.item() == 0.25


@pytest.mark.parametrize("model", [
    lambda std: ConvNeXt({"depths": [1, 1], "dims": [64, 96]}, init_std=std),
    lambda std: ConvNeXtClassifier({"depths": [1, 1], "dims": [64, 96]}, version=2, num_classes=99, init_std=std),
], ids=["backbone", "classifier"])  # fmt: skip
def test_initial_weights_have_the_deviation_that_was_asked_for(model):
    torch.manual_seed(0)
    model = model(0.3)
    for again in (False, True):
        if again:
            model.reset_parameters()
        for layer in model.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                by_chance = layer.weight.numel() ** -0.5
                assert layer.weight.std().item() == pytest.approx(0.3, rel=5 * by_chance)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"activation": "rely"}, "must be the name of an activation, got 'rely'; did you mean 'relu'"),
        ({"activation": "xielu"}, "constants beside its weights.*'gelu'"),
        ({"activation": nn.ReLU}, "must be the name of an activation"),
        ({"activation": None}, "must be the name of an activation, got None"),
        ({"activation": ["relu"]}, "must be the name of an activation"),
        ({"hidden_act": "relu"}, "'hidden_act': write activation"),
        ({"initializer_range": 0.1}, "'initializer_range': write init_std"),
        ({"init_std": 0}, "init_std must be a number above 0, got 0"),
        ({"init_std": float("inf")}, "init_std must be a number above 0"),
        ({"init_std": "0.02"}, "init_std must be a number above 0, got '0.02'"),
        ({"init_std": True}, "init_std must be a number above 0, got True"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_option_is_a_sentence(options, sentence):
    with pytest.raises(UserError, match=sentence):
        ConvNeXt(ARCH, **options)
