"""The classifier: features, head, losses, refusals."""

import pytest
import torch
from randomness import random_images, randomised, relative_difference
from torch import nn
from torch.nn import functional as F

from convnext_backbones import ConvNeXtClassifier, create_classifier
from convnext_backbones.network.classifier import LossAndLogits

SMALL = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
VERSIONS = [1, 2]


def small(version, dtype=torch.float32, **options):
    options = {"num_classes": 5, **options}
    return randomised(ConvNeXtClassifier(SMALL, version=version, **options), dtype)


@pytest.mark.parametrize("version", VERSIONS)
def test_features_are_the_stem_the_stages_and_the_normed_mean_of_the_last(version):
    model = small(version, torch.float64)
    features = model.forward_features(random_images(2, 3, 70, 66, dtype=torch.float64))
    shapes = [tuple(x.shape) for x in features.hidden_states]
    assert shapes == [(2, 8, 17, 16), (2, 8, 17, 16), (2, 16, 8, 8), (2, 24, 4, 4), (2, 32, 2, 2)]
    assert features.last_hidden_state is features.hidden_states[-1]
    mean = features.last_hidden_state.mean(dim=(2, 3))
    expected = F.layer_norm(mean, (32,), model.norm.weight, model.norm.bias, eps=1e-6)
    assert relative_difference(features.pooler_output, expected) <= 1e-12


@pytest.mark.parametrize("version", VERSIONS)
def test_logits_are_the_head_on_the_pooled_features(version):
    model = small(version)
    images = random_images(2, 3, 33, 47)
    pooled = model.forward_features(images).pooler_output
    assert torch.equal(model(images), model.head(pooled))
    assert model(images).shape == (2, 5)


@pytest.mark.parametrize("version", VERSIONS)
def test_no_classes_give_pooled_features_and_have_no_head(version):
    model = small(version, num_classes=0)
    images = random_images(2, 3, 32, 32)
    assert torch.equal(model(images), model.forward_features(images).pooler_output)
    assert not any(name.startswith("head") for name in model.state_dict())


def test_norm_eps_concerns_the_final_norm_alone():
    model = ConvNeXtClassifier(SMALL, version=1, norm_eps=1e-12)
    assert model.norm.eps == 1e-12
    assert model.stages[0][0].norm.eps == model.downsample_layers[1][0].eps == 1e-6


def test_head_begins_scaled():
    torch.manual_seed(0)
    plain = ConvNeXtClassifier(SMALL, version=1)
    torch.manual_seed(0)
    scaled = ConvNeXtClassifier(SMALL, version=1, head_init_scale=0.001)
    assert torch.equal(scaled.head.weight, 0.001 * plain.head.weight)
    assert plain.head.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert plain.head.bias.abs().max() == 0


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("num_classes", [0, 1, 5])
def test_every_parameter_gets_a_gradient(version, num_classes):
    model = small(version, num_classes=num_classes, drop_path_rate=0.1).train()
    output = model(random_images(4, 3, 32, 32))
    (output * random_images(*output.shape)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())


# --- losses, by Hugging Face's rules ------------------------------------------------------------


def test_no_labels_give_logits_alone():
    assert isinstance(small(1)(random_images(2, 3, 32, 32)), torch.Tensor)


@pytest.mark.parametrize("shape", [(3,), (3, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_one_class_gives_the_mean_squared_error(shape, dtype):
    model = small(1, num_classes=1)
    images = random_images(3, 3, 32, 32)
    labels = torch.tensor([0, 2, -1]).to(dtype).reshape(shape)
    output = model(images, labels)
    assert isinstance(output, LossAndLogits)
    expected = ((model(images)[:, 0] - labels.flatten()) ** 2).mean()
    assert relative_difference(output.loss, expected.float()) <= 1e-6
    assert output.logits.shape == (3, 1)


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_integer_labels_give_the_cross_entropy(dtype):
    model = small(2)
    images = random_images(3, 3, 32, 32)
    labels = torch.tensor([4, 0, 2], dtype=dtype)
    logits = model(images)
    expected = -logits.log_softmax(dim=1)[torch.arange(3), labels.long()].mean()
    assert relative_difference(model(images, labels).loss, expected) <= 1e-6


def test_float_labels_give_the_binary_cross_entropy_of_every_class():
    model = small(2, torch.float64)
    images = random_images(3, 3, 32, 32, dtype=torch.float64)
    labels = random_images(3, 5, dtype=torch.float64).gt(0).double()
    probabilities = model(images).sigmoid()
    expected = -(labels * probabilities.log() + (1 - labels) * (1 - probabilities).log()).mean()
    assert relative_difference(model(images, labels).loss, expected) <= 1e-9


def test_float32_labels_fit_a_half_precision_model():
    model = small(2).bfloat16()
    labels = torch.ones(2, 5)
    output = model(random_images(2, 3, 32, 32, dtype=torch.bfloat16), labels)
    assert torch.isfinite(output.loss)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("num_classes", "labels", "message"),
    [
        (0, torch.zeros(2, dtype=torch.long), "no head .num_classes=0.; give num_classes"),
        (1, torch.zeros(3), r"shape \(3,\); for one class give 2 values"),
        (5, torch.zeros(3, dtype=torch.long), r"shape \(2,\), got \(3,\)"),
        (5, torch.zeros(2, 5, dtype=torch.long), r"\(2,\), got \(2, 5\); .*as floats"),
        (5, torch.zeros(2, 5, dtype=torch.bool), r"\(2,\), got \(2, 5\); .*as floats"),
        (5, torch.zeros(2), r"shape \(2, 5\), got \(2,\); class numbers are given as integers"),
        (5, torch.zeros(2, 4), r"shape \(2, 5\), got \(2, 4\)"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_the_fix(num_classes, labels, message):
    with pytest.raises(ValueError, match=message):
        small(1, num_classes=num_classes)(random_images(2, 3, 32, 32), labels)


def test_labels_that_are_no_tensor_are_refused():
    with pytest.raises(TypeError, match=r"labels must be a tensor, got a list; .*torch.tensor"):
        small(1)(random_images(2, 3, 32, 32), [0, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"version": 3}, "version must be 1 or 2, got 3"),
        ({"version": "2"}, "version must be 1 or 2, got '2'"),
        ({"num_classes": -1}, "num_classes must be a whole number from 0 on, got -1"),
        ({"num_classes": 10.0}, "num_classes must be a whole number from 0 on, got 10.0"),
        ({"num_classes": None}, "num_classes must be a whole number from 0 on, got None"),
        ({"norm_eps": -1e-6}, "norm_eps must be a positive number, got -1e-06"),
        ({"norm_eps": "1e-6"}, "norm_eps must be a positive number, got '1e-6'"),
        ({"in_channels": 0}, "in_channels must be a positive whole number"),
        ({"drop_path_rate": 2}, "drop_path_rate must be between 0 and 1"),
        ({"output_stride": 5}, r"output_stride=5 .*\[4, 8, 16, 32\]"),
        ({"arch": "tinny"}, "did you mean 'tiny'"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXtClassifier(**{"arch": SMALL, "version": 1, **options})


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("num_class", "did you mean 'num_classes'"),
        ("num_labels", "write num_classes"),
        ("layer_norm_eps", "write norm_eps"),
        ("out_indices", "Valid: 'arch', 'version', 'num_classes'"),
    ],
)
def test_unknown_options_name_the_nearest_valid_one(option, message):
    with pytest.raises(TypeError, match=f"ConvNeXtClassifier has no option '{option}'.*{message}"):
        ConvNeXtClassifier(SMALL, version=1, **{option: 1})


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(1, 4, 32, 32), "4 channels .*in_channels=3"),
        (torch.zeros(3, 32, 32), r"images\[None\]"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "uint8; give normalised"),
        (torch.zeros(1, 3, 32, 32).double(), "float64, the weights torch.float32"),
        (torch.zeros(1, 3, 16, 32), "16x32; this network needs at least 32x32"),
    ],
)
def test_images_that_do_not_fit_are_refused(version, images, message):
    with pytest.raises(ValueError, match=message):
        small(version)(images)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_batch_of_none_gives_empty_logits(version):
    model = small(version)
    assert model(torch.empty(0, 3, 33, 47)).shape == (0, 5)
    assert model.train()(torch.empty(0, 3, 33, 47)).shape == (0, 5)


def test_create_classifier_takes_a_full_name_and_refuses_others():
    model = create_classifier("convnextv2_atto", num_classes=7)
    assert (model.version, model.head.out_features) == (2, 7)
    with pytest.raises(ValueError, match="did you mean 'convnext_atto'"):
        create_classifier("convnext_ato")


@pytest.mark.parametrize("num_classes", [0, 1, 3])
def test_the_loss_is_that_of_a_replaced_head(num_classes):
    arch = {"depths": (1, 1), "dims": (8, 16)}
    model = ConvNeXtClassifier(arch, version=1, num_classes=num_classes)
    model.head = nn.Linear(16, 7)
    images, labels = random_images(2, 3, 32, 32), torch.tensor([6, 1])
    loss, logits = model(images, labels)
    assert torch.equal(loss, nn.functional.cross_entropy(logits, labels))
    model.head = nn.Identity()
    with pytest.raises(ValueError, match="no head"):
        model(images, labels)
    model.reset_parameters()
