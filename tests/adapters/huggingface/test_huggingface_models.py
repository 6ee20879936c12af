"""ConvNeXtModel, ConvNeXtForImageClassification and ConvNeXtBackbone, beside those of transformers that hold
the same weights: what a user types gives the same answers."""

import copy
import inspect

import pytest
import torch
import transformers
from names import under_our_names
from randomness import random_images, random_state, relative_difference
from theirs import SMALL
from transformers.backbone_utils import BackboneType

from convnext_backbones import create_backbone, prepare_for_inference
from convnext_backbones.adapters.huggingface import (
    ConvNeXtBackbone,
    ConvNeXtConfig,
    ConvNeXtForImageClassification,
    ConvNeXtModel,
)
from convnext_backbones.errors import UserError

NAMES = ["stem", "stage1", "stage2", "stage3", "stage4"]
THEIRS = {
    ("config", 1): transformers.ConvNextConfig,
    ("config", 2): transformers.ConvNextV2Config,
    (ConvNeXtModel, 1): transformers.ConvNextModel,
    (ConvNeXtModel, 2): transformers.ConvNextV2Model,
    (ConvNeXtForImageClassification, 1): transformers.ConvNextForImageClassification,
    (ConvNeXtForImageClassification, 2): transformers.ConvNextV2ForImageClassification,
    (ConvNeXtBackbone, 1): transformers.ConvNextBackbone,
    (ConvNeXtBackbone, 2): transformers.ConvNextV2Backbone,
}
CLASSES = [ConvNeXtModel, ConvNeXtForImageClassification, ConvNeXtBackbone]
BOTH = pytest.mark.parametrize("version", [1, 2])
EVERY = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
IMAGES = random_images(3, 3, 66, 70, dtype=torch.float64)


def pair(kind, version, **fields):
    """Ours and transformers', in evaluation mode, with the same random weights."""
    fields = {**SMALL, "num_labels": 5, **fields}
    peer = THEIRS[kind, version](THEIRS["config", version](**fields)).double().eval()
    peer.load_state_dict(random_state(peer, torch.float64))
    ours = kind(ConvNeXtConfig(version=version, **fields)).double().eval()
    state = under_our_names(peer.state_dict())
    ours.load_state_dict({kind.own_name(name): value for name, value in state.items()})
    return ours, peer


def assert_same(ours, theirs):
    """Two outputs, or two tuples, or two tensors."""
    assert type(ours) is type(theirs)
    if isinstance(theirs, torch.Tensor):
        assert relative_difference(ours, theirs) <= 1e-9
    elif theirs is not None:
        assert len(ours) == len(theirs)
        if hasattr(theirs, "keys"):
            assert list(ours.keys()) == list(theirs.keys())
            ours, theirs = ours.to_tuple(), theirs.to_tuple()
        for own, expected in zip(ours, theirs, strict=True):
            assert_same(own, expected)


CALLS = {
    "positional": lambda model: model(IMAGES),
    "by name": lambda model: model(pixel_values=IMAGES),
    "a batch of a processor": lambda model: model(**transformers.BatchFeature({"pixel_values": IMAGES})),
    "hidden states": lambda model: model(IMAGES, output_hidden_states=True),
    "hidden states left out": lambda model: model(IMAGES, output_hidden_states=False),
    "some hidden states": lambda model: model(IMAGES, output_hidden_states=[0, -1]),
    "tuple": lambda model: model(IMAGES, return_dict=False),
    "tuple with hidden states": lambda model: model(IMAGES, return_dict=False, output_hidden_states=True),
    "attentions, of which there are none": lambda model: model(IMAGES, output_attentions=False),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@EVERY
@BOTH
def test_a_call_is_answered_as_transformers_answers_it(version, kind, call):
    ours, peer = pair(kind, version, out_features=["stem", "stage2", "stage4"])
    with torch.no_grad():
        theirs = call(peer)
        if call is CALLS["some hidden states"] and isinstance(theirs.hidden_states, list):
            theirs.hidden_states = tuple(theirs.hidden_states)
        assert_same(call(ours), theirs)


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_act": "relu"},
        {"hidden_act": "gelu_new"},
        {"layer_norm_eps": 0.1},
        {"num_channels": 1},
        {"patch_size": 2},
        {"depths": [1, 2], "hidden_sizes": [8, 16], "num_stages": 2},
        {"num_labels": 0},
    ],
    ids=str,
)
@BOTH
def test_a_field_means_what_it_means_in_transformers(version, fields):
    ours, peer = pair(ConvNeXtForImageClassification, version, **fields)
    images = IMAGES[:, : ours.config.num_channels]
    with torch.no_grad():
        assert_same(
            ours(images, output_hidden_states=True), peer(images, output_hidden_states=True)
        )


@EVERY
def test_the_configuration_can_ask_for_hidden_states_and_tuples(kind):
    with torch.no_grad():
        ours, peer = pair(kind, 2, output_hidden_states=True)
        assert_same(ours(IMAGES), peer(IMAGES))
        ours.config.return_dict = False  # with which transformers' own fail
        assert_same(ours(IMAGES), peer(IMAGES, return_dict=False))


PROBLEMS = {
    "one class": ({}, torch.tensor([0, 4, 2])),
    "one class, said": ({"problem_type": "single_label_classification"}, torch.tensor([0, 4, 2])),
    "one left out": ({}, torch.tensor([0, -100, 2])),
    "several classes": ({}, torch.tensor([[0.0, 1, 0, 1, 1]] * 3)),
    "several, said": ({"problem_type": "multi_label_classification"}, torch.tensor([[0.0, 1, 0, 1, 1]] * 3)),
    "a number": ({"num_labels": 1}, torch.tensor([0.5, -1.0, 2.0])),
    "a number in a row": ({"num_labels": 1}, torch.tensor([[0.5], [-1.0], [2.0]])),
    "numbers": ({"problem_type": "regression"}, random_images(3, 5)),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "labels"), PROBLEMS.values(), ids=PROBLEMS.keys())
@BOTH
def test_losses_of_all_kinds_of_problems_are_those_of_transformers(version, fields, labels):
    ours, peer = pair(ConvNeXtForImageClassification, version, **fields)
    labels = labels.double() if labels.is_floating_point() else labels
    for one in (ours, peer):
        one.train()
    own = ours(IMAGES, labels=labels, output_hidden_states=True)
    theirs = peer(IMAGES, labels=labels, output_hidden_states=True)
    assert_same(own, theirs)
    assert_same(ours(IMAGES, labels, return_dict=False), peer(IMAGES, labels, return_dict=False))
    assert ours.config.problem_type == peer.config.problem_type is not None
    own.loss.backward()
    theirs.loss.backward()
    expected = under_our_names({n: p.grad for n, p in peer.named_parameters()})
    parameters = dict(ours.named_parameters())
    for name, gradient in expected.items():
        assert relative_difference(parameters[ours.own_name(name)].grad, gradient) <= 1e-9, name


@pytest.mark.parametrize(
    ("fields", "labels", "message"),
    [
        ({}, [0, 1, 2], "labels must be a tensor, got a list"),
        ({}, torch.tensor([0, 1]), r"single_label_classification are 3 class numbers from 0 to 4"),
        ({}, torch.tensor([0, 1, 5]), r"from 0 to 4, .* of shape \(3,\), from 0 to 5"),
        ({"problem_type": "clasification"}, torch.tensor([0, 1, 2]), "'clasification' names no loss; valid: None"),
        ({}, torch.tensor([0.0, 1, 2]), r"multi_label_classification are floats of shape \(3, 5\)"),
        ({"problem_type": "multi_label_classification"}, torch.tensor([0, 1, 2]), "problem_type='multi"),
        ({"problem_type": "regression"}, torch.ones(5, 3), r"regression are floats of shape \(3, 5\)"),
        ({"num_labels": 1}, torch.tensor([1, 2, 3]), r"regression .* got torch.int64 of shape \(3,\)"),
        ({"num_labels": 0}, torch.tensor([0, 1, 2]), "the classifier has no head"),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit_are_refused(fields, labels, message):
    model = ConvNeXtForImageClassification(ConvNeXtConfig(**{**SMALL, "num_labels": 5, **fields}))
    with pytest.raises(UserError, match=message):
        model(IMAGES.float(), labels=labels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model(), "pixel_values is missing"),
        (lambda model: model(None), "pixel_values is missing"),
        (lambda model: model(images=IMAGES), "no input 'images'"),
        (lambda model: model(pixel_value=IMAGES), "no input 'pixel_value'. did you mean 'pixel_values'"),
        (lambda model: model(IMAGES[:, :2].float()), "channels"),
        (lambda model: model(IMAGES.float(), output_hidden_states=[9]), r"\[9\] asks for a map .* 0, the stem, to 4"),
    ],
)  # fmt: skip
@EVERY
def test_inputs_that_do_not_fit_are_refused(kind, call, message):
    model = kind(ConvNeXtConfig(**SMALL))
    with pytest.raises(ValueError, match=message):
        call(model)


# ---- what transformers expects of a model
@EVERY
@BOTH
def test_it_is_a_model_of_transformers(version, kind):
    ours, peer = pair(kind, version)
    assert isinstance(ours, transformers.PreTrainedModel)
    assert ours.main_input_name == peer.main_input_name
    assert next(iter(inspect.signature(ours.forward).parameters)) == "pixel_values"
    assert ours.num_parameters() == peer.num_parameters()
    assert ours.dtype == torch.float64
    assert ours.half().dtype == torch.float16
    assert type(ours.config) is type(copy.deepcopy(ours).config) is ConvNeXtConfig


def test_base_model_and_head_have_the_names_of_transformers():
    model = ConvNeXtForImageClassification(ConvNeXtConfig(**SMALL, num_labels=5))
    assert model.base_model is model.convnext
    assert isinstance(model.base_model, ConvNeXtModel)
    for parameter in model.base_model.parameters():
        parameter.requires_grad_(False)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["classifier.weight", "classifier.bias"]  # fmt: skip
    model.classifier = torch.nn.Linear(32, 7)
    assert model(IMAGES.float()).logits.shape == (3, 7)


@BOTH
def test_initial_values_are_those_of_the_core_and_follow_initializer_range(version):
    model = ConvNeXtForImageClassification(
        ConvNeXtConfig(
            version=version, initializer_range=0.1, hidden_sizes=[64] * 4, depths=[2] * 4
        )
    )
    for name, value in model.state_dict().items():
        if name.endswith(("pwconv1.weight", "classifier.weight")):
            assert value.std().item() == pytest.approx(0.1, rel=0.2), name
        elif name.endswith("norm.weight"):
            assert (value == 1).all()
        elif name.endswith(("bias", "grn.gamma", "grn.beta")):
            assert not value.any(), name
        elif name.endswith(".gamma"):
            assert (value == 1e-6).all()


@EVERY
def test_recomputing_in_the_backward_pass_is_switched_as_in_transformers(kind):
    ours, _ = pair(kind, 2)
    ours.train()
    network = getattr(ours, "convnext", ours).network
    gradients = []
    for switch in (lambda: None, ours.activation_checkpointing_enable):
        ours.zero_grad()
        switch()
        ours(IMAGES).to_tuple()[0][-1].sum().backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert network.with_cp
    assert ours.is_activation_checkpointing
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    ours.activation_checkpointing_disable()
    assert not network.with_cp


@EVERY
def test_a_model_can_be_exported(kind):
    ours, _ = pair(kind, 2)
    ours = ours.float()
    images = torch.randn(2, 3, 64, 64)
    program = torch.export.export(ours, (), {"pixel_values": images}, strict=False)
    with torch.no_grad():
        expected = ours(images).to_tuple()[0]
        got = program.module()(pixel_values=images).to_tuple()[0]
        for one, other in zip(expected, got, strict=True):
            assert relative_difference(other, one) <= 1e-5


@EVERY
def test_gradients_of_hidden_states_can_be_kept(kind):
    ours, _ = pair(kind, 2)
    outputs = ours(IMAGES, output_hidden_states=True)
    for x in outputs.hidden_states:
        x.retain_grad()
    first = outputs.to_tuple()[0]
    (first[0] if isinstance(first, tuple) else first).flatten()[0].backward()
    assert all(x.grad is not None and x.grad.any() for x in outputs.hidden_states)


@EVERY
def test_it_can_be_prepared_for_inference(kind):
    ours, _ = pair(kind, 2)
    ours, images = ours.float().eval(), IMAGES.float()
    fast = prepare_for_inference(ours, dtype=torch.float32)
    assert any("Prepared" in type(module).__name__ for module in fast.modules())
    with torch.no_grad():
        expected, got = (
            ours(images, output_hidden_states=True),
            fast(images, output_hidden_states=True),
        )
    for one, other in zip(expected.hidden_states, got.hidden_states, strict=True):
        assert relative_difference(other, one) <= 2e-5


@BOTH
def test_a_pipeline_names_the_class(version):
    names = {0: "cat", 1: "dog", 2: "newt"}
    model = ConvNeXtForImageClassification(ConvNeXtConfig(version=version, **SMALL, id2label=names))
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 64})
    from PIL import Image

    pipe = transformers.pipeline("image-classification", model=model, image_processor=processor)
    (best, *_) = pipe(Image.new("RGB", (80, 60), "red"))
    assert best["label"] in names.values()
    assert (
        model.config.id2label[model(IMAGES.float()).logits[0].argmax(-1).item()] in names.values()
    )


# ---- backbones
@BOTH
def test_a_backbone_has_the_attributes_of_transformers(version):
    ours, peer = pair(ConvNeXtBackbone, version, out_features=["stem", "stage2", "stage4"])
    for name in ("backbone_type", "stage_names", "num_features", "out_features", "out_indices",
                 "channels", "out_feature_channels", "has_attentions"):  # fmt: skip
        assert getattr(ours, name) == getattr(peer, name), name
    assert ours.backbone_type == BackboneType.TRANSFORMERS
    assert isinstance(
        ours.forward_with_filtered_kwargs(IMAGES, output_attentions=True).feature_maps, tuple
    )


def test_every_parameter_of_a_backbone_has_a_gradient_unlike_in_transformers():
    ours = ConvNeXtBackbone(ConvNeXtConfig(**SMALL, out_features=["stage1", "stage2"]))
    sum(x.square().sum() for x in ours(IMAGES.float()).feature_maps).backward()
    assert all(p.grad is not None for p in ours.parameters())
    assert len(ours(IMAGES.float(), output_hidden_states=True).hidden_states) == 3  # to stage2


def test_another_selection_than_the_one_that_was_built_is_refused():
    ours = ConvNeXtBackbone(ConvNeXtConfig(**SMALL, out_features=["stage1", "stage2"]))
    ours.out_features = ["stage4"]
    with pytest.raises(
        UserError, match=r"out_features=\['stage4'\], and the backbone was built with"
    ):
        ours(IMAGES.float())


def test_output_stride_dilates_as_in_the_core():
    config = ConvNeXtConfig(**SMALL, out_features=NAMES[1:], output_stride=8)
    maps = ConvNeXtBackbone(config)(torch.randn(1, 3, 64, 64)).feature_maps
    assert [x.shape[-1] for x in maps] == [16, 8, 8, 8]
    assert ConvNeXtModel(config)(torch.randn(1, 3, 64, 64)).last_hidden_state.shape[-1] == 8


def test_the_maps_are_the_cores():
    model = ConvNeXtBackbone(ConvNeXtConfig(variant="convnextv2_atto", out_indices=[1, 4]))
    core = create_backbone("convnextv2_atto", out_indices=(0, 3))
    core.load_state_dict(model.network.state_dict())
    with torch.no_grad():
        for own, expected in zip(
            model.eval()(IMAGES.float()).feature_maps, core.eval()(IMAGES.float()), strict=True
        ):
            assert torch.equal(own, expected)
