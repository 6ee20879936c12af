"""Feature maps and class-activation maps of this package's networks."""

import sys

import numpy as np
import pytest
import torch
from torch import nn

from convnext_backbones import ConvNeXt, ConvNeXtClassifier
from convnext_backbones.errors import UserError
from convnext_backbones.looking import maps, targets
from convnext_backbones.runs.host import Classes

pytest.importorskip("pytorch_grad_cam")

SMALL = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
NAMES = ("ant", "bee", "cat", "dog", "emu")
BY_GRADIENT = [name for name in maps.METHODS if name in maps.BY_GRADIENT]


def classifier(version: int = 1) -> ConvNeXtClassifier:
    """With layer scales that let the blocks speak."""
    torch.manual_seed(0)
    model = ConvNeXtClassifier(SMALL, version=version, num_classes=5, layer_scale_init_value=0.5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def pixels(height: int = 64, width: int = 96) -> torch.Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(1))


def cam(model, method="gradcam", layer="stage4", part=(1.0, 1.0)) -> np.ndarray:
    aim = targets.of_classifier(model(pixels())[0], NAMES, "cat")
    layer = maps.layers_of(model)[layer]
    return maps.class_activation_map(model, layer, pixels(), model, aim.target, method, part)


@pytest.mark.parametrize("version", [1, 2])
def test_a_stage_and_its_last_block_give_the_map_of_the_paper(version):
    """The weighted sum of arXiv:1610.02391, here by autograd."""
    model = classifier(version)
    last = model.forward_features(pixels()).last_hidden_state
    score = model.head(model.norm(last.mean(dim=(2, 3))))[0, 2]
    (gradient,) = torch.autograd.grad(score, last)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * last)[0].sum(0).relu().detach()
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    target = targets.of_classifier(model(pixels())[0], NAMES, "cat").target
    for layer in (model.stages[-1], model.stages[-1][-1]):
        found = maps.class_activation_map(
            model, layer, pixels(), model, target, "gradcam", (1.0, 1.0)
        )
        assert found.shape == (64, 96)
        centres = found[16::32, 16::32]  # of the positions of the map, between which it is resized
        assert np.abs(centres - expected.numpy()).max() < 0.3
        assert np.corrcoef(centres.ravel(), expected.numpy().ravel())[0, 1] > 0.95


@pytest.mark.parametrize("method", maps.METHODS)
def test_every_method_gives_a_map_in_0_to_1_and_leaves_the_model_as_it_was(method):
    model = classifier()
    model.stages[0].requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    found = cam(model, method)
    assert found.shape == (64, 96)
    assert 0 <= found.min() < found.max() <= 1
    assert [parameter.requires_grad for parameter in model.parameters()] == before
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.stages[-1]._forward_hooks
    assert type(model.stages[-1]).__name__ == "Stage"


@pytest.mark.parametrize("method", BY_GRADIENT)
def test_frozen_networks_have_gradients_of_their_maps(method):
    model = classifier()
    expected = cam(model, method)
    assert np.array_equal(cam(model.requires_grad_(False), method), expected)


def test_each_feature_can_be_the_one_that_is_looked_at():
    model = classifier()
    found = {name: cam(model, layer=name) for name in maps.layers_of(model)}
    assert list(found) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    assert len({x.tobytes() for x in found.values()}) == 5


def test_what_is_padding_is_cut_off():
    assert cam(classifier(), part=(0.5, 0.75)).shape == (32, 72)


def test_a_model_without_gradients_is_told_and_a_method_without_them_works():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = classifier()

        def forward(self, x):
            with torch.no_grad():
                return self.inner(x)

    model = Detached()
    layer, target = model.inner.stages[-1], (lambda logits: logits[0])
    arguments = (model, layer, pixels(), model, target)
    with pytest.raises(UserError, match=r"needs gradients, and this model gives none.*eigencam"):
        maps.class_activation_map(*arguments, "gradcam", (1.0, 1.0))
    assert maps.class_activation_map(*arguments, "eigencam", (1.0, 1.0)).max() > 0


def test_without_the_library_a_sentence_says_what_to_install(monkeypatch):
    model = classifier()
    target = targets.of_classifier(model(pixels())[0], NAMES, None).target
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(UserError, match=r"convnext_backbones\[looking\].*--method none"):
        maps.class_activation_map(
            model, model.stages[-1], pixels(), model, target, "gradcam", (1.0, 1.0)
        )


# ---- feature maps --------------------------------------------------------------------------------
def test_feature_maps_are_the_networks_without_its_padding():
    model = ConvNeXt(SMALL, out_features=("stage3",)).eval()
    images = pixels()
    found = maps.feature_maps(model, ["stem", "stage3"], lambda: model(images), (0.5, 1.0))
    stem, _, _, stage3 = model.stage_maps(images)
    assert torch.equal(found["stem"], stem[0, :, :8])
    assert torch.equal(found["stage3"], stage3[0, :, :2])
    assert list(maps.layers_of(model)) == ["stem", "stage1", "stage2", "stage3"]


def test_a_large_constant_channel_does_not_hide_where_the_others_differ():
    x = torch.zeros(4, 6, 6)
    x[0] = 1000 + 1e-4 * torch.randn(6, 6)
    x[1:, 2, 3] = 1
    drawn = maps.departure(x)
    assert np.unravel_index(drawn.argmax(), drawn.shape) == (2, 3)
    assert {channel.number for channel in maps.strongest_channels(x, 3)} == {1, 2, 3}
    assert len(maps.strongest_channels(x, 9)) == 4


def test_wrong_features_are_told_with_the_networks():
    model = ConvNeXt(SMALL, out_features=("stage3",))
    assert maps.chosen_features(model, None) == ["stem", "stage1", "stage2", "stage3"]
    assert maps.chosen_features(model, ["stage3", "stem"]) == ["stem", "stage3"]
    with pytest.raises(UserError, match=r"no feature 'stage4'; did you mean.*'stage3'"):
        maps.chosen_features(model, ["stage4"])
    with pytest.raises(UserError, match="Linear holds no ConvNeXt of this package"):
        maps.trunk_of(nn.Linear(1, 1))


# ---- targets -------------------------------------------------------------------------------------
def test_a_class_is_named_by_name_or_number():
    assert targets.class_number("cat", NAMES, 5) == targets.class_number("CAT", NAMES, 5) == 2
    assert targets.class_number("2", NAMES, 5) == targets.class_number("2", (), 5) == 2
    with pytest.raises(
        UserError, match=r"--class cart: .* did you mean 'cat'. Valid: 0 to 4 and ant"
    ):
        targets.class_number("cart", NAMES, 5)
    for wanted in ("5", "-1", ""):
        with pytest.raises(UserError, match="there is no such class"):
            targets.class_number(wanted, NAMES, 5)


def test_a_segmentations_target_is_of_the_pixels_seen_as_the_class():
    scores = torch.zeros(3, 4, 4)
    scores[0], scores[1, :2] = 1, 2
    classes = Classes(NAMES[:3])
    aim = targets.of_segmentation(scores, classes, "bee")
    assert aim.words == "bee, 50 % of the pixels"
    assert aim.target(scores) == 8 * 2
    assert targets.of_segmentation(scores, classes, None).words.startswith("ant")
    with pytest.raises(UserError, match="no pixel is seen as cat; seen are: ant, bee"):
        targets.of_segmentation(scores, classes, "cat")
    yes_or_no = torch.ones(1, 2, 2)
    assert targets.of_segmentation(yes_or_no, Classes(("crack",)), None).target(yes_or_no) == 4


def test_a_detectors_target_is_the_scores_of_the_objects_of_a_class():
    scores = torch.tensor([0.9, 0.4, 0.6, 0.1], requires_grad=True)
    boxes = torch.tensor([[0.0, 0, 4, 4], [5, 5, 9, 9], [10, 0, 14, 4], [0, 10, 4, 14]])
    found = dict(boxes=boxes, labels=torch.tensor([2, 2, 1, 2]), scores=scores)
    aim = targets.of_instances(found, Classes(NAMES), None, 0.3)
    assert aim.boxes.tolist() == boxes[:2].tolist()
    aim.target(found).backward()
    assert scores.grad.tolist() == [1, 1, 0, 0]
    assert targets.of_instances(found, Classes(NAMES), "bee", 0.3).scores.tolist() == [
        pytest.approx(0.6)
    ]
    with pytest.raises(
        UserError, match=r"dog is found .* 0.3 or more; the best are: cat 0.90, bee 0.60"
    ):
        targets.of_instances(found, Classes(NAMES), "dog", 0.3)
    with pytest.raises(UserError, match=r"nothing is found with a score of 0.95"):
        targets.of_instances(found, Classes(NAMES), None, 0.95)
    nothing = dict(boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=int), scores=torch.zeros(0))
    with pytest.raises(UserError, match="the best are: none"):
        targets.of_instances(nothing, Classes(NAMES), None, 0.3)


def test_an_object_under_another_classes_box_has_its_own_score():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10]])
    scores = torch.tensor([0.4, 0.9], requires_grad=True)
    found = dict(boxes=boxes, labels=torch.tensor([1, 0]), scores=scores)
    aim = targets.of_instances(found, Classes(("ant", "bee")), None, 0.3)
    aim.target(found).sum().backward()
    assert scores.grad.tolist() == [0, 1]


def test_an_object_without_area_is_not_looked_for():
    found = dict(boxes=torch.zeros(1, 4), labels=torch.tensor([1]), scores=torch.tensor([0.9]))
    with pytest.raises(UserError, match="nothing is found"):
        targets.of_instances(found, Classes(("ant", "bee")), None, 0.3)
