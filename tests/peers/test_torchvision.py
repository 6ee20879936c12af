"""The four V1 sizes of torchvision holding the same random weights as ours."""

import pytest
import torch
import torchvision
from names import share_random_weights, under_our_names
from randomness import random_images, relative_difference

from convnext_backbones import create_classifier

TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-5}
NAMES = ["convnext_tiny", "convnext_small", "convnext_base", "convnext_large"]


def pair(name, dtype=torch.float64, drop_path_rate=0.0):
    with torch.device("meta"):
        ours = create_classifier(name, drop_path_rate=drop_path_rate)
        peer = torchvision.models.get_model(name, stochastic_depth_prob=drop_path_rate)
    share_random_weights(ours, peer, dtype)
    return ours, peer


@pytest.mark.parametrize("size", [(32, 32), (33, 47)], ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=["float64", "float32"])
@pytest.mark.parametrize("name", NAMES)
def test_features_and_logits_equal_torchvision(name, dtype, size):
    ours, peer = pair(name, dtype)
    images = random_images(1, 3, *size, dtype=dtype)
    with torch.no_grad():
        features = ours.forward_features(images)
        expected = images
        # features.0 is the stem, odd ones are stages, the other even ones downsampling layers.
        for i, layer in enumerate(peer.features):
            expected = layer(expected)
            if i % 2 == 1 or i == 0:
                own = features.hidden_states[(i + 1) // 2]
                assert relative_difference(own, expected) <= TOLERANCES[dtype]
        assert relative_difference(ours(images), peer(images)) <= TOLERANCES[dtype]


def test_gradients_of_all_parameters_equal_torchvision():
    ours, peer = pair("convnext_tiny")
    images = random_images(2, 3, 64, 64, dtype=torch.float64)
    weights = random_images(2, 1000, dtype=torch.float64, seed=2)
    (ours(images) * weights).sum().backward()
    (peer(images) * weights).sum().backward()
    theirs = under_our_names({n: p.grad for n, p in peer.named_parameters()})
    for own_name, parameter in ours.named_parameters():
        expected = theirs[own_name]
        assert relative_difference(parameter.grad, expected) <= 1e-9, own_name


def test_drop_path_draws_and_scales_as_torchvision_under_a_seed():
    ours, peer = pair("convnext_tiny", drop_path_rate=0.4)
    images = random_images(6, 3, 32, 32, dtype=torch.float64)
    ours.train(), peer.train()
    with torch.no_grad():
        torch.manual_seed(3)
        own = ours(images)
        torch.manual_seed(3)
        expected = peer(images)
    # torchvision's rates are Python floats, ours float32 numbers as in the official code.
    assert relative_difference(own, expected) <= 1e-6
