import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from data import folders
from data.folders import CLASSES, COLOURS, SPLITS, scene
from PIL import Image

from convnext_backbones.data.found import VOID, keep, look
from convnext_backbones.errors import UserError


def boxes_of(file: Path) -> dict[str, list]:
    """By picture, class name and left, top, right, bottom of each box."""
    content = json.loads(file.read_text())
    names = {c["id"]: c["name"] for c in content["categories"]}
    pictures = {image["id"]: image["file_name"] for image in content["images"]}
    found = {name: [] for name in pictures.values()}
    for annotation in content["annotations"]:
        left, top, width, height = annotation["bbox"]
        box = (left, top, left + width, top + height)
        found[pictures[annotation["image_id"]]].append((names[annotation["category_id"]], box))
    return found


def assert_boxes(file: Path, numbers) -> None:
    expected = {f"{n:04d}.jpg": scene(n) for n in numbers}
    found = boxes_of(file)
    assert {Path(name).name for name in found} == set(expected)
    for name, boxes in found.items():
        one = expected[Path(name).name]
        assert [name for name, _ in boxes] == [CLASSES[label] for label in one.labels]
        assert np.allclose([box for _, box in boxes], one.boxes, atol=0.01)


def said(found) -> str:
    return " ".join(found.notes)


@pytest.mark.parametrize(
    ("kind", "masks"),
    [("coco", False), ("coco", True), ("voc", False), ("yolo", False), ("yolo", True)],
)
def test_the_same_boxes_come_out_of_every_format(tmp_path, kind, masks):
    root = getattr(folders, kind)(tmp_path / "data", **(dict(masks=True) if masks else {}))
    found = keep(look(root), tmp_path / "kept")
    assert (found.kind, found.task) == (kind, "instance" if masks else "detection")
    assert sorted(found.classes) == sorted(CLASSES)
    assert {name: split.count for name, split in found.splits.items()} == {"train": 8, "val": 3}
    for name, numbers in SPLITS.items():
        split = found.splits[name]
        assert_boxes(split.annotations, numbers)
        for picture in boxes_of(split.annotations):
            assert (split.images / picture).is_file()
        content = json.loads(split.annotations.read_text())
        assert split.objects == len(content["annotations"])
        assert all("iscrowd" in a and a["area"] > 0 for a in content["annotations"])
        assert all(bool(a.get("segmentation")) == masks for a in content["annotations"])
        assert {(i["width"], i["height"]) for i in content["images"]} == {(64, 48)}
    assert (found.sizes.width.median, found.sizes.height.median) == (64, 48)
    assert 8 <= found.sizes.boxes.median <= 20


def test_looking_writes_nothing_and_coco_that_is_whole_is_read_as_it_lies(tmp_path):
    root = folders.coco(tmp_path / "data")
    before = sorted(p for p in root.rglob("*"))
    found = look(root)
    assert found.as_it_lies
    assert keep(found, tmp_path / "kept") is found
    assert not (tmp_path / "kept").exists()
    assert sorted(p for p in root.rglob("*")) == before


# ---- COCO ----------------------------------------------------------------------------------------
def one_json(root: Path, content: dict, name: str = "labels.json") -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(json.dumps(content))
    return root


def test_one_json_is_split_by_picture_and_the_same_way_each_time(tmp_path):
    root = one_json(tmp_path / "data", folders.coco_json(range(20)))
    folders.pictures(root / "photos", range(20))
    found = keep(look(root), tmp_path / "kept")
    assert {name: split.count for name, split in found.splits.items()} == {"train": 16, "val": 4}
    parts = [boxes_of(split.annotations) for split in found.splits.values()]
    assert not set(parts[0]) & set(parts[1])
    assert found.splits["train"].images == root / "photos"
    assert "seed 0" in said(found)
    again = keep(look(root), tmp_path / "again")
    assert [boxes_of(split.annotations) for split in again.splits.values()] == parts


def test_a_picture_stays_on_its_side_when_others_come(tmp_path):
    sides = []
    for count in (40, 44):
        root = one_json(tmp_path / f"{count}", folders.coco_json(range(count)))
        folders.pictures(root, range(count))
        kept = keep(look(root), tmp_path / f"kept{count}")
        sides.append(set(boxes_of(kept.splits["train"].annotations)))
    assert len(sides[0] - sides[1]) <= 1


@pytest.mark.parametrize(
    ("names", "folder"),
    [
        ("{}", "images/train"),
        ("train/{}", "images/train"),
        ("images/train/{}", "images/train"),
        ("./{}", "anything"),
        ("/home/somebody/pictures/{}", "images"),
        ("C:\\data\\pictures\\{}", "images"),
    ],
)
def test_pictures_are_found_wherever_the_names_of_a_json_are_relative_to(tmp_path, names, folder):
    root = tmp_path / "data"
    for split, numbers in SPLITS.items():
        content = folders.coco_json(numbers)
        for image in content["images"]:
            image["file_name"] = names.replace("train", split).format(image["file_name"])
        one_json(root / "json", content, f"instances_{split}2017.json")
        folders.pictures(root / folder.replace("train", split), numbers)
    found = keep(look(root), tmp_path / "kept")
    for name, numbers in SPLITS.items():
        split = found.splits[name]
        assert_boxes(split.annotations, numbers)
        assert all((split.images / p).is_file() for p in boxes_of(split.annotations))


def test_the_same_names_in_two_splits_are_not_mixed_up(tmp_path):
    root = tmp_path / "data"
    for split, shift in (("train", 0), ("valid", 100)):
        content = folders.coco_json(range(6))
        folders.pictures(root / split, range(6))
        for image in content["images"]:
            image["id"] += shift
        for annotation in content["annotations"]:
            annotation["image_id"] += shift
        one_json(root / split, content, "_annotations.coco.json")  # as Roboflow writes it
    found = look(root)
    assert found.as_it_lies
    assert found.splits["train"].images == root / "train"
    assert found.splits["val"].images == root / "valid"


def test_the_category_above_all_others_is_no_class(tmp_path):
    root = tmp_path / "data"
    for split, numbers in SPLITS.items():
        content = folders.coco_json(numbers)
        for category in content["categories"]:
            category["supercategory"] = "things"
        content["categories"].insert(0, dict(id=0, name="things", supercategory="none"))
        one_json(root / split, content, "a.json")
        folders.pictures(root / split, numbers)
    found = keep(look(root), tmp_path / "kept")
    assert found.classes == CLASSES
    assert "'things'" in said(found)
    assert_boxes(found.splits["val"].annotations, SPLITS["val"])


def test_classes_are_taken_in_the_order_asked_for(tmp_path):
    root = folders.coco(tmp_path / "data")
    found = keep(look(root, classes=["blue", "red"]), tmp_path / "kept")
    assert found.classes == ("blue", "red")
    content = json.loads(found.splits["train"].annotations.read_text())
    assert content["categories"] == [dict(id=1, name="blue"), dict(id=2, name="red")]
    names = {
        name for boxes in boxes_of(found.splits["train"].annotations).values() for name, _ in boxes
    }
    assert names == {"blue", "red"}
    assert "of 'green'" in said(found)


def test_the_masks_of_crowds_survive_a_split(tmp_path):
    content = folders.coco_json(range(5), masks=True)
    content["annotations"][0] |= dict(iscrowd=1, segmentation=dict(size=[48, 64], counts=[0, 3072]))
    root = one_json(tmp_path / "data", content)
    folders.pictures(root, range(5))
    found = keep(look(root), tmp_path / "kept")
    assert found.task == "instance"
    kept = [
        annotation
        for split in found.splits.values()
        for annotation in json.loads(split.annotations.read_text())["annotations"]
    ]
    assert [a["segmentation"] for a in kept if a["iscrowd"]] == [
        dict(size=[48, 64], counts=[0, 3072])
    ]


# ---- VOC -----------------------------------------------------------------------------------------
def test_voc_without_lists_is_split(tmp_path):
    root = folders.voc(tmp_path / "data", lists=False)
    found = look(root)
    assert {name: split.count for name, split in found.splits.items()} == {"train": 9, "val": 2}
    assert found.classes == tuple(sorted(CLASSES))


def test_voc_takes_the_real_size_and_the_files_own_name(tmp_path):
    root = folders.voc(tmp_path / "data")
    for number, (old, new) in enumerate(
        [("<width>64", "<width>0"), ("<width>64", "<width>99"), ("0002.jpg", "elsewhere.jpg")]
    ):
        file = root / "Annotations" / f"{number:04d}.xml"
        file.write_text(file.read_text().replace(old, new))
    found = keep(look(root), tmp_path / "kept")
    assert_boxes(found.splits["train"].annotations, SPLITS["train"])
    assert "2 XML files with another size" in said(found)
    assert "'elsewhere.jpg'" in said(found)


def test_what_is_difficult_is_not_counted(tmp_path):
    root = folders.voc(tmp_path / "data")
    file = root / "Annotations" / "0000.xml"
    file.write_text(file.read_text().replace("<difficult>0", "<difficult>1"))
    found = keep(look(root), tmp_path / "kept")
    content = json.loads(found.splits["train"].annotations.read_text())
    assert sum(a["iscrowd"] for a in content["annotations"]) == len(scene(0).boxes)
    assert "difficult" in said(found)


def test_boxes_that_count_from_0_are_not_moved(tmp_path):
    root = folders.voc(tmp_path / "data")
    for number in (0, 1):
        one = scene(number)
        file = root / "Annotations" / f"{number:04d}.xml"
        text = file.read_text()
        for left, top, _, _ in one.boxes:
            text = text.replace(f"<xmin>{left + 1}<", "<xmin>0<").replace(
                f"<ymin>{top + 1}<", "<ymin>0<"
            )
        file.write_text(text)
    found = keep(look(root), tmp_path / "kept")
    boxes = boxes_of(found.splits["train"].annotations)
    assert boxes["0000.jpg"][0][1][:2] == (0, 0)
    left, top, _, _ = scene(2).boxes[0]
    assert boxes["0002.jpg"][0][1][:2] == (left + 1, top + 1)
    assert "count from 0" in said(found)


# ---- YOLO ----------------------------------------------------------------------------------------
NAMES = "names: {0: red, 1: green, 2: blue}\n"


@pytest.mark.parametrize(
    "yaml",
    [
        f"path: .\ntrain: images/train\nval: images/val\n{NAMES}",
        f"train: ./images/train/\nval: ./images/val/\n{NAMES}",
        f"train: ../images/train\nval: ../images/val\n{NAMES}",  # Roboflow's
        f"path: ../datasets/mine\ntrain: images/train\nval: images/val\n{NAMES}",
        f"train: /home/somebody/mine/images/train\nval: /home/somebody/mine/images/val\n{NAMES}",
        f"train: [images/train]\nvalid: [images/val]\n{NAMES}",
        f"train: train.list.txt\nval: val.list.txt\n{NAMES}",
        NAMES,
    ],
)
def test_data_yaml_names_its_pictures_in_every_customary_way(tmp_path, yaml):
    root = folders.yolo(tmp_path / "data", yaml=yaml)
    for split, numbers in SPLITS.items():
        lines = "".join(f"./images/{split}/{number:04d}.jpg\n" for number in numbers)
        (root / f"{split}.list.txt").write_text(lines)
    found = keep(look(root), tmp_path / "kept")
    assert found.classes == CLASSES
    for name, numbers in SPLITS.items():
        assert_boxes(found.splits[name].annotations, numbers)


def test_folders_of_a_split_may_hold_images_and_labels(tmp_path):
    root = folders.yolo(tmp_path / "flat")
    other = tmp_path / "data"
    for split, place in (("train", "train"), ("val", "valid")):
        shutil.copytree(root / "images" / split, other / place / "images")
        shutil.copytree(root / "labels" / split, other / place / "labels")
    shutil.copy(root / "data.yaml", other)
    found = keep(look(other), tmp_path / "kept")
    for name, numbers in SPLITS.items():
        assert_boxes(found.splits[name].annotations, numbers)


def test_pictures_without_boxes_are_background(tmp_path):
    root = folders.yolo(tmp_path / "data")
    (root / "labels/train/0000.txt").unlink()
    (root / "labels/train/0001.txt").write_text("")
    found = keep(look(root), tmp_path / "kept")
    boxes = boxes_of(found.splits["train"].annotations)
    assert boxes["0000.jpg"] == boxes["0001.jpg"] == []
    assert found.splits["train"].count == 8
    assert "1 picture without a text file" in said(found)


def test_class_names_come_from_classes_txt_or_are_numbers(tmp_path):
    root = folders.yolo(tmp_path / "data")
    (root / "data.yaml").unlink()
    assert look(root).classes == ("class_0", "class_1", "class_2")
    (root / "classes.txt").write_text("red\ngreen\nblue\n")
    assert look(root).classes == CLASSES


def test_bad_lines_are_counted_by_what_is_wrong(tmp_path):
    root = folders.yolo(tmp_path / "data")
    file = root / "labels/train/0000.txt"
    file.write_text(
        file.read_text() * 2 + "7 0.5 0.5 0.1 0.1\n1 0.5 0.5\n1 a b c d\n0 1.5 0.5 0.1 0.1\n"
    )
    found = keep(look(root), tmp_path / "kept")
    assert_boxes(found.splits["train"].annotations, SPLITS["train"])
    words = said(found)
    assert "2 objects that cannot be read" in words
    assert "1 object of a class number without a name: 7 in labels/train/0000.txt" in words
    assert "1 object outside its picture" in words
    assert "twice" in words


# ---- label maps ----------------------------------------------------------------------------------
def label_map_of(found, split: str, number: int) -> np.ndarray:
    one = found.splits[split]
    name = f"{number:04d}"
    if one.listing:
        names = one.listing.read_text().splitlines()
        name = next(n for n in names if Path(n).name.split(".")[0] == name)
    assert (one.images / (name + one.suffixes[0])).is_file()
    return np.asarray(Image.open(one.annotations / (name + one.suffixes[1])))


@pytest.mark.parametrize(
    ("layout", "suffixes"),
    [
        (("images/{split}", "labels/{split}"), (".jpg", ".png")),
        (("images/{split}", "labels/{split}"), (".png", ".png")),
        (("{split}/images", "{split}/masks"), (".jpg", "_mask.png")),
        (("{split}", "{split}annot"), (".png", ".png")),
        (("{split}/img", "anything at all/{split}"), (".JPG", "_L.PNG")),
        (
            ("leftImg8bit/{split}/city", "gtFine/{split}/city"),
            ("_leftImg8bit.png", "_gtFine_labelIds.png"),
        ),
        (("JPEGImages/{split}2017", "SegmentationClass/{split}"), (".jpeg", ".png")),
    ],
)
def test_label_maps_are_found_in_any_folder(tmp_path, layout, suffixes):
    root = folders.label_maps(tmp_path / "data", layout=layout, suffixes=suffixes)
    found = keep(look(root), tmp_path / "kept")
    assert (found.kind, found.task) == ("label maps", "semantic")
    assert found.classes == ("class_0", "class_1", "class_2", "class_3")
    assert found.as_it_lies
    for split, numbers in SPLITS.items():
        assert found.splits[split].count == len(numbers)
        for number in numbers:
            assert np.array_equal(label_map_of(found, split, number), scene(number).label_map)
    assert not (tmp_path / "kept").exists()


def test_label_maps_may_lie_among_the_pictures(tmp_path):
    for suffixes in ((".jpg", ".png"), (".png", "_mask.png")):
        root = folders.label_maps(
            tmp_path / suffixes[1], layout=("all/{split}", "all/{split}"), suffixes=suffixes
        )
        found = keep(look(root), tmp_path / f"kept{suffixes[1]}")
        for split, numbers in SPLITS.items():
            for number in numbers:
                assert np.array_equal(label_map_of(found, split, number), scene(number).label_map)


def test_one_folder_of_label_maps_is_split(tmp_path):
    root = folders.label_maps(tmp_path / "data", layout=("images", "masks"))
    found = keep(look(root), tmp_path / "kept")
    assert {name: split.count for name, split in found.splits.items()} == {"train": 9, "val": 2}
    assert found.splits["train"].images == found.splits["val"].images == root / "images"
    names = [found.splits[s].listing.read_text().split() for s in ("train", "val")]
    assert len(names[0]) == 9
    assert not set(names[0]) & set(names[1])
    held = {p.stem for p in found.splits["val"].annotations.iterdir()}
    assert held == set(names[1])  # for who pairs pictures and label maps by folder


def test_pictures_of_several_endings_go_together(tmp_path):
    root = folders.label_maps(tmp_path / "data")
    for file in list((root / "images/train").iterdir())[:3]:
        Image.open(file).save(file.with_suffix(".png"))
        file.unlink()
    found = keep(look(root), tmp_path / "kept")
    for number in SPLITS["train"]:
        assert np.array_equal(label_map_of(found, "train", number), scene(number).label_map)


def test_a_void_value_becomes_255(tmp_path):
    root = folders.label_maps(tmp_path / "data")
    found = keep(look(root, void=0, classes=CLASSES), tmp_path / "kept")
    assert (found.classes, found.void) == (CLASSES, VOID)
    assert "void value 0 is 255 in the label maps that are written" in said(found)
    expected = scene(3).label_map.astype(int) - 1
    expected[expected < 0] = VOID
    assert np.array_equal(label_map_of(found, "train", 3), expected)


def test_a_guessed_void_is_said(tmp_path):
    def with_void(label_map):
        return np.where(label_map == 0, 255, label_map - 1).astype(np.uint8)

    root = folders.label_maps(tmp_path / "data", values=with_void)
    found = look(root)
    assert (len(found.classes), found.void) == (3, 255)
    assert found.as_it_lies
    assert "255 was taken for void" in said(found)
    plain = look(folders.label_maps(tmp_path / "plain"))
    assert "Nothing names the classes" in said(plain)
    assert plain.void is None
    assert "No value was taken for void" in said(plain)


def test_16_bits_gaps_and_single_bits_become_class_numbers(tmp_path):
    def gaps(label_map):
        return np.array([0, 700, 26, 33], np.uint16)[label_map]

    found = keep(look(folders.label_maps(tmp_path / "a", values=gaps)), tmp_path / "kept a")
    assert found.classes == ("class_0", "class_26", "class_33", "class_700")
    rank = np.array([0, 3, 1, 2])
    assert np.array_equal(label_map_of(found, "train", 4), rank[scene(4).label_map])
    masks = folders.label_maps(
        tmp_path / "b", values=lambda m: np.where(m > 0, 255, 0).astype(np.uint8)
    )
    found = keep(look(masks), tmp_path / "kept b")
    assert (found.classes, found.void) == (("background", "foreground"), None)
    assert np.array_equal(label_map_of(found, "val", 9), scene(9).label_map > 0)
    assert look(masks, classes=["thing"]).classes == ("background", "thing")
    bits = keep(
        look(folders.label_maps(tmp_path / "c", values=lambda m: m > 0)), tmp_path / "kept c"
    )
    assert label_map_of(bits, "val", 9).dtype == np.uint8
    assert np.array_equal(label_map_of(bits, "val", 9), scene(9).label_map > 0)


def test_a_palette_gives_numbers_and_colours(tmp_path):
    palette = ((9, 9, 9), *COLOURS)
    found = look(folders.label_maps(tmp_path / "data", palette=palette))
    assert found.as_it_lies
    assert found.palette == palette


TABLES = {
    "label_colors.txt": "0 0 0\t\tground\n200 40 40\tred\n40 180 60\tgreen\n50 70 210\tblue thing\n",
    "class_dict.csv": "name,r,g,b\nground,0,0,0\nred,200,40,40\ngreen,40,180,60\nblue thing,50,70,210\n",
    "table.txt": "ground 0 0 0\nred 200 40 40\ngreen 40 180 60\nblue thing 50 70 210\n",
    "colours.json": json.dumps(
        {"ground": [0, 0, 0], "red": [200, 40, 40], "green": [40, 180, 60], "blue thing": [50, 70, 210]}
    ),
    "config.json": json.dumps(
        {"labels": [{"readable": "ground", "color": [0, 0, 0]}, {"readable": "red", "color": [200, 40, 40]},
                    {"readable": "green", "color": [40, 180, 60]},
                    {"readable": "blue thing", "color": [50, 70, 210]}]}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_colours_become_numbers_by_a_table(tmp_path, name):
    root = folders.label_maps(tmp_path / "data", values=folders.in_colours)
    (root / name).write_text(TABLES[name])
    found = keep(look(root), tmp_path / "kept")
    assert found.classes == ("ground", "red", "green", "blue thing")
    assert found.palette == ((0, 0, 0), *COLOURS)
    assert np.array_equal(label_map_of(found, "train", 5), scene(5).label_map)


def test_colours_may_be_given_with_the_classes(tmp_path):
    root = folders.label_maps(tmp_path / "data", values=folders.in_colours)
    classes = ["red=#c82828", "green=#28b43c", "blue=#3246d2", "void=#000000"]
    found = keep(look(root, classes=classes), tmp_path / "kept")
    assert (found.classes, found.void) == (CLASSES, VOID)
    expected = scene(5).label_map.astype(int) - 1
    expected[expected < 0] = VOID
    assert np.array_equal(label_map_of(found, "train", 5), expected)


def test_lists_split_voc_segmentation(tmp_path):
    root = folders.label_maps(
        tmp_path / "data", layout=("JPEGImages", "SegmentationClass"), palette=((0, 0, 0), *COLOURS)
    )
    folders.pictures(root / "JPEGImages", range(20, 30))  # without a label map, as in VOC
    lists = root / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split, numbers in SPLITS.items():
        (lists / f"{split}.txt").write_text("".join(f"{n:04d}\n" for n in numbers))
    found = keep(look(root), tmp_path / "kept")
    assert {name: split.count for name, split in found.splits.items()} == {"train": 8, "val": 3}
    assert "10 pictures without a label map" in said(found)
    assert np.array_equal(label_map_of(found, "val", 9), scene(9).label_map)


# ---- where data lie ------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["coco", "voc", "yolo", "label_maps"])
def test_odd_names_links_and_read_only_folders(tmp_path, kind):
    root = getattr(folders, kind)(tmp_path / "schöne Bilder & Zellen")
    for file in list(root.rglob("*.jpg")):
        if kind != "coco":
            file.rename(file.with_suffix(".JPG"))
    link = tmp_path / "ein Link"
    link.symlink_to(root)
    (root / "round").symlink_to(root)  # a circle
    for place, _, _ in os.walk(root):
        os.chmod(place, 0o555)
    try:
        found = keep(look(link), tmp_path / "kept here")
        for name, numbers in SPLITS.items():
            assert found.splits[name].count == len(numbers)
            if kind != "label_maps":
                pictures = boxes_of(found.splits[name].annotations)
                assert all((found.splits[name].images / p).is_file() for p in pictures)
    finally:
        for place, _, _ in os.walk(root):
            os.chmod(place, 0o755)


def test_what_was_kept_is_not_looked_at(tmp_path):
    root = folders.voc(tmp_path / "data")
    first = keep(look(root), root / "kept")
    assert look(root).kind == "voc"
    assert keep(look(root), root / "kept") == first


def test_thousands_of_files_take_seconds(tmp_path):
    root = tmp_path / "data"
    folders.yolo(root, splits={"train": range(1)})
    picture, labels = root / "images/train/0000.jpg", root / "labels/train/0000.txt"
    for number in range(1, 4000):
        os.link(picture, picture.with_name(f"{number:04d}.jpg"))
        os.link(labels, labels.with_name(f"{number:04d}.txt"))
    start = time.perf_counter()
    found = look(root)
    assert time.perf_counter() - start < 20  # 2 s on 2 free cores
    assert sum(split.count for split in found.splits.values()) == 4000


# ---- writing -------------------------------------------------------------------------------------
def test_writing_twice_touches_nothing(tmp_path):
    root = folders.label_maps(tmp_path / "data", values=lambda m: m + 1)
    kept = tmp_path / "kept"
    first = keep(look(root), kept)
    times = {
        p: p.stat().st_mtime_ns for p in kept.rglob("*") if p.is_file() and p.suffix != ".json"
    }
    assert keep(look(root), kept) == first
    assert {p: p.stat().st_mtime_ns for p in times} == times
    (root / "labels/train/0000.png").unlink()
    keep(look(root), kept)
    assert not (kept / "labels/train/0000.png").exists()


def test_nothing_of_the_users_is_overwritten(tmp_path):
    root = folders.voc(tmp_path / "data")
    theirs = tmp_path / "kept/annotations/train.json"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(UserError, match=r"train\.json is there already and was not written here"):
        keep(look(root), tmp_path / "kept")
    assert theirs.read_text() == "mine"
    theirs.unlink()
    found = keep(look(root), tmp_path / "kept")
    val = found.splits["val"].annotations
    val.write_text(val.read_text() + " ")  # corrected by hand
    with pytest.raises(UserError, match=r"val\.json is there already .* or was changed since"):
        keep(look(root), tmp_path / "kept")


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    root = folders.voc(tmp_path / "data")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        keep(look(root), tmp_path / "file" / "kept")
