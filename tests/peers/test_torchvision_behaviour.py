"""What torchvision's suite states of its ConvNeXt, against ours holding the same weights.

Small maps take the fast path here, as large ones do; the right values are always torchvision's.
"""

import copy

import pytest
import torch
from names import share_random_weights, under_our_names
from randomness import random_images, relative_difference
from torch.fx import symbolic_trace
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.convnext import ConvNeXt as TorchvisionConvNeXt
from torchvision.models.feature_extraction import create_feature_extractor

from convnext_backbones import ConvNeXt, ConvNeXtClassifier
from convnext_backbones.kernels import dispatch


@pytest.fixture(autouse=True)
def small_maps_too(monkeypatch):
    monkeypatch.setattr(dispatch, "SMALLEST", 0)


def torchvision_model(depths, dims, **options):
    following = [*dims[1:], None]
    settings = [CNBlockConfig(c, n, d) for c, n, d in zip(dims, following, depths, strict=True)]
    return TorchvisionConvNeXt(settings, num_classes=5, **options)


def classifiers(depths=(1, 2, 3, 1), dims=(8, 16, 24, 32), **options):
    arch = {"depths": depths, "dims": dims}
    ours = ConvNeXtClassifier(arch, version=1, num_classes=5, **options)
    peer = torchvision_model(depths, dims)
    share_random_weights(ours, peer, torch.float64)
    return ours, peer


def make_images(n=2, height=64, width=96):
    return random_images(n, 3, height, width, dtype=torch.float64)


@pytest.mark.parametrize(
    ("depths", "dims"),
    [((1, 2), (8, 16)), ((2, 1, 1), (8, 8, 24)), ((1, 1, 2, 1, 1), (8, 8, 16, 16, 24))],
    ids=str,
)
def test_any_number_of_stages_gives_torchvisions_logits(depths, dims):
    ours, peer = classifiers(depths, dims)
    images = make_images(2, 70, 96)
    with torch.no_grad():
        assert relative_difference(ours(images), peer(images)) <= 1e-9


def test_a_backbones_maps_are_those_of_torchvisions_feature_extractor():
    classifier, peer = classifiers()
    nodes = {"features.0": "stem"} | {f"features.{2 * i - 1}": f"stage{i}" for i in range(1, 5)}
    names = tuple(nodes.values())
    arch = {"depths": classifier.depths, "dims": classifier.dims}
    backbone = ConvNeXt(arch, out_features=names, output_norm=False).double().eval()
    state = classifier.state_dict()
    backbone.load_state_dict({n: state[n] for n in backbone.state_dict()})
    images = make_images(2, 70, 66)
    with torch.no_grad():
        expected = create_feature_extractor(peer, nodes)(images)
        for name, own in zip(names, backbone(images), strict=True):
            assert relative_difference(own, expected[name]) <= 1e-9


@pytest.mark.parametrize("frozen", [False, True])
def test_images_have_torchvisions_gradient_with_frozen_weights_too(frozen):
    results = []
    for model in classifiers():
        images = make_images().requires_grad_()
        model.requires_grad_(not frozen)
        logits = model(images)
        (logits * logits.detach()).sum().backward()
        assert all((p.grad is None) == frozen for p in model.parameters())
        results.append(images.grad)
    assert relative_difference(*results) <= 1e-9


def test_training_with_frozen_stages_changes_what_torchvisions_does_with_them_frozen():
    """frozen_stages=2 of the backbone; in torchvision those layers are the first four."""
    classifier, peer = classifiers()
    state = copy.deepcopy(classifier.state_dict())  # its memory is the peer's
    arch = {"depths": classifier.depths, "dims": classifier.dims}
    ours = ConvNeXt(arch, output_norm=False, frozen_stages=2).double()
    ours.load_state_dict({n: state[n] for n in ours.state_dict()})
    peer.features[:4].requires_grad_(False)
    images = make_images()
    for model in (ours.train(), peer.features.train()):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, weight_decay=0.1)
        (x,) = output if isinstance(output := model(images), tuple) else (output,)
        x.square().mean().backward()
        optimizer.step()
    theirs = under_our_names(peer.state_dict())
    for name, own in ours.state_dict().items():
        assert relative_difference(own, theirs[name]) <= 1e-9, name
        frozen = name.startswith(
            ("stages.0", "stages.1", "downsample_layers.0", "downsample_layers.1")
        )
        assert torch.equal(own, state[name]) == frozen, name


def test_a_graph_of_torch_fx_gives_torchvisions_logits_and_gradients():
    ours, peer = classifiers()
    traced = symbolic_trace(ours.train())
    images = make_images()
    for model in (traced, peer.train()):
        logits = model(images)
        (logits * logits.detach()).sum().backward()
    theirs = under_our_names({n: p.grad for n, p in peer.named_parameters()})
    for name, parameter in ours.named_parameters():
        assert relative_difference(parameter.grad, theirs[name]) <= 1e-9, name


def test_stochastic_depth_grows_as_in_torchvision():
    for depths in ((1, 1, 1, 1), (3, 3, 9, 3)):
        dims = (8, 8, 8, 8)
        arch = {"depths": depths, "dims": dims}
        ours = ConvNeXtClassifier(arch, version=1, num_classes=5, drop_path_rate=0.5)
        peer = torchvision_model(depths, dims, stochastic_depth_prob=0.5)
        own = [block.drop_path.rate for stage in ours.stages for block in stage]
        blocks = [block for stage in peer.features[1::2] for block in stage]
        # torchvision's are Python floats, ours float32 numbers as in the official code.
        assert own == pytest.approx([b.stochastic_depth.p for b in blocks], abs=1e-7)


def test_initial_values_have_the_distributions_of_torchvisions():
    torch.manual_seed(0)
    dims = (40, 80, 96, 128)
    arch = {"depths": (1, 1, 2, 1), "dims": dims}
    ours = ConvNeXtClassifier(arch, version=1, num_classes=5, layer_scale_init_value=0.5)
    peer = torchvision_model(arch["depths"], dims, layer_scale=0.5)
    theirs = under_our_names(peer.state_dict())
    for name, own in ours.state_dict().items():
        expected = theirs[name]
        if expected.unique().numel() == 1:
            assert torch.equal(own, expected), name
        else:
            by_chance = expected.numel() ** -0.5  # the ratio's standard error is about as large
            assert (own.std() / expected.std()).item() == pytest.approx(1, abs=5 * by_chance), name
            assert own.mean().abs() <= 5 * by_chance * own.std(), name
