"""new-config: every task, model and framework builds with the data's classes, and trains."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data import folders

from convnext_backbones import cli
from convnext_backbones.cli import new_config as command
from convnext_backbones.data import found as looking
from convnext_backbones.data import new_config
from convnext_backbones.data.new_config import FRAMEWORKS, MODELS, Wishes, planned, written
from convnext_backbones.errors import UserError
from convnext_backbones.network.variants import VARIANTS
from convnext_backbones.recipes import METHODS

CLASSES = len(folders.CLASSES)
CASES = [
    (task, model, framework)
    for model, tasks in MODELS.items()
    for task, method in tasks.items()
    for framework, (host, trained) in FRAMEWORKS.items()
    if task in trained and host in METHODS[method].hosts
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder a task."""
    root = tmp_path_factory.mktemp("new config")
    folders.coco(root / "detection")
    folders.coco(root / "instance", masks=True)
    folders.label_maps(root / "semantic", values=lambda label_map: label_map - 1)  # 0 becomes 255
    return root


@pytest.fixture
def write(data, tmp_path):
    """Write a config for a task's data by the command; returns its path."""

    def written(task: str, *options: str) -> Path:
        out = tmp_path / f"{task}_{len(list(tmp_path.iterdir()))}.py"
        words = ["--data", str(data / task), "--out", str(out), "--weights", "none", *options]
        if task == "semantic":
            words += ["--classes", ",".join(folders.CLASSES)]
        assert cli.run("new_config", words) == 0
        return out

    return written


def classes_of(model: torch.nn.Module) -> set[int]:
    """What its heads say, but the one of region proposals, which tells objects from none."""
    found = set()
    for name, part in model.named_modules():
        if "rpn" not in name and "proposal" not in name:
            found |= {part.num_classes} if hasattr(part, "num_classes") else set()
    return found


# ---- every case builds ---------------------------------------------------------------------------
def test_every_model_has_a_framework_and_every_task_a_default():
    assert {model for _, model, _ in CASES} == set(MODELS) == set(command.MODELS)
    assert set(FRAMEWORKS) == set(command.FRAMEWORKS)
    assert {task for task, _, _ in CASES} == set(command.TASKS)
    for framework, (host, tasks) in FRAMEWORKS.items():
        for task in tasks:
            assert (task, new_config.plan.DEFAULTS[host, task], framework) in CASES


@pytest.mark.parametrize(("task", "model", "framework"), [c for c in CASES if c[2] != "detectron2"])
def test_openmmlab_builds_the_model_and_the_data(task, model, framework, write):
    pytest.importorskip(framework)
    from mmengine.registry import DATASETS, EVALUATOR, init_default_scope

    from convnext_backbones.adapters.openmmlab import run

    path = write(task, "--model", model, "--framework", framework)
    cfg = run.load_config(str(path))
    assert classes_of(built := run.build_model(cfg, "meta")) == {CLASSES}
    head = cfg.model.get("panoptic_head") or cfg.model.get("decode_head")
    if model == "mask2former":
        assert getattr(built, "panoptic_head", built).num_classes == CLASSES
        assert head.loss_cls.class_weight == [1.0] * CLASSES + [0.1]
    init_default_scope(cfg.default_scope)
    for split, count in (("train", 8), ("val", 3), ("test", 3)):
        dataset = DATASETS.build(cfg[f"{split}_dataloader"].dataset)
        assert len(dataset) == count
        assert tuple(dataset.metainfo["classes"]) == folders.CLASSES
        evaluator = cfg.get(f"{split}_evaluator")
        if evaluator:
            EVALUATOR.build(dict(type="Evaluator", metrics=evaluator))
    best = cfg.default_hooks.checkpoint.save_best
    assert best == dict(detection="coco/bbox_mAP", instance="coco/segm_mAP", semantic="mIoU")[task]
    run.check_data(cfg)


@pytest.mark.parametrize(("task", "model"), [c[:2] for c in CASES if c[2] == "detectron2"])
def test_detectron2_builds_the_model_and_the_data(task, model, write):
    pytest.importorskip("detectron2")
    from detectron2.config import instantiate
    from detectron2.data import DatasetCatalog

    from convnext_backbones.adapters.detectron2 import run

    config = run.load_config(str(write(task, "--model", model, "--framework", "detectron2")))
    with torch.device("meta"):
        built = instantiate(config.cfg.model)
    if task == "semantic":
        assert built.sem_seg_head.predictor.out_channels == CLASSES
    else:
        assert classes_of(built) == {CLASSES}
    assert len(DatasetCatalog.get(*config.settings.train_data)) == 8
    assert len(DatasetCatalog.get(*config.settings.test_data)) == 3
    instantiate(config.cfg.dataloader.train)


@pytest.mark.parametrize("backbone", [*(n for n in VARIANTS if n.endswith(("atto", "nano", "huge"))), "convnext_small"])  # fmt: skip
def test_rtmdet_takes_backbones_of_every_width(backbone, write):
    """Its neck has GroupNorm: 32 groups do not divide the maps of Atto, Femto and Nano."""
    run = pytest.importorskip("convnext_backbones.adapters.openmmlab.run")
    options = ("--model", "rtmdet", "--framework", "mmdet", "--backbone", backbone)
    model = run.build_model(run.load_config(str(write("detection", *options))), "meta")
    assert (model.backbone.version, model.backbone.dims) == (VARIANTS[backbone].version, VARIANTS[backbone].dims)  # fmt: skip


@pytest.mark.parametrize("model", ["rtmdet", "faster_rcnn"])
def test_pictures_without_objects_are_trained_on(model, tmp_path):
    run = pytest.importorskip("convnext_backbones.adapters.openmmlab.run")
    from mmengine.registry import DATASETS, init_default_scope

    folders.coco(tmp_path / "cells")
    file = tmp_path / "cells/annotations/train.json"
    content = json.loads(file.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != 3]
    file.write_text(json.dumps(content))
    out = tmp_path / "cells.py"
    words = ["--data", str(tmp_path / "cells"), "--out", str(out), "--model", model, "--framework", "mmdet"]  # fmt: skip
    assert cli.run("new_config", words) == 0
    cfg = run.load_config(str(out))
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(dataset) == 8
    background = dataset[3]["data_samples"]
    assert (background.img_id, len(background.gt_instances)) == (3, 0)


# ---- training ------------------------------------------------------------------------------------
MMENGINE = (
    "train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False",
    "val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False",
    "test_dataloader.num_workers=0", "test_dataloader.persistent_workers=False",
)  # fmt: skip
DETECTRON2 = ("dataloader.train.num_workers=0", "dataloader.test.num_workers=0")
TRAINED = [
    ("detection", "rtmdet", "mmdet"),
    ("detection", "faster_rcnn", "mmdet"),
    ("instance", "mask_rcnn", "mmdet"),
    ("semantic", "upernet", "mmseg"),
    ("detection", "faster_rcnn", "detectron2"),
    ("semantic", "sem_seg_fpn", "detectron2"),
]


@pytest.mark.parametrize(
    ("task", "model", "framework"),
    [pytest.param(*c, marks=[] if c in TRAINED else pytest.mark.slow) for c in CASES],
)
def test_a_written_config_trains_and_evaluates(task, model, framework, write, capsys, monkeypatch):
    pytest.importorskip(framework)
    length = ["--iters", "2"] if task == "semantic" else ["--epochs", "1"]
    options = ["--model", model, "--framework", framework, "--size", "64", "--batch", "4", *length]
    path = write(task, *options)
    monkeypatch.chdir(path.parent)
    own = DETECTRON2 if framework == "detectron2" else ("--cfg-options", *MMENGINE)
    words = [str(path), "--shrink", "--work-dir", str(path.parent / "work"), *own]
    assert cli.run("train", words) == 0
    told = capsys.readouterr().out
    assert "evaluate:" in told
    assert "mIoU" in told or task != "semantic"  # after two steps no box may be found


# ---- paths ---------------------------------------------------------------------------------------
def test_a_config_beside_its_data_moves_with_them(data, tmp_path):
    run = pytest.importorskip("convnext_backbones.adapters.openmmlab.run")
    here = tmp_path / "here"
    folders.voc(here / "cells")
    assert cli.run("new_config", ["--data", str(here / "cells"), "--out", str(here / "my.py"), "--framework", "mmdet"]) == 0  # fmt: skip
    there = shutil.move(here, tmp_path / "moved away")
    cfg = run.load_config(str(Path(there) / "my.py"))
    run.check_data(cfg)
    assert Path(cfg.data_root) == Path(there) / "cells"
    assert Path(cfg.val_evaluator.ann_file) == Path(there) / "my_data/annotations/val.json"


def test_data_root_is_one_knob(write, data, tmp_path):
    run = pytest.importorskip("convnext_backbones.adapters.openmmlab.run")
    path = write("detection", "--framework", "mmdet")
    there = shutil.copytree(data / "detection", tmp_path / "elsewhere")
    cfg = run.load_config(str(path), options={"data_root": str(there)})
    run.check_data(cfg)
    for part in (cfg.train_dataloader.dataset, cfg.val_dataloader.dataset, cfg.test_dataloader.dataset):  # fmt: skip
        assert Path(part.data_root) == there
    assert Path(cfg.val_evaluator.ann_file).is_relative_to(there)


def test_a_shipped_config_is_found_by_its_name():
    from convnext_backbones import shipped_config

    assert Path(shipped_config("coco_rtmdet_convnextv2_atto")).is_file()
    with pytest.raises(UserError, match="ships no config coco_rtmdet_atto; near it: coco_rtmdet"):
        shipped_config("coco_rtmdet_atto")


def test_one_folder_is_split_for_detectron2_too(tmp_path):
    pytest.importorskip("detectron2")
    from detectron2.data import DatasetCatalog

    from convnext_backbones.adapters.detectron2 import run

    layout = ("pictures", "masks")
    folders.label_maps(tmp_path / "d", layout=layout, suffixes=(".jpg", "_mask.png"))
    out = tmp_path / "one_folder.py"
    words = ["--data", str(tmp_path / "d"), "--out", str(out), "--framework", "detectron2"]
    assert cli.run("new_config", words) == 0
    settings = run.load_config(str(out)).settings
    parts = [DatasetCatalog.get(name) for name in (*settings.train_data, *settings.test_data)]
    names = [{Path(record["file_name"]).name for record in part} for part in parts]
    assert sum(map(len, names)) == 11
    assert names[0].isdisjoint(names[1])
    for record in (*parts[0], *parts[1]):
        stem = Path(record["file_name"]).stem
        assert Path(record["sem_seg_file_name"]).stem.removesuffix("_mask") == stem


def refused(words: list[str]) -> bool:
    with pytest.raises(SystemExit) as stopped:
        cli.run("new_config", words)
    return stopped.value.code == 2


def test_nothing_is_written_over(write, data, tmp_path, capsys):
    path = write("detection", "--framework", "mmdet")
    text = path.read_text()
    words = ["--data", str(data / "detection"), "--out", str(path), "--framework", "mmdet"]
    assert refused(words)
    assert "is there already; add --force" in capsys.readouterr().err
    assert path.read_text() == text
    assert cli.run("new_config", [*words, "--force"]) == 0
    assert path.read_text() != text  # which had random weights
    first = path.read_text()
    assert cli.run("new_config", [*words, "--force"]) == 0
    assert path.read_text() == first


# ---- refusals ------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("task", "options", "sentence"),
    [
        ("detection", "--model mask_rcnn", "mask_rcnn trains on boxes with masks, and the data have boxes without masks; take --model faster_rcnn or cascade or rtmdet or dino"),
        ("detection", "--model upernet", "upernet trains on label maps, and the data have boxes without masks"),
        ("detection", "--framework mmseg", "mmseg does not train on boxes without masks, which the data have; take --framework mmdet or detectron2"),
        ("detection", "--model rtmdet --framework detectron2", "detectron2 has no rtmdet here; take --framework mmdet, or --model faster_rcnn or cascade"),
        ("instance", "--model rtmdet --framework mmdet", "let it learn the boxes alone: --task detection"),
        ("semantic", "--framework mmdet", "mmdet does not train on label maps, which the data have; take --framework mmseg or detectron2"),
        ("semantic", "--model upernet --framework detectron2", "detectron2 has no upernet here; take --framework mmseg, or --model sem_seg_fpn"),
        ("detection", "--backbone convnextv2_tinny", "there is no backbone 'convnextv2_tinny'; did you mean 'convnextv2_tiny'"),
        ("detection", "--framework mmdet --weights convnextv2_tiny.fcmea", "there are no weights 'convnextv2_tiny.fcmea'; did you mean 'convnextv2_tiny.fcmae'"),
        ("detection", "--framework mmdet --weights convnext_base.fb_in22k", "are convnext_base's, not convnextv2_tiny's: give --backbone convnext_base"),
        ("detection", "--out nowhere/my.py", "there is no folder nowhere to write my.py into"),
        ("detection", "--out my.yaml", "a config is a Python file"),
        ("detection", "--out 2-my.py", "a config is a Python file whose name is a word"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_a_sentence(task, options, sentence, data, tmp_path, capsys, monkeypatch):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    words = ["--data", str(data / task), "--out", "my.py", *options.split()]
    if task == "semantic":
        words += ["--classes", ",".join(folders.CLASSES)]
    assert refused(words)
    told = capsys.readouterr().err
    assert sentence in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []  # nothing is written before it is known to work


def test_without_a_framework_one_is_named(data):
    found = looking.look(data / "detection")
    assert planned(found, Wishes(), ["mmseg", "detectron2"]).framework == "detectron2"
    with pytest.raises(UserError, match="neither mmdet nor detectron2 is installed"):  # fmt: skip
        planned(found, Wishes(), ["mmseg"])
    assert planned(found, Wishes(framework="mmdet"), []).framework == "mmdet"


# ---- figures -------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def found(data):
    return {
        task: looking.look(data / task, **({"classes": folders.CLASSES} if task == "semantic" else {}))
        for task in command.TASKS
    }  # fmt: skip


def with_sizes(found, width, height, box=None, count=None):
    def range_of(value):
        return value and looking.Range(value / 2, value, value * 2)

    splits = dict(found.splits)
    if count:
        splits["train"] = replace(splits["train"], count=count)
    sizes = looking.Sizes(range_of(width), range_of(height), range_of(box))
    return replace(found, sizes=sizes, splits=splits)


@pytest.mark.parametrize(
    ("size", "box", "model", "scale"),
    [
        ((640, 480), 100, "faster_rcnn", (640, 480)),  # as they are
        ((4000, 3000), 500, "faster_rcnn", (1067, 800)),  # the recipe's
        ((640, 480), 20, "faster_rcnn", (1024, 768)),  # enlarged until the median box has 32 pixels
        ((640, 480), 4, "faster_rcnn", (1067, 800)),  # at most the recipe's
        ((200, 100), 2, "faster_rcnn", (400, 200)),  # at most twice
        ((640, 480), 100, "rtmdet", (640, 640)),
        ((300, 200), 50, "rtmdet", (320, 320)),
        ((2000, 1500), 500, "rtmdet", (640, 640)),
    ],
)
def test_pictures_have_the_size_of_the_data_or_of_the_recipe(found, size, box, model, scale):
    plan = planned(with_sizes(found["detection"], *size, box), Wishes(model, framework="mmdet"))
    assert plan.scale == scale
    assert f"the median picture has {size[0]}x{size[1]} pixels" in plan.why["size"]


@pytest.mark.parametrize(
    ("size", "wish", "scale", "crop"),
    [
        ((480, 360), None, (480, 360), 352),
        ((2048, 1024), None, (1024, 512), 512),
        ((40, 30), None, (40, 30), 32),
        ((480, 360), 160, (213, 160), 160),
    ],
)
def test_label_maps_crops_fit_the_pictures(found, size, wish, scale, crop):
    wishes = Wishes("upernet", framework="mmseg", size=wish)
    plan = planned(with_sizes(found["semantic"], *size), wishes)
    assert (plan.scale, plan.crop) == (scale, (crop, crop))


@pytest.mark.parametrize(
    ("count", "batch", "epochs"),
    [(8, 2, 200), (205, 16, 154), (1000, 16, 32), (100_000, 16, 12)],
)
def test_a_run_has_enough_steps_and_never_too_many_epochs(found, count, batch, epochs):
    sized = with_sizes(found["detection"], 640, 480, 100, count)
    plan = planned(sized, Wishes("rtmdet", framework="mmdet"))
    assert (plan.batch, plan.epochs) == (batch, epochs)
    assert plan.steps == epochs * -(-count // batch)
    assert plan.validate_every == max(1, epochs // 10)
    assert plan.warmup <= plan.steps / 20 + 1


def test_what_is_asked_is_taken(found):
    wishes = Wishes("faster_rcnn", framework="mmdet", size=224, epochs=7, batch=3)
    plan = planned(found["detection"], wishes)
    assert (max(plan.scale), plan.epochs, plan.batch) == (224, 7, 3)
    assert planned(found["detection"], wishes._replace(epochs=None, iterations=9)).epochs == 3
    semantic = Wishes("upernet", framework="mmseg", epochs=5, batch=4)
    assert planned(found["semantic"], semantic).iterations == 10
    steps = wishes._replace(framework="detectron2", epochs=None, iterations=7)
    assert planned(found["detection"], steps).steps == 7  # Detectron2 counts steps


def test_lr_falls_with_the_batch_and_random_weights_have_one_rate(found, tmp_path):
    sized = with_sizes(found["detection"], 640, 480, 100, 1000)
    tuned = planned(sized, Wishes("rtmdet", framework="mmdet"))
    assert (tuned.batch, tuned.lr, tuned.layer_decay) == (16, 4e-4, 0.8)  # 1e-3 * sqrt(16 / 128)
    assert tuned.weights == "convnextv2_tiny.fcmae_ft_in1k"
    assert "CC-BY-NC-4.0" in tuned.why["weights"]
    random = planned(sized, Wishes("rtmdet", framework="mmdet", weights="none"))
    assert (random.lr, random.layer_decay, random.drop_path) == (5e-4, 1.0, 0.0)
    file = tmp_path / "mine.pth"
    file.touch()
    assert planned(sized, Wishes("rtmdet", framework="mmdet", weights=str(file))).weights == str(file)  # fmt: skip
    with pytest.raises(UserError, match=r"there is no file of weights runs/mine\.pth"):
        planned(sized, Wishes("rtmdet", framework="mmdet", weights="runs/mine.pth"))


@pytest.mark.parametrize(("size", "queries"), [((640, 480), 900), ((224, 168), 106), ((64, 48), 9)])
def test_dino_has_fewer_queries_than_the_maps_have_positions(size, queries, found, tmp_path):
    plan = planned(with_sizes(found["detection"], *size, 100), Wishes("dino", framework="mmdet"))
    text = written(plan, tmp_path / "dino.py")
    assert (f"num_queries={queries}," in text) == (queries < 900)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_backbone_has_published_weights(found, name):
    plan = planned(found["detection"], Wishes("faster_rcnn", name, "mmdet"))
    assert plan.weights.startswith(f"{name}.")
    assert plan.variant.name == name


@pytest.mark.parametrize(("void", "label", "from_1"), [(None, 255, False), (11, 11, False), (0, 255, True)])  # fmt: skip
def test_the_label_without_a_class_is_ignored_everywhere(found, void, label, from_1, tmp_path):
    run = pytest.importorskip("convnext_backbones.adapters.openmmlab.run")
    semantic = replace(found["semantic"], void=void)
    path = tmp_path / "labels.py"
    path.write_text(written(planned(semantic, Wishes(framework="mmseg")), path))
    cfg = run.load_config(str(path))
    model, data = cfg.model, cfg.train_dataloader.dataset
    ignored = (
        model.decode_head.ignore_index, model.auxiliary_head.ignore_index, data.ignore_index,
        model.data_preprocessor.seg_pad_val, cfg.val_evaluator.ignore_index,
        next(t for t in data.pipeline if t.type == "RandomCrop").ignore_index,
    )  # fmt: skip
    assert set(ignored) == {label}
    loading = [
        next(t for t in pipeline if t["type"] == "LoadAnnotations")
        for pipeline in (data.pipeline, cfg.test_dataloader.dataset.pipeline)
    ]
    assert {data.reduce_zero_label, *(step.reduce_zero_label for step in loading)} == {from_1}


def test_a_written_config_says_why(write):
    text = write("detection", "--framework", "mmdet", "--classes", "red,blue,green").read_text()
    for words in ("Written by", "# size: ", "# batch: ", "# lr: ", "# length: ", "train --early-stop 5"):  # fmt: skip
        assert words in text, words
    own = [line for line in text.splitlines() if "/" not in line]  # a folder's name may be long
    assert not [line for line in own if len(line) > 100]
    assert "\n\n\n" not in text
