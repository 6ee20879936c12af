"""Labelled pictures: the official transforms by timm, mixtures by torchvision, and what cannot be read."""

import pytest
import torch
from class_pictures import write_classes
from timm.data.auto_augment import RandAugment
from timm.data.random_erasing import RandomErasing
from torchvision.transforms import v2

from convnext_backbones.errors import UnreadableFileError
from convnext_backbones.network.preprocessing import EvaluationTransform
from convnext_backbones.pretraining.labelled import (
    LabelledPictures,
    mixing,
    training_transform,
)
from convnext_backbones.recipes.finetuning import ATTO, SMALL, TINY


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_classes(tmp_path_factory.mktemp("data") / "data", {"leaf": 5, "sky": 5})


def pictures(root, split, **options):
    options = dict(size=32, recipe=ATTO._asdict(), val_share=0.4, seed=0) | options
    return LabelledPictures(root, split, **options)


def test_the_published_transform_is_timms_of_the_official_code():
    steps = training_transform(ATTO, EvaluationTransform(64)).transforms
    (augment,) = [step for step in steps if isinstance(step, RandAugment)]
    (erasing,) = [step for step in steps if isinstance(step, RandomErasing)]
    assert len(augment.ops) == 15  # of timm's "increasing" set
    assert {op.magnitude for op in augment.ops} == {9}
    assert {op.magnitude_std for op in augment.ops} == {0.5}
    assert (erasing.probability, erasing.rand_color or erasing.per_pixel) == (0.25, True)
    (crop,) = [step for step in steps if "RandomResizedCrop" in type(step).__name__]
    assert tuple(crop.scale) == (0.08, 1.0)


def test_the_small_recipes_transform_leaves_colours_alone():
    names = [
        type(step).__name__
        for step in training_transform(SMALL, EvaluationTransform(64)).transforms
    ]
    assert "RandAugment" not in names
    assert "ColorJitter" not in names


def test_training_draws_and_validation_does_not(root):
    train, val = pictures(root, "train"), pictures(root, "val")
    assert train.metainfo == {"classes": ["leaf", "sky"]}
    assert len(train) + len(val) == 10
    assert not torch.equal(train[3].pixels, train[3].pixels)
    assert torch.equal(val[3].pixels, val[3].pixels)
    assert train[3].pixels.shape == (3, 32, 32)


def test_what_cannot_be_read_is_told_in_validation_and_raised_in_training(tmp_path):
    for split in ("train", "val"):
        write_classes(tmp_path / split, {"leaf": 2, "sky": 2})
        (tmp_path / split / "leaf" / "0.png").write_bytes(b"no picture")
    with pytest.raises(UnreadableFileError, match=r"0\.png is no picture"):
        pictures(tmp_path, "train")[0]
    sample = pictures(tmp_path, "val")[0]
    assert sample.label == -1
    assert "0.png is no picture" in sample.reason
    assert not sample.pixels.any()


def test_mean_and_std_are_the_checkpoints(root):
    plain = pictures(root, "val")[3].pixels
    other = pictures(root, "val", preprocessing={"mean": [0.5] * 3, "std": [0.5] * 3})[3].pixels
    shown = EvaluationTransform(32)
    mean, std = (torch.tensor(x)[:, None, None] for x in (shown.mean, shown.std))
    torch.testing.assert_close(other, (plain * std + mean - 0.5) / 0.5, atol=1e-5, rtol=1e-5)


def test_mixtures_have_targets_of_all_that_is_mixed():
    pixels, labels = torch.randn(6, 3, 32, 32), torch.tensor([0, 1, 2, 0, 1, 2])
    assert mixing(ATTO, 3) is None
    mix = mixing(TINY, 3)
    assert {type(way) for way in mix.transforms} == {v2.MixUp, v2.CutMix}
    assert [way.alpha for way in mix.transforms] == [0.8, 1.0]
    for _ in range(5):
        mixed, targets = mix(pixels, labels)
        assert mixed.shape == pixels.shape
        assert targets.shape == (6, 3)
        torch.testing.assert_close(targets.sum(1), torch.ones(6))
    assert isinstance(mixing(TINY._replace(cutmix=0), 3), v2.MixUp)
