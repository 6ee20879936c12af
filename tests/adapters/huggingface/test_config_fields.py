"""Every field of a config.json has its meaning, and is there again after a round trip through our names."""

import json

import pytest
import torch
import transformers
from pictures import picture
from randomness import random_images, randomised, relative_difference
from theirs import CONFIGS, SMALL

from convnext_backbones import ConvNeXtClassifier, create_classifier
from convnext_backbones.adapters.huggingface import (
    ConvNeXtConfig,
    ConvNeXtForImageClassification,
    ConvNeXtImageProcessor,
    backbone_from_config,
    classifier_from_config,
)
from convnext_backbones.checkpoints import CheckpointError, convert_checkpoint, load_pretrained
from convnext_backbones.errors import UserError
from convnext_backbones.kernels import dispatch
from convnext_backbones.network.activations import ACTIVATIONS

NAMES = {0: "cat", 1: "dog", 2: "dog"}  # two of one name, as in ImageNet


def saved(folder, version, kind="ForImageClassification", **fields):
    """A folder as transformers saves it, of random weights, and the model."""
    config = CONFIGS[version](**{**SMALL, **fields})
    family = type(config).__name__.removesuffix("Config")
    model = randomised(getattr(transformers, family + kind)(config))
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("version", [1, 2])
def test_a_folder_of_any_activation_gives_the_outputs_of_transformers(
    tmp_path, monkeypatch, version, name
):
    monkeypatch.setattr(dispatch, "SMALLEST", 0)
    peer = saved(tmp_path, version, hidden_act=name, num_labels=3)
    ours = classifier_from_config(tmp_path)
    assert load_pretrained(ours, tmp_path).share == 1
    images = random_images(2, 3, 64, 64)
    with torch.no_grad():
        assert relative_difference(ours.eval()(images), peer(images).logits) <= 1e-6
    reason = dispatch.why_not(ours.stages[0][0], random_images(1, 8, 16, 16))
    assert reason == (None if name in ("gelu", "gelu_python") else dispatch.NO_GELU)


def test_initial_weights_have_the_deviation_of_the_config():
    torch.manual_seed(0)
    config = {"model_type": "convnext", **SMALL, "initializer_range": 0.5}
    for model in (backbone_from_config(config), classifier_from_config(config)):
        assert model.stages[3][0].pwconv1.weight.std().item() == pytest.approx(0.5, rel=0.1)


def test_weights_of_another_activation_are_not_loaded(tmp_path):
    saved(tmp_path, 1, hidden_act="relu", num_labels=3)
    arch = {"depths": SMALL["depths"], "dims": SMALL["hidden_sizes"]}
    for source in (tmp_path, tmp_path / "model.safetensors"):
        model = ConvNeXtClassifier(arch, version=1, num_classes=3)
        before = model.head.weight.clone()
        with pytest.raises(CheckpointError, match="build the model with activation='relu'"):
            load_pretrained(model, source)
        assert torch.equal(model.head.weight, before)
    load_pretrained(ConvNeXtClassifier(arch, version=1, num_classes=3, activation="relu"), tmp_path)


def round_trips():
    yield from (
        (version, "ForImageClassification", fields)
        for version in (1, 2)
        for fields in (
            {},
            {"id2label": NAMES},
            {"id2label": NAMES, "label2id": {"cat": 0, "dog": 1}},
            {"hidden_act": "prelu", "initializer_range": 0.1, "layer_norm_eps": 1e-12},
            {"layer_norm_eps": 1e-3, "drop_path_rate": 0.3, "image_size": [96, 128]},
            {"problem_type": "multi_label_classification", "num_labels": 7},
            {"num_labels": 1, "problem_type": "regression"},
            {"patch_size": [2, 2], "num_channels": 1},
            {"depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2},
            {"output_hidden_states": True, "return_dict": False},
            {"out_features": ["stem", "stage2"]},
        )
    )
    yield from (
        (1, "ForImageClassification", {"layer_scale_init_value": 0.5}),
        (1, "ForImageClassification", {"layer_scale_init_value": 0.0}),
        (1, "Model", {}),
        (2, "Model", {"id2label": NAMES, "hidden_act": "silu"}),
        (1, "Backbone", {}),
        (2, "Backbone", {"out_features": ["stem", "stage2"]}),
        (1, "Backbone", {"out_indices": [1, -1], "hidden_act": "gelu_new"}),
    )


@pytest.mark.parametrize(("version", "kind", "fields"), list(round_trips()), ids=str)
def test_a_folder_written_from_a_folder_has_every_field_of_it(tmp_path, version, kind, fields):
    peer = saved(tmp_path / "a", version, kind, **fields)
    convert_checkpoint(tmp_path / "a", tmp_path / "b", "huggingface")
    before, after = (json.loads((tmp_path / x / "config.json").read_text()) for x in "ab")
    for config in (
        before,
        after,
    ):  # transformers leaves label2id open where id2label was given alone
        if config.get("id2label") and config["label2id"] is None:
            config["label2id"] = {label: int(k) for k, label in config["id2label"].items()}
    assert after == before
    again, info = type(peer).from_pretrained(tmp_path / "b", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for name, value in peer.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"size": 96, "resample": 2}, {"image_processor_type": "ConvNextImageProcessor"}),
        (
            {"size": 400, "warp": False, "crop_pct": 1.0},
            {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 400}},
        ),
    ],
    ids=["as transformers", "cropped at 400"],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_folder_of_our_classes_becomes_one_of_transformers(tmp_path, version, options, theirs):
    fields = {"id2label": {0: "ant", 1: "bee", 2: "cat"}, "hidden_act": "prelu"}
    peer = saved(tmp_path / "a", version, **fields, initializer_range=0.1)
    ours = ConvNeXtForImageClassification.from_pretrained(tmp_path / "a")
    ours.save_pretrained(tmp_path / "b")
    processor = ConvNeXtImageProcessor(**options)
    processor.save_pretrained(tmp_path / "b")
    done = convert_checkpoint(tmp_path / "b", tmp_path / "c", "huggingface")
    assert str(done).endswith("left out: nothing")
    before, after = (json.loads((tmp_path / x / "config.json").read_text()) for x in "ac")
    assert {**after, "label2id": None} == {**before, "label2id": None}
    again = type(peer).from_pretrained(tmp_path / "c")
    for name, value in peer.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    written = json.loads((tmp_path / "c" / "preprocessor_config.json").read_text())
    assert {**written, **theirs} == written
    same = transformers.AutoImageProcessor.from_pretrained(tmp_path / "c")
    expected = processor(picture(3), return_tensors="pt").pixel_values
    difference = same(picture(3), return_tensors="pt").pixel_values - expected
    assert difference.abs().max() < 1e-5


def test_a_dilated_folder_of_our_classes_cannot_become_one_of_transformers(tmp_path):
    config = ConvNeXtConfig(depths=[1, 1, 1, 1], hidden_sizes=[8] * 4, output_stride=16)
    ConvNeXtForImageClassification(config).save_pretrained(tmp_path / "a")
    with pytest.raises(
        UserError, match="output_stride=16, which no config of transformers can say"
    ):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", "huggingface")
    assert not (tmp_path / "b").exists()


def test_weights_decide_where_the_config_beside_them_says_something_else(tmp_path):
    saved(tmp_path / "a", 1, num_labels=3, out_features=["stage1"])
    path = tmp_path / "a" / "config.json"
    config = json.loads(path.read_text())
    other = {"depths": [1, 1], "hidden_sizes": [4, 4], "num_stages": 2, "patch_size": [8, 8],
             "stage_names": ["stem", "stage1", "stage2"], "layer_scale_init_value": 0.0,
             "id2label": {"0": "a", "1": "b"}, "label2id": {"a": 0, "b": 1}}  # fmt: skip
    path.write_text(json.dumps({**config, **other}))
    convert_checkpoint(tmp_path / "a", tmp_path / "b", "huggingface")
    read = transformers.ConvNextForImageClassification.from_pretrained(tmp_path / "b").config
    assert (read.depths, read.hidden_sizes, read.patch_size) == (*SMALL.values(), 4)
    assert (read.layer_scale_init_value, read.num_labels) == (1e-6, 3)
    assert read.stage_names == ["stem", "stage1", "stage2", "stage3", "stage4"]


def test_what_no_file_of_weights_tells_is_said(tmp_path):
    saved(tmp_path / "a", 1, hidden_act="silu", num_labels=3)
    for target in ("official", "timm"):
        done = convert_checkpoint(tmp_path / "a", tmp_path / f"{target}.pth", target)
        assert str(done).endswith(
            "not told by "
            f"{tmp_path / target}.pth: activation='silu', norm_eps=1e-12 of the classifier"
        )
    assert "not told" not in str(convert_checkpoint(tmp_path / "a", tmp_path / "b", "huggingface"))
    backbone = {"out_features": ["stage4"], "layer_norm_eps": 1e-6}
    saved(tmp_path / "c", 2, "Backbone", **backbone)
    done = convert_checkpoint(tmp_path / "c", tmp_path / "c.pth", "official")
    assert "not told" not in str(done)


def test_the_names_of_a_folder_are_the_classifiers(tmp_path):
    names = {0: "ant", 1: "bee", 2: "cat"}
    saved(tmp_path / "a", 2, id2label=names)
    model = classifier_from_config(tmp_path / "a")
    assert model.class_names is None
    load_pretrained(model, tmp_path / "a")
    assert model.class_names == ("ant", "bee", "cat")
    saved(tmp_path / "b", 2, num_labels=3)  # LABEL_0, LABEL_1, ... are no names
    load_pretrained(model, tmp_path / "b")
    assert model.class_names is None
    tiny = {"depths": [3, 3, 9, 3], "hidden_sizes": [96, 192, 384, 768]}
    saved(tmp_path / "c", 1, id2label=names, **tiny)
    other = create_classifier("convnext_tiny", pretrained=tmp_path / "c", num_classes=2)
    assert other.class_names is None  # of a head that was not loaded
