"""What a classifier's own file says of its classes and pictures comes along, into models and folders."""

import json

import pytest
import torch

from convnext_backbones import create_classifier
from convnext_backbones.checkpoints.class_names import names_inside
from convnext_backbones.checkpoints.conversion import convert_checkpoint
from convnext_backbones.checkpoints.inspection import inspect_checkpoint
from convnext_backbones.checkpoints.preprocessing import preprocessing_of

NAMES = ("leaf", "rust", "sky")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "classifier.pth"
    state = create_classifier("convnextv2_atto", num_classes=3).state_dict()
    content = {"model": state, "class_names": list(NAMES), "preprocessing": {"image_size": 96}}
    torch.save(content, path)
    return path


def test_a_model_gets_its_files_names(file):
    assert create_classifier("convnextv2_atto", num_classes=3, pretrained=file).class_names == NAMES
    assert create_classifier("convnextv2_atto", num_classes=4, pretrained=file).class_names is None


def test_a_hugging_face_folder_gets_id2label_and_the_size(file, tmp_path):
    convert_checkpoint(file, tmp_path / "folder", to="huggingface")
    config = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert config["id2label"] == {"0": "leaf", "1": "rust", "2": "sky"}
    again = inspect_checkpoint(tmp_path / "folder")
    options, origin = preprocessing_of(None, again.located.path)
    assert (options["image_size"], origin) == (96, "preprocessor_config.json")
    model = create_classifier("convnextv2_atto", num_classes=3, pretrained=tmp_path / "folder")
    assert model.class_names == NAMES


def test_the_file_says_how_its_pictures_are_prepared(file):
    inspected = inspect_checkpoint(file)
    options, origin = preprocessing_of(None, file, inspected.preprocessing)
    assert (options, origin) == ({"image_size": 96}, "the file")


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ({"class_names": ["a", "b"]}, ("a", "b")),
        ({"meta": {"dataset_meta": {"classes": ("a", "b")}}}, ("a", "b")),  # MMEngine
        ({"meta": {"dataset_meta": {"CLASSES": ["a"]}}}, ("a",)),  # the versions before
        ({"meta": {"CLASSES": ("a", "b")}}, ("a", "b")),  # MMClassification
        ({"class_names": "ab"}, None),
        ({"class_names": [1, 2]}, None),
        ({"class_names": []}, None),
        ({"meta": None}, None),
        ({}, None),
    ],
)
def test_names_are_found_where_trainings_write_them(content, names):
    assert names_inside(content) == names
