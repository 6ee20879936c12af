"""Properties that hold for any network, selection, image and type, drawn by hypothesis.

The default run takes 100 examples of each property; `pytest -m slow tests/network/test_properties.py` takes
600 of each, 3600 in all.
"""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from randomness import random_images, randomised, relative_difference

from convnext_backbones import ConvNeXt, ConvNeXtClassifier, ConvNeXtV2
from convnext_backbones.network.selection import feature_names, select_features

TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.15}
QUICK, THOROUGH = 100, 600


@st.composite
def networks(draw):
    """A version, an arch of 1 to 5 small stages, and options."""
    stages = draw(st.integers(1, 5))
    counts = st.lists(st.integers(1, 2), min_size=stages, max_size=stages)
    dims = st.lists(st.sampled_from([4, 6, 9, 16]), min_size=stages, max_size=stages)
    arch = {"depths": draw(counts), "dims": draw(dims)}
    options = {"in_channels": draw(st.integers(1, 5)), "patch_size": draw(st.sampled_from([2, 4]))}
    return draw(st.sampled_from([ConvNeXt, ConvNeXtV2])), arch, options


@st.composite
def selections(draw, stages):
    """Features in order, given by names, by indices of either sign, or left to the default."""
    names = feature_names(stages)
    chosen = draw(st.sets(st.integers(0, stages), min_size=1))
    selected = tuple(names[i] for i in sorted(chosen))
    kind = draw(st.sampled_from([list, tuple]))
    how = draw(st.sampled_from(["names", "indices", "both", "default"]))
    if how == "default":
        return {}, names[-1:]
    indices = kind(i - 1 - draw(st.sampled_from([0, stages])) for i in sorted(chosen))
    if how == "names" or 0 in chosen:
        return {"out_features": kind(selected)}, selected
    if how == "both":
        return {"out_features": kind(selected), "out_indices": indices}, selected
    return {"out_indices": indices}, selected


@st.composite
def cases(draw):
    """A network, a selection, and the images' shape and type."""
    version, arch, options = draw(networks())
    selection, selected = draw(selections(len(arch["depths"])))
    smallest = options["patch_size"] * 2 ** (len(arch["depths"]) - 1)
    height, width = draw(st.integers(smallest, 80)), draw(st.integers(smallest, 80))
    shape = (draw(st.integers(0, 3)), options["in_channels"], height, width)
    return version, arch, options, selection, selected, shape


def full_model(version, arch, options):
    """All features of the network in float64."""
    names = feature_names(len(arch["depths"]))
    return randomised(version(arch, out_features=names, **options), torch.float64)


def part_of(full, version, arch, options, selection):
    """The same weights behind a selection."""
    part = version(arch, **options, **selection).double().eval()
    state = full.state_dict()
    part.load_state_dict({name: state[name] for name in part.state_dict()})
    return part


def check_maps(case, dtype):
    """Names, channels, strides and sizes are as promised; values are the full float64 model's."""
    version, arch, options, selection, selected, shape = case
    before = repr((arch, selection))
    full = full_model(version, arch, options)
    model = part_of(full, version, arch, options, selection).to(dtype)
    assert repr((arch, selection)) == before
    assert model.out_features == selected
    names = feature_names(len(arch["depths"]))
    images = random_images(*shape, dtype=torch.float64)
    with torch.no_grad():
        maps, reference = model(images.to(dtype)), full(images)
    for i, x in enumerate(maps):
        position = names.index(selected[i])
        stride = options["patch_size"] * 2 ** max(position - 1, 0)
        assert model.strides[i] == stride
        channels = arch["dims"][max(position - 1, 0)]
        assert model.channels[i] == channels
        assert x.shape == (shape[0], channels, shape[2] // stride, shape[3] // stride)
        assert x.dtype == dtype
        assert torch.isfinite(x).all()
        # The mean error: a LayerNorm over few channels enlarges a single one without bound.
        error = (x.double() - reference[position]).square().sum().sqrt()
        assert error <= TOLERANCES[dtype] * reference[position].square().sum().sqrt()


def check_gradients(case):
    """Every parameter of every selection gets a finite gradient."""
    version, arch, options, selection, _, shape = case
    model = randomised(version(arch, **options, **selection), torch.float64).train()
    maps = model(random_images(2, *shape[1:], dtype=torch.float64))
    sum((x * random_images(*x.shape, dtype=x.dtype)).sum() for x in maps).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


def check_training(case, frozen, with_cp):
    """Frozen stages have no gradient and drop nothing; the rest has one; train() returns self."""
    version, arch, options, selection, _, shape = case
    frozen = min(frozen, len(arch["depths"]))
    options = {**options, "frozen_stages": frozen, "with_cp": with_cp, "drop_path_rate": 0.5}
    model = randomised(version(arch, **options, **selection))
    assert model.train() is model
    maps = model(random_images(2, *shape[1:]))
    free = [p for p in model.parameters() if p.requires_grad]
    if free:
        sum(x.sum() for x in maps).backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    for i, layers in enumerate(zip(model.downsample_layers, model.stages, strict=False)):
        for layer in layers:
            assert layer.training == (i >= frozen)
            assert all(p.requires_grad == (i >= frozen) for p in layer.parameters())


def check_layout_and_batch(case, step, batch):
    """Neither the images' memory layout nor the other samples of the batch matter."""
    version, arch, options, selection, _, shape = case
    model = randomised(version(arch, **options, **selection), torch.float64)
    wide = random_images(batch, shape[1], step * shape[2], step * shape[3], dtype=torch.float64)
    images = wide[:, :, ::step, ::step]
    with torch.no_grad():
        expected = model(images.contiguous())
        strided = model(images)
        last = model(images.contiguous(memory_format=torch.channels_last))
        alone = model(images[-1:])
    for reference, *others, single in zip(expected, strided, last, alone, strict=True):
        assert all(relative_difference(other, reference) <= 1e-12 for other in others)
        assert relative_difference(single, reference[-1:]) <= 1e-9


def check_classifier(network, num_classes, batch, dtype):
    """The classifier's hidden states are the backbone's maps without output norms."""
    version, arch, options = network
    stages = len(arch["depths"])
    classifier = ConvNeXtClassifier(
        arch, version=version.version, num_classes=num_classes, **options
    )
    randomised(classifier, dtype)
    backbone = version(arch, out_features=feature_names(stages), output_norm=False, **options)
    state = classifier.state_dict()
    backbone.to(dtype).eval().load_state_dict({n: state[n] for n in backbone.state_dict()})
    images = random_images(batch, options["in_channels"], 66, 70, dtype=dtype)
    with torch.no_grad():
        features = classifier.forward_features(images)
        for own, expected in zip(features.hidden_states, backbone(images), strict=True):
            assert torch.equal(own, expected)
        outputs = num_classes or arch["dims"][-1]
        assert classifier(images).shape == (batch, outputs)


def check_refusals(stages, indices):
    """Indices are accepted exactly when they are in range, distinct and in order."""
    positions = [i % stages for i in indices if -stages <= i < stages]
    valid = len(positions) == len(indices) > 0 and positions == sorted(set(positions))
    if valid:
        expected = tuple(f"stage{p + 1}" for p in positions)
        assert select_features(stages, out_indices=indices) == expected
    else:
        with pytest.raises(ValueError, match="out_indices"):
            select_features(stages, out_indices=indices)


# Each property, and what it is drawn over.
CHECKS = {
    check_maps: [cases(), st.sampled_from(list(TOLERANCES))],
    check_gradients: [cases()],
    check_training: [cases(), st.integers(0, 5), st.booleans()],
    check_layout_and_batch: [cases(), st.sampled_from([2, 3, 5]), st.integers(1, 4)],
    check_classifier: [
        networks(),
        st.integers(0, 5),
        st.integers(0, 3),
        st.sampled_from([torch.float64, torch.float32]),
    ],
    check_refusals: [st.integers(1, 6), st.lists(st.integers(-8, 8), max_size=6)],
}


def run(check, examples):
    """Deterministic, so that a failure is found again, and with no file of examples."""
    calls = []

    def counted(drawn):
        calls.append(1)
        check(*drawn)

    settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )(given(st.tuples(*CHECKS[check]))(counted))()
    assert len(calls) >= examples


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_property_holds(check):
    run(check, QUICK)


@pytest.mark.slow
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_property_holds_for_many_examples(check):
    run(check, THOROUGH)
