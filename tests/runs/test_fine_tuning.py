"""A whole model's weights into one of other classes: what stays, what is new, what is refused."""

from argparse import Namespace

import pytest
import torch
from randomness import random_state
from torch import nn

from convnext_backbones import ConvNeXtV2
from convnext_backbones.checkpoints import CheckpointError
from convnext_backbones.checkpoints.layouts import to_layout
from convnext_backbones.errors import UserError
from convnext_backbones.runs.fine_tuning import check_options, fit_whole, split_options, weights_of

SIZE = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
COCO = ("person", "bicycle", "traffic light", "dog", "cat")
OWN = ("cat", "boat", "Traffic_Light")
ALONE = "For its ConvNeXt alone set pretrained."


class Heads(nn.Module):
    """Layers that count classes as MMDetection's, MMSegmentation's and Detectron2's heads lay them out."""

    def __init__(self, classes):
        super().__init__()
        self.num_classes = classes
        self.shared = nn.Linear(6, 6)
        self.conv_seg = nn.Conv2d(6, classes, 1)
        self.fc_cls = nn.Linear(6, classes + 1)
        self.fc_reg = nn.Linear(6, 4 * classes)
        self.retina_cls = nn.Conv2d(6, 9 * classes, 3)
        self.rtm_cls = nn.ModuleList(nn.Conv2d(6, classes, 1) for _ in range(2))
        self.label_embedding = nn.Embedding(classes, 6)


class Detector(nn.Module):
    def __init__(self, classes, size=SIZE, queries=10, masks=True, channels=6):
        super().__init__()
        self.backbone = ConvNeXtV2(size, out_indices=(0, 1, 2, 3))
        self.neck = nn.Conv2d(32, channels, 1)
        self.bbox_head = Heads(classes)
        if queries:
            self.bbox_head.query = nn.Embedding(queries, 6)
        if masks:
            self.mask_head = nn.Module()
            self.mask_head.conv_logits = nn.Conv2d(6, classes, 1)  # it keeps no count


def filled(model, seed=0):
    model.load_state_dict(random_state(model, seed=seed))
    return model


def fit(model, state, **options):
    return fit_whole(model, state, "run.pth", ALONE, **options)


def test_what_counts_classes_is_new_and_named_and_all_else_is_loaded():
    theirs, ours = filled(Detector(5)), filled(Detector(3), seed=1)
    fitted = fit(ours, {"meta": {}, "state_dict": theirs.state_dict()})
    assert fitted.new == [
        f"bbox_head.{layer}: 5 -> 3 classes"
        for layer in ("conv_seg", "fc_cls", "fc_reg", "retina_cls", "rtm_cls.0", "rtm_cls.1", "label_embedding")
    ] + ["mask_head.conv_logits: 5 -> 3 classes"]  # fmt: skip
    expected, before = theirs.state_dict(), ours.state_dict()
    for name, value in fitted.state.items():
        source = expected if value.shape == expected[name].shape else before
        assert torch.equal(value, source[name]), name
    ours.load_state_dict(fitted.state)
    assert "checkpoint of this whole model" in str(fitted)


def test_classes_of_one_name_keep_their_rows_in_every_layout():
    theirs, ours = filled(Detector(5)), filled(Detector(3), seed=1)
    fitted = fit(
        ours, {"state_dict": theirs.state_dict()},
        keep_classes=True, names=OWN, names_in_file=COCO,
    )  # fmt: skip
    old, new = theirs.state_dict(), fitted.state
    pairs, fresh = {0: 4, 2: 2}, 1  # cat; traffic light; boat is new
    for own, other in pairs.items():
        for kind in ("weight", "bias"):
            for layer in ("conv_seg", "rtm_cls.0", "rtm_cls.1", "fc_cls"):
                name = f"bbox_head.{layer}.{kind}"
                assert torch.equal(new[name][own], old[name][other]), name
            name = f"bbox_head.fc_reg.{kind}"
            assert torch.equal(
                new[name].unflatten(0, (3, 4))[own], old[name].unflatten(0, (5, 4))[other]
            )
            name = f"bbox_head.retina_cls.{kind}"
            assert torch.equal(
                new[name].unflatten(0, (9, 3))[:, own], old[name].unflatten(0, (9, 5))[:, other]
            )
        name = "bbox_head.label_embedding.weight"
        assert torch.equal(new[name][own], old[name][other])
    assert torch.equal(new["bbox_head.fc_cls.weight"][3], old["bbox_head.fc_cls.weight"][5])
    before = ours.state_dict()["bbox_head.conv_seg.weight"]
    assert torch.equal(new["bbox_head.conv_seg.weight"][fresh], before[fresh])
    assert "2 of 3 kept by name (cat, Traffic_Light), new: boat" in str(fitted)


def test_the_same_classes_in_another_order_move_if_asked_and_are_told_if_not():
    theirs, ours = filled(Detector(3)), filled(Detector(3), seed=1)
    names, turned = ("a", "b", "c"), ("c", "b", "a")
    state = {"state_dict": theirs.state_dict()}
    told = fit(ours, state, names=turned, names_in_file=names)
    assert "3 classes are others (a, b, c) than this run's (c, b, a)" in str(told)
    moved = fit(ours, state, names=turned, names_in_file=names, keep_classes=True)
    for layer in ("bbox_head.conv_seg", "mask_head.conv_logits"):
        name = f"{layer}.weight"
        assert torch.equal(moved.state[name], theirs.state_dict()[name].flip(0)), name
    shared = "bbox_head.shared.weight"
    assert torch.equal(moved.state[shared], theirs.state_dict()[shared])


def test_rows_cannot_be_kept_without_names():
    theirs, ours = Detector(5), Detector(3)
    state = {"state_dict": theirs.state_dict()}
    with pytest.raises(CheckpointError, match="the file names no classes"):
        fit(ours, state, keep_classes=True, names=OWN)
    with pytest.raises(CheckpointError, match="this run's data name no classes"):
        fit(ours, state, keep_classes=True, names_in_file=COCO)
    with pytest.raises(CheckpointError, match="names 2 classes and this run 3, and no layer"):
        fit(ours, state, keep_classes=True, names=OWN, names_in_file=("a", "b"))


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        (Detector(5, size=dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))),
         r"the backbone of this checkpoint is .*\(1, 1, 2, 1\).*the model's is .*\(1, 1, 1, 1\)"),
        (Detector(5, queries=20), r"bbox_head\.query\.weight is \(20, 6\), not \(10, 6\)"),
        (Detector(5, queries=0), r"bbox_head\.query\.weight is missing in the file"),
        (Detector(5, channels=8), r"neck\.weight is \(8, 32, 1, 1\), not \(6, 32, 1, 1\)"),
    ],
)  # fmt: skip
def test_what_differs_for_another_reason_is_refused(theirs, words):
    with pytest.raises(CheckpointError, match=words):
        fit(Detector(3), {"state_dict": theirs.state_dict()})


def test_counts_that_contradict_each_other_are_refused():
    theirs = Detector(5).state_dict()
    theirs["bbox_head.fc_reg.weight"] = torch.zeros(4 * 7, 6)
    with pytest.raises(CheckpointError, match=r"bbox_head\.conv_seg\.weight is \(5, 6, 1, 1\)"):
        fit(Detector(3), {"state_dict": theirs})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(value):
    theirs = Detector(3).state_dict()
    theirs["neck.bias"][0] = value
    with pytest.raises(CheckpointError, match=r"NaN or infinite numbers in 1 of .*neck\.bias"):
        fit(Detector(3), {"state_dict": theirs})


def test_a_head_that_only_one_of_the_two_has_is_new_or_left_over():
    with_masks, without = filled(Detector(3)), filled(Detector(3, masks=False), seed=1)
    assert fit(without, {"state_dict": with_masks.state_dict()}).left == ["mask_head"]
    fitted = fit(with_masks, {"state_dict": without.state_dict()})
    assert fitted.new == ["mask_head, which the file does not have"]
    with_masks.load_state_dict(fitted.state)


def test_wrapped_files_are_taken_as_what_is_in_them():
    theirs = filled(Detector(3))
    expected = theirs.state_dict()
    averaged = {f"module.{n}": v for n, v in expected.items()} | {"steps": torch.tensor(3)}
    for content, words in (
        (expected, ""),
        ({"model": expected, "trainer": {}}, ""),
        ({"state_dict": {f"module.{n}": v for n, v in expected.items()}}, ""),
        ({"state_dict": {f"model.{n}": v for n, v in expected.items()}}, "'model.'"),
        ({"ema_state_dict": averaged}, "entry 'ema_state_dict'"),
    ):
        fitted = fit(filled(Detector(3), seed=1), content)
        assert fitted.state.keys() == expected.keys()
        assert all(torch.equal(v, expected[n]) for n, v in fitted.state.items())
        assert words in str(fitted)
    other = {"model_ema": {n: v + 1 for n, v in expected.items()}, "model": expected}
    fitted = fit(Detector(3), other, section="model_ema")
    assert torch.equal(fitted.state["neck.bias"], expected["neck.bias"] + 1)


@pytest.mark.parametrize("layout", ["mmpretrain_backbone", "timm_features", "huggingface"])
def test_a_backbone_under_other_names_is_translated(layout):
    theirs = filled(Detector(3))
    state = theirs.state_dict()
    backbone = {n.removeprefix("backbone."): v for n, v in state.items() if n[:9] == "backbone."}
    foreign, left = to_layout(backbone, layout, version=2)
    between = "timm_model." if layout == "timm_features" else ""
    named = {f"backbone.{between}{n}": v for n, v in foreign.items()}
    rest = {n: v for n, v in state.items() if not n.startswith("backbone.")}
    fitted = fit(filled(Detector(3), seed=1), {"state_dict": named | rest})
    for name, value in fitted.state.items():
        if name.removeprefix("backbone.") not in left:
            assert torch.equal(value, state[name]), name
    assert {f"backbone.{n}" for n in left} == set(fitted.new)
    assert f"its ConvNeXt had {layout} names" in str(fitted)


def test_a_convnext_alone_is_left_to_pretrained_weights():
    backbone = Detector(3).backbone.state_dict()
    assert fit(Detector(3), {"model": backbone}) is None
    assert fit(Detector(3), {f"backbone.{n}": v for n, v in backbone.items()}) is None


def test_another_frameworks_detector_is_told_as_such():
    state = {f"backbone.bottom_up.{n}": v for n, v in Detector(3).backbone.state_dict().items()}
    state |= {"proposal_generator.x": torch.ones(1), "roi_heads.y": torch.ones(1)}
    with pytest.raises(CheckpointError, match=f"is a model of Detectron2, whose neck.*{ALONE}"):
        fit(Detector(3), {"model": state})


def test_a_file_without_a_convnext_is_refused():
    with pytest.raises(CheckpointError, match=r"no parameter of a ConvNeXt was recognised"):
        fit(Detector(3), {"state_dict": {"backbone.layer1.0.conv1.weight": torch.ones(1)}})


# ---- options
def options(**given):
    nothing = dict(weights=None, keep_classes=False, freeze=None, lr_factor=None, early_stop=None)
    return Namespace(**{**nothing, "resume": False, **given})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (dict(keep_classes=True), "give that too"),
        (dict(weights="convnext_tiny.fb_in1k", resume=True), "give one"),
        (dict(weights="nowhere.pth"), "no such file"),
        (dict(freeze=-1), "--freeze -1"),
        (dict(early_stop=0), "--early-stop 0"),
        (dict(lr_factor=0.0), "a number above 0"),
        (dict(lr_factor=float("nan")), "a number above 0"),
    ],
)
def test_options_that_cannot_be_are_refused(given, words):
    with pytest.raises(UserError, match=words):
        check_options(options(**given))


def test_keeping_classes_is_written_behind_the_file(tmp_path):
    file = tmp_path / "run.pth"
    file.touch()
    check_options(options(weights=str(file), keep_classes=True, freeze=0, early_stop=1))
    assert weights_of(options()) is None
    assert weights_of(options(weights=str(file))) == str(file)
    assert weights_of(options(weights=str(file), keep_classes=True)) == f"{file}?keep_classes=true"
    both = weights_of(options(weights=f"{file}?section=ema", keep_classes=True))
    assert split_options(both) == (str(file), {"section": "ema", "keep_classes": "true"})
    assert split_options(f"{file}?keep_classes=false") == (str(file), {})
    assert split_options("https://a.b/c.pth?token=x") == ("https://a.b/c.pth?token=x", {})
    with pytest.raises(UserError, match="true or false"):
        split_options("a.pth?keep_classes=maybe")
