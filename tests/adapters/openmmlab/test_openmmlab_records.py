"""What check-data and train see of the data of MMDetection and MMSegmentation configs."""

import json

import numpy as np
import pytest
from data import folders

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from mmengine.config import Config
from PIL import Image

from convnext_backbones.adapters.openmmlab import records as module
from convnext_backbones.adapters.openmmlab.records import records
from convnext_backbones.cli import check_data, train
from convnext_backbones.errors import UserError
from convnext_backbones.runs.preparation import shipped_configs

DETECTION = """
_base_ = {base!r}
metainfo = dict(classes=("red", "green", "blue"))
split = dict(data_root="coco/", metainfo=metainfo)
model = dict(bbox_head=dict(num_classes=3), backbone=dict(init_cfg=None))
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    **split, ann_file="annotations/train.json", data_prefix=dict(img="train/")))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    **split, ann_file="annotations/val.json", data_prefix=dict(img="val/")))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file="coco/annotations/val.json")
test_evaluator = val_evaluator
"""

SEGMENTATION = """
_base_ = {base!r}
split = dict(type="BaseSegDataset", data_root="maps", reduce_zero_label=True,
             metainfo=dict(classes=("red", "green", "blue")))
model = dict(decode_head=dict(num_classes=3), auxiliary_head=dict(num_classes=3), backbone=dict(init_cfg=None))
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    **split, data_prefix=dict(img_path="images/train", seg_map_path="labels/train")))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    **split, data_prefix=dict(img_path="images/val", seg_map_path="labels/val")))
test_dataloader = val_dataloader
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with data sets of both kinds, and configs on shipped ones."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders.coco(tmp_path / "coco")
    folders.label_maps(tmp_path / "maps")
    for name, text, base in (
        ("boxes.py", DETECTION, "coco_rtmdet_convnextv2_pico"),
        ("maps.py", SEGMENTATION, "ade20k_upernet_convnextv2_atto"),
    ):
        (tmp_path / name).write_text(text.format(base=str(shipped_configs()[base])))
    return tmp_path


def test_records_are_what_the_data_set_holds(here):
    data = records(Config.fromfile("boxes.py"), "train")
    content = json.loads((here / "coco/annotations/train.json").read_text())
    assert (data.task, data.classes, data.error) == ("boxes", folders.CLASSES, None)
    assert [record.size for record in data.records] == [(64, 48)] * 8
    first = [box for box in content["annotations"] if box["image_id"] == 0]
    assert data.records[0].boxes == tuple(
        (x, y, x + w, y + h) for x, y, w, h in (box["bbox"] for box in first)
    )
    assert data.records[0].labels == tuple(box["category_id"] - 1 for box in first)
    assert data.annotations == "coco/annotations/train.json"
    assert not data.needs_masks
    assert data.resized(64, 48) == (640, 480)


def test_label_maps_come_with_how_their_values_change(here):
    data = records(Config.fromfile("maps.py"), "train")
    assert data.task == "label maps"
    assert data.records[3].label_map == "maps/labels/train/0003.png"
    assert [data.renumber.get(value, value) for value in (0, 1, 3, 255)] == [255, 0, 2, 255]
    assert data.voids == {
        "model.decode_head.ignore_index": 255, "model.auxiliary_head.ignore_index": 255,
        "IoUMetric.ignore_index": 255,
    }  # fmt: skip


def test_a_test_split_that_is_the_validation_is_not_read_twice(here):
    config = Config.fromfile("boxes.py")
    assert records(config, "test") is None
    config.test_dataloader.dataset.ann_file = "annotations/train.json"
    assert records(config, "test").annotations == "coco/annotations/train.json"


def test_wrappers_are_looked_through(here):
    config = Config.fromfile("boxes.py")
    inner = config.train_dataloader.dataset
    config.train_dataloader.dataset = dict(
        type="RepeatDataset", times=3, dataset=dict(type="ConcatDataset", datasets=[inner, inner])
    )
    assert len(records(config, "train").records) == 16


def test_large_annotation_files_are_left_for_later(here):
    data = records(Config.fromfile("boxes.py"), "train", most=10)
    assert (data.unread > 10, data.annotations, data.records) == (
        True,
        "annotations/train.json",
        [],
    )


def test_a_data_set_that_cannot_be_built_says_why(here):
    file = here / "coco/annotations/train.json"
    content = json.loads(file.read_text())
    del content["annotations"][0]["area"]
    file.write_text(json.dumps(content))
    data = records(Config.fromfile("boxes.py"), "train")
    assert data.error == "KeyError: 'area'"
    assert (data.classes, data.records) == (folders.CLASSES, [])


@pytest.mark.parametrize("name", [n for n in shipped_configs() if "/" not in n and "." not in n])
def test_every_shipped_pipeline_has_a_size(name):
    config = Config.fromfile(shipped_configs()[name])
    for split in ("train", "val"):
        pipeline = config[f"{split}_dataloader"].dataset.pipeline
        width, height = module._resizing(pipeline)(640, 480)
        assert 400 <= height <= width <= 1400 or width == height


def test_check_data_and_train_name_what_stops(here, capsys):
    assert check_data.main(["boxes.py"]) == 0
    assert check_data.main(["maps.py"]) == 0
    (here / "coco/train/0003.jpg").write_bytes(b"")
    labels = np.asarray(Image.open("maps/labels/train/0005.png"))
    Image.fromarray(labels + 40 * (labels > 0).astype(np.uint8)).save("maps/labels/train/0005.png")
    assert check_data.main(["boxes.py"]) == 2
    assert check_data.main(["maps.py"]) == 2
    assert "picture cannot be read" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"train/0003.jpg is empty"):
        train.main(["boxes.py", "--shrink"])
    with pytest.raises(UserError, match=r"train/0005.png holds 4. \(\d+ pixels\)"):
        train.main(["maps.py", "--shrink"])
