"""A folder of pictures without labels, and what is drawn of them."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import BatchSampler, DataLoader

from convnext_backbones.errors import UnreadableFileError, UserError
from convnext_backbones.pretraining.pictures import (
    PassingNumbers,
    UnlabelledPictures,
    pictures_in,
    whole_view,
)
from convnext_backbones.recipes.pretraining import PRETRAINING, pretraining_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Nine pictures in a tree, of ADE20K's kind: label maps beside them."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for k in range(9):
        for part in ("images", "annotations"):
            (root / part / f"part{k % 2}").mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"images/part{k % 2}/p{k}.jpg")
        labels = rng.integers(0, 4, (70, 90), dtype=np.uint8)
        Image.fromarray(labels).save(root / f"annotations/part{k % 2}/p{k}.png")
    return root


def data(folder, **options):
    settings = dict(size=(32, 64), mask_ratio=0.5, smallest_crop=0.2, unit=16)
    return UnlabelledPictures(folder, **{**settings, **options})


def test_label_maps_are_no_pictures(folder):
    found = pictures_in(folder)
    assert len(found.pictures) == 9
    assert {path.suffix for path in found.pictures} == {".jpg"}
    assert len(found.label_maps) == 9
    assert len(pictures_in(folder / "images").pictures) == 9


def test_a_sample_is_a_crop_with_a_mask_and_its_picture(folder):
    sample = data(folder)[4]
    assert sample.image.shape == (3, 32, 64)
    assert sample.image.dtype == torch.uint8
    assert sample.mask.shape == (8,)
    assert sample.mask.sum() == 4
    assert sample.path.startswith(str(folder / "images"))


def test_what_is_drawn_follows_from_the_number_alone(folder):
    torch.manual_seed(3)
    one, other = data(folder), data(folder)
    forwards = [one[k] for k in range(18)]
    state = torch.get_rng_state()
    backwards = [other[k] for k in reversed(range(18))][::-1]
    assert torch.get_rng_state().equal(state)
    for a, b in zip(forwards, backwards, strict=True):
        assert a.image.equal(b.image)
        assert a.mask.equal(b.mask)
        assert a.path == b.path
    another = data(folder, seed=1)
    assert any(not a.image.equal(another[k].image) for k, a in enumerate(forwards))


def test_each_pass_has_every_picture_once_in_another_order_and_crop(folder):
    pictures = data(folder)
    passes = [[pictures[9 * p + k].path for k in range(9)] for p in range(3)]
    assert all(len(set(paths)) == 9 for paths in passes)
    assert passes[0] != passes[1] != passes[2]
    same = passes[1].index(passes[0][0])
    assert not pictures[0].image.equal(pictures[9 + same].image)


@pytest.mark.parametrize(("processes", "batch"), [(1, 4), (2, 2), (4, 1)])
def test_processes_share_the_batches_of_one(processes, batch):
    whole = []
    for passed in range(3):
        parts = []
        for rank in range(processes):
            numbers = PassingNumbers(9, rank=rank, processes=processes)
            numbers.set_epoch(passed)
            parts.append(list(BatchSampler(numbers, batch, drop_last=True)))
        whole += [
            sorted(number for batch in step for number in batch)
            for step in zip(*parts, strict=True)
        ]
    assert whole == [[0, 1, 2, 3], [4, 5, 6, 7], [9, 10, 11, 12], [13, 14, 15, 16],
                     [18, 19, 20, 21], [22, 23, 24, 25]]  # fmt: skip


def test_data_workers_change_nothing(folder):
    def first(workers):
        loader = DataLoader(
            data(folder), 3, sampler=PassingNumbers(9), num_workers=workers, collate_fn=list
        )
        return [sample.image for batch in loader for sample in batch]

    assert all(a.equal(b) for a, b in zip(first(0), first(2), strict=True))


def test_a_whole_view_is_the_middle_of_a_picture(folder):
    view = whole_view(folder / "images/part0/p0.jpg", (64, 64))
    assert view.shape == (3, 64, 64)
    assert whole_view(folder / "images/part0/p0.jpg", (32, 96)).shape == (3, 32, 96)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (dict(size=(32, 60)), "multiples of 16, such as 48 or 64"),
        (dict(size=(16, 16)), "a single unit"),
        (dict(mask_ratio=1.2), "between 0 and 1"),
    ],
)
def test_wrong_options_are_answered_with_a_sentence(folder, change, words):
    with pytest.raises(UserError, match=words):
        data(folder, **change)


def test_a_folder_without_pictures_and_a_damaged_picture_are_named(tmp_path):
    (tmp_path / "readme.txt").write_text("no picture")
    with pytest.raises(UserError, match="holds no pictures"):
        pictures_in(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        pictures_in(tmp_path / "nowhere")
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff cut")
    with pytest.raises(UnreadableFileError, match=r"cut\.jpg"):
        data(tmp_path)[0]


# ---- recipes -------------------------------------------------------------------------------------
def test_the_published_recipe_scales_by_the_batch_as_published():
    recipe = PRETRAINING["published"]
    assert recipe.rate(256) == pytest.approx(1.5e-4)
    assert recipe.rate(4096) == pytest.approx(2.4e-3)
    assert (recipe.epochs, recipe.warmup * recipe.epochs) == (800, 40)
    assert (recipe.weight_decay, recipe.betas, recipe.smallest_crop) == (0.05, (0.9, 0.95), 0.2)


def test_few_pictures_have_the_marked_recipe():
    assert pretraining_recipe(500) is PRETRAINING["small"]
    assert "not published" in PRETRAINING["small"].source
    assert pretraining_recipe(1_281_167) is PRETRAINING["published"]
    assert pretraining_recipe(500, "published") is PRETRAINING["published"]
    assert PRETRAINING["small"].rate(64) == pytest.approx(3e-4)
    assert PRETRAINING["small"].rate(4096) == PRETRAINING["published"].rate(4096)
