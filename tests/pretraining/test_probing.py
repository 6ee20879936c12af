"""Probes: DINO's k-NN as its code counts, a linear classifier, features that are kept, a user's mistakes."""

import json
import math

import numpy as np
import pytest
import torch
from class_pictures import write_classes
from randomness import randomised
from torch.nn import functional as F

from convnext_backbones import create_backbone, create_classifier
from convnext_backbones.cli import run
from convnext_backbones.errors import UserError
from convnext_backbones.network.preprocessing import EvaluationTransform
from convnext_backbones.pretraining import features as kept
from convnext_backbones.pretraining.class_folders import Sample, find_class_folders
from convnext_backbones.pretraining.features import Features, extract
from convnext_backbones.pretraining.probing import linear, nearest_neighbours

ARCH = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("classes")
    return write_classes(root / "data", {"leaf": 15, "rust": 15, "sky": 10})


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    from convnext_backbones.network.classifier import ConvNeXtClassifier

    return randomised(ConvNeXtClassifier(ARCH, version=2, num_classes=0)).eval()


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.save({"model": model.state_dict()}, path)
    return path


def some_features(count, classes=3, channels=8, seed=0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=draw)
    values = torch.randn(count, channels, generator=draw) + F.one_hot(labels, channels)
    return Features(values, labels, (), (), cached=False)


def dinos_knn(train, val, k, temperature, classes):
    """As facebookresearch/dino's eval_knn.py counts: votes exp(similarity / T) of the k nearest."""
    similarity = F.normalize(val.values) @ F.normalize(train.values).T
    values, places = similarity.topk(k, dim=1)
    votes = F.one_hot(train.labels[places], classes) * (values / temperature).exp()[..., None]
    return votes.sum(1).argmax(1)


@pytest.mark.parametrize("k", [1, 10, 20])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_knn_votes_as_dinos(k, temperature):
    train, val = some_features(60), some_features(200, seed=1)
    expected = dinos_knn(train, val, k, temperature, 3) == val.labels
    score = nearest_neighbours(train, val, 3, k, temperature=temperature)
    assert score.top1 == pytest.approx(expected.float().mean().item(), abs=1e-6)
    per_class = [expected[val.labels == c].float().mean().item() for c in range(3)]
    assert score.per_class == pytest.approx(per_class, abs=1e-6)


def test_more_neighbours_than_pictures_are_refused():
    with pytest.raises(UserError, match=r"k=20: there are 12 training pictures.*up to 12"):
        nearest_neighbours(some_features(12), some_features(5), 3, 20)


def test_the_linear_classifier_learns_what_is_linear():
    values = torch.cat([torch.randn(40, 6) + 4 * sign for sign in (-1, 1)])
    labels = torch.tensor([0] * 40 + [1] * 40)
    some = Features(values, labels, (), (), cached=False)
    score = linear(some, some, 3)
    assert score.top1 == 1
    assert score.per_class[:2] == (1, 1)
    assert math.isnan(score.per_class[2])
    assert "C=" in score.method


def test_few_pictures_of_a_class_are_not_cross_validated():
    few = Features(torch.eye(4), torch.tensor([0, 1, 1, 1]), (), (), cached=False)
    assert "C=1, as a class has fewer than 3" in linear(few, few, 2).method


def test_features_are_the_pooled_and_normed_ones(data, model):
    found = find_class_folders(data)
    transform = EvaluationTransform(32)
    features = extract(model, found.val, transform, batch_size=3)
    pictures = kept.Pictures(found.val, transform)
    with torch.no_grad():
        expected = model.forward_features(torch.stack([p[0] for p in pictures])).pooler_output
    torch.testing.assert_close(features.values, expected)
    assert features.labels.tolist() == [sample.label for sample in found.val]
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 16)  # without a head the same


def test_features_are_kept_until_a_file_or_a_weight_changes(data, model, tmp_path, monkeypatch):
    samples = find_class_folders(data).val
    transform = EvaluationTransform(32)
    first = extract(model, samples, transform, cache=tmp_path)
    again = extract(model, samples, transform, cache=tmp_path)
    assert (first.cached, again.cached) == (False, True)
    assert torch.equal(first.values, again.values)
    assert not extract(model, samples, EvaluationTransform(40), cache=tmp_path).cached
    assert not extract(model, samples[1:], transform, cache=tmp_path).cached
    with torch.no_grad():
        model.norm.bias[0] += 1
    try:
        assert not extract(model, samples, transform, cache=tmp_path).cached
    finally:
        with torch.no_grad():
            model.norm.bias[0] -= 1
    for file in tmp_path.iterdir():  # damaged
        file.write_bytes(b"no features")
    mended = extract(model, samples, transform, cache=tmp_path)
    assert not mended.cached
    assert extract(model, samples, transform, cache=tmp_path).cached


def test_unreadable_pictures_are_counted_and_too_many_refused(tmp_path, model):
    root = write_classes(tmp_path / "data", {"leaf": 10, "sky": 10})
    (root / "leaf" / "0.png").write_bytes(b"")
    samples = [Sample(path, 0) for path in sorted(root.rglob("*.png"))]
    transform = EvaluationTransform(32)
    for _ in range(2):  # computed, and kept
        found = extract(model, samples, transform, cache=tmp_path / "cache")
        assert len(found.values) == len(found.samples) == 19
        assert len(found.unreadable) == 1
        assert "0.png is empty" in found.unreadable[0]
    for number in (1, 2, 3):
        (root / "leaf" / f"{number}.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="4 of 20 pictures cannot be read, more than 10%"):
        extract(model, samples, transform)


def test_the_command_prints_a_row_a_class_and_writes_figures(
    data, checkpoint, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    line = ["--data", data, "--checkpoint", checkpoint, "--size", 32, "--workers", 0, "--k", 5, 10]
    line = [*map(str, line), "--json", str(tmp_path / "figures.json")]
    assert run("probe", line) == 0
    said = capsys.readouterr().out
    for words in ("leaf", "k-NN, k=5", "linear", "20% of each class drawn", "final LayerNorm;"):
        assert words in said
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["classes"] == ["leaf", "rust", "sky"]
    assert figures["val"] == [3, 3, 2]
    assert [score["method"].split(",")[0] for score in figures["scores"]] == [
        "k-NN",
        "k-NN",
        "linear",
    ]
    assert np.mean([score["top1"] for score in figures["scores"]]) > 0.6
    assert run("probe", line) == 0
    assert "those of train were computed before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--k", "40"], "k=40: there are 32 training pictures, of which 40 cannot vote"),
        (["--data", "nowhere"], "there is no folder nowhere"),
        (["--checkpoint", "nothing.pth"], "nothing.pth: there is no such file"),
        (["--size", "8"], "--size 8: this network needs at least 32 pixels"),
        (["--device", "toaster"], "--device toaster: "),
    ],
)
def test_mistakes_end_in_a_sentence(
    data, checkpoint, tmp_path, capsys, monkeypatch, options, sentence
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    line = ["--data", str(data), "--checkpoint", str(checkpoint), "--workers", "0", *options]
    with pytest.raises(SystemExit):
        run("probe", line)
    assert sentence in capsys.readouterr().err


def test_a_backbones_file_has_no_final_norm_and_other_channels_are_refused(
    data, tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.save(create_backbone("convnextv2_atto").state_dict(), tmp_path / "backbone.pth")
    torch.save(create_classifier("convnextv2_atto", in_channels=4).state_dict(), tmp_path / "4.pth")
    line = ["--data", str(data), "--size", "32", "--workers", "0", "--method", "knn", "--k", "3"]
    assert run("probe", [*line, "--checkpoint", str(tmp_path / "backbone.pth")]) == 0
    assert "LayerNorm without weights" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run("probe", [*line, "--checkpoint", str(tmp_path / "4.pth")])
    assert "takes images of 4 channels, and pictures have 3" in capsys.readouterr().err
