"""predict says what test says, with the names that there are; examples of data of every kind."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("detectron2")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from convnext_backbones.adapters.detectron2 import prediction, run

CONFIG = Path(__file__).parents[3] / "configs/detectron2/coco_mask_rcnn_convnextv2_atto.yaml"
NAME = "predicted_here"


@pytest.fixture
def data(tmp_path):
    """Two photos, one turned by EXIF, with boxes without masks; and their records."""
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    records = []
    for number, (name, options) in enumerate((("a", {}), ("b", {"exif": exif}))):
        pixels = Image.fromarray(rng.integers(0, 256, (8, 12, 3), np.uint8)).resize((120, 80))
        pixels.save(tmp_path / f"{name}.jpg", **options)
        width, height = (80, 120) if options else (120, 80)
        box = dict(bbox=[10, 20, 30, 40], bbox_mode=BoxMode.XYWH_ABS, category_id=0, iscrowd=0)
        records.append(
            dict(file_name=str(tmp_path / f"{name}.jpg"), width=width, height=height,
                 image_id=number, annotations=[box])
        )  # fmt: skip
    DatasetCatalog.register(NAME, lambda: records)
    MetadataCatalog.get(NAME).set(evaluator_type="coco")
    yield records
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def loaded(tmp_path, *options):
    settings = run.load_config(
        str(CONFIG), shrink=True,
        options=[f"DATASETS.TEST=('{NAME}',)", f"DATASETS.TRAIN=('{NAME}',)", *options],
    )  # fmt: skip
    run.set_work_dir(settings, tmp_path)
    model = run.build_model(settings, "cpu")
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.05)
    checkpoint = tmp_path / "model_final.pth"
    state = {"model": model.state_dict(), "trainer": {}, "optimizer": {}, "iteration": 1}
    torch.save(state, checkpoint)
    return settings, str(checkpoint)


def test_predict_and_test_agree_bit_for_bit(data, tmp_path):
    settings, checkpoint = loaded(
        tmp_path,
        "INPUT.MIN_SIZE_TEST=96", "MODEL.ROI_HEADS.SCORE_THRESH_TEST=0.0", "TEST.DETECTIONS_PER_IMAGE=5",
    )  # fmt: skip
    model = run.load_model(settings, checkpoint, "cpu")
    for batch in settings.build_test_loader(NAME):
        with torch.no_grad():
            tested = run.result_of(model(batch)[0], model.dataset_meta, 0)
        output = run.infer(model, [Path(batch[0]["file_name"])])[0]
        predicted = run.result_of(output, model.dataset_meta, 0)
        assert len(predicted.boxes)
        for key in ("boxes", "scores", "labels", "masks"):
            assert (getattr(predicted, key) == getattr(tested, key)).all()
        assert predicted.masks.shape[1:] == (batch[0]["height"], batch[0]["width"])


def test_examples_of_boxes_alone_are_drawn_with_the_weights_that_were_saved(data, tmp_path):
    settings, checkpoint = loaded(tmp_path)
    (tmp_path / "last_checkpoint").write_text("model_final.pth")
    model = run.build_model(settings, "cpu")
    shown = list(run.examples(settings, model, 4))
    state = torch.load(checkpoint, weights_only=True)["model"]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert [example.image.shape for example in shown] == [(80, 120, 3), (120, 80, 3)]
    truth = run.truth_of(shown[0].truth, shown[0].meta, shown[0].image)
    assert truth.boxes.tolist() == [[10, 20, 40, 60]]
    assert truth.masks is None


def test_masks_of_either_kind_are_drawn_and_a_box_without_one_is_not_in_the_way(data):
    image, meta = np.zeros((80, 120, 3), np.uint8), MetadataCatalog.get(NAME)
    record = data[0]
    record["annotations"][0]["segmentation"] = [[10, 20, 40, 20, 40, 60, 10, 60]]
    assert run.truth_of(record, meta, image).masks.sum() == 1200
    record["annotations"].append({**record["annotations"][0], "segmentation": None})
    assert run.truth_of(record, meta, image).masks is None
    assert prediction.holds_objects(record, meta)
    record["annotations"] = [dict(record["annotations"][0], iscrowd=1)]
    assert not prediction.holds_objects(record, meta)


def test_label_maps_are_shown_without_what_has_no_class(tmp_path):
    meta = MetadataCatalog.get("__labels_here")
    Image.fromarray(np.array([[0, 1, 11]], np.uint8)).save(tmp_path / "a.png")
    record = dict(sem_seg_file_name=str(tmp_path / "a.png"))
    image = np.zeros((1, 3, 3), np.uint8)
    assert run.truth_of(record, meta.set(ignore_label=11), image).label_map.tolist() == [
        [0, 1, 255]
    ]
    meta.set(label_of_no_class=0)
    assert run.truth_of(record, meta, image).label_map.tolist() == [[255, 0, 10]]
    assert prediction.holds_objects(record, meta)
    MetadataCatalog.remove("__labels_here")


def test_names_that_come_with_reading_the_data_are_read_and_numbers_stand_for_none(data, capsys):
    assert not prediction.metadata_of(NAME).get("thing_classes")
    assert "numbers stand for them" in capsys.readouterr().out
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(
        NAME, lambda: MetadataCatalog.get(NAME).set(thing_classes=["cell"]) and data
    )
    assert prediction.metadata_of(NAME).thing_classes == ["cell"]
    assert prediction.metadata_of(None).name == "__unnamed"


def test_data_that_cannot_be_read_do_not_keep_from_predicting(data, capsys):
    DatasetCatalog.remove(NAME)
    DatasetCatalog.register(NAME, Path("/nowhere/val.json").read_text)
    prediction.metadata_of(NAME)
    assert "cannot be read" in capsys.readouterr().out
