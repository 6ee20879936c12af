"""Every variant against transformers' ConvNext and ConvNextV2 holding the same random weights."""

import itertools

import pytest
import torch
from names import share_random_weights, under_our_names
from randomness import random_images, relative_difference
from theirs import BACKBONES, CLASSIFIERS, CONFIGS

from convnext_backbones import VARIANTS, ConvNeXt, ConvNeXtClassifier, ConvNeXtV2

TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-5}
OURS = {1: ConvNeXt, 2: ConvNeXtV2}
SMALL = ["convnext_atto", "convnextv2_atto"]


def pair(name, dtype=torch.float64, num_labels=1000):
    variant = VARIANTS[name]
    config = CONFIGS[variant.version](
        depths=list(variant.depths), hidden_sizes=list(variant.dims), num_labels=num_labels
    )
    with torch.device("meta"):
        # Hugging Face's pooled norm has an eps of its own.
        ours = ConvNeXtClassifier(
            variant.size, version=variant.version, num_classes=num_labels, norm_eps=1e-12
        )
        peer = CLASSIFIERS[variant.version](config)
    share_random_weights(ours, peer, dtype)
    return ours, peer


def assert_same_outputs(ours, peer, images):
    tolerance = TOLERANCES[images.dtype]
    with torch.no_grad():
        features = ours.forward_features(images)
        expected = peer.base_model(images, output_hidden_states=True)
        assert relative_difference(features.last_hidden_state, expected[0]) <= tolerance
        assert relative_difference(features.pooler_output, expected.pooler_output) <= tolerance
        for own, theirs in zip(features.hidden_states, expected.hidden_states, strict=True):
            assert relative_difference(own, theirs) <= tolerance
        assert relative_difference(ours(images), peer(images).logits) <= tolerance


@pytest.mark.parametrize("dtype", TOLERANCES, ids=["float64", "float32"])
@pytest.mark.parametrize("name", VARIANTS)
def test_model_outputs_and_logits_equal_transformers(name, dtype):
    ours, peer = pair(name, dtype)
    assert_same_outputs(ours, peer, random_images(1, 3, 32, 32, dtype=dtype))


@pytest.mark.parametrize("size", [(33, 47), (70, 66)], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_odd_sizes_equal_transformers(name, size):
    ours, peer = pair(name)
    assert_same_outputs(ours, peer, random_images(2, 3, *size, dtype=torch.float64))


@pytest.mark.parametrize("name", SMALL)
def test_gradients_of_all_parameters_equal_transformers(name):
    ours, peer = pair(name)
    images = random_images(2, 3, 64, 64, dtype=torch.float64)
    labels = torch.tensor([3, 999])
    ours(images, labels).loss.backward()
    peer(images, labels=labels).loss.backward()
    theirs = under_our_names({n: p.grad for n, p in peer.named_parameters()})
    for own_name, parameter in ours.named_parameters():
        expected = theirs[own_name]
        assert expected.abs().max() > 0, own_name
        assert relative_difference(parameter.grad, expected) <= 1e-9, own_name


SUBSETS = [
    names
    for length in range(1, 6)
    for names in itertools.combinations(["stem", "stage1", "stage2", "stage3", "stage4"], length)
]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("names", SUBSETS, ids="-".join)
def test_backbone_maps_equal_transformers_for_every_selection(names, version):
    depths, dims = [1, 1, 2, 1], [8, 16, 24, 32]
    config = CONFIGS[version](depths=depths, hidden_sizes=dims, out_features=list(names))
    with torch.device("meta"):
        # Ours builds no stage after the last selected one; theirs does, so the table is checked
        # with the last stage selected as well.
        complete = tuple(dict.fromkeys([*names, "stage4"]))
        ours = OURS[version](dict(depths=depths, dims=dims), out_features=names)
        full = OURS[version](dict(depths=depths, dims=dims), out_features=complete)
        config_full = CONFIGS[version](
            depths=depths, hidden_sizes=dims, out_features=list(complete)
        )
        peer_full, peer = BACKBONES[version](config_full), BACKBONES[version](config)
    share_random_weights(full, peer_full, torch.float64)
    state = full.state_dict()
    ours.load_state_dict({n: state[n] for n in ours.state_dict()}, assign=True)
    peer_state = peer_full.state_dict()
    peer.load_state_dict({n: peer_state[n] for n in peer.state_dict()}, assign=True)
    images = random_images(2, 3, 33, 47, dtype=torch.float64)
    with torch.no_grad():
        maps, expected = ours.eval()(images), peer.eval()(images).feature_maps
    assert ours.channels == tuple(peer.channels)
    for own, theirs in zip(maps, expected, strict=True):
        assert relative_difference(own, theirs) <= 1e-9


@pytest.mark.parametrize(
    ("num_labels", "labels"),
    [
        (1, torch.tensor([0.3, -1.0, 2.0])),
        (1, torch.tensor([[0.3], [-1.0], [2.0]])),
        (4, torch.tensor([0, 3, 1])),
        (4, torch.tensor([0, 3, 1], dtype=torch.int32)),
        (4, torch.tensor([0, -100, 1])),  # -100 is left out
        (4, torch.tensor([[0.0, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 1]])),
    ],
    ids=["one label", "one label, 2-D", "int64", "int32", "ignored", "multi-label"],
)
@pytest.mark.parametrize("name", SMALL)
def test_loss_and_logits_equal_transformers(name, num_labels, labels):
    ours, peer = pair(name, num_labels=num_labels)
    images = random_images(3, 3, 32, 32, dtype=torch.float64)
    # cross_entropy, which transformers calls as it is, takes int64 alone.
    peer_labels = labels.double() if labels.is_floating_point() else labels.long()
    labels = labels.double() if labels.is_floating_point() else labels
    with torch.no_grad():
        own, expected = ours(images, labels), peer(images, labels=peer_labels)
    assert own.loss.shape == ()
    assert relative_difference(own.loss, expected.loss) <= 1e-9
    assert relative_difference(own.logits, expected.logits) <= 1e-9


@pytest.mark.parametrize("name", SMALL)
def test_no_classes_give_the_pooled_features_of_transformers(name):
    ours, peer = pair(name, num_labels=0)
    images = random_images(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        assert relative_difference(ours(images), peer(images).logits) <= 1e-9
