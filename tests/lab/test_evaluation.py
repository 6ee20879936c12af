"""Numbering class folders, reading their pictures, and counting right predictions."""

import json
import os

import pytest
import torch
from pictures import picture, write_picture
from randomness import random_images, randomised
from timm.data import ImageNetInfo
from torch.utils.data import DataLoader, Dataset

from convnext_backbones import create_classifier
from convnext_backbones.errors import UserError
from convnext_backbones.lab.evaluation import (
    Pictures,
    evaluate,
    evenly,
    number_folders,
    read_class_index,
)
from convnext_backbones.lab.imagenet import WORDNET_IDS
from convnext_backbones.network.preprocessing import EvaluationTransform

LEMMAS = ImageNetInfo().label_descriptions(as_dict=True)


def folders(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
    return root


def written(path, content):
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_1000_wordnet_ids_are_timms():
    assert list(WORDNET_IDS) == ImageNetInfo().label_names()


def test_wordnet_folders_have_their_place_among_all_1000_classes(tmp_path):
    folders(tmp_path, "n15075141", "n01440764", "n01530575", ".cache", "__MACOSX")
    (tmp_path / "LICENSE.txt").touch()
    numbers, rule = number_folders(tmp_path, 1000)
    assert numbers == {"n01440764": 0, "n01530575": 10, "n15075141": 999}
    assert "ImageNet-1K" in rule


def test_folders_of_another_data_set_are_numbered_as_imagefolder_numbers_them(tmp_path):
    folders(tmp_path, "wren", "Owl", "10", "9")
    numbers, rule = number_folders(tmp_path, 4)
    assert numbers == {"10": 0, "9": 1, "Owl": 2, "wren": 3}
    assert "alphabetical" in rule


KAGGLE = "\n".join(f"{name} {LEMMAS[name]}" for name in WORDNET_IDS)
CLASS_INDEXES = {
    "imagenet_class_index.json": {str(k): [n, LEMMAS[n]] for k, n in enumerate(WORDNET_IDS)},
    "names.json": {str(k): name for k, name in enumerate(WORDNET_IDS)},
    "list.json": list(WORDNET_IDS),
    "synsets.txt": "\n".join(WORDNET_IDS) + "\n\n",
    "windows.txt": "\ufeff" + "\r\n".join(WORDNET_IDS),
    "LOC_synset_mapping.txt": KAGGLE,
}


@pytest.mark.parametrize("name", CLASS_INDEXES)
def test_every_usual_class_index_file_numbers_wordnet_folders(tmp_path, name):
    index = written(tmp_path / name, CLASS_INDEXES[name])
    folders(tmp_path / "val", "n15075141", "n01530575")
    numbers, rule = number_folders(tmp_path / "val", 1000, index)
    assert numbers == {"n01530575": 10, "n15075141": 999}
    assert name in rule


def test_a_class_index_wins_over_the_1000_ids(tmp_path):
    index = written(tmp_path / "reversed.txt", "\n".join(reversed(WORDNET_IDS)))
    folders(tmp_path / "val", "n01440764")
    assert number_folders(tmp_path / "val", 1000, index)[0] == {"n01440764": 999}


def test_a_name_of_two_classes_numbers_neither_but_their_ids_do(tmp_path):
    """imagenet_class_index.json has two cranes, the bird and the machine."""
    index = {
        "0": ["n02012849", "crane"],
        "1": ["n03126707", "crane"],
        "2": ["n01530575", "brambling"],
    }
    assert read_class_index(written(tmp_path / "index.json", index)) == {
        "n02012849": 0, "n03126707": 1, "n01530575": 2, "brambling": 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"0": "a", "2": "b"}', r'must have the keys "0" to "1".*it has 0, 2'),
        ('{"tench": 0}', 'must have the keys "0" to "0"'),
        ('{"0": ', "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("", "must give a name"),
        ("[1, 2]", "must give a name"),
        ("{}", "must give a name"),
        ("owl\nwren\nowl\n", r"class 0 \(owl\) has no name of its own"),
        ('{"0": []}', "class 0 .* has no name of its own"),
    ],
)
def test_a_class_index_that_numbers_nothing_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        read_class_index(written(tmp_path / "index", content))


def test_an_absent_or_binary_class_index_is_refused(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    for name in ("binary", "none.json", "."):
        with pytest.raises(UserError, match="class index cannot be read"):
            read_class_index(tmp_path / name)


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        (
            [],
            1000,
            "has no class folders; expected is one folder of pictures per class: n01440764/",
        ),
        (["train", "val"], 1000, r"2 of 2 folders \(train, val\) are not in .*; or give .*/val$"),
        (["n01440764", "n00000000"], 1000, r"1 of 2 folders \(n00000000\)"),
        (["tench", "crane"], 1000, "--class-index"),
        (["a", "b", "c", "d"], 3, r"4 class folders \(a, b, c and 1 more\).*head has 3 classes"),
        (["n01440764"], 21841, r"ImageNet-22K; .*--class-index.*imagenet22k_synsets\.txt"),
    ],
)
def test_folders_that_do_not_fit_the_head_are_answered_with_what_to_do(
    tmp_path, names, classes, message
):
    with pytest.raises(UserError, match=message):
        number_folders(folders(tmp_path, *names), classes)


def test_an_absent_folder_is_answered_with_the_layout(tmp_path):
    with pytest.raises(UserError, match=r"there is no folder .*/val; give one with .*n01440764/\*"):
        number_folders(tmp_path / "val", 1000)


def test_the_unsorted_validation_set_is_answered_with_how_to_sort_it(tmp_path):
    write_picture(0, tmp_path / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(UserError, match=r"torchvision\.datasets\.ImageNet\('ROOT', split='val'\)"):
        number_folders(tmp_path, 1000)


def test_a_class_index_of_another_length_than_the_head_is_refused(tmp_path):
    index = written(tmp_path / "index.txt", "a\nb\nc")
    with pytest.raises(UserError, match=r"index.txt lists 3 classes, .*head has 1000"):
        number_folders(folders(tmp_path, "a"), 1000, index)


def test_class_folders_without_pictures_are_refused(tmp_path):
    folders(tmp_path, "n01440764")
    (tmp_path / "n01440764" / "notes.txt").write_text("no picture")
    with pytest.raises(UserError, match="1 class folders hold no pictures"):
        Pictures(tmp_path, {"n01440764": 0}, EvaluationTransform())


def damaged(root):
    """Pictures that cannot be read, each for another reason, and how many."""
    whole = write_picture(9, root / "whole.jpg").read_bytes()
    (root / "whole.jpg").unlink()
    (root / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (root / "empty.png").touch()
    (root / "page.JPEG").write_text("<html>404</html>")
    (root / "gone.jpg").symlink_to(root / "nowhere.jpg")
    picture(0).resize((2, 3000)).save(root / "strip.png")
    return 5


def test_damaged_pictures_are_items_with_their_path_and_reason(tmp_path):
    count = damaged(tmp_path / "owl")
    pictures = Pictures(tmp_path, {"owl": 3}, EvaluationTransform(64))
    items = [pictures[k] for k in range(len(pictures))]
    assert len(items) == count
    for (pixels, target, reason), (path, _) in zip(items, pictures.samples, strict=True):
        assert pixels.shape == (3, 64, 64)
        assert target == -1
        assert reason.startswith(f"{path}: ")
        assert len(reason) > len(path) + 5
    assert "2x3000 pixels" in next(r for _, _, r in items if "strip.png" in r)


def test_what_is_no_picture_is_passed_over_and_deeper_pictures_are_found(tmp_path):
    deep = write_picture(1, tmp_path / "owl" / "images" / "a.JPEG")
    (tmp_path / "owl" / "boxes.txt").write_text("0 0 1 1")
    pictures = Pictures(tmp_path, {"owl": 3}, EvaluationTransform(64))
    assert pictures.samples == [(str(deep), 3)]
    pixels, target, reason = pictures[0]
    assert (target, reason) == (3, "")
    assert pixels.std() > 0.1


class Given(Dataset):
    """Items as Pictures gives them."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, k):
        return self.items[k]


class Last(torch.nn.Module):
    """Classes ranked by pixel values: logits are the first row of an image's first channel."""

    def __init__(self):
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))

    def forward(self, images):
        return images[:, 0, 0] * self.one


def test_top1_and_top5_count_the_places_of_the_right_class():
    """A picture whose pixels are its logits: class 7 first, then 6, 5, ..."""
    pixels = torch.arange(8.0).expand(3, 8, 8)
    ranks = {7: 0, 6: 1, 3: 4, 2: 5, 0: 7}
    items = [(pixels, target, "") for target in ranks]
    result = evaluate(Last(), DataLoader(Given(*items), batch_size=2))
    assert (result.top1, result.top5, result.pictures) == (1, 3, 5)
    assert result.unreadable == []
    assert result.seconds > 0


def test_drop_path_is_off_while_predicting():
    model = randomised(create_classifier("convnext_atto", num_classes=50, drop_path_rate=0.9))
    items = [(random_images(3, 64, 64, seed=k), k, "") for k in range(8)]
    with torch.no_grad():
        best = [model(pixels[None]).argmax().item() for pixels, _, _ in items]
    items = [(pixels, target, "") for (pixels, _, _), target in zip(items, best, strict=True)]
    assert evaluate(model.train(), DataLoader(Given(*items))).top1 == 8


def test_unreadable_pictures_are_in_no_count_but_named():
    pixels = torch.arange(8.0).expand(3, 8, 8)
    items = [(pixels, 7, "")] * 19 + [(torch.zeros(3, 8, 8), -1, "owl/a.jpg: cut")]
    for order in (items, items[::-1]):
        result = evaluate(Last(), DataLoader(Given(*order), batch_size=1))
        assert (result.top1, result.top5, result.pictures) == (19, 19, 19)
        assert result.unreadable == ["owl/a.jpg: cut"]


@pytest.mark.parametrize("readable", [0, 8])
def test_too_many_unreadable_pictures_are_an_error_that_names_some(readable):
    items = [(torch.ones(3, 8, 8), 0, "")] * readable + [(torch.zeros(3, 8, 8), -1, "a.jpg: cut")]
    with pytest.raises(UserError, match=rf"10% of the {readable + 1} pictures .* a.jpg: cut; "):
        evaluate(Last(), DataLoader(Given(*items), batch_size=4))


def test_logits_that_are_not_finite_are_an_error():
    pixels = torch.full((3, 8, 8), float("nan"))
    with pytest.raises(UserError, match="not finite"):
        evaluate(Last(), DataLoader(Given((pixels, 0, ""))))


class Dying(Given):
    def __getitem__(self, k):
        os._exit(1)


def test_a_worker_that_dies_is_answered_with_what_to_try():
    with pytest.raises(UserError, match=r"process that reads pictures died .*--workers 0"):
        evaluate(Last(), DataLoader(Dying(0), num_workers=1))


def test_other_faults_stay_what_they_are():
    with pytest.raises(RuntimeError, match="shapes"):
        evaluate(torch.nn.Linear(5, 5), DataLoader(Given((torch.ones(3, 8, 8), 0, ""))))


def test_a_limit_takes_pictures_of_all_classes_alike_and_always_the_same():
    everything = Given(*range(1000))
    some = [evenly(everything, 10)[k] for k in range(10)]
    assert some == [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]
    assert evenly(everything, 1000) is evenly(everything, None) is everything
    assert len(evenly(everything, 999)) == len(set(evenly(everything, 999).indices)) == 999


def test_workers_give_the_same_figures_as_none(tmp_path):
    for k in range(6):
        write_picture(k, tmp_path / f"class{k % 3}" / f"{k}.jpg")
    model = randomised(create_classifier("convnext_atto", num_classes=3))
    pictures = Pictures(tmp_path, number_folders(tmp_path, 3)[0], EvaluationTransform(64))
    results = [
        evaluate(model, DataLoader(pictures, batch_size=2, num_workers=workers))
        for workers in (0, 2)
    ]
    assert results[0][:4] == results[1][:4]
    assert results[0].pictures == 6
