"""What the adapter changes in Detectron2 can be taken back, and takes nothing of a user's."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed (docs/install.md says how)")

from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import COCOEvaluator, SemSegEvaluator
from detectron2.modeling import build_model
from detectron2.projects.deeplab import add_deeplab_config
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.structures import ImageList

from convnext_backbones.adapters.detectron2 import (
    ConvNeXt,
    RecipeTrainer,
    add_convnext_config,
    add_training_config,
    data,
    patches,
    register_data_sets,
)
from convnext_backbones.errors import UserError
from convnext_backbones.network.padding import noted_image_sizes
from convnext_backbones.runs.sample import ensure_sample_data

CONFIGS = Path(__file__).parents[3] / "configs" / "detectron2"
SHIPPED = sorted(CONFIGS.glob("*.yaml"))
COCO, ADE20K = (
    CONFIGS / f"{name}_convnextv2_atto.yaml" for name in ("coco_mask_rcnn", "ade20k_sem_seg_fpn")
)


@pytest.fixture(autouse=True)
def as_it_was():
    """The process as the adapter's import leaves it."""
    yield
    patches.READING.apply()
    patches.STOCK_TRAINER.apply()
    patches.SIZE_NOTES.undo()


def in_another_process(code: str) -> str:
    """What the code logs."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def config(path: Path):
    """A shipped config as its page reads it, small enough to be built."""
    cfg = get_cfg()
    add_convnext_config(cfg)
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.CONVNEXT.ARCH = "custom"
    cfg.MODEL.CONVNEXT.DEPTHS, cfg.MODEL.CONVNEXT.DIMS = [1, 1, 1, 1], [16, 32, 64, 128]
    return cfg


# ---- patches -------------------------------------------------------------------------------------
def test_detectron2s_own_methods_come_back():
    """In a process of its own, which has them from before."""
    in_another_process(
        "from detectron2.checkpoint import DetectionCheckpointer as C\n"
        "from detectron2.engine import DefaultTrainer as T\n"
        "from detectron2.structures import ImageList as I\n"
        "places = [(C, 'load'), (T, '__init__'), (I, 'from_tensors')]\n"
        "before = [vars(c)[n] for c, n in places]\n"
        "from convnext_backbones.adapters.detectron2 import ConvNeXt, patches\n"
        "ConvNeXt('atto', ignore_padding=True)\n"
        "assert all(vars(c)[n] is not b for (c, n), b in zip(places, before))\n"
        "for patch in (patches.READING, patches.STOCK_TRAINER, patches.SIZE_NOTES):\n"
        "    patch.apply()\n"
        "    assert patch.undo()\n"
        "assert all(vars(c)[n] is b for (c, n), b in zip(places, before))\n"
    )


def test_sizes_are_noted_until_that_is_undone():
    patches.SIZE_NOTES.undo()
    ConvNeXt("atto", ignore_padding=True)
    first = ImageList.from_tensors
    ConvNeXt("atto", ignore_padding=True)
    assert ImageList.from_tensors is first
    pictures = [torch.zeros(3, 4, 5), torch.zeros(3, 6, 2)]
    assert noted_image_sizes(ImageList.from_tensors(pictures).tensor) == [(4, 5), (6, 2)]
    assert patches.SIZE_NOTES.undo()
    with pytest.raises(UserError, match="not known for this batch"):
        noted_image_sizes(ImageList.from_tensors(pictures).tensor)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("by_name", [True, False])
def test_torchscript_compiles_detectron2s_own_padding(by_name):
    """Where a program names the class, and where it holds the function."""
    with patches.SIZE_NOTES:
        if by_name:

            class Padding(torch.nn.Module):
                def forward(self, images: list[torch.Tensor]) -> torch.Tensor:
                    return ImageList.from_tensors(images, 32).tensor

            pad = torch.jit.script(Padding())
        else:
            function = torch.jit.script(ImageList.from_tensors)

            def pad(images):
                return function(images, 32).tensor

    batch = pad([torch.ones(3, 40, 50), torch.ones(3, 64, 10)])
    assert batch.shape == (2, 3, 64, 64)
    assert batch.sum() == 3 * (40 * 50 + 64 * 10)


# ---- names ---------------------------------------------------------------------------------------
def test_a_builder_that_is_registered_before_stays_and_ours_is_reached_by_another_name():
    log = in_another_process(
        "from detectron2.config import get_cfg\n"
        "from detectron2.modeling import BACKBONE_REGISTRY, build_backbone\n"
        "def build_convnext_fpn_backbone(cfg, shape): raise AssertionError\n"
        "BACKBONE_REGISTRY.register(build_convnext_fpn_backbone)\n"
        "from convnext_backbones.adapters.detectron2 import add_convnext_config\n"
        "assert BACKBONE_REGISTRY.get('build_convnext_fpn_backbone') is build_convnext_fpn_backbone\n"
        "cfg = get_cfg()\n"
        "add_convnext_config(cfg)\n"
        "cfg.MODEL.BACKBONE.NAME = 'convnext_backbones.build_convnext_fpn_backbone'\n"
        "cfg.MODEL.BACKBONE.FREEZE_AT = 0\n"
        "cfg.MODEL.FPN.IN_FEATURES = ['stage1', 'stage2']\n"
        "cfg.MODEL.CONVNEXT.ARCH = 'atto'\n"
        "assert type(build_backbone(cfg)).__name__ == 'FPN'\n"
    )
    assert "MODEL.BACKBONE.NAME: convnext_backbones.build_convnext_fpn_backbone for this" in log


@pytest.fixture
def free_names():
    """Data sets of this package's names, taken out before and after."""
    names = [f"{prefix}_{split}" for prefix in data._OWN for split in ("train", "val")]

    def take_out():
        data._say_taken.cache_clear()
        for name in names:
            if name in DatasetCatalog.list():
                DatasetCatalog.remove(name)
            if name in MetadataCatalog.list():
                MetadataCatalog.remove(name)

    take_out()
    yield names
    take_out()


def test_importing_the_adapter_takes_no_name_of_a_data_set():
    in_another_process(
        "import convnext_backbones.adapters.detectron2\n"
        "import convnext_backbones.adapters.detectron2.run\n"
        "from detectron2.data import DatasetCatalog, MetadataCatalog\n"
        "assert not [n for n in DatasetCatalog.list() if 'sample' in n or n.startswith('ade20k_train')]\n"
        "DatasetCatalog.register('ade20k_train', lambda: ['mine'])\n"
        "DatasetCatalog.register('sample_coco_val', lambda: ['mine'])\n"
        "MetadataCatalog.get('ade20k_train').set(stuff_classes=['mine'])\n"
    )


def test_a_lazy_config_registers_its_data_sets_for_detectron2s_own_tools():
    in_another_process(
        "from detectron2.config import LazyConfig\n"
        "from detectron2.data import DatasetCatalog\n"
        f"LazyConfig.load({str(ADE20K.with_suffix('.py'))!r})\n"
        "assert {'ade20k_train', 'ade20k_val'} <= set(DatasetCatalog.list())\n"
    )


def test_a_config_that_names_our_data_sets_registers_them_once(free_names, caplog):
    build_model(config(ADE20K))
    assert {"ade20k_train", "ade20k_val"} <= set(DatasetCatalog.list())
    register_data_sets(*free_names, "coco_2017_train", "ade20k_test", "mine")
    register_data_sets(*free_names)
    assert set(free_names) <= set(DatasetCatalog.list())
    assert "registered by somebody else" not in caplog.text


@pytest.mark.parametrize("in_full", [True, False])
def test_a_data_set_of_a_users_stays_theirs_and_is_said_once(in_full, free_names, caplog):
    caplog.set_level(logging.INFO, logger="detectron2")
    MetadataCatalog.get("ade20k_train").set(stuff_classes=["mine"])
    if in_full:
        DatasetCatalog.register("ade20k_train", lambda: ["mine"])
    for _ in range(2):
        build_model(config(ADE20K))
    assert MetadataCatalog.get("ade20k_train").stuff_classes == ["mine"]
    assert ("ade20k_train" in DatasetCatalog.list()) == in_full
    if in_full:
        assert DatasetCatalog.get("ade20k_train") == ["mine"]
    assert caplog.text.count("'ade20k_train' was registered by somebody else") == 1
    assert len(MetadataCatalog.get("ade20k_val").stuff_classes) == 150


# ---- YAML ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_yaml_is_read_with_the_words_of_the_readme(path):
    cfg = get_cfg()
    add_convnext_config(cfg)
    cfg.merge_from_file(str(path), allow_unsafe=False)
    assert cfg.SOLVER.OPTIMIZER == "ADAMW"


def test_keys_may_be_added_again_and_keep_what_a_file_says():
    cfg = get_cfg()
    for add in (add_pointrend_config, add_deeplab_config, add_convnext_config, add_training_config):
        add(cfg)
    cfg.merge_from_file(str(COCO))
    before = cfg.dump()
    for add in (add_training_config, add_convnext_config):
        add(cfg)
    assert cfg.dump() == before
    assert cfg.INPUT.DETR_CROP.ENABLED
    assert cfg.SOLVER.POLY_LR_POWER == 0.9  # DeepLab's


# ---- Detectron2's own trainer --------------------------------------------------------------------
class StockTrainer(DefaultTrainer):
    """As in Detectron2's tools/train_net.py."""

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        raise NotImplementedError


@pytest.mark.parametrize(
    ("path", "words"),
    [
        (COCO, r"INPUT.DETR_CROP \(build_train_loader\)"),
        (CONFIGS / "coco_mask_rcnn_convnextv2_h.yaml", "INPUT.LARGE_SCALE_JITTER"),
        (ADE20K, r"SOLVER.LR_SCHEDULER_NAME \(build_lr_scheduler\)"),
    ],
)
def test_detectron2s_own_trainer_refuses_a_recipe_that_it_would_not_follow(path, words):
    """It would train with SGD, without layer decay, DETR's crop and the rest, and say nothing."""
    for trainer in (StockTrainer, DefaultTrainer):
        with pytest.raises(UserError, match=words) as caught:
            trainer(config(path))
        assert "SOLVER.OPTIMIZER=ADAMW" in str(caught.value)
        assert "from which " + trainer.__name__ in str(caught.value)
        assert "tools/train_detectron2.py" in str(caught.value)


def test_what_a_trainer_overrides_is_its_own_affair():
    class Half(StockTrainer):
        @classmethod
        def build_optimizer(cls, cfg, model):
            raise NotImplementedError

    with pytest.raises(UserError, match="takes over build_train_loader, does not") as caught:
        Half(config(COCO))
    assert "ADAMW" not in str(caught.value)

    class Whole(Half):
        @classmethod
        def build_train_loader(cls, cfg):
            raise NotImplementedError

    with pytest.raises(NotImplementedError):
        Whole(config(COCO))


def test_a_config_without_a_recipe_is_trained_as_ever(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where it writes a log
    monkeypatch.setattr(StockTrainer, "build_train_loader", classmethod(lambda cls, cfg: []))
    plain = get_cfg()
    plain.MODEL.DEVICE = "cpu"
    ours = config(COCO)
    ours.SOLVER.OPTIMIZER, ours.SOLVER.LAYER_DECAY_RATE = "SGD", 1.0
    ours.INPUT.DETR_CROP.ENABLED = False
    ours.SOLVER.AMP.ENABLED = False
    for cfg in (plain, ours):
        trainer = StockTrainer(cfg)
        assert isinstance(trainer._trainer.optimizer, torch.optim.SGD)


def test_undone_the_trainer_trains_what_it_would(monkeypatch):
    def build_optimizer(cfg, model):
        raise NotImplementedError("detectron2.solver's")

    monkeypatch.setattr("detectron2.engine.defaults.build_optimizer", build_optimizer)
    patches.STOCK_TRAINER.undo()
    with pytest.raises(NotImplementedError, match=r"detectron2\.solver's"):
        StockTrainer(config(COCO))


@pytest.fixture
def sample(tmp_path, monkeypatch):
    """A folder with the sample data, and their names in Detectron2."""
    monkeypatch.chdir(tmp_path)
    ensure_sample_data()
    names = {kind: [f"sample_{kind}_{s}" for s in ("train", "val")] for kind in ("coco", "ade20k")}
    register_data_sets(*names["coco"], *names["ade20k"])
    return names


def test_the_recipes_trainer_follows_it(sample, monkeypatch):
    loaders = []
    monkeypatch.setattr(
        data, "build_detection_train_loader", lambda cfg, mapper: loaders.append(mapper) or []
    )
    cfg = config(COCO)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [(name,) for name in sample["coco"]]
    cfg.SOLVER.AMP.ENABLED = False
    trainer = RecipeTrainer(cfg)
    groups = trainer._trainer.optimizer.param_groups
    assert type(trainer._trainer.optimizer) is torch.optim.AdamW
    assert len({group["lr"] for group in groups}) > 3  # a rate a layer
    (mapper,) = loaders
    names = [type(a).__name__ for a in mapper.augmentations.augs]
    assert names == ["RandomFlip", "RandomApply", "ResizeShortestEdge"]
    assert type(RecipeTrainer.build_evaluator(cfg, sample["coco"][1])) is COCOEvaluator


def test_detectron2s_train_net_knows_no_evaluator_for_labels_from_one(sample):
    """It takes "sem_seg" for label maps that hold class k as k, and would compare k with k + 1."""
    name = sample["ade20k"][1]
    assert MetadataCatalog.get(name).evaluator_type not in (
        "sem_seg", "coco_panoptic_seg", "coco", "cityscapes_instance", "cityscapes_sem_seg",
        "pascal_voc", "lvis",
    )  # fmt: skip
    evaluator = RecipeTrainer.build_evaluator(config(ADE20K), name)
    assert type(evaluator) is SemSegEvaluator
    assert evaluator.sem_seg_loading_fn is data.load_label_map
