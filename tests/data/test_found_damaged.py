"""Damaged and doubtful folders: a sentence that names the file, or a note with a count."""

import json
from pathlib import Path

import numpy as np
import pytest
from data import folders
from data.folders import CLASSES, SPLITS
from PIL import Image

from convnext_backbones.data.found import keep, look
from convnext_backbones.errors import UserError


def changed(file: Path, change) -> Path:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return file


def train_json(root: Path) -> Path:
    return root / "annotations" / "train.json"


def refused(folder: Path, match: str, **options) -> None:
    with pytest.raises(UserError, match=match) as refusal:
        look(folder, **options)
    assert "\n" not in str(refusal.value)


def notes_of(folder: Path, **options) -> str:
    return " ".join(look(folder, **options).notes)


# ---- nothing there -------------------------------------------------------------------------------
def test_what_is_no_folder_of_data_is_refused(tmp_path):
    refused(tmp_path / "none", "none does not exist; give the folder")
    refused(tmp_path, "holds no pictures; pictures end in")
    (tmp_path / "a.xml").write_text("<annotation/>")
    refused(tmp_path, "no pictures, and 1 file that may be labels")
    refused(tmp_path / "a.xml", "is a file")


def test_pictures_without_labels_are_refused(tmp_path):
    folders.pictures(tmp_path, range(3))
    refused(tmp_path, "holds 3 pictures and no labels that are known: COCO JSON, Pascal VOC XML")
    (tmp_path / "0000.json").write_text('{"shapes": [], "imagePath": "0000.jpg"}')
    refused(tmp_path, "0000.json is labelme's: export it as COCO JSON")


def test_label_maps_of_jpeg_are_refused(tmp_path):
    root = folders.label_maps(tmp_path, layout=("images", "masks"), suffixes=(".jpg", ".jpg"))
    refused(root, "label maps in masks are JPEG files, which do not keep the values")


def test_two_kinds_are_told_and_chosen(tmp_path):
    folders.coco(tmp_path)
    for split in SPLITS:
        folders.label_maps(
            tmp_path, splits={split: SPLITS[split]}, layout=(split, f"{split}_labels")
        )
    folders.voc(tmp_path / "voc")
    notes = notes_of(tmp_path)
    assert "Taken: COCO JSON; to take others: --kind voc or --kind label-maps." in notes
    assert look(tmp_path, task="semantic").kind == "label maps"
    assert look(tmp_path, kind="voc").kind == "voc"
    assert look(tmp_path, kind="label maps").splits["train"].count == 8  # without voc's pictures
    refused(tmp_path, "no labels of the kind yolo, but COCO JSON and", kind="yolo")
    refused(
        tmp_path,
        "--task semantic does not go with labels of the kind coco",
        kind="coco",
        task="semantic",
    )


def test_a_task_that_the_labels_do_not_hold_is_refused(tmp_path):
    boxes = folders.coco(tmp_path / "boxes")
    refused(boxes, "--task semantic: .* take --task detection", task="semantic")
    refused(
        boxes,
        "--task instance needs the outline of every object, and of .* boxes none",
        task="instance",
    )
    maps = folders.label_maps(tmp_path / "maps")
    refused(maps, "take --task semantic", task="detection")
    refused(maps, "there is no task 'boxes'; tasks: detection, instance, semantic", task="boxes")
    refused(maps, "--classes needs names", classes="")


def test_unknown_classes_are_refused_with_the_nearest(tmp_path):
    for kind in ("coco", "voc", "yolo"):
        root = getattr(folders, kind)(tmp_path / kind)
        refused(root, "names 'gren', which no label has .nearest: 'green'.; the labels' classes are",
                classes=["red", "gren"])  # fmt: skip
    refused(tmp_path / "coco", "names a class twice", classes=["red", "red"])


def test_one_picture_is_too_few(tmp_path):
    folders.voc(tmp_path, splits={"train": range(1)}, lists=False)
    refused(tmp_path, "1 picture with labels: at least one to train on and one to measure on")


# ---- COCO ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda c: c.update(categories=[]), r"train\.json has no categories"),
        (lambda c: c.update(images=[]), r"train\.json has no images"),
        (
            lambda c: c["categories"][0].update(name="green"),
            "two categories of one name: green, green",
        ),
    ],
)
def test_a_json_that_cannot_be_used_is_refused(tmp_path, change, match):
    root = folders.coco(tmp_path)
    changed(train_json(root), change)
    refused(root, match)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "train.json is empty"),
        ('{"images": [', "train.json is no JSON"),
        (
            '{"images": [], "annotations": {}}',
            "train.json has no list of annotations and categories",
        ),
        ('{"images": [], "annotations": [{"segments_info": []}]}', "panoptic, without boxes"),
    ],
)
def test_a_broken_json_is_named(tmp_path, text, match):
    root = folders.coco(tmp_path, splits={"train": range(4)})
    train_json(root).write_text(text)
    refused(root, match)
    folders.coco(tmp_path, splits={"val": range(4)})
    assert match in notes_of(root)


def test_no_annotations_are_refused(tmp_path):
    root = folders.coco(tmp_path, splits={"train": range(4)})
    changed(train_json(root), lambda c: c.update(annotations=[]))
    refused(root, "has no annotations")


def test_pictures_that_are_not_there(tmp_path):
    root = folders.coco(tmp_path)
    (root / "train/0003.jpg").unlink()
    found = look(root)
    assert "left out, 1 picture missing: 0003.jpg" in " ".join(found.notes)
    kept = keep(found, tmp_path / "kept")
    assert kept.splits["train"].count == 7
    for file in (root / "train").iterdir():
        file.unlink()
    for file in (root / "val").iterdir():
        file.rename(file.with_stem(f"other{file.stem}"))
    refused(
        root, r"none of the 8 pictures of .*train\.json is there \(0000.jpg, 0001.jpg and 6 more"
    )


def as_corners(content: dict) -> None:
    for annotation in content["annotations"]:
        left, top, width, height = annotation["bbox"]
        annotation["bbox"] = [left, top, left + width, top + height]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (as_corners, "look like corners"),
        (
            lambda c: [a.update(bbox=[v / 64 for v in a["bbox"]]) for a in c["annotations"]],
            "look like shares of the picture",
        ),
        (lambda c: c["annotations"][0].update(category_id=9), "1 of a category that is not listed"),
        (lambda c: c["annotations"][0].update(image_id=99), "1 of a picture that is not listed"),
        (lambda c: c["annotations"][1].update(id=1), "1 whose id another has"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, -3, 4]), "1 empty or negative"),
        (lambda c: c["annotations"][0].update(bbox=[500, 500, 5, 5]), "1 outside its picture"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "1 not four numbers"),
        (
            lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3, 4]]),
            "1 with an outline of fewer than three points",
        ),
        (lambda c: c["images"][1].update(id=0), "1 pictures have an id that another has"),
    ],
)
def test_damaged_boxes_are_counted(tmp_path, change, words):
    root = folders.coco(tmp_path)
    changed(train_json(root), change)
    notes = notes_of(root)
    assert words in notes
    assert "check-data --fix repairs them" in notes
    assert "train.json" in notes


def test_other_categories_in_validation_are_told(tmp_path):
    root = folders.coco(tmp_path)
    val = root / "annotations/val.json"
    changed(val, lambda c: c["categories"][0].update(name="Red"))
    assert "val.json has categories that annotations/train.json has not: 'Red'" in notes_of(root)


def test_masks_of_some_objects_alone(tmp_path):
    root = folders.coco(tmp_path, masks=True)
    changed(train_json(root), lambda c: c["annotations"][0].pop("segmentation"))
    found = look(root)
    assert found.task == "detection"
    assert "with --task instance the other 1 are left out" in " ".join(found.notes)
    kept = keep(look(root, task="instance"), tmp_path / "kept")
    content = json.loads(kept.splits["train"].annotations.read_text())
    assert all(a["segmentation"] for a in content["annotations"])
    assert look(root, task="detection").task == "detection"


def test_several_files_of_one_split_are_told(tmp_path):
    root = folders.coco(tmp_path)
    (root / "annotations/train_more.json").write_text(train_json(root).read_text())
    assert "Of 2 JSON files for train, annotations/train" in notes_of(root)


# ---- VOC -----------------------------------------------------------------------------------------
def test_broken_xml_is_named_and_left_out(tmp_path):
    root = folders.voc(tmp_path)
    (root / "Annotations/0001.xml").write_text("<annotation><object>")
    (root / "Annotations/0002.xml").write_text("")
    (root / "Annotations/lost.xml").write_text(
        "<annotation><filename>lost.jpg</filename></annotation>"
    )
    found = look(root)
    notes = " ".join(found.notes)
    assert "2 XML files that cannot be read: Annotations/0001.xml" in notes
    assert "1 XML file without a picture: Annotations/lost.xml" in notes
    assert "2 pictures without an XML file" in notes
    assert found.splits["train"].count == 6


def test_entities_of_xml_are_not_followed(tmp_path):
    root = folders.voc(tmp_path)
    bomb = '<!DOCTYPE a [<!ENTITY b "xx">]><annotation><filename>&b;</filename></annotation>'
    (root / "Annotations/0001.xml").write_text(bomb)
    assert "1 XML file that cannot be read: Annotations/0001.xml" in notes_of(root)


def test_objects_of_voc_that_cannot_be_read_are_counted(tmp_path):
    root = folders.voc(tmp_path)
    file = root / "Annotations/0002.xml"
    text = file.read_text()
    start = text.index("<xmin>")
    file.write_text(text[:start] + "<xmin>nan" + text[text.index("</xmin>", start) :])
    assert "1 object that cannot be read: object 1 of Annotations/0002.xml" in notes_of(root)
    far = "<object><name>red</name><bndbox><xmin>900</xmin><ymin>900</ymin><xmax>950</xmax><ymax>950</ymax></bndbox></object>"
    file.write_text(text.replace("</annotation>", far + "</annotation>"))
    assert "1 object outside its picture or empty: red in Annotations/0002.xml" in notes_of(root)
    file.write_text(
        text.replace("<name>", "<name>Red</name><was>").replace("</name><diff", "</was><diff")
    )
    assert "differ in case alone" in notes_of(root)


def test_a_picture_of_0_bytes_is_named(tmp_path):
    for kind, place in (
        ("voc", "JPEGImages"),
        ("yolo", "images/train"),
        ("label_maps", "images/train"),
    ):
        root = getattr(folders, kind)(tmp_path / kind)
        (root / place / "0004.jpg").write_bytes(b"")
        found = look(root)
        assert "0004.jpg is empty (0 bytes)" in " ".join(found.notes)
        assert found.splits["train"].count == 7


# ---- YOLO ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("yaml", "match"),
    [
        ("names: [red, red, blue]\n", "a name stands twice in `names`"),
        ("names: {a: red}\n", "`names` is a list of names, or numbers from 0"),
    ],
)
def test_a_wrong_data_yaml_is_refused(tmp_path, yaml, match):
    refused(folders.yolo(tmp_path, yaml=yaml), match)


def test_a_doubtful_data_yaml_is_told(tmp_path):
    notes = notes_of(
        folders.yolo(tmp_path / "a", yaml="nc: 5\nnames: [red, green, blue]\nval: nowhere\n")
    )
    assert "nc: 5 and has 3 names" in notes
    assert "names nowhere for val, which is not there" in notes
    notes = notes_of(folders.yolo(tmp_path / "b", yaml="names: [red, : green\n"))
    assert "data.yaml cannot be read as YAML" in notes
    same = "train: images/train\nval: images/train\nnames: [red, green, blue]\n"
    notes = notes_of(folders.yolo(tmp_path / "c", yaml=same))
    assert "the same pictures for training and validation" in notes
    assert "drawn for validation" in notes


def test_pixels_in_yolo_files_are_refused(tmp_path):
    root = folders.yolo(tmp_path)
    for file in (root / "labels").rglob("*.txt"):
        file.write_text("0 30 20 10 10\n")
    refused(root, r"\.txt counts pixels; YOLO's numbers are shares")


def test_key_points_and_corners_of_turned_boxes(tmp_path):
    root = folders.yolo(tmp_path / "points", yaml="kpt_shape: [2, 3]\nnames: [red, green, blue]\n")
    for file in (root / "labels").rglob("*.txt"):
        lines = file.read_text().splitlines()
        file.write_text("".join(f"{line} 0.1 0.1 2 0.2 0.2 2\n" for line in lines))
    found = look(root)
    assert found.task == "detection"
    assert "Key points left out" in " ".join(found.notes)
    turned = folders.yolo(tmp_path / "turned", masks=True)
    assert "Every outline has four corners" in notes_of(turned)


def test_text_files_without_a_picture_are_counted(tmp_path):
    root = folders.yolo(tmp_path)
    (root / "labels/train/lost.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "labels/train/readme.txt").write_text("these are labels\n")
    assert "1 text file without a picture: labels/train/lost.txt" in notes_of(root)


# ---- label maps ----------------------------------------------------------------------------------
def test_values_beyond_the_classes_name_a_file(tmp_path):
    root = folders.label_maps(tmp_path)
    refused(root, r"3 class names for the values 0 \.\. 2, and .*\.png holds 3; the label maps hold 0 \.\. 3",
            classes=["a", "b", "c"])  # fmt: skip
    assert look(root, classes=["a", "b", "c"], void=3).classes == ("a", "b", "c")


def test_colours_without_a_table_are_listed(tmp_path):
    root = folders.label_maps(tmp_path, values=folders.in_colours)
    refused(
        root, r"hold 4 colours, #000000 .*#c82828 .*nothing says which class .* label_colors\.txt"
    )
    (root / "label_colors.txt").write_text("ground 0 0 0\nred 200 40 40\n")
    refused(root, r"% of the pixels have 2 colours without a name: #\w{6} \(such as in labels/")
    refused(root, "'red' is no name with a colour", classes=["red", "green=#00ff00"])
    refused(root, "'void', which label_colors.txt does not", classes=["void"])


def test_a_few_pixels_between_two_colours_are_void(tmp_path):
    root = folders.label_maps(tmp_path / "data", values=folders.in_colours)
    file = root / "labels/train/0000.png"
    pixels = np.array(Image.open(file))
    pixels[0, :3] = (1, 2, 3)
    Image.fromarray(pixels).save(file)
    names = ("ground", *CLASSES)
    colours = ((0, 0, 0), *folders.COLOURS)
    table = "".join(f"{n} {' '.join(map(str, c))}\n" for n, c in zip(names, colours, strict=True))
    (root / "table.txt").write_text(table)
    found = keep(look(root), tmp_path / "kept")
    assert "1 colour without a name and count as void: #010203" in " ".join(found.notes)
    assert found.void == 255
    labels = np.asarray(Image.open(found.splits["train"].annotations / "0000.png"))
    assert labels[0, :3].tolist() == [255, 255, 255]


def test_sizes_that_differ_and_lone_files_are_told(tmp_path):
    root = folders.label_maps(tmp_path)
    file = root / "labels/train/0000.png"
    Image.open(file).resize((32, 24), Image.Resampling.NEAREST).save(file)
    (root / "images/train/0001.jpg").unlink()
    (root / "labels/val/0009.png").unlink()
    notes = notes_of(root)
    assert "labels/train/0000.png is 32x24, images/train/0000.jpg 64x48" in notes
    assert "1 label map without a picture: labels/train/0001.png" in notes
    assert "1 picture without a label map: images/val/0009.jpg" in notes


def test_a_truncated_label_map_is_named(tmp_path):
    root = folders.label_maps(tmp_path)
    file = root / "labels/train/0002.png"
    file.write_bytes(file.read_bytes()[:-40])
    refused(root, r"0002\.png is damaged")


def test_all_void_is_refused(tmp_path):
    root = folders.label_maps(tmp_path, values=np.zeros_like)
    refused(root, "all pixels of the label maps .* have the void value 0", void=0)


def test_maps_of_other_kinds_give_way_to_class_numbers(tmp_path):
    suffixes = ("_leftImg8bit.png", "_gtFine_labelIds.png")
    layout = ("leftImg8bit/{split}/a", "gtFine/{split}/a")
    root = folders.label_maps(tmp_path, layout=layout, suffixes=suffixes)
    for name in ("_gtFine_color.png", "_gtFine_instanceIds.png"):
        folders.label_maps(
            tmp_path, layout=layout, suffixes=(suffixes[0], name), values=lambda m: m * 50
        )
    found = look(root)
    assert found.classes == ("class_0", "class_1", "class_2", "class_3")
    assert found.splits["train"].suffixes == suffixes
