"""Training samples and pictures as Detectron2's models see them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip(
    "detectron2", reason="detectron2 is not installed (README, Environments, says how)"
)

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from convnext_backbones.adapters.detectron2 import run as host
from convnext_backbones.adapters.detectron2.configs import YamlRun
from convnext_backbones.errors import UserError
from convnext_backbones.looking import maps, targets
from convnext_backbones.runs import show_data

CONFIGS = Path(__file__).parents[3] / "configs" / "detectron2"
ORANGE = (240, 130, 20)


def config(name: str, **options):
    return host.load_config(
        str(CONFIGS / name), sample=True, shrink=True,
        options=[f"{key}={value}" for key, value in options.items()],
    )  # fmt: skip


@pytest.fixture
def orange(tmp_path):
    """A registered data set of two orange pictures with an object and a crowd region each."""
    records = []
    for k in range(2):
        Image.new("RGB", (60, 40), ORANGE).save(tmp_path / f"{k}.png")
        box = dict(
            bbox_mode=BoxMode.XYWH_ABS, category_id=0, segmentation=[[4, 5, 14, 5, 14, 17, 4, 17]]
        )
        records.append(
            dict(file_name=str(tmp_path / f"{k}.png"), height=40, width=60, image_id=k,
                 annotations=[dict(box, bbox=[4, 5, 10, 12], iscrowd=0),
                              dict(box, bbox=[20, 5, 12, 20], iscrowd=1)])
        )  # fmt: skip
    name = f"orange_{tmp_path.name}"
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=["cell"])
    yield name
    DatasetCatalog.remove(name)
    MetadataCatalog.remove(name)


@pytest.mark.parametrize("kind", ["RGB", "BGR"])
def test_colours_are_right_whatever_order_the_network_is_given(orange, kind):
    run = config("coco_mask_rcnn_convnextv2_atto.yaml")
    assert isinstance(run, YamlRun)
    run.cfg.DATASETS.TRAIN = (orange,)
    run.cfg.INPUT.FORMAT, run.cfg.INPUT.RANDOM_FLIP = kind, "none"
    run.cfg.INPUT.MIN_SIZE_TRAIN, run.cfg.INPUT.MAX_SIZE_TRAIN = (40,), 60
    run.cfg.SOLVER.IMS_PER_BATCH = 2
    for sample in host.samples(run, 2, 0):
        assert (sample.size, sample.channels) == ((40, 60), kind)
        assert sample.image.shape == (64, 64, 3)
        assert (np.abs(sample.image[:40, :60].astype(int) - ORANGE) <= 1).all()
        assert sample.truth.boxes.tolist() == [[4, 5, 14, 17]]  # crowds the mapper leaves out
        assert sample.truth.masks.shape == (1, 64, 64)
        assert sample.truth.masks[0, 6:16, 5:13].all()
        assert sample.truth.classes.names == ["cell"]
    data = host.records(run, "train")
    assert any("2 crowd regions" in line for line in show_data._lines([sample], data, "a"))


def test_a_seed_gives_the_same_samples_and_another_one_others():
    run = config("ade20k_sem_seg_fpn_convnext_s.py")
    first, again, others = (host.samples(run, 3, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a.image, b.image) for a, b in zip(first, others, strict=True))
    for sample in first:
        assert sample.truth.label_map.shape == sample.image.shape[:2]
        assert set(np.unique(sample.truth.label_map)) <= {*range(5), 255}


# ---- views ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "name",
    ["coco_mask_rcnn_convnextv2_atto.yaml", "coco_cascade_mask_rcnn_convnext_t.py",
     "ade20k_sem_seg_fpn_convnext_s.py"],
)  # fmt: skip
def test_what_every_kind_of_head_says_follows_from_the_stages_by_gradients(name, tmp_path):
    run = config(name)
    torch.manual_seed(0)
    model = host.build_model(run, "cpu").eval()
    model.test_mapper = run.build_test_mapper()
    model.dataset_meta = MetadataCatalog.get(run.settings.test_data[0])
    file = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)).save(file)
    view = host.view(model, file)
    output = view.forward(view.pixels)[0]
    if view.instances:
        assert name.startswith("coco")
        aim = targets.of_instances(output, view.classes, None, 0.0)
    else:
        aim = targets.of_segmentation(output, view.classes, None)
    part = tuple(a / b for a, b in zip(view.size, view.pixels.shape[-2:], strict=True))
    arguments = (model, maps.trunk_of(model).stages[-1], view.pixels, view.forward, aim.target)
    for method in ("hirescam", "eigencam"):
        found = maps.class_activation_map(*arguments, method, part)
        assert found.shape == tuple(view.size)
        assert found.max() > 0


def test_another_kind_of_model_is_told(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")

    class Other(torch.nn.Module):
        device, pixel_mean, pixel_std = "cpu", 0.0, 1.0
        backbone = type("Backbone", (), dict(size_divisibility=32, padding_constraints={}))

        def test_mapper(self, record):
            return dict(image=torch.zeros(3, 64, 64))

    with pytest.raises(UserError, match=r"knows GeneralizedRCNN, .* not Other"):
        host.view(Other(), tmp_path / "a.png")
