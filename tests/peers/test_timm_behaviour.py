"""What timm's suite states of its models and layers, against ours holding the same weights.

Small maps take the fast path here, as large ones do; the right values are always timm's.
"""

import copy
import itertools

import pytest
import timm
import torch
from names import share_random_weights, under_our_names
from randomness import random_images, randomised, relative_difference
from timm.layers import LayerNorm2d as TimmLayerNorm2d
from timm.layers.grn import GlobalResponseNorm
from timm.optim import param_groups_weight_decay
from timm.utils import ModelEmaV3
from torch import nn

from convnext_backbones import ConvNeXt, ConvNeXtClassifier, ConvNeXtV2
from convnext_backbones.kernels import dispatch
from convnext_backbones.network.convnext import GRN, LayerNorm2d
from convnext_backbones.recipes.layer_decay import parameter_groups

DEPTHS, DIMS = (1, 2, 3, 1), (8, 16, 24, 32)
ARCH = {"depths": DEPTHS, "dims": DIMS}
SUBSETS = [s for length in range(1, 5) for s in itertools.combinations(range(4), length)]
OURS = {1: ConvNeXt, 2: ConvNeXtV2}
BOTH = pytest.mark.parametrize("version", [1, 2])


@pytest.fixture(autouse=True)
def small_maps_too(monkeypatch):
    monkeypatch.setattr(dispatch, "SMALLEST", 0)


def timm_model(version, **options):
    name = {1: "convnext_tiny", 2: "convnextv2_tiny"}[version]
    return timm.create_model(name, **{"depths": DEPTHS, "dims": DIMS, "num_classes": 5, **options})


def classifiers(version, **options):
    """Ours and timm's, with the same random weights; options are ours."""
    ours = ConvNeXtClassifier(ARCH, version=version, **{"num_classes": 5, **options})
    theirs = {"in_channels": "in_chans", "num_classes": "num_classes", "patch_size": "patch_size"}
    peer = timm_model(version, **{theirs[k]: v for k, v in options.items() if k in theirs})
    share_random_weights(ours, peer, torch.float64)
    return ours, peer


def plain_backbone(version, classifier, **options):
    """The backbone of a classifier, without output norms, which timm's features have none of."""
    backbone = OURS[version](ARCH, output_norm=False, **options).double().eval()
    state = classifier.state_dict()
    backbone.load_state_dict({n: state[n] for n in backbone.state_dict()})
    return backbone


def make_images(n=2, height=64, width=96, channels=3):
    return random_images(n, channels, height, width, dtype=torch.float64)


def assert_equal(ours, theirs):
    for x, y in zip(ours, theirs, strict=True):
        assert relative_difference(x, y) <= 1e-9


# ---- features


@pytest.mark.parametrize("indices", SUBSETS, ids=str)
@BOTH
def test_features_are_those_of_features_only_for_every_out_indices(version, indices):
    classifier, peer = classifiers(version)
    images = make_images(2, 70, 66)
    for out_indices in (indices, tuple(i - 4 for i in indices)):
        features = timm_model(version, features_only=True, out_indices=out_indices)
        names = {
            n.replace("stem_", "stem.").replace("stages_", "stages."): n
            for n in features.state_dict()
        }
        state = peer.state_dict()
        features.double().load_state_dict({own: state[name] for name, own in names.items()})
        ours = plain_backbone(version, classifier, out_indices=out_indices)
        assert ours.out_indices == indices
        assert list(ours.channels) == features.feature_info.channels()
        assert list(ours.strides) == features.feature_info.reduction()
        with torch.no_grad():
            maps = ours(images)
            assert_equal(maps, features.eval()(images))
            expected = peer.forward_intermediates(
                images, indices=list(out_indices), intermediates_only=True
            )
            assert_equal(maps, expected)
        # Neither builds what comes after the last feature.
        assert sum(p.numel() for p in ours.parameters()) == sum(
            p.numel() for p in features.parameters()
        )


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@BOTH
def test_images_of_other_channels_give_timms_logits(version, channels):
    ours, peer = classifiers(version, in_channels=channels)
    images = make_images(channels=channels)
    with torch.no_grad():
        assert relative_difference(ours(images), peer(images)) <= 1e-9


@pytest.mark.parametrize("patch_size", [3, 8])
@BOTH
def test_another_patch_size_gives_timms_logits(version, patch_size):
    """timm never goes beyond a stride of 32 without being asked, ours after patches of 8 pixels does.
    After patches of 2, which are not here, timm's first stage has a stride of its own."""
    ours, peer = classifiers(
        version, patch_size=patch_size, output_stride={3: None, 8: 32}[patch_size]
    )
    images = make_images(2, 70, 134)
    with torch.no_grad():
        assert relative_difference(ours(images), peer(images)) <= 1e-9


@BOTH
def test_no_classes_give_timms_pooled_features(version):
    ours, peer = classifiers(version, num_classes=0)
    images = make_images()
    with torch.no_grad():
        pooled = peer(images)
        assert pooled.shape == (2, DIMS[-1])
        assert relative_difference(ours(images), pooled) <= 1e-9
        assert relative_difference(ours.forward_features(images).pooler_output, pooled) <= 1e-9
        last = ours.forward_features(images).last_hidden_state
        assert relative_difference(last, peer.forward_features(images)) <= 1e-9


@BOTH
def test_an_output_stride_of_16_gives_timms_maps(version):
    classifier, peer = classifiers(version)
    dilated = timm_model(version, output_stride=16).double().eval()
    dilated.load_state_dict(peer.state_dict())
    ours = plain_backbone(version, classifier, out_indices=(0, 1, 2, 3), output_stride=16)
    assert list(ours.strides) == [info["reduction"] for info in dilated.feature_info]
    for size in ((64, 96), (70, 90)):
        images = make_images(2, *size)
        with torch.no_grad():
            assert_equal(
                ours(images), dilated.forward_intermediates(images, intermediates_only=True)
            )


@BOTH
def test_an_output_stride_of_8_gives_timms_maps_but_for_its_last_downsampling(version):
    """timm pads the dilated 2x2 convolution before stage 4 by one on every side; ours by two right
    and below, so that a position sees what it would see with a stride. Padded so, timm's is ours."""
    classifier, peer = classifiers(version)
    dilated = timm_model(version, output_stride=8).double().eval()
    dilated.load_state_dict(peer.state_dict())
    ours = plain_backbone(version, classifier, out_indices=(0, 1, 2, 3), output_stride=8)
    assert list(ours.strides) == [info["reduction"] for info in dilated.feature_info]
    images = make_images(2, 70, 90)
    with torch.no_grad():
        maps = ours(images)
        theirs = dilated.forward_intermediates(images, intermediates_only=True)
        assert_equal(maps[:3], theirs[:3])
        assert relative_difference(maps[3], theirs[3]) > 0.01
        norm, conv = dilated.stages[3].downsample
        conv.padding = (0, 0)
        dilated.stages[3].downsample = nn.Sequential(norm, nn.ZeroPad2d((0, 2, 0, 2)), conv)
        assert_equal(maps, dilated.forward_intermediates(images, intermediates_only=True))


# ---- training


@BOTH
def test_recomputing_activations_gives_the_gradients_of_timms_checkpointing(version):
    ours, peer = classifiers(version, with_cp=True)
    peer.set_grad_checkpointing()
    images, weights = make_images(2, 70, 66), random_images(2, 5, dtype=torch.float64, seed=3)
    inputs = [images.clone().requires_grad_() for _ in range(2)]
    for model, x in zip((ours.train(), peer.train()), inputs, strict=True):
        (model(x) * weights).sum().backward()
    theirs = under_our_names({n: p.grad for n, p in peer.named_parameters()})
    for name, parameter in ours.named_parameters():
        assert relative_difference(parameter.grad, theirs[name]) <= 1e-9, name
    assert relative_difference(inputs[0].grad, inputs[1].grad) <= 1e-9


@pytest.mark.parametrize(
    "depths", [(1, 1, 1, 1), (3, 3, 9, 3), (2, 2, 6, 2), (3, 3, 27, 3)], ids=str
)
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.8])
@BOTH
def test_drop_path_rates_are_timms(version, rate, depths):
    with torch.device("meta"):
        ours = ConvNeXtClassifier(
            {"depths": depths, "dims": DIMS}, version=version, drop_path_rate=rate
        )
    peer = timm_model(version, depths=depths, drop_path_rate=rate)
    blocks = [block for stage in peer.stages for block in stage.blocks]
    expected = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert [block.drop_path.rate for stage in ours.stages for block in stage] == expected


@BOTH
def test_drop_path_of_any_rate_changes_nothing_in_evaluation(version):
    _, peer = classifiers(version)
    ours = ConvNeXtClassifier(ARCH, version=version, num_classes=5, drop_path_rate=1.0).double()
    ours.load_state_dict(under_our_names(peer.state_dict()))
    images = make_images()
    with torch.no_grad():
        assert relative_difference(ours.eval()(images), peer(images)) <= 1e-9


@BOTH
def test_the_parameters_with_weight_decay_are_timms(version):
    """Not biases, norms, layer scale and GRN, whether timm or layer decay makes the groups."""
    ours, peer = classifiers(version)

    def decayed(model):
        (group,) = (g for g in param_groups_weight_decay(model, 0.05) if g["weight_decay"])
        chosen = {id(p) for p in group["params"]}
        return {name for name, p in model.named_parameters() if id(p) in chosen}

    names = decayed(peer)
    marked = {n: torch.full_like(p, n in names) for n, p in peer.named_parameters()}
    expected = {name for name, mark in under_our_names(marked).items() if mark.all()}
    assert decayed(ours) == expected
    groups = parameter_groups(
        ours.named_parameters(), DEPTHS, lr=1.0, weight_decay=0.05, decay_rate=0.9
    )
    assert {n for g in groups if g["weight_decay"] for n in g["param_names"]} == expected


@BOTH
def test_timms_moving_average_of_weights_is_that_of_its_own_model(version):
    ours, peer = classifiers(version)
    averages = [ModelEmaV3(model, decay=0.9) for model in (ours, peer)]
    with torch.no_grad():
        for model in (ours, peer):
            for parameter in model.parameters():
                parameter.mul_(0.5)
        for average, model in zip(averages, (ours, peer), strict=True):
            average.update(model)
            average.update(model)
        images = make_images()
        expected = averages[1].module(images)
        assert relative_difference(averages[0].module(images), expected) <= 1e-9
        assert relative_difference(ours(images), expected) > 1e-3


# ---- layers


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_norms_have_the_values_and_gradients_of_timms(dtype):
    """eps is what counts where the values are small."""
    for scale in (1.0, 1e-3):
        x = scale * random_images(2, 8, 5, 7, dtype=dtype)
        nhwc = x.permute(0, 2, 3, 1)
        gradient = random_images(2, 8, 5, 7, dtype=dtype, seed=5)
        ours = randomised(LayerNorm2d(8, eps=1e-6), dtype)
        peer = TimmLayerNorm2d(8, eps=1e-6).to(dtype)
        peer.load_state_dict(ours.state_dict())
        _assert_same_layer(ours, peer, x, gradient)
        ours = randomised(GRN(8), dtype)
        peer = GlobalResponseNorm(8).to(dtype)
        peer.load_state_dict({"weight": ours.gamma, "bias": ours.beta})
        _assert_same_layer(ours, peer, nhwc, gradient.permute(0, 2, 3, 1))


def _assert_same_layer(ours, peer, x, gradient):
    results = []
    for layer in (ours, peer):
        given = x.clone().requires_grad_()
        y = layer(given)
        y.backward(gradient)
        results.append([y.detach(), given.grad, *(p.grad for p in layer.parameters())])
    tolerance = 1e-9 if x.dtype == torch.float64 else 2e-5
    for own, expected in zip(*results, strict=True):
        assert relative_difference(own, expected) <= tolerance


# ---- initial values, and how a model is shown


@BOTH
def test_initial_values_have_the_distributions_of_timms(version):
    torch.manual_seed(0)
    dims = (40, 80, 96, 128)
    ours = ConvNeXtClassifier({"depths": DEPTHS, "dims": dims}, version=version, num_classes=200)
    theirs = under_our_names(timm_model(version, dims=dims, num_classes=200).state_dict())
    for name, own in ours.state_dict().items():
        expected = theirs[name]
        if expected.unique().numel() == 1:
            assert torch.equal(own, expected), name
        else:
            by_chance = expected.numel() ** -0.5  # the ratio's standard error is about as large
            assert (own.std() / expected.std()).item() == pytest.approx(1, abs=5 * by_chance), name
            assert own.mean().abs() <= 5 * by_chance * own.std(), name


@BOTH
def test_a_model_is_shown_by_one_line_a_module_and_no_longer_than_timms(version):
    ours, peer = classifiers(version)
    assert len(repr(ours)) <= len(repr(peer))
    assert len(repr(ours).splitlines()) < 2 * len(list(ours.modules()))
    assert repr(copy.deepcopy(ours)) == repr(ours)
