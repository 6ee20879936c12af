"""What transformers' suite states of its ConvNeXt models, against ours holding the same weights.

Small maps take the fast path here, as large ones do; the right values are always transformers'.
"""

import copy
import io
import itertools
import pickle

import pytest
import torch
from names import share_random_weights, under_our_names
from randomness import random_images, relative_difference
from safetensors.torch import load_file, save_file
from theirs import BACKBONES, CLASSIFIERS, CONFIGS

from convnext_backbones import ConvNeXt, ConvNeXtClassifier, ConvNeXtV2
from convnext_backbones.adapters.huggingface import backbone_from_config
from convnext_backbones.kernels import dispatch

DEPTHS, DIMS = [1, 2, 3, 1], [8, 16, 24, 32]
ARCH = {"depths": DEPTHS, "dims": DIMS}
NAMES = ["stem", "stage1", "stage2", "stage3", "stage4"]
SUBSETS = [s for length in range(1, 6) for s in itertools.combinations(range(5), length)]
OURS = {1: ConvNeXt, 2: ConvNeXtV2}
BOTH = pytest.mark.parametrize("version", [1, 2])


@pytest.fixture(autouse=True)
def small_maps_too(monkeypatch):
    monkeypatch.setattr(dispatch, "SMALLEST", 0)


def make_config(version, **fields):
    return CONFIGS[version](**{"depths": DEPTHS, "hidden_sizes": DIMS, "num_labels": 5, **fields})


def classifiers(version, dtype=torch.float64, **options):
    """Ours and transformers', with the same random weights."""
    ours = ConvNeXtClassifier(ARCH, version=version, num_classes=5, norm_eps=1e-12, **options)
    peer = CLASSIFIERS[version](make_config(version))
    share_random_weights(ours, peer, torch.float64)
    return copy.deepcopy(ours).to(dtype), copy.deepcopy(peer).to(dtype)


def backbones(version, **options):
    ours = OURS[version](ARCH, out_features=NAMES, **options)
    peer = BACKBONES[version](make_config(version, out_features=NAMES))
    share_random_weights(ours, peer, torch.float64)
    return ours, peer


def make_images(n=2, height=64, width=96, channels=3, dtype=torch.float64):
    return random_images(n, channels, height, width, dtype=dtype)


def assert_same_gradients(ours, peer):
    theirs = under_our_names({n: p.grad for n, p in peer.named_parameters()})
    for name, parameter in ours.named_parameters():
        assert theirs[name].abs().max() > 0, name
        assert relative_difference(parameter.grad, theirs[name]) <= 1e-9, name


# ---- hidden states


@BOTH
def test_hidden_states_are_the_stem_and_every_stage_in_the_order_of_transformers(version):
    ours, peer = classifiers(version)
    images = make_images(13, 32, 32)
    with torch.no_grad():
        own = ours.forward_features(images).hidden_states
        expected = peer(images, output_hidden_states=True).hidden_states
    assert isinstance(own, tuple)
    assert [tuple(x.shape) for x in own] == [
        (13, 8, 8, 8), (13, 8, 8, 8), (13, 16, 4, 4), (13, 24, 2, 2), (13, 32, 1, 1)
    ]  # fmt: skip
    for x, y in zip(own, expected, strict=True):
        assert relative_difference(x, y) <= 1e-9


@BOTH
def test_gradients_of_hidden_states_can_be_kept(version):
    ours, peer = classifiers(version)
    images = make_images()
    features = ours.forward_features(images)
    results = (
        (features.hidden_states, ours.head(features.pooler_output)),
        ((output := peer(images, output_hidden_states=True)).hidden_states, output.logits),
    )
    for hidden_states, logits in results:
        for x in hidden_states:
            x.retain_grad()
        (logits * logits.detach()).sum().backward()
    for x, y in zip(results[0][0], results[1][0], strict=True):
        assert relative_difference(x.grad, y.grad) <= 1e-9


@pytest.mark.parametrize(
    "size", [(32, 63), (63, 32), (35, 61), (47, 49), (36, 40), (95, 33)], ids=str
)
@BOTH
def test_sizes_that_no_stride_divides_are_floored_as_in_transformers(version, size):
    ours, peer = backbones(version)
    images = make_images(2, *size)
    with torch.no_grad():
        for x, y in zip(ours(images), peer(images).feature_maps, strict=True):
            assert relative_difference(x, y) <= 1e-9


@BOTH
def test_what_transformers_refuses_of_images_ours_refuses(version):
    ours, peer = classifiers(version)
    for images in (make_images(channels=4), make_images(channels=1), None):
        with pytest.raises(ValueError, match=r"channel|pixel_values"):
            peer(images)
        with pytest.raises((ValueError, TypeError), match="images"):
            ours(images)


# ---- selection


@pytest.mark.parametrize("indices", SUBSETS, ids=str)
@BOTH
def test_a_selection_in_any_spelling_is_that_of_transformers(version, indices):
    """Hugging Face's index 0 is the stem. Ours counts stages, as detectors do; the stem has a name."""
    names = [NAMES[i] for i in indices]
    spellings = (
        {"out_features": names},
        {"out_indices": list(indices)},
        {"out_indices": [i - 5 for i in indices]},
        {"out_indices": [i - 5 * (k % 2) for k, i in enumerate(indices)]},
        {"out_features": names, "out_indices": list(indices)},
        {"out_features": names, "out_indices": [i - 5 for i in indices]},
    )
    with torch.device("meta"):
        channels = BACKBONES[version](make_config(version, **spellings[0])).channels
        for fields in spellings:
            config = make_config(version, **fields)
            ours = backbone_from_config(config.to_dict())
            assert list(ours.out_features) == config.out_features == names
            assert list(ours.channels) == channels
            own_indices = [i % 5 - 1 if i % 5 else None for i in config.out_indices]
            assert list(ours.out_indices) == own_indices
        if 0 not in indices:
            assert OURS[version](ARCH, out_indices=own_indices).out_features == tuple(names)


@pytest.mark.parametrize(
    "fields",
    [
        {"out_features": ["stage5"]},
        {"out_features": ["stage1", "stage1"]},
        {"out_features": ["stage2", "stage1"]},
        {"out_indices": [5]},
        {"out_indices": [1, 1]},
        {"out_indices": [1, -4]},
        {"out_indices": [2, 1]},
        {"out_indices": [-1, -2]},
        {"out_features": ["stem", "stage1"], "out_indices": [0, 2]},
        {"out_features": ["stem", "stage1"], "out_indices": [0]},
    ],
    ids=str,
)
@BOTH
def test_a_selection_that_transformers_refuses_is_refused(version, fields):
    with pytest.raises(ValueError, match=r"out_features|out_indices"):
        make_config(version, **fields)
    config = {**make_config(version).to_dict(), "out_features": None, "out_indices": None, **fields}
    with pytest.raises((ValueError, TypeError), match=r"out_features|out_indices"):
        backbone_from_config(config)


@BOTH
def test_no_selection_is_the_last_stage_and_an_empty_one_is_refused_unlike_in_transformers(version):
    config = make_config(version, out_features=None, out_indices=None)
    assert list(backbone_from_config(config.to_dict()).out_features) == config.out_features
    assert OURS[version](ARCH).out_features == ("stage4",)
    assert make_config(version, out_features=[]).out_features == []  # a backbone without a map
    with pytest.raises(ValueError, match="out_features is empty"):
        OURS[version](ARCH, out_features=[])


# ---- training


@pytest.mark.parametrize("with_cp", [False, True], ids=["kept", "recomputed"])
@BOTH
def test_a_backbone_has_the_gradients_of_transformers(version, with_cp):
    ours, peer = backbones(version, with_cp=with_cp)
    images = make_images(2, 70, 66)
    for model in (ours.train(), peer.train()):
        maps = model(images)
        maps = maps if isinstance(maps, tuple) else maps.feature_maps
        sum((x * random_images(*x.shape, dtype=x.dtype, seed=3)).sum() for x in maps).backward()
    assert_same_gradients(ours, peer)


@pytest.mark.parametrize("with_cp", [False, True], ids=["kept", "recomputed"])
@BOTH
def test_training_lowers_the_loss_and_ends_in_the_weights_of_transformers(version, with_cp):
    ours, peer = classifiers(version, with_cp=with_cp)
    images, labels = make_images(6), torch.tensor([0, 4, 2, 2, 1, 3])
    losses = {}
    for model in (ours.train(), peer.train()):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)
        losses[model] = []
        for _ in range(3):
            optimizer.zero_grad()
            loss = model(images, labels=labels).loss
            loss.backward()
            optimizer.step()
            losses[model].append(loss.item())
    assert losses[ours][0] > losses[ours][1] > losses[ours][2]
    assert losses[ours] == pytest.approx(losses[peer], rel=1e-9)
    assert_same_gradients(ours, peer)
    theirs = under_our_names(peer.state_dict())
    for name, value in ours.state_dict().items():
        assert relative_difference(value, theirs[name]) <= 1e-9, name


@BOTH
def test_training_without_drop_path_computes_what_evaluation_does(version):
    ours, peer = classifiers(version)
    images = make_images()
    with torch.no_grad():
        expected = peer(images).logits
        for training in (False, True):
            assert relative_difference(ours.train(training)(images), expected) <= 1e-9


# ---- results that do not depend on how they are asked for


@BOTH
def test_calls_give_the_same_bits_and_leave_images_and_weights_alone(version):
    ours, _ = classifiers(version, torch.float32, drop_path_rate=0.5)
    images = make_images(dtype=torch.float32)
    before, state = images.clone(), copy.deepcopy(ours.state_dict())
    with torch.no_grad():
        assert torch.equal(ours(images), ours(images))
        dropped = []
        for _ in range(2):
            torch.manual_seed(4)
            dropped.append(ours.train()(images))
        assert torch.equal(*dropped)
    assert torch.equal(images, before)
    assert all(torch.equal(v, state[n]) for n, v in ours.state_dict().items())


@BOTH
def test_an_image_has_the_features_in_a_batch_that_it_has_alone(version):
    ours, peer = classifiers(version)
    images = make_images(5)
    with torch.no_grad():
        together = ours.forward_features(images)
        for i, image in enumerate(images):
            alone = peer(image[None], output_hidden_states=True)
            assert (
                relative_difference(ours.head(together.pooler_output)[i], alone.logits[0]) <= 1e-9
            )
            for x, y in zip(together.hidden_states, alone.hidden_states, strict=True):
                assert relative_difference(x[i], y[0]) <= 1e-9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@BOTH
def test_in_half_precision_the_error_is_no_greater_than_that_of_transformers(version, dtype):
    """Of the hidden states and the logits, as root mean squares over all of their values."""
    exact, _ = classifiers(version)
    ours, peer = classifiers(version, dtype)
    images = make_images(4).to(dtype)

    def values(hidden_states, logits):
        return torch.cat(
            [x.double().flatten() / x.double().std() for x in (*hidden_states, logits)]
        )

    with torch.no_grad():
        truth = values(
            exact.forward_features(images.double()).hidden_states, exact(images.double())
        )
        own = values(ours.forward_features(images).hidden_states, ours(images))
        output = peer(images, output_hidden_states=True)
        theirs = values(output.hidden_states, output.logits)
    assert torch.isfinite(own).all()
    assert (own - truth).norm() <= 1.1 * (theirs - truth).norm()


@BOTH
def test_a_trace_that_was_saved_gives_the_maps_of_transformers_at_another_size(version):
    ours, peer = backbones(version)
    file = io.BytesIO()
    with torch.no_grad():
        torch.jit.save(torch.jit.trace(ours, make_images(1, 64, 64)), file)
    file.seek(0)
    loaded = torch.jit.load(file)
    assert loaded.state_dict().keys() == ours.state_dict().keys()
    images = make_images(3, 70, 90)
    with torch.no_grad():
        for x, y in zip(loaded(images), peer(images).feature_maps, strict=True):
            assert relative_difference(x, y) <= 1e-9


# ---- files and copies


@pytest.mark.parametrize("way", ["torch", "safetensors", "pickle", "deepcopy"])
@BOTH
def test_a_copy_by_any_way_has_the_logits_of_transformers_and_weights_of_its_own(
    tmp_path, version, way
):
    ours, peer = classifiers(version)
    if way == "pickle":
        again = pickle.loads(pickle.dumps(ours))
    elif way == "deepcopy":
        again = copy.deepcopy(ours)
    else:
        again = ConvNeXtClassifier(ARCH, version=version, num_classes=5, norm_eps=1e-12).double()
        if way == "torch":
            torch.save(ours.state_dict(), tmp_path / "a.pth")
            state = torch.load(tmp_path / "a.pth", weights_only=True)
        else:
            save_file(ours.state_dict(), tmp_path / "a.safetensors")
            state = load_file(tmp_path / "a.safetensors")
        again.load_state_dict(state)
        again.eval()
    images = make_images()
    with torch.no_grad():
        expected = peer(images).logits
        assert relative_difference(again(images), expected) <= 1e-9
        for parameter in ours.parameters():
            parameter.zero_()
        assert relative_difference(again(images), expected) <= 1e-9


# ---- initial values


@BOTH
def test_initial_values_have_the_distributions_of_transformers(version):
    torch.manual_seed(0)
    dims = [40, 80, 96, 128]
    ours = ConvNeXtClassifier({"depths": DEPTHS, "dims": dims}, version=version, num_classes=200)
    peer = CLASSIFIERS[version](make_config(version, hidden_sizes=dims, num_labels=200))
    theirs = under_our_names(peer.state_dict())
    for name, own in ours.state_dict().items():
        expected = theirs[name]
        if expected.unique().numel() == 1:
            assert torch.equal(own, expected), name
        else:
            by_chance = expected.numel() ** -0.5  # the ratio's standard error is about as large
            assert (own.std() / expected.std()).item() == pytest.approx(1, abs=5 * by_chance), name
            assert own.mean().abs() <= 5 * by_chance * own.std(), name
