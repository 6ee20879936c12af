"""A validation's figures and pictures: shares by class, confusions, the worst mistakes first."""

import math

import numpy as np
import pytest
import torch
from class_pictures import write_classes
from PIL import Image

from convnext_backbones.pretraining.outcome import (
    LISTED,
    TOP1,
    Outcome,
    print_classes,
    save_confusion,
    save_mistakes,
)


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    root = write_classes(tmp_path_factory.mktemp("data"), {"leaf": 2, "$k_y$": 2})
    paths = tuple(map(str, sorted(root.rglob("*.png"))))
    probabilities = torch.tensor(
        [[0.9, 0.1, 0.0], [0.4, 0.6, 0.0], [0.8, 0.1, 0.1], [0.2, 0.7, 0.1]]
    )
    return Outcome(probabilities, torch.tensor([0, 0, 1, 1]), paths, ())


def test_scores_are_shares_of_pictures_and_of_classes(outcome):
    assert outcome.scores == {TOP1: 50.0, "mean of classes (%)": 50.0}
    counts, shares = zip(*outcome.per_class(), strict=True)
    assert counts == (2, 2, 0)
    assert shares[:2] == (0.5, 0.5)
    assert math.isnan(shares[2])


def test_top5_is_given_of_more_than_five_classes():
    probabilities = torch.eye(7)[[6, 0, 1]] + torch.arange(7) / 100
    found = Outcome(probabilities, torch.tensor([6, 3, 0]), ("",) * 3, ()).scores
    assert found[TOP1] == pytest.approx(100 / 3)
    assert found["top-5 (%)"] == pytest.approx(200 / 3)


def test_the_worst_mistake_is_the_surest(outcome):
    assert outcome.worst() == [2, 1]
    assert outcome.worst(1) == [2]


def test_pictures_are_written(outcome, tmp_path):
    classes = ("leaf", "$k_y$", "rust")  # names that matplotlib could take for mathematics
    for file in (
        save_confusion(outcome, classes, tmp_path / "confusion.png"),
        save_mistakes(outcome, classes, tmp_path / "mistakes.png"),
    ):
        assert np.asarray(Image.open(file).convert("L")).std() > 1
    right = Outcome(torch.eye(2), torch.tensor([0, 1]), ("", ""), ())
    assert save_mistakes(right, ("a", "b"), tmp_path / "none.png") is None
    many = Outcome(torch.eye(40), torch.arange(40), ("",) * 40, ())
    assert save_confusion(many, [str(k) for k in range(40)], tmp_path / "many.png").exists()


def test_of_many_classes_the_worst_are_listed(capsys):
    count = LISTED + 10
    probabilities = torch.eye(count)[[0, *range(1, count - 1), 0]]
    print_classes(Outcome(probabilities, torch.arange(count), ("",) * count, ()), list("c" * count))
    said = capsys.readouterr().out
    assert f"the {LISTED} classes of which most is wrong" in said
    assert "0.0%" in said
