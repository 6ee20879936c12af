"""The generated data set: reproducible, and in the layouts that the frameworks read."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from shapely.geometry import Point, box

from convnext_backbones.runs.sample_data import (
    SEGMENTATION_CLASSES,
    SHAPES,
    filled,
    make_sample_data,
    without_holes,
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_sample_data(tmp_path_factory.mktemp("sample"), train=24, val=6, seed=3)


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(root, tmp_path):
    again = make_sample_data(tmp_path / "again", train=24, val=6, seed=3)
    other = make_sample_data(tmp_path / "other", train=24, val=6, seed=4)
    assert digests(root) == digests(again)
    assert digests(root).keys() == digests(other).keys()
    assert digests(root) != digests(other)


def test_more_pictures_leave_the_first_ones_as_they_were(root, tmp_path):
    fewer = make_sample_data(tmp_path, train=3, val=1, seed=3)
    name = "coco/train2017/000002.jpg"
    assert (fewer / name).read_bytes() == (root / name).read_bytes()


@pytest.mark.parametrize(("split", "count"), [("train2017", 24), ("val2017", 6)])
def test_coco_reads_the_instances(root, split, count, capsys):
    coco = COCO(root / f"coco/annotations/instances_{split}.json")
    assert len(coco.imgs) == count
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(SHAPES)
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        mask = coco.annToMask(annotation)
        assert mask.shape == (image["height"], image["width"])
        left, top, width, height = annotation["bbox"]
        assert left >= 0
        assert left + width <= image["width"]
        assert top + height <= image["height"]
        rows, columns = np.nonzero(mask)
        assert abs(columns.min() - left) <= 3
        assert abs(columns.max() - (left + width)) <= 3
        assert abs(rows.max() - (top + height)) <= 3
        assert mask.sum() == pytest.approx(annotation["area"], rel=0.15, abs=30)
        assert Image.open(root / "coco" / split / image["file_name"]).size == (
            image["width"],
            image["height"],
        )


def test_a_crowd_is_a_run_length_mask(root, capsys):
    coco = COCO(root / "coco/annotations/instances_train2017.json")
    crowds = [a for a in coco.anns.values() if a["iscrowd"]]
    assert crowds
    for crowd in crowds:
        assert isinstance(crowd["segmentation"]["counts"], list)
        assert coco.annToMask(crowd).sum() == crowd["area"]


def test_instances_and_label_maps_tell_the_same(root, capsys):
    coco = COCO(root / "coco/annotations/instances_train2017.json")
    for annotation in coco.anns.values():
        name = f"{annotation['image_id']:06d}.png"
        path = root / "ade/ADEChallengeData2016/annotations/training" / name
        labels = np.asarray(Image.open(path))
        inside = labels[coco.annToMask(annotation).astype(bool)]
        label = 1 + SEGMENTATION_CLASSES.index(SHAPES[annotation["category_id"] - 1])
        assert (inside == label).mean() > 0.8


def test_label_maps_hold_class_numbers_from_one(root):
    folder = root / "ade/ADEChallengeData2016"
    seen = set()
    for path in (folder / "annotations/training").glob("*.png"):
        labels = np.asarray(Image.open(path))
        assert labels.dtype == np.uint8
        image = Image.open(folder / "images/training" / f"{path.stem}.jpg")
        assert image.size == labels.shape[::-1]
        seen |= set(np.unique(labels))
    assert seen == set(range(1, len(SEGMENTATION_CLASSES) + 1))


def test_a_polygon_with_a_hole_is_cut_into_parts_without():
    ring = box(0, 0, 40, 40).difference(Point(20, 20).buffer(8))
    parts = without_holes(ring)
    assert len(parts) == 2
    assert not any(part.interiors for part in parts)
    assert sum(part.area for part in parts) == pytest.approx(ring.area)
    assert filled(ring, 41, 41).sum() == pytest.approx(ring.area, rel=0.08)


def test_the_json_is_plain(root):
    table = json.loads((root / "coco/annotations/instances_val2017.json").read_text())
    assert set(table) == {"images", "annotations", "categories"}
    assert len({a["id"] for a in table["annotations"]}) == len(table["annotations"])
