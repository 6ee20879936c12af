"""MMDetection numbers COCO's categories by name, whatever their order in the JSON."""

import json

import numpy as np
import pytest
import torch

pytest.importorskip("mmdet")

from mmdet.datasets import CocoDataset
from mmdet.evaluation.metrics import CocoMetric

from convnext_backbones.adapters.openmmlab import patches
from convnext_backbones.errors import UserError

CLASSES = ("RBC", "WBC", "Platelets")
BOXES = {"RBC": [4, 4, 20, 20], "WBC": [40, 4, 30, 30], "Platelets": [4, 60, 12, 12]}


def annotations(names, ids=None, **changes):
    """One picture with a box of each name; the categories in the order of `names`."""
    ids = ids or range(1, len(names) + 1)
    boxes = [
        dict(id=k, image_id=1, category_id=k, bbox=BOXES[name], iscrowd=0,
             area=BOXES[name][2] * BOXES[name][3])
        for k, name in zip(ids, names, strict=True) if name in BOXES
    ]  # fmt: skip
    return {
        "images": [dict(id=1, file_name="a.jpg", width=100, height=100)],
        "categories": [dict(id=k, name=name) for k, name in zip(ids, names, strict=True)],
        "annotations": boxes,
        **changes,
    }


@pytest.fixture
def written(tmp_path):
    def write(content):
        file = tmp_path / "train.json"
        file.write_text(json.dumps(content))
        return str(file)

    return write


def dataset(file, classes=CLASSES):
    return CocoDataset(
        ann_file=file, data_prefix=dict(img=""), metainfo=dict(classes=classes), pipeline=[],
        test_mode=True,
    )  # fmt: skip


def by_name(data):
    return {
        CLASSES[box["bbox_label"]]: box["bbox"][:2] for box in data.get_data_info(0)["instances"]
    }


ORDERS = {
    "reversed": (tuple(reversed(CLASSES)), None),
    "ids not in order": (CLASSES, (7, 3, 5)),
    "a category between them": (("RBC", "other", "WBC", "Platelets"), None),
    "gaps, from 0": (("WBC", "Platelets", "RBC"), (0, 10, 4)),
}


@pytest.mark.parametrize("order", ORDERS)
def test_a_box_has_the_number_of_its_name(written, order):
    data = dataset(written(annotations(*ORDERS[order])))
    assert by_name(data) == {name: box[:2] for name, box in BOXES.items()}


@pytest.mark.parametrize("order", ORDERS)
def test_the_metric_compares_by_name_and_names_each_row(written, order):
    """The prediction finds RBC and misses the others: AP 1/3, and of RBC 1."""
    metric = CocoMetric(ann_file=written(annotations(*ORDERS[order])), classwise=True)
    metric.dataset_meta = dict(classes=CLASSES)
    x, y, w, h = BOXES["RBC"]
    found = dict(
        bboxes=torch.tensor([[x, y, x + w, y + h]], dtype=torch.float32),
        scores=torch.ones(1), labels=torch.zeros(1, dtype=torch.long),
    )  # fmt: skip
    sample = dict(img_id=1, ori_shape=(100, 100), pred_instances=found)
    metric.process({}, [sample])
    results = metric.evaluate(size=1)
    assert results["coco/bbox_mAP"] == pytest.approx(1 / 3, abs=1e-3)
    assert results["coco/RBC_precision"] == 1
    assert results["coco/WBC_precision"] == results["coco/Platelets_precision"] == 0


def test_a_class_without_a_category_leaves_the_others_their_numbers_and_is_told(written, caplog):
    data = dataset(written(annotations(("rbc", "WBC", "Platelets"))))
    assert {box["bbox_label"] for box in data.get_data_info(0)["instances"]} <= {1, 2}
    assert "no category is named 'RBC'; did you mean 'rbc'?" in caplog.text


def test_boxes_that_are_left_out_for_a_name_are_counted(written, caplog):
    content = annotations(("RBC", "WBC", "Platelets"))
    content["categories"][0]["name"] = "rbc"
    dataset(written(content))
    assert "Boxes left out, whose categories are no classes: 1 of 'rbc'" in caplog.text


def test_classes_that_name_no_box_are_refused(written):
    with pytest.raises(UserError, match="No box is left: set metainfo"):
        dataset(written(annotations(CLASSES)), classes=("cell",))


def test_classes_that_are_a_string_are_refused(written):
    with pytest.raises(UserError, match=r"classes='RBC' is a string.*write \('RBC',\)"):
        dataset(written(annotations(CLASSES)), classes="RBC")


def test_of_two_categories_with_a_name_the_one_with_boxes_is_meant(written):
    content = annotations(CLASSES, ids=(1, 2, 3))
    content["categories"].insert(0, dict(id=0, name="RBC"))
    assert by_name(dataset(written(content)))["RBC"] == BOXES["RBC"][:2]
    content["annotations"].append({**content["annotations"][0], "id": 9, "category_id": 0})
    with pytest.raises(UserError, match="categories 0, 1 are all named 'RBC'"):
        dataset(written(content))


def test_a_file_without_boxes_is_no_mistake(written):
    assert len(dataset(written(annotations(CLASSES, annotations=[])), classes=("cell",))) == 1


def test_mmdetections_own_way_comes_back(written):
    file = written(annotations(("WBC", "RBC", "Platelets")))
    dataset(file)
    try:
        assert patches.COCO_CLASSES.undo()
        assert by_name(dataset(file))["WBC"] == BOXES["RBC"][:2]  # swapped
    finally:
        patches.COCO_CLASSES.apply()
    assert np.equal(by_name(dataset(file))["WBC"], BOXES["WBC"][:2]).all()
