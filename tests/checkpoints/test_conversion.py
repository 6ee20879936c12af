"""convert_checkpoint: files that the peers themselves load, whole and with equal logits."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import torchvision
import transformers
from randomness import random_images, random_state, randomised, relative_difference
from safetensors.torch import load_file

from convnext_backbones import create_backbone, create_classifier
from convnext_backbones.adapters.huggingface import (
    backbone_from_config,
    classifier_from_config,
)
from convnext_backbones.checkpoints import CheckpointError, convert_checkpoint, load_pretrained
from convnext_backbones.errors import UserError

ROOT = Path(__file__).parents[2]
VERSIONS = {1: "convnext_atto", 2: "convnextv2_atto"}


def classifier_file(path, name):
    model = randomised(create_classifier(name))
    torch.save({"model": model.state_dict()}, path)
    return model


def logits(model, images):
    with torch.no_grad():
        result = model(images)
    return getattr(result, "logits", result)


def auto_backbone(folder, **options):
    """AutoBackbone on a local folder. transformers 5.23's own from_pretrained asks the hub first
    whether a repository of that name exists, so that no local folder loads; here it is not asked."""
    load = super(transformers.AutoBackbone.__mro__[1], transformers.AutoBackbone).from_pretrained
    return load(folder, **options)


@pytest.mark.parametrize("name", [*VERSIONS.values(), "convnextv2_nano", "convnext_tiny"])
def test_timm_loads_the_converted_file_strictly(tmp_path, name):
    ours = classifier_file(tmp_path / "a.pth", name)
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "timm.safetensors", "timm")
    theirs = timm.create_model(name).eval()
    theirs.load_state_dict(load_file(tmp_path / "timm.safetensors"), strict=True)
    images = random_images(2, 3, 64, 64)
    assert relative_difference(logits(theirs, images), logits(ours, images)) <= 2e-5


def test_torchvision_loads_the_converted_file_strictly(tmp_path):
    ours = classifier_file(tmp_path / "a.pth", "convnext_tiny")
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "tv.pth", "torchvision")
    theirs = torchvision.models.convnext_tiny().eval()
    theirs.load_state_dict(torch.load(tmp_path / "tv.pth", weights_only=True), strict=True)
    images = random_images(2, 3, 64, 64)
    assert relative_difference(logits(theirs, images), logits(ours, images)) <= 2e-5


@pytest.mark.parametrize("name", VERSIONS.values())
def test_transformers_loads_the_converted_folder(tmp_path, name):
    ours = classifier_file(tmp_path / "a.pth", name)
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "hf", "huggingface")
    theirs, info = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "hf", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = random_images(2, 3, 64, 64)
    assert relative_difference(logits(theirs.eval(), images), logits(ours, images)) <= 2e-5
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hf")
    assert (processor.size["shortest_edge"], processor.crop_pct) == (224, 224 / 256)
    backbone = auto_backbone(tmp_path / "hf", out_features=["stage1", "stage4"]).eval()
    expected = ours.forward_features(images).hidden_states
    with torch.no_grad():
        maps = backbone(images, output_hidden_states=True).hidden_states
    for got, wanted in zip(maps, expected, strict=True):
        assert relative_difference(got, wanted) <= 2e-5
    again = classifier_from_config(tmp_path / "hf").eval()
    assert load_pretrained(again, tmp_path / "hf").share == 1
    assert torch.equal(logits(again, images), logits(ours, images))


def hugging_face_folder(folder, **options):
    """A classifier of transformers with its image processor, as it saves them."""
    config = transformers.ConvNextConfig(
        depths=[2, 2, 6, 2], hidden_sizes=[40, 80, 160, 320], **options
    )
    model = randomised(transformers.ConvNextForImageClassification(config))
    model.save_pretrained(folder)
    transformers.ConvNextImageProcessor(
        size={"shortest_edge": 96}, crop_pct=0.9, resample=2, image_mean=[0.1, 0.2, 0.3]
    ).save_pretrained(folder)
    return model.eval()


LABELS = {0: "cat", 1: "dog", 2: "emu"}


@pytest.mark.parametrize("source", ["folder", "file"])
def test_a_hugging_face_source_keeps_its_labels_options_and_image_processor(tmp_path, source):
    options = {"id2label": LABELS, "layer_norm_eps": 1e-3, "drop_path_rate": 0.2, "image_size": 96,
               "problem_type": "multi_label_classification"}  # fmt: skip
    theirs = hugging_face_folder(tmp_path / "a", **options)
    given = tmp_path / "a" if source == "folder" else tmp_path / "a" / "model.safetensors"
    convert_checkpoint(given, tmp_path / "b", "huggingface")
    again, info = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "b", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    for field, value in options.items():
        assert getattr(again.config, field) == value, field
    assert again.config.label2id == {label: k for k, label in LABELS.items()}
    images = random_images(2, 3, 64, 64)
    assert torch.equal(logits(again.eval(), images), logits(theirs, images))
    before, after = (
        json.loads((tmp_path / folder / "preprocessor_config.json").read_text()) for folder in "ab"
    )
    assert before == after


@pytest.mark.parametrize("content", [
    {"architecture": "convnext_atto", "num_classes": 3},  # timm's
    {"model_type": "upernet"},
    {"model_type": "convnextv2", "id2label": {"0": "a"}},
    {"model_type": "convnext", "id2label": {"a": "b", "c": "d", "e": "f"}},
    "{",
], ids=str)  # fmt: skip
def test_a_config_of_something_else_gives_no_labels(tmp_path, content):
    hugging_face_folder(tmp_path / "a", num_labels=3)
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "a" / "config.json").write_text(text)
    convert_checkpoint(tmp_path / "a", tmp_path / "b", "huggingface")
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    assert config["id2label"] == {str(k): f"LABEL_{k}" for k in range(3)}


def test_a_config_that_cannot_be_kept_is_refused_before_anything_is_written(tmp_path):
    hugging_face_folder(tmp_path / "a", num_labels=3)
    path = tmp_path / "a" / "config.json"
    path.write_text(path.read_text().replace('"gelu"', '"xielu"'))
    with pytest.raises(UserError, match="hidden_act='xielu', which has no counterpart"):
        convert_checkpoint(tmp_path / "a", tmp_path / "b", "huggingface")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("name", VERSIONS.values())
def test_a_backbone_with_norms_becomes_an_auto_backbone(tmp_path, name):
    ours = randomised(create_backbone(name, out_indices=(0, 1, 2, 3)))
    torch.save(ours.state_dict(), tmp_path / "a.pth")
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "hf", "huggingface")
    theirs, info = auto_backbone(tmp_path / "hf", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    images = random_images(2, 3, 64, 64)
    with torch.no_grad():
        for got, wanted in zip(theirs.eval()(images).feature_maps, ours(images), strict=True):
            assert relative_difference(got, wanted) <= 2e-5
    assert backbone_from_config(tmp_path / "hf").out_features == ours.out_features


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("to", ["official", "timm", "mmpretrain"])
@pytest.mark.parametrize("name", VERSIONS.values())
def test_there_and_back_keeps_every_bit(tmp_path, name, to, suffix):
    ours = classifier_file(tmp_path / "a.pth", name)
    convert_checkpoint(tmp_path / "a.pth", tmp_path / f"b.{suffix}", to)
    convert_checkpoint(tmp_path / f"b.{suffix}", tmp_path / "c.safetensors", "official")
    model = create_classifier(name)
    report = load_pretrained(model, tmp_path / "c.safetensors")
    assert report.share == 1
    state = ours.state_dict()
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())


def test_the_official_file_has_the_official_grn_shape(tmp_path):
    torch.save(timm.create_model("convnextv2_atto").state_dict(), tmp_path / "a.pth")
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth", "official")
    state = torch.load(tmp_path / "b.pth", weights_only=True)["model"]
    assert state["stages.0.0.grn.gamma"].shape == (1, 1, 1, 160)
    assert state["stages.0.0.pwconv1.weight"].shape == (160, 40)


def test_a_detector_becomes_its_backbone_and_the_rest_is_named(tmp_path):
    state = random_state(create_backbone("convnext_atto", out_indices=(0, 1, 2, 3)))
    content = {f"backbone.{n}": v for n, v in state.items()} | {"rpn_head.a": torch.ones(1)}
    torch.save({"state_dict": content}, tmp_path / "a.pth")
    done = convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth", "timm")
    assert "rpn_head.a" in done.left_out
    assert "backbone.norm0.weight" in done.left_out  # timm has no output norms
    assert "a backbone without a head" in str(done)
    theirs = timm.create_model("convnext_atto", num_classes=0)
    missing = theirs.load_state_dict(torch.load(tmp_path / "b.pth"), strict=False)
    assert set(missing.missing_keys) == {"head.norm.weight", "head.norm.bias"}
    assert not missing.unexpected_keys


@pytest.mark.parametrize(
    ("name", "destination", "to", "sentence"),
    [
        ("convnextv2_atto", "b.pth", "torchvision", "torchvision has only classifiers of ConvNeXt V1"),
        ("convnext_atto", "b.npz", "timm", "give a file that ends in one of .pth"),
        ("convnext_atto", "b.pth", "huggingface", "give a folder"),
        ("convnext_atto", "a.pth", "timm", "exists and was kept"),
        ("convnext_atto", "b.pth", "keras", "choose one of official, huggingface"),
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_one_sentence(tmp_path, name, destination, to, sentence):
    classifier_file(tmp_path / "a.pth", name)
    before = (tmp_path / "a.pth").read_bytes()
    with pytest.raises(CheckpointError, match=sentence):
        convert_checkpoint(tmp_path / "a.pth", tmp_path / destination, to)
    assert [p.name for p in tmp_path.iterdir()] == ["a.pth"]
    assert (tmp_path / "a.pth").read_bytes() == before


def test_overwriting_happens_only_on_request_and_replaces_whole_folders(tmp_path):
    classifier_file(tmp_path / "a.pth", "convnext_atto")
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "hf", "huggingface")
    (tmp_path / "hf" / "mine.txt").write_text("keep")
    with pytest.raises(CheckpointError, match="exists and was kept"):
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "hf", "huggingface")
    assert (tmp_path / "hf" / "mine.txt").exists()
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "hf", "huggingface", overwrite=True)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["depths"] == [2, 2, 6, 2]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "hf"]


def test_an_unknown_parameter_is_not_lost_in_silence(tmp_path):
    state = create_classifier("convnext_atto").state_dict() | {"stages.0.0.adapter": torch.ones(1)}
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"stages\.0\.0\.adapter .*nothing was written"):
        convert_checkpoint(tmp_path / "a.pth", tmp_path / "b.pth", "timm")


def test_the_tool_prints_what_it_did_and_one_sentence_when_it_cannot(tmp_path):
    classifier_file(tmp_path / "a.pth", "convnext_atto")

    def run(*arguments):
        return subprocess.run(
            [sys.executable, ROOT / "tools" / "convert_checkpoint.py", *arguments],
            capture_output=True, text=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip

    done = run("a.pth", "b.safetensors", "--to", "timm")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "read: a.pth is convnext_atto (official names), a classifier of 1000 classes",
        "wrote: 128 parameters in b.safetensors, timm names",
        "left out: nothing",
    ]
    missing = run("none.pth", "c.pth", "--to", "timm")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: none.pth: there is no such file")
    assert "Traceback" not in missing.stderr
