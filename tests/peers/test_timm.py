"""Every variant against timm's model of the same name, holding the same random weights."""

import pytest
import timm
import torch
from names import share_random_weights, under_our_names
from randomness import random_images, relative_difference

from convnext_backbones import VARIANTS, create_backbone, create_classifier

TOLERANCES = {torch.float64: 1e-9, torch.float32: 2e-5}
SMALL = ["convnext_atto", "convnextv2_atto"]


def pair(name, dtype=torch.float64, drop_path_rate=0.0):
    with torch.device("meta"):
        ours = create_classifier(name, drop_path_rate=drop_path_rate)
        peer = timm.create_model(name, drop_path_rate=drop_path_rate)
    share_random_weights(ours, peer, dtype)
    return ours, peer


def assert_same_features_and_logits(ours, peer, images):
    tolerance = TOLERANCES[images.dtype]
    with torch.no_grad():
        features = ours.forward_features(images)
        last, stages = peer.forward_intermediates(images, indices=4)
        assert relative_difference(features.hidden_states[0], peer.stem(images)) <= tolerance
        for i, stage in enumerate(stages):
            assert relative_difference(features.hidden_states[i + 1], stage) <= tolerance
        assert relative_difference(features.last_hidden_state, last) <= tolerance
        pooled = peer.forward_head(last, pre_logits=True)
        assert relative_difference(features.pooler_output, pooled) <= tolerance
        assert relative_difference(ours(images), peer(images)) <= tolerance


@pytest.mark.parametrize("dtype", TOLERANCES, ids=["float64", "float32"])
@pytest.mark.parametrize("name", VARIANTS)
def test_features_and_logits_equal_timm(name, dtype):
    ours, peer = pair(name, dtype)
    assert_same_features_and_logits(ours, peer, random_images(1, 3, 32, 32, dtype=dtype))


@pytest.mark.parametrize("size", [(33, 47), (70, 66), (64, 224)], ids=str)
@pytest.mark.parametrize("name", SMALL)
def test_odd_sizes_equal_timm(name, size):
    ours, peer = pair(name)
    assert_same_features_and_logits(ours, peer, random_images(2, 3, *size, dtype=torch.float64))


@pytest.mark.parametrize("name", SMALL)
def test_backbone_without_output_norms_equals_timm_features(name):
    images = random_images(2, 3, 33, 47, dtype=torch.float64)
    classifier, peer = pair(name)
    backbone = create_backbone(name, out_indices=(0, 1, 2, 3), output_norm=False).double().eval()
    state = classifier.state_dict()
    backbone.load_state_dict({n: state[n] for n in backbone.state_dict()})
    with torch.no_grad():
        expected = peer.forward_intermediates(images, indices=4, intermediates_only=True)
        for ours, theirs in zip(backbone(images), expected, strict=True):
            assert relative_difference(ours, theirs) <= 1e-9


@pytest.mark.parametrize("name", [*SMALL, "convnext_tiny", "convnextv2_tiny"])
def test_gradients_of_all_parameters_equal_timm(name):
    ours, peer = pair(name)
    images = random_images(2, 3, 64, 64, dtype=torch.float64)
    ours_images, peer_images = images.clone().requires_grad_(), images.clone().requires_grad_()
    # A weighted sum, since the plain sum of a LayerNorm's output has no gradient.
    weights = random_images(2, 1000, dtype=torch.float64, seed=2)
    (ours(ours_images) * weights).sum().backward()
    (peer(peer_images) * weights).sum().backward()
    theirs = under_our_names({n: p.grad for n, p in peer.named_parameters()})
    for own_name, parameter in ours.named_parameters():
        expected = theirs[own_name]
        assert expected.abs().max() > 0, own_name
        assert relative_difference(parameter.grad, expected) <= 1e-9, own_name
    assert relative_difference(ours_images.grad, peer_images.grad) <= 1e-9


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", SMALL)
def test_drop_path_draws_and_scales_as_timm_under_a_seed(name, rate):
    ours, peer = pair(name, drop_path_rate=rate)
    images = random_images(8, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        kept = ours(images)
        ours.train(), peer.train()
        torch.manual_seed(7)
        dropped = ours(images)
        torch.manual_seed(7)
        expected = peer(images)
    assert relative_difference(dropped, expected) <= 1e-9
    assert relative_difference(dropped, kept) > 1e-3


@pytest.mark.parametrize("name", SMALL)
def test_drop_path_rates_grow_over_the_blocks_as_timm(name):
    ours, peer = pair(name, drop_path_rate=0.3)
    for own_stage, their_stage in zip(ours.stages, peer.stages, strict=True):
        for own_block, their_block in zip(own_stage, their_stage.blocks, strict=True):
            their_rate = getattr(their_block.drop_path, "drop_prob", 0.0)
            assert own_block.drop_path.rate == pytest.approx(their_rate, abs=1e-7)


@pytest.mark.parametrize("output_stride", [8, 16])
def test_output_stride_at_even_positions_equals_timm_plain_features(output_stride):
    """V1 on sizes that all strides divide: dilation sees what the stride would have seen."""
    classifier, peer = pair("convnext_atto")
    backbone = create_backbone(
        "convnext_atto", out_indices=(0, 1, 2, 3), output_norm=False, output_stride=output_stride
    )
    state = classifier.state_dict()
    backbone.double().load_state_dict({n: state[n] for n in backbone.state_dict()})
    images = random_images(1, 3, 128, 192, dtype=torch.float64)
    with torch.no_grad():
        expected = peer.forward_intermediates(images, indices=4, intermediates_only=True)
        maps = backbone.eval()(images)
    for ours, theirs in zip(maps, expected, strict=True):
        step = ours.shape[-1] // theirs.shape[-1]
        assert relative_difference(ours[:, :, ::step, ::step], theirs) <= 1e-9
    assert maps[-1].shape[-2:] == (128 // output_stride, 192 // output_stride)
