"""torch.compile, torch.export and torch.jit.trace give the features of the plain model."""

import warnings

import pytest
import torch
from randomness import random_images, randomised, relative_difference
from torch.export import Dim

from convnext_backbones import ConvNeXt, ConvNeXtClassifier, ConvNeXtV2

SMALL = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
NAMES = ("stem", "stage1", "stage2", "stage3", "stage4")
SIZES = [(64, 96), (65, 79), (128, 70), (96, 64)]  # no side gives a map of one pixel, see below
VERSIONS = [ConvNeXt, ConvNeXtV2]


def small(version, **options):
    return randomised(version(SMALL, out_features=NAMES, **options))


def assert_same(ours, expected, tolerance=1e-5):
    assert len(ours) == len(expected) == 5
    for own, other in zip(ours, expected, strict=True):
        assert relative_difference(own, other) <= tolerance


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


@pytest.mark.parametrize("output_stride", [None, 8])
@pytest.mark.parametrize("version", VERSIONS)
def test_compile_has_no_graph_break_and_takes_any_height_and_width(version, output_stride):
    """fullgraph=True raises at a graph break; one graph must do for all sizes.

    But for a last map one pixel high or wide: torch gives a dimension of 1 a graph of its own.
    """
    model = small(version, output_stride=output_stride)
    graphs = []

    def backend(graph, examples):
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=backend)
    for height, width in SIZES:
        images = random_images(2, 3, height, width)
        with torch.no_grad():
            assert_same(compiled(images), model(images))
    assert len(graphs) == 1
    images = random_images(2, 3, 33, 47)
    with torch.no_grad():
        assert_same(compiled(images), model(images))


@pytest.mark.parametrize(("version", "with_cp"), [(ConvNeXt, False), (ConvNeXtV2, True)])
def test_compiled_training_has_the_gradients_of_the_plain_model(version, with_cp):
    model = small(version, with_cp=with_cp).train()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for height, width in SIZES[:2]:
        images = random_images(2, 3, height, width)
        gradients = []
        for forward in (compiled, model):
            model.zero_grad()
            sum((x * random_images(*x.shape)).sum() for x in forward(images)).backward()
            gradients.append([p.grad.clone() for p in model.parameters()])
        for own, expected in zip(*gradients, strict=True):
            assert relative_difference(own, expected) <= 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_compiled_to_machine_code_gives_the_same_features(version):
    model = small(version)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for height, width in SIZES:
        images = random_images(2, 3, height, width)
        with torch.no_grad():
            assert_same(compiled(images), model(images))


@pytest.mark.parametrize("version", VERSIONS)
def test_export_takes_any_batch_height_and_width(version):
    model = small(version)
    dynamic = {0: Dim("N", min=1), 2: Dim("H", min=64), 3: Dim("W", min=64)}
    program = torch.export.export(model, (random_images(2, 3, 64, 96),), dynamic_shapes=[dynamic])
    for i, (height, width) in enumerate(SIZES):
        images = random_images(i + 1, 3, height, width)
        with torch.no_grad():
            assert_same(program.module()(images), model(images))


@pytest.mark.parametrize("version", VERSIONS)
def test_trace_takes_any_batch_height_and_width(version):
    model = small(version)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of all tracing
        warnings.simplefilter("error", torch.jit.TracerWarning)  # a value frozen into the graph
        traced = torch.jit.trace(model, random_images(2, 3, 64, 96))
    for i, (height, width) in enumerate([*SIZES, (33, 47)]):
        images = random_images(i + 1, 3, height, width)
        with torch.no_grad():
            assert_same(traced(images), model(images))


@pytest.mark.parametrize("version", [1, 2])
def test_classifier_compiles_exports_and_traces(version):
    model = randomised(ConvNeXtClassifier(SMALL, version=version, num_classes=5))
    images = random_images(2, 3, 64, 96)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    exported = torch.export.export(model, (images,)).module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("error", torch.jit.TracerWarning)
        traced = torch.jit.trace(model, images)
    with torch.no_grad():
        for forward in (compiled, exported, traced):
            assert relative_difference(forward(images), model(images)) <= 1e-5


def test_compiled_model_refuses_nothing_it_should_take_after_an_eager_refusal():
    model = small(ConvNeXt)
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    with pytest.raises(ValueError, match="at least 32x32"):
        model(random_images(1, 3, 16, 16))
    with torch.no_grad():
        assert_same(compiled(random_images(1, 3, 32, 32)), model(random_images(1, 3, 32, 32)))
