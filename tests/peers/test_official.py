"""Every variant against the official code, where it can be had.

    git clone https://github.com/facebookresearch/ConvNeXt
    git clone https://github.com/facebookresearch/ConvNeXt-V2
    CONVNEXT_OFFICIAL=. pytest tests/peers/test_official.py

CONVNEXT_OFFICIAL names the folder that holds both clones; without it the tests are skipped.
"""

import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from names import share_random_weights, under_our_names
from randomness import random_images, relative_difference

from convnext_backbones import VARIANTS, ConvNeXtClassifier, create_classifier

FOLDER = os.environ.get("CONVNEXT_OFFICIAL")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="CONVNEXT_OFFICIAL is not set")


@pytest.fixture(scope="module")
def official():
    """Version to the official class. What it imports and dense models do not use is left empty."""
    import timm.layers

    stand_ins = {
        "timm.models.layers": vars(timm.layers),
        "timm.models.registry": {"register_model": lambda function: function},
        "MinkowskiEngine": {"SparseTensor": None},
    }
    before = {name: sys.modules.get(name) for name in stand_ins}
    for name, content in stand_ins.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    v1 = load(Path(FOLDER, "ConvNeXt", "models", "convnext.py"), "official_v1")
    package = types.ModuleType("official_v2")
    package.__path__ = [str(Path(FOLDER, "ConvNeXt-V2", "models"))]
    sys.modules["official_v2"] = package
    v2 = load(Path(FOLDER, "ConvNeXt-V2", "models", "convnextv2.py"), "official_v2.convnextv2")
    yield {1: v1.ConvNeXt, 2: v2.ConvNeXtV2}
    for name, module in before.items():
        if module is None:
            del sys.modules[name]
        else:
            sys.modules[name] = module


def load(path, name):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pair(official, name, drop_path_rate=0.0):
    variant = VARIANTS[name]
    # The official constructors read their drop path rates off a tensor, which has to have values.
    peer = official[variant.version](
        depths=variant.depths, dims=variant.dims, drop_path_rate=drop_path_rate
    )
    with torch.device("meta"):
        ours = create_classifier(name, drop_path_rate=drop_path_rate)
    share_random_weights(ours, peer, torch.float64)
    return ours, peer


@pytest.mark.parametrize("name", VARIANTS)
def test_features_and_logits_equal_the_official_code(official, name):
    ours, peer = pair(official, name)
    images = random_images(1, 3, 33, 47, dtype=torch.float64)
    with torch.no_grad():
        pooled = ours.forward_features(images).pooler_output
        assert relative_difference(pooled, peer.forward_features(images)) <= 1e-9
        assert relative_difference(ours(images), peer(images)) <= 1e-9


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_training_with_drop_path_equals_the_official_code(official, name):
    ours, peer = pair(official, name, drop_path_rate=0.5)
    images = random_images(4, 3, 64, 64, dtype=torch.float64)
    weights = random_images(4, 1000, dtype=torch.float64, seed=2)
    for model in (ours, peer):
        model.train()
        torch.manual_seed(11)
        (model(images) * weights).sum().backward()
    theirs = under_our_names({n: p.grad for n, p in peer.named_parameters()})
    for parameter_name, parameter in ours.named_parameters():
        expected = theirs[parameter_name]
        assert relative_difference(parameter.grad, expected) <= 1e-9, parameter_name


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto", "convnext_tiny"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.4])
def test_drop_path_rates_are_the_official_numbers(official, name, rate):
    variant = VARIANTS[name]
    peer = official[variant.version](depths=variant.depths, dims=variant.dims, drop_path_rate=rate)
    with torch.device("meta"):
        ours = create_classifier(name, drop_path_rate=rate)
    blocks = [block for stage in peer.stages for block in stage]
    expected = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert [block.drop_path.rate for stage in ours.stages for block in stage] == expected


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("version", [1, 2])
def test_images_of_other_channels_give_the_official_logits(official, version, channels):
    arch = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
    ours = ConvNeXtClassifier(arch, version=version, in_channels=channels, num_classes=5)
    peer = official[version](in_chans=channels, num_classes=5, **arch)
    share_random_weights(ours, peer, torch.float64)
    images = random_images(2, channels, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        assert relative_difference(ours(images), peer(images)) <= 1e-9


@pytest.mark.parametrize("scale", [1.0, 0.001])
@pytest.mark.parametrize("version", [1, 2])
def test_initial_values_have_the_official_names_and_distributions(official, version, scale):
    torch.manual_seed(0)
    arch = {"depths": (1, 1, 2, 1), "dims": (40, 80, 96, 128)}
    ours = ConvNeXtClassifier(arch, version=version, num_classes=200, head_init_scale=scale)
    peer = official[version](num_classes=200, head_init_scale=scale, **arch)
    state = peer.state_dict()
    assert list(ours.state_dict()) == list(state)
    for name, own in ours.state_dict().items():
        expected = state[name].reshape(own.shape)  # GRN's are (1, 1, 1, C) there
        if expected.unique().numel() == 1:
            assert torch.equal(own, expected), name
        else:
            by_chance = expected.numel() ** -0.5  # the ratio's standard error is about as large
            assert (own.std() / expected.std()).item() == pytest.approx(1, abs=5 * by_chance), name
            assert own.mean().abs() <= 5 * by_chance * own.std(), name
