"""Names and WordNet ids of the classes of published weights, by the libraries that carry them."""

import copy
import json
import pickle
import sys

import pytest
import torch
import torchvision
import transformers
from randomness import randomised
from timm.data import ImageNetInfo

from convnext_backbones import ConvNeXtClassifier, create_classifier
from convnext_backbones.checkpoints import (
    CATALOGUE,
    class_names,
    convert_checkpoint,
    load_pretrained,
    wordnet_ids,
)
from convnext_backbones.checkpoints.class_names import DATA_SETS, _names, names_of
from convnext_backbones.errors import UserError

FILE = "convnextv2_atto_1k_224_ema.pt"  # by which the catalogue knows it
TABBY = 281


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A file under the name of published weights, of random values."""
    path = tmp_path_factory.mktemp("weights") / FILE
    torch.save({"model": randomised(create_classifier("convnextv2_atto")).state_dict()}, path)
    return path


@pytest.fixture
def without_timm(monkeypatch):
    _names.cache_clear()
    monkeypatch.setitem(sys.modules, "timm.data", None)


@pytest.mark.parametrize(
    "name", [w.name for w in CATALOGUE.values() if w.task == "imagenet" and w.num_classes > 640]
)
def test_every_published_classifier_has_a_name_and_an_id_for_each_class(name):
    count = CATALOGUE[name].num_classes
    assert len(class_names(name)) == len(wordnet_ids(name)) == count
    assert len(set(wordnet_ids(name))) == count
    assert (
        wordnet_ids(name)[0] == {1000: "n01440764", 11821: "n00005787", 21841: "n00004475"}[count]
    )


def test_names_of_1k_are_torchvisions_and_need_no_timm(without_timm):
    names = class_names("facebook/convnextv2-tiny-1k-224")
    weights = torchvision.models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1
    assert list(names) == weights.meta["categories"]
    assert names[TABBY] == "tabby"


@pytest.mark.parametrize(("count", "data_set"), DATA_SETS.items())
def test_names_and_ids_stand_in_one_order(count, data_set):
    info = ImageNetInfo(data_set)
    name = next(w.name for w in CATALOGUE.values() if w.num_classes == count)
    for k in range(0, count, 97):
        described = info.label_name_to_description(wordnet_ids(name)[k])
        assert class_names(name)[k].lower() in described.lower() or count == 1000
    if count == 1000:
        assert info.label_name_to_description(wordnet_ids(name)[TABBY]) == "tabby, tabby cat"


@pytest.mark.parametrize("ask", [class_names, wordnet_ids])
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("convnext_tiny.fb_in1000", "no name of published weights; did you mean 'convnext_tiny"),
        ("convnext_base.clip_laion2b", "no classes of ImageNet: it is LAION-2B"),
        ("convnextv2_tiny.fcmae", "no classes of ImageNet"),
        ("convnext_tiny.fb_in1k_mask_rcnn_3x_coco", "no classes of ImageNet: .*COCO"),
    ],
)
def test_weights_without_classes_of_imagenet_are_a_sentence(ask, name, sentence):
    with pytest.raises(UserError, match=sentence):
        ask(name)


def test_what_is_not_installed_is_asked_for(without_timm):
    install = r"timm, which is not installed: pip install 'convnext_backbones\[names\]'"
    with pytest.raises(UserError, match=f"WordNet ids of imagenet-1k.*{install}"):
        wordnet_ids("convnext_tiny.fb_in1k")
    with pytest.raises(UserError, match=f"names of imagenet-22k.*{install}"):
        names_of(CATALOGUE["convnext_tiny.fb_in22k"], None, 21841)()


def test_a_published_classifier_has_its_names_in_every_copy(published):
    model = create_classifier("convnextv2_atto", pretrained=published)
    for again in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.class_names == class_names("convnextv2_atto.fcmae_ft_in1k")


def test_a_head_that_was_not_loaded_has_no_names(published):
    model = create_classifier("convnextv2_atto", pretrained=published, num_classes=3)
    assert model.class_names is None
    model.class_names = ["a", "b", "c"]
    load_pretrained(model, published)
    assert model.class_names == ("a", "b", "c")  # the head is the one that it was
    for wrong in (["a"], "abc", [*"abcd"]):
        with pytest.raises(UserError, match="class_names must be 3 names, one a class"):
            model.class_names = wrong


def test_weights_of_an_unknown_file_have_no_names(published, tmp_path):
    (tmp_path / "mine.pt").write_bytes(published.read_bytes())
    assert create_classifier("convnextv2_atto", pretrained=tmp_path / "mine.pt").class_names is None


def test_a_folder_written_from_published_weights_has_their_names(published, tmp_path):
    convert_checkpoint(published, tmp_path / "hf", "huggingface")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "hf")
    assert (config.id2label[TABBY], config.label2id["tabby"]) == ("tabby", TABBY)
    again = create_classifier("convnextv2_atto", pretrained=tmp_path / "hf")
    assert again.class_names == class_names("convnextv2_atto.fcmae_ft_in1k")


def test_names_that_cannot_be_had_are_said_where_a_folder_is_written(without_timm, tmp_path):
    arch = {"depths": (1, 1), "dims": (8, 8)}
    path = tmp_path / "convnext_tiny_22k_224.pth"
    torch.save({"model": ConvNeXtClassifier(arch, version=1, num_classes=21841).state_dict()}, path)
    done = convert_checkpoint(path, tmp_path / "hf", "huggingface")
    assert "the names of imagenet-22k's classes are in timm" in str(done)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["id2label"]["21840"] == "LABEL_21840"
