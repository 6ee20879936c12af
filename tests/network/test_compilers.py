"""torch.compile, export, jit.trace and fx give the features of the plain model."""

import itertools
import pickle
import warnings

import pytest
import torch
from randomness import random_images, randomised, relative_difference
from torch.export import Dim
from torch.fx import symbolic_trace
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from convnext_backbones import ConvNeXt, ConvNeXtClassifier, ConvNeXtV2, prepare_for_inference
from convnext_backbones.errors import UserError

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


# --- torch.fx -----------------------------------------------------------------------------------

SUBSETS = [s for n in range(1, 6) for s in itertools.combinations(NAMES, n)]


def assert_equal(ours, expected):
    assert len(ours) == len(expected)
    for own, other in zip(ours, expected, strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("output_norm", [True, False])
@pytest.mark.parametrize("names", SUBSETS, ids="-".join)
@pytest.mark.parametrize("version", VERSIONS)
def test_fx_traces_every_selection_for_any_batch_height_and_width(version, names, output_norm):
    model = randomised(version(SMALL, out_features=names, output_norm=output_norm))
    traced = symbolic_trace(model)
    for i, (height, width) in enumerate([*SIZES, (33, 47)]):
        images = random_images(i + 1, 3, height, width)
        with torch.no_grad():
            assert_equal(traced(images), model(images))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"with_cp": True}, {"frozen_stages": 2}, {"output_stride": 8}], ids=str
)
@pytest.mark.parametrize("version", VERSIONS)
def test_fx_traces_training_with_its_drop_path_and_gradients(version, options, dtype):
    model = small(version, drop_path_rate=0.5, **options).to(dtype).train()
    traced = symbolic_trace(model)
    images = random_images(4, 3, 64, 96, dtype=dtype)
    results = []
    for forward in (traced, model):
        model.zero_grad()
        torch.manual_seed(0)
        maps = forward(images)
        sum(x.double().square().sum() for x in maps).backward()
        results.append([*maps, *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
    assert_equal(*results)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("num_classes", [0, 5])
def test_fx_traces_the_classifier(version, num_classes):
    model = randomised(ConvNeXtClassifier(SMALL, version=version, num_classes=num_classes))
    traced = symbolic_trace(model)
    for i, (height, width) in enumerate(SIZES):
        images = random_images(i + 1, 3, height, width)
        assert torch.equal(traced(images), model(images))
    labels = torch.tensor([1, 2, 0, 1])
    with pytest.raises(UserError, match=r"traced by torch\.fx without labels"):
        traced(images, labels)
    assert symbolic_trace(model, {"labels": None})(images).equal(model(images))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_traced_graph_pickles_and_refuses_sizes_that_it_was_traced_without(version):
    model = small(version)
    traced = symbolic_trace(model)
    images = random_images(2, 3, 64, 64)
    for graph in (traced, pickle.loads(pickle.dumps(traced))):
        assert_equal(graph(images), model(images))
        assert_equal(graph(images, None), model(images))
        with pytest.raises(UserError, match=r"traced by torch\.fx without image_sizes"):
            graph(images, [(64, 64), (40, 50)])


@pytest.mark.parametrize("version", VERSIONS)
def test_torchvisions_feature_extractor_takes_stages_and_their_layers(version):
    model = small(version)
    nodes = ["downsample_layers.0", "stages.0", "stages.1.0", "stages.3", "norm1"]
    extractor = create_feature_extractor(model, nodes)
    _, evaluation = get_graph_node_names(model)
    assert "stages.2.0.pwconv1" in evaluation
    seen = {}
    for name in nodes:
        model.get_submodule(name).register_forward_hook(
            lambda module, given, x, name=name: seen.update({name: x})
        )
    for i, (height, width) in enumerate(SIZES):
        images = random_images(i + 1, 3, height, width)
        with torch.no_grad():
            maps = extractor(images)
            model(images)
        assert maps.keys() == seen.keys()
        assert_equal(list(maps.values()), [seen[name] for name in maps])


@pytest.mark.parametrize("version", [1, 2])
def test_torchvisions_feature_extractor_takes_the_classifier(version):
    model = randomised(ConvNeXtClassifier(SMALL, version=version, num_classes=5))
    extractor = create_feature_extractor(
        model, {"stages.1": "1", "norm": "pooled", "head": "logits"}
    )
    images = random_images(3, 3, 65, 79)
    features, maps = model.forward_features(images), extractor(images)
    assert_equal(
        [maps["1"], maps["pooled"], maps["logits"]],
        [features.hidden_states[2], features.pooler_output, model(images)],
    )


def test_fx_is_refused_a_prepared_model_in_a_sentence():
    with pytest.raises(UserError, match="trace the original"):
        symbolic_trace(prepare_for_inference(small(ConvNeXt)))


@pytest.mark.parametrize("framework", ["openmmlab", "detectron2"])
def test_fx_traces_the_frameworks_backbones_but_not_with_padding_ignored(framework):
    pytest.importorskip({"openmmlab": "mmengine"}.get(framework, framework))
    adapter = pytest.importorskip(f"convnext_backbones.adapters.{framework}.backbone")
    model, images = small(adapter.ConvNeXtV2), random_images(2, 3, 64, 96)
    ours, expected = symbolic_trace(model)(images), model(images)
    if framework == "detectron2":
        assert list(ours) == list(expected)
        ours, expected = list(ours.values()), list(expected.values())
    assert_equal(ours, expected)
    with pytest.raises(UserError, match=r"torch\.fx cannot trace: build the backbone with"):
        symbolic_trace(small(adapter.ConvNeXtV2, ignore_padding=True), {"image_sizes": None})
