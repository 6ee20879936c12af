"""What check-data and train see of the data of Detectron2's configs."""

import json

import pytest
from data import folders

pytest.importorskip("detectron2")

from convnext_backbones.adapters.detectron2 import run as host
from convnext_backbones.cli import check_data
from convnext_backbones.runs.preparation import shipped_configs

BOXES = [f"{{name: shapes_{split}, annotations: coco/annotations/{split}.json, images: coco/{split}}}"
         for split in ("train", "val")]  # fmt: skip
MAPS = [f"{{name: maps_{split}, images: maps/images/{split}, labels: maps/labels/{split}, "
        "classes: [ground, red, green, blue]}" for split in ("train", "val")]  # fmt: skip
YAML = "detectron2/{}_convnextv2_atto.yaml"


@pytest.fixture
def here(tmp_path, monkeypatch):
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from convnext_backbones.adapters.detectron2 import own_data

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders.coco(tmp_path / "coco", masks=True)
    folders.label_maps(tmp_path / "maps")
    yield tmp_path
    for name in ("shapes_train", "shapes_val", "maps_train", "maps_val"):
        if name in DatasetCatalog.list():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)
            own_data._ENTRIES.pop(name)


def options(entries, name, **more):
    return [
        f"DATASETS.REGISTER=[{', '.join(entries)}]",
        f"DATASETS.TRAIN=('{name}_train',)", f"DATASETS.TEST=('{name}_val',)",
        *(f"{key}={value}" for key, value in more.items()),
    ]  # fmt: skip


def of_boxes():
    options_ = options(BOXES, "shapes", **{"MODEL.ROI_HEADS.NUM_CLASSES": 3})
    return str(shipped_configs()[YAML.format("coco_mask_rcnn")]), options_


def test_records_are_what_the_registered_function_gives(here):
    config, given = of_boxes()
    run = host.load_config(config, options=given)
    data = host.records(run, "train")
    content = json.loads((here / "coco/annotations/train.json").read_text())
    first = [box for box in content["annotations"] if box["image_id"] == 0]
    assert (data.classes, data.error, data.needs_masks) == (folders.CLASSES, None, True)
    assert data.records[0].size == (64, 48)
    assert data.records[0].boxes == tuple(
        (x, y, x + w, y + h) for x, y, w, h in (box["bbox"] for box in first)
    )
    assert data.records[0].labels == tuple(box["category_id"] - 1 for box in first)
    assert data.annotations == str(here / "coco/annotations/train.json")
    assert data.resized(64, 48) == pytest.approx((853.3, 640), abs=0.1)
    assert host.records(run, "test") is None
    assert host.records(run, "train", most=10).unread > 10


def test_label_maps_and_their_void_labels(here):
    config = str(shipped_configs()[YAML.format("ade20k_sem_seg_fpn")])
    run = host.load_config(
        config, options=options(MAPS, "maps", **{"MODEL.SEM_SEG_HEAD.NUM_CLASSES": 4})
    )
    data = host.records(run, "val")
    assert data.classes == ("ground", *folders.CLASSES)
    assert data.records[0].label_map == str(here / "maps/labels/val/0008.png")
    assert data.voids == {"ignore_label of maps_val": 255, "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": 255}


def test_check_data_names_what_stops(here, capsys):
    config, given = of_boxes()
    assert check_data.main([config, *given]) == 0
    (here / "coco/train/0003.jpg").write_bytes(b"")
    assert check_data.main([config, *given]) == 2
    assert "picture cannot be read" in capsys.readouterr().out
