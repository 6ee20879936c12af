"""Training samples and pictures as MMDetection's and MMSegmentation's models see them."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from mmengine.config import Config

from convnext_backbones.adapters.openmmlab import run as host
from convnext_backbones.adapters.openmmlab.prediction import test_pipeline as pipeline_of
from convnext_backbones.adapters.openmmlab.samples import samples
from convnext_backbones.looking import maps, targets
from convnext_backbones.runs import show_data

ROOT = Path(__file__).parents[3]
ORANGE = (240, 130, 20)
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
LOADING = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]


def coco(folder: Path, sizes=((40, 30), (40, 30), (20, 30)), crowd: bool = False) -> dict:
    """Orange pictures with a box each, of the last none, as a data set of MMDetection."""
    annotations = []
    for k, size in enumerate(sizes):
        Image.new("RGB", size, ORANGE).save(folder / f"{k}.png")
        if k < len(sizes) - 1:
            annotations.append(dict(bbox=[4, 5, 10, 12], iscrowd=0))
            annotations += [dict(bbox=[20, 5, 12, 20], iscrowd=1)] if crowd else []
            for entry in annotations:
                entry.setdefault("image_id", k)
    entries = [dict(id=k, category_id=1, area=1, **a) for k, a in enumerate(annotations)]
    images = [dict(id=k, file_name=f"{k}.png", width=w, height=h) for k, (w, h) in enumerate(sizes)]
    content = dict(images=images, annotations=entries, categories=[dict(id=1, name="cell")])
    (folder / "boxes.json").write_text(json.dumps(content))
    return dict(
        type="CocoDataset", ann_file=str(folder / "boxes.json"), data_prefix=dict(img=f"{folder}/"),
        metainfo=dict(classes=("cell",)), filter_cfg=dict(filter_empty_gt=False),
        pipeline=[*LOADING, dict(type="PackDetInputs")],
    )  # fmt: skip


def detection(dataset: dict, **preprocessor) -> Config:
    settings = dict(
        type="DetDataPreprocessor", mean=MEAN, std=STD, bgr_to_rgb=True, pad_size_divisor=32
    )
    return Config(
        dict(
            default_scope="mmdet",
            model=dict(data_preprocessor={**settings, **preprocessor}),
            train_dataloader=dict(
                batch_size=3, num_workers=2, persistent_workers=True, dataset=dataset,
                sampler=dict(type="DefaultSampler", shuffle=False),
            ),
        )
    )  # fmt: skip


def test_samples_are_what_the_network_is_given_with_the_normalisation_undone(tmp_path):
    found = samples(detection(coco(tmp_path)), 3, 0)
    assert [Path(sample.file).name for sample in found] == ["0.png", "1.png", "2.png"]
    assert [sample.size for sample in found] == [(30, 40), (30, 40), (30, 20)]
    for sample in found:
        height, width = sample.size
        assert sample.image.shape == (32, 64, 3)  # the largest of the batch, in steps of 32
        assert (np.abs(sample.image[:height, :width].astype(int) - ORANGE) <= 1).all()
        assert (sample.channels, sample.note) == ("RGB", "")
    assert [len(sample.truth.boxes) for sample in found] == [1, 1, 0]
    assert found[0].truth.boxes.tolist() == [[4, 5, 14, 17]]
    expected = np.mean([(c - m) / s for c, m, s in zip(ORANGE, MEAN, STD, strict=True)])
    assert found[0].values[0] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("preprocessor", "channels"),
    [
        (dict(bgr_to_rgb=False), "BGR"),
        (dict(mean=None, std=None), "RGB"),
        (dict(mean=None, std=None, bgr_to_rgb=False), "BGR"),
    ],
)
def test_colours_are_right_whatever_order_and_range_the_network_is_given(
    tmp_path, preprocessor, channels
):
    sample = samples(detection(coco(tmp_path), **preprocessor), 1, 0)[0]
    assert (np.abs(sample.image[:30, :40].astype(int) - ORANGE) <= 1).all()
    assert sample.channels == channels


def test_crowd_regions_are_ignored(tmp_path):
    found = samples(detection(coco(tmp_path, crowd=True)), 3, 0)
    assert found[0].ignored.tolist() == [[20, 5, 32, 25]]
    assert found[0].truth.boxes.tolist() == [[4, 5, 14, 17]]
    assert found[2].ignored.shape == (0, 4)


def test_a_seed_gives_the_same_samples_and_another_one_others():
    config = host.load_config(
        str(ROOT / "configs/ade20k_upernet_convnextv2_atto.py"), sample=True, shrink=True
    )
    first, again, others = (samples(config, 3, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a.image, b.image) for a, b in zip(first, others, strict=True))
    assert all(sample.truth.label_map.shape == sample.image.shape[:2] for sample in first)


def test_four_pictures_of_a_mosaic_are_one_sample(tmp_path):
    inner = coco(tmp_path)
    inner["pipeline"] = LOADING
    mosaic = dict(
        type="MultiImageMixDataset", dataset=inner,
        pipeline=[dict(type="Mosaic", img_scale=(48, 48)), dict(type="PackDetInputs")],
    )  # fmt: skip
    sample = samples(detection(mosaic), 1, 0)[0]
    assert sample.size == (96, 96)
    assert len(sample.truth.boxes) > 1


def test_each_branch_of_a_pipeline_is_a_sample(tmp_path):
    dataset = coco(tmp_path)
    flipped = [dict(type="RandomFlip", prob=1.0), dict(type="PackDetInputs")]
    dataset["pipeline"] = [
        *LOADING,
        dict(type="MultiBranch", branch_field=["sup", "unsup"],
             sup=[dict(type="PackDetInputs")], unsup=flipped),
    ]  # fmt: skip
    config = detection(dataset)
    inner = config.model.data_preprocessor
    config.model.data_preprocessor = dict(
        type="MultiBranchDataPreprocessor", data_preprocessor=inner
    )
    found = samples(config, 6, 0)
    assert [sample.note for sample in found] == ["sup"] * 3 + ["unsup"] * 3
    assert found[0].truth.boxes.tolist() == [[4, 5, 14, 17]]
    assert found[3].truth.boxes.tolist() == [[26, 5, 36, 17]]
    assert (np.abs(found[3].image[:30, :40].astype(int) - ORANGE) <= 1).all()
    assert show_data._caption(found[3])[0] == "unsup: 40x30, padded to 64x32"


def test_pixels_that_count_for_no_class_and_padding_are_told_apart(tmp_path):
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (40, 24), ORANGE).save(tmp_path / "images/a.jpg")
    labels = np.zeros((24, 40), np.uint8)
    labels[:6] = 255
    Image.fromarray(labels).save(tmp_path / "labels/a.png")
    dataset = dict(
        type="BaseSegDataset", data_prefix=dict(img_path=str(tmp_path / "images"), seg_map_path=str(tmp_path / "labels")),
        metainfo=dict(classes=("road",), palette=[[0, 0, 255]]), img_suffix=".jpg",
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")],
    )  # fmt: skip
    preprocessor = dict(
        type="SegDataPreProcessor", mean=MEAN, std=STD, bgr_to_rgb=True, size=(32, 64)
    )
    loader = dict(
        batch_size=1,
        num_workers=0,
        dataset=dataset,
        sampler=dict(type="DefaultSampler", shuffle=False),
    )
    config = Config(
        dict(
            default_scope="mmseg",
            model=dict(data_preprocessor=preprocessor),
            train_dataloader=loader,
        )
    )
    sample = samples(config, 1, 0)[0]
    assert (sample.size, sample.image.shape) == ((24, 40), (32, 64, 3))
    assert show_data._share_of_void(sample) == 0.25
    drawn = show_data._with_ignored(sample)
    assert drawn.classes.names == ("road", "ignored")
    assert (drawn.label_map[:6, :40] == 1).all()
    assert (drawn.label_map[6:24, :40] == 0).all()
    assert (drawn.label_map[24:] == 255).all()


# ---- views ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    ["ade20k_upernet_convnextv2_atto", "ade20k_mask2former_convnext_t", "coco_mask_rcnn_convnextv2_atto",
     "coco_rtmdet_convnext_t", "coco_dino_convnext_t_22k", "coco_mask2former_convnext_t"],
)  # fmt: skip
def test_what_every_kind_of_head_says_follows_from_the_stages_by_gradients(name, tmp_path):
    config = host.load_config(str(ROOT / f"configs/{name}.py"), sample=True, shrink=True)
    torch.manual_seed(0)
    model = host.build_model(config, "cpu")
    if "dino" in name:  # else what lay in memory before, NaN now and then
        torch.nn.init.normal_(model.level_embed)
    model.cfg, model.test_pipeline = config, pipeline_of(config)
    model.dataset_meta = dict(classes=("a", "b", "c", "d", "e"))
    rng = np.random.default_rng(0)
    file = tmp_path / "noise.png"
    Image.fromarray(rng.integers(0, 255, (60, 90, 3), np.uint8)).save(file)
    view = host.view(model, file)
    assert view.instances is name.startswith("coco")
    output = view.forward(view.pixels)[0]
    if view.instances:
        aim = targets.of_instances(output, view.classes, None, 0.0)
        height, width = view.size
        assert 0 <= aim.boxes.min() <= aim.boxes.max() <= max(height, width)
    else:
        aim = targets.of_segmentation(output, view.classes, None)
    layer = maps.trunk_of(model).stages[-1]
    part = tuple(a / b for a, b in zip(view.size, view.pixels.shape[-2:], strict=True))
    arguments = (model, layer, view.pixels, view.forward, aim.target)
    for method in ("hirescam", "eigencam"):
        found = maps.class_activation_map(*arguments, method, part)
        assert found.shape == tuple(view.size)
        assert found.max() > 0
