"""What is wrong with pictures, label maps and COCO JSON is found, counted and named; and mended in a copy."""

import contextlib
import json
import random

import numpy as np
import pytest
from data import folders
from PIL import Image

from convnext_backbones.data.checks import check, complete, files_of
from convnext_backbones.data.facts import Cache, read_facts
from convnext_backbones.data.findings import CHECKS, STOPS, TELLS, WARNS
from convnext_backbones.data.pictures import read_picture
from convnext_backbones.data.records import Evaluation, Record, Records
from convnext_backbones.data.repair import repair
from convnext_backbones.errors import UserError

CLASSES = folders.CLASSES


def detection(root, split="train", **options):
    """The split of folders.coco as a framework would hand it on."""
    data = Records(
        split, "boxes", CLASSES, annotations=str(root / f"annotations/{split}.json"),
        images=str(root / split), error="not made here", **options,
    )  # fmt: skip
    complete(data)
    data.error = None
    return data


def segmentation(root, split="train", **options):
    options = {"voids": {"head": 255}, **options}
    pictures = sorted((root / "images" / split).iterdir())
    records = [
        Record(str(p), label_map=str(root / "labels" / split / f"{p.stem}.png")) for p in pictures
    ]
    return Records(
        split, "label maps", ("ground", *CLASSES), records, images=str(root / "images" / split),
        setting="{split}: {images} {labels}", **options,
    )  # fmt: skip


def findings(*splits):
    return {(f.split, f.check): f for f in check(splits, read_facts(files_of(splits)))[0]}


def edited(root, change, split="train"):
    """The split after a change of what its JSON holds."""
    file = root / f"annotations/{split}.json"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    return root


@pytest.fixture
def coco(tmp_path):
    return folders.coco(tmp_path / "coco", masks=True)


@pytest.fixture
def maps(tmp_path):
    return folders.label_maps(tmp_path / "maps")


def test_data_without_a_fault_have_no_finding(coco, maps):
    assert findings(detection(coco, needs_masks=True), detection(coco, "val")) == {}
    assert findings(segmentation(maps), segmentation(maps, "val")) == {}


def test_classes_are_counted_with_their_sizes(coco):
    data = detection(coco, resized=lambda w, h: (2 * w, 2 * h))
    count = check([data], {})[1]["train"]
    boxes = json.loads((coco / "annotations/train.json").read_text())["annotations"]
    of_red = [box["bbox"] for box in boxes if box["category_id"] == 1]
    assert count["red"].amount == len(of_red) == count["red"].sizes["small"]
    sides = sorted(2 * min(w, h) for _, _, w, h in of_red)
    assert count["red"].median_side == sides[len(sides) // 2]


def boxes(content):
    return content["annotations"]


def put(**entries):
    return lambda content: boxes(content)[0].update(entries)


def put_in_all(change):
    return lambda content: [change(box) for box in boxes(content)]


def corners(box):
    x, y, w, h = box["bbox"]
    box["bbox"] = [x, y, x + w, y + h]


def normalise(box):
    x, y, w, h = box["bbox"]
    box["bbox"] = [x / 64, y / 48, w / 64, h / 48]


# check -> (change of the JSON, severity, words of the first offender)
PLANTED = {
    "annotation id twice": (lambda c: boxes(c)[1].update(id=1), STOPS, "1 2 times"),
    "picture id twice": (lambda c: c["images"].append(dict(c["images"][0])), STOPS, "0 2 times"),
    "file name twice": (lambda c: c["images"].append({**c["images"][0], "id": 99}), WARNS, "0000.jpg"),
    "category id twice": (lambda c: c["categories"].append(dict(id=1, name="x")), STOPS, "1"),
    "category name twice": (lambda c: c["categories"].append(dict(id=9, name="red")), WARNS, "red"),
    "category ids with gaps": (lambda c: c["categories"].append(dict(id=90, name="x")), TELLS, "90"),
    "no category has a class's name":
        (lambda c: c["categories"][0].update(name="Red "), STOPS, "boxes are named 'Red '"),
    "boxes of categories that are no class":
        (lambda c: c["categories"][0].update(name="Red "), TELLS, "of 'Red '"),
    "boxes of an unknown category": (put(category_id="1"), WARNS, "annotation 1 of 0000.jpg: category_id '1'"),
    "boxes of an unknown picture": (put(image_id=77), WARNS, "image_id 77"),
    "boxes marked ignore": (put(ignore=1), TELLS, "annotation 1 of 0000.jpg"),
    "boxes look like corners": (put_in_all(corners), STOPS, "such as"),
    "boxes look normalised": (put_in_all(normalise), STOPS, "such as"),
    "box is not four numbers": (put(bbox=[1, 2, None, 4]), STOPS, "[1, 2, None, 4]"),
    "box is empty or negative": (put(bbox=[9, 9, -4, 5]), WARNS, "[9, 9, -4, 5]"),
    "box is outside its picture": (put(bbox=[90, 9, 9, 9]), WARNS, "0000.jpg: [90, 9, 9, 9]"),
    "box reaches over its picture": (put(bbox=[-9, 9, 20, 20]), WARNS, "[-9, 9, 20, 20]"),
    "box without an area": (lambda c: boxes(c)[0].pop("area"), STOPS, "annotation 1"),
    "box with an area of 0": (put(area=0), WARNS, "annotation 1"),
    "annotation without iscrowd": (lambda c: boxes(c)[0].pop("iscrowd"), TELLS, "annotation 1"),
    "crowd": (put(iscrowd=1), TELLS, "annotation 1"),
    "object without a mask": (put(segmentation=[]), STOPS, "annotation 1 of 0000.jpg"),
    "mask of fewer than three points": (put(segmentation=[[1, 2, 9, 9]]), WARNS, "[[1, 2, 9, 9]]"),
    "mask of another size than its picture":
        (put(segmentation=dict(counts="", size=[5, 5])), STOPS, "[5, 5]"),
    "annotation file lacks entries": (lambda c: c["images"][0].pop("width"), STOPS, "has no width"),
    "no annotations": (lambda c: c.update(annotations=[]), STOPS, "train.json"),
    "no pictures": (lambda c: c.update(images=[]), STOPS, "train.json"),
    "class without a sample":
        (lambda c: c.update(annotations=[b for b in boxes(c) if b["category_id"] > 1]), WARNS, "'red'"),
    "picture is of another size than recorded":
        (lambda c: c["images"][2].update(width=50), STOPS, "0002.jpg is 64x48, recorded 50x48"),
}  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_a_fault_of_an_annotation_file_is_named(coco, name):
    change, severity, words = PLANTED[name]
    found = findings(detection(edited(coco, change), needs_masks=True))
    finding = found["train", name]
    assert finding.severity == severity
    assert words in finding.sentence()


def test_a_broken_annotation_file_is_named(coco):
    (coco / "annotations/train.json").write_text("{")
    finding = findings(detection(coco))["train", "annotation file cannot be read"]
    assert "train.json: Expecting property name" in finding.sentence()


JUNK = [None, "x", -1, 1e400, float("nan"), [], {}, ["a"], {"a": 1}, True, 10**30, "../../x", ""]


@pytest.mark.parametrize("seed", range(4))
def test_no_annotation_file_ends_in_a_trace(tmp_path, seed):
    rng = random.Random(seed)
    root = folders.coco(tmp_path / "coco", masks=True)
    whole = folders.coco_json(range(8), masks=True)
    for k in range(40):
        content = json.loads(json.dumps(whole))
        for _ in range(rng.randint(1, 4)):
            name = rng.choice(list(content))
            if not isinstance(content[name], list) or rng.random() < 0.1:
                content[name] = rng.choice(JUNK)
                continue
            place = rng.randrange(len(content[name]))
            entry = content[name][place]
            if not isinstance(entry, dict) or rng.random() < 0.1:
                content[name][place] = rng.choice(JUNK)
            else:
                entry[rng.choice(sorted(entry))] = rng.choice(JUNK)
        (root / "annotations/train.json").write_text(json.dumps(content))
        data = detection(root, needs_masks=rng.random() < 0.5)
        facts = read_facts(files_of([data]))
        check([data], facts)
        with contextlib.suppress(UserError):
            repair([data], facts, tmp_path / f"fixed{k}")


def test_a_metric_needs_iscrowd_and_its_data_sets_file(coco):
    data = detection(
        edited(coco, put_in_all(lambda box: box.pop("iscrowd")), "val"), "val",
        evaluations=(Evaluation("CocoMetric", str(coco / "annotations/train.json"), masks=True),),
    )  # fmt: skip
    found = findings(data)
    assert found["val", "annotation without iscrowd"].severity == STOPS
    assert (
        "annotations/train.json, the data set"
        in found["val", "evaluator reads another file"].sentence()
    )
    assert found["val", "evaluator measures masks"].severity == STOPS


def test_what_a_data_set_leaves_out_is_counted(coco):
    data = detection(edited(coco, put(bbox=[9, 9, 0, 0])))
    whole = sum(len(record.boxes) for record in data.records)
    data.records = data.records[:-1]
    found = findings(data)
    left = whole - sum(len(record.boxes) for record in data.records)
    assert found["train", "picture left out by the data set"].examples == ("0007.jpg",)
    assert found["train", "boxes left out by the data set"].count == left


# ---- pictures ------------------------------------------------------------------------------------
def turned(path):
    image = Image.open(path)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)


SPOILT = {
    "picture is missing": (lambda path: path.unlink(), STOPS, "0003.jpg is missing"),
    "picture cannot be read": (lambda path: path.write_bytes(b""), STOPS, "0003.jpg is empty (0 bytes)"),
    "picture is turned by EXIF": (turned, TELLS, "train/0003.jpg"),
    "picture is not RGB": (lambda path: Image.open(path).convert("CMYK").save(path), TELLS, "CMYK"),
    "the same picture twice":
        (lambda path: path.write_bytes(path.with_name("0001.jpg").read_bytes()), WARNS,
         "train/0003.jpg is train/0001.jpg"),
    "picture is small for the network":
        (lambda path: Image.open(path).resize((9, 9)).save(path), WARNS, "9x9"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_a_fault_of_a_picture_is_named(maps, name):
    spoil, severity, words = SPOILT[name]
    data = segmentation(maps, least=32)
    spoil(maps / "images/train/0003.jpg")
    finding = findings(data)["train", name]
    assert (finding.severity, finding.count) == (severity, 1)
    assert words in finding.sentence()
    assert finding.pictures == (str(maps / "images/train/0003.jpg"),)


def test_a_truncated_picture_is_named(coco):
    file = coco / "train/0003.jpg"
    file.write_bytes(file.read_bytes()[:700])
    assert (
        "0003.jpg is damaged"
        in findings(detection(coco))["train", "picture cannot be read"].sentence()
    )


def test_sixteen_bits_are_told(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(np.full((40, 40), 30_000, np.uint16)).save(file)
    data = Records("train", "boxes", CLASSES, [Record(str(file), (40, 40))])
    assert "a.png: 16" in findings(data)["train", "picture is not of 8 bits"].sentence()


def test_a_picture_of_two_splits_is_named(coco):
    (coco / "val/0009.jpg").write_bytes((coco / "train/0004.jpg").read_bytes())
    finding = findings(detection(coco), detection(coco, "val"))["val", "picture of another split"]
    assert "val/0009.jpg is train/0004.jpg of train" in finding.sentence()


def test_labels_of_the_unturned_picture_are_told(coco):
    turned(coco / "train/0003.jpg")
    found = findings(detection(coco))
    assert ("train", "labels are of the picture before EXIF turns it") in found
    assert ("train", "picture is of another size than recorded") not in found


# ---- label maps ----------------------------------------------------------------------------------
def values(change):
    def spoil(path):
        Image.fromarray(change(np.asarray(Image.open(path)))).save(path)

    return spoil


OFF = {
    "label map is missing": (lambda path: path.unlink(), STOPS, "0003.png is missing"),
    "label map cannot be read":
        (values(folders.in_colours), STOPS, "0003.png holds colours (RGB) where class numbers"),
    "label map is of another size than its picture":
        (values(lambda labels: labels[:20, :20]), STOPS, "0003.png is 20x20, the picture 64x48"),
    "label values beyond the classes":
        (values(lambda labels: labels + (labels == 1) * np.uint8(40)), STOPS, "valid: 0 to 3, void 255"),
    "label map without a labelled pixel": (values(lambda labels: labels * 0 + 255), TELLS, "0003.png"),
}  # fmt: skip


@pytest.mark.parametrize("name", OFF)
def test_a_fault_of_a_label_map_is_named(maps, name):
    spoil, severity, words = OFF[name]
    spoil(maps / "labels/train/0003.png")
    finding = findings(segmentation(maps))["train", name]
    assert finding.severity == severity
    assert words in finding.sentence()


def test_label_maps_without_any_class_stop(maps):
    data = segmentation(maps, renumber={value: 255 for value in range(256)})
    assert findings(data)["train", "no labelled pixel at all"].severity == STOPS


def test_values_are_judged_as_the_framework_renumbers_them(maps):
    renumber = {0: 255, **{value: value - 1 for value in range(1, 255)}}
    data = segmentation(maps, renumber=renumber)
    data.classes = CLASSES
    assert findings(data) == {}
    data.classes = CLASSES[:2]
    assert (
        "after reduce_zero_label"
        in findings(data)["train", "label values beyond the classes"].sentence()
    )


def test_a_void_label_that_one_place_alone_knows_stops(maps):
    data = segmentation(maps, voids={"head": 0, "metric": 255})
    sentence = findings(data)["train", "a void label in one place alone"].sentence()
    assert "head 0, metric 255" in sentence


# ---- files ---------------------------------------------------------------------------------------
def test_facts_are_kept_until_the_file_changes(maps, tmp_path, monkeypatch):
    jobs = files_of([segmentation(maps)])
    cache = Cache(tmp_path / "cache/facts.sqlite")
    first = read_facts(jobs, cache=cache)
    read = []
    monkeypatch.setattr(
        "convnext_backbones.data.facts._read", lambda job: read.append(job) or {"error": ""}
    )
    assert read_facts(jobs, cache=cache) == first
    assert read == []
    turned(maps / "images/train/0003.jpg")
    read_facts(jobs, cache=cache)
    assert [path for _, path in read] == [str(maps / "images/train/0003.jpg")]


def test_a_cache_that_cannot_be_written_keeps_nothing(maps):
    jobs = files_of([segmentation(maps)])
    assert len(read_facts(jobs, cache=Cache(maps / "images/train/0003.jpg/facts"))) == len(jobs)


def test_processes_read_what_one_reads(maps, monkeypatch):
    jobs = files_of([segmentation(maps)])
    one = read_facts(jobs)
    monkeypatch.setattr("convnext_backbones.data.facts.FEW", 0)
    assert read_facts(jobs, processes=2) == one


# ---- repair --------------------------------------------------------------------------------------
REPAIRED = [name for name in PLANTED if name not in (
    "no pictures", "no annotations", "class without a sample", "category id twice", "crowd",
    "annotation file lacks entries",
)]  # fmt: skip


@pytest.mark.parametrize("name", REPAIRED)
def test_a_repaired_annotation_file_has_no_such_fault(coco, tmp_path, name):
    data = detection(edited(coco, PLANTED[name][0]), needs_masks=True)
    before = (coco / "annotations/train.json").read_bytes()
    repair([data], read_facts(files_of([data])), tmp_path / "fixed")
    assert (coco / "annotations/train.json").read_bytes() == before
    again = findings(detection(tmp_path / "fixed", needs_masks=True))
    assert [key for key, finding in again.items() if finding.severity != TELLS] == []
    assert ("train", name) not in again


def test_converted_boxes_are_those_that_were_meant(coco, tmp_path):
    meant = [
        b["bbox"] for b in json.loads((coco / "annotations/train.json").read_text())["annotations"]
    ]
    for change in (corners, normalise):
        folder = tmp_path / change.__name__
        data = detection(edited(folders.coco(folder / "coco"), put_in_all(change)))
        repair([data], read_facts(files_of([data])), folder / "fixed")
        written = json.loads((folder / "fixed/annotations/train.json").read_text())["annotations"]
        assert [box["bbox"] for box in written] == [pytest.approx(box) for box in meant]


def test_repaired_pictures_and_label_maps_are_as_the_reader_has_them(maps, tmp_path):
    pictures, labels = maps / "images/train", maps / "labels/train"
    turned(pictures / "0001.jpg")
    values(np.rot90)(labels / "0001.png")
    values(np.rot90)(labels / "0001.png")
    values(np.rot90)(labels / "0001.png")  # as the picture is shown
    turned(pictures / "0002.jpg")  # its label map is as it is stored
    (pictures / "0003.jpg").write_bytes(b"")
    values(folders.in_colours)(labels / "0004.png")
    OFF["label values beyond the classes"][0](labels / "0005.png")
    data = segmentation(maps)
    shown = read_picture(pictures / "0001.jpg")
    stored = read_picture(pictures / "0002.jpg", size=(64, 48))
    done, lines = repair([data], read_facts(files_of([data])), tmp_path / "fixed")
    assert "2 pictures left out" in done[0]
    assert lines == [f"train: {tmp_path}/fixed/images/train {tmp_path}/fixed/labels/train"]
    fixed = segmentation(tmp_path / "fixed")
    assert findings(fixed) == {}
    assert {record.picture[-8:-4] for record in fixed.records} == {
        "0000",
        "0001",
        "0002",
        "0005",
        "0006",
        "0007",
    }
    for name, wanted in (("0001.jpg", shown), ("0002.jpg", stored)):
        written = read_picture(tmp_path / "fixed/images/train" / name)
        assert written.shape == wanted.shape
        assert np.abs(written.astype(int) - wanted).mean() < 4  # a JPEG again


def test_a_repaired_copy_takes_a_folder_of_its_own(coco):
    with pytest.raises(UserError, match="is not empty; name a new folder"):
        repair([detection(coco)], {}, coco)


def test_every_check_is_planted_somewhere():
    planted = {*PLANTED, *SPOILT, *OFF}
    elsewhere = {
        "annotation file cannot be read", "evaluator reads another file", "evaluator measures masks",
        "picture left out by the data set", "boxes left out by the data set", "picture is not of 8 bits",
        "picture of another split", "labels are of the picture before EXIF turns it",
        "no labelled pixel at all", "a void label in one place alone",
        # tests/runs/test_data_check.py
        "picture without a box is left out", "picture without a box", "data set cannot be built",
        "classes of very unequal counts", "objects of less than 4 pixels at the network's size",
        "the config and its data do not fit",
    }  # fmt: skip
    assert planted | elsewhere == set(CHECKS)
