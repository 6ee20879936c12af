"""Which pictures train and which validate, and a sentence for every folder that is none of class folders."""

import pytest
from class_pictures import write_classes
from PIL import Image

from convnext_backbones.errors import UnreadableFileError, UserError
from convnext_backbones.pretraining.class_folders import find_class_folders, read_sample


def test_folders_train_and_val_are_the_split(tmp_path):
    write_classes(tmp_path / "train", {"b": 3, "a": 2})
    write_classes(tmp_path / "valid", {"a": 1, "b": 2})
    found = find_class_folders(tmp_path)
    assert found.classes == ("a", "b")
    assert (found.per_class("train"), found.per_class("val")) == ([2, 3], [1, 2])
    assert "split by the folders train and valid" in str(found)
    assert {s.path.parent.name for s in found.train if s.label == 1} == {"b"}


def test_without_them_a_seeded_share_of_each_class_is_drawn(tmp_path):
    write_classes(tmp_path, {"a": 10, "b": 5})
    found, again = find_class_folders(tmp_path), find_class_folders(tmp_path)
    assert found == again
    assert (found.per_class("train"), found.per_class("val")) == ([8, 4], [2, 1])
    assert not {s.path for s in found.train} & {s.path for s in found.val}
    assert "20% of each class drawn to validate, seed 0" in str(found)
    assert find_class_folders(tmp_path, seed=1).val != found.val


def test_train_alone_is_split_and_test_stands_in_for_val(tmp_path):
    write_classes(tmp_path / "train", {"a": 5, "b": 5})
    assert "drawn to validate" in find_class_folders(tmp_path).split
    write_classes(tmp_path / "test", {"a": 2, "b": 1})
    found = find_class_folders(tmp_path)
    assert found.split == "split by the folders train and test"
    assert found.per_class("val") == [2, 1]


def test_a_class_may_have_a_splits_name(tmp_path):
    write_classes(tmp_path, {"train": 4, "test": 4, "bus": 4})
    assert find_class_folders(tmp_path).classes == ("bus", "test", "train")


def test_pictures_in_deeper_folders_count_to_their_class(tmp_path):
    write_classes(tmp_path / "a", {"deep": 3})
    write_classes(tmp_path, {"b": 3})
    assert find_class_folders(tmp_path).per_class("train") == [2, 2]


def test_what_is_left_out_is_said(tmp_path):
    write_classes(tmp_path / "train", {"a": 2, "b": 2, "c": 1})
    write_classes(tmp_path / "val", {"a": 1, "b": 1})
    write_classes(tmp_path / "extra", {"z": 1})
    (tmp_path / "train" / "empty").mkdir()
    notes = " ".join(find_class_folders(tmp_path).notes)
    assert "not taken: extra, beside train" in notes
    assert "val has no pictures of c: they are not measured" in notes
    assert "without pictures, left out: empty" in notes
    write_classes(tmp_path / "drawn", {"a": 3, "b": 1})
    assert "with one picture each, not validated: b" in " ".join(
        find_class_folders(tmp_path / "drawn").notes
    )


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda root: None, "there is no folder .*; give one with one folder of pictures a class"),
        (lambda root: root.mkdir(), "has no class folders; expected is"),
        (lambda root: (root / "a").mkdir(parents=True), r"its 1 class folder \(a\) hold no pictures"),
        (lambda root: write_classes(root, {"a": 3}), r"a single class \(a\)"),
        (lambda root: write_classes(root.parent, {root.name: 3}), "3 pictures without classes"),
        (lambda root: write_classes(root, {"a": 1, "b": 1}), "every class has a single picture"),
        (lambda root: write_classes(root, {"a\udcff": 1, "b": 1}), r"not in UTF-8 \('a\\udcff'\); rename it"),
        (lambda root: write_classes(root / "val", {"a": 1, "b": 1}), "has val, and no train beside"),
        (
            lambda root: (
                write_classes(root / "train", {"a": 1, "b": 1}),
                write_classes(root / "val", {"a": 1, "c": 1, "d": 1}),
            ),
            r"val has 2 classes that train has no pictures of \(c, d\), which nothing can learn",
        ),
        (
            lambda root: (
                write_classes(root / "train", {"a": 1, "b": 1}),
                write_classes(root / "training", {"a": 1, "b": 1}),
            ),
            "train and training both say",
        ),
    ],
)  # fmt: skip
def test_a_folder_that_is_none_is_refused(tmp_path, make, sentence):
    root = tmp_path / "data"
    make(root)
    with pytest.raises(UserError, match=sentence):
        find_class_folders(root)


def test_a_strip_that_would_fill_the_memory_is_not_read(tmp_path):
    Image.new("RGB", (600, 2)).save(tmp_path / "strip.png")
    with pytest.raises(UnreadableFileError, match="600x2 pixels, too long a strip"):
        read_sample(tmp_path / "strip.png")
    Image.new("RGB", (60, 2)).save(tmp_path / "short.png")
    assert read_sample(tmp_path / "short.png").shape == (3, 2, 60)
