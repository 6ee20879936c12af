"""Configs and training in Detectron2, and its tools as a user runs them."""

import importlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import events
import noise
import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from run_page import check_page

pytest.importorskip("detectron2", reason="detectron2 is not installed (docs/install.md says how)")

from detectron2.config import get_cfg, instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng
from fvcore.common.param_scheduler import ParamScheduler

from convnext_backbones import VARIANTS, ConvNeXt
from convnext_backbones.adapters.detectron2 import (
    add_convnext_config,
    add_training_config,
    data,
    loop,
    optimizer,
    register_data_sets,
)
from convnext_backbones.adapters.detectron2 import run as run
from convnext_backbones.adapters.detectron2.sample import use_sample
from convnext_backbones.checkpoints.catalogue import CATALOGUE
from convnext_backbones.cli import train_detectron2
from convnext_backbones.errors import UserError
from convnext_backbones.recipes import (
    COUNTED,
    METHODS,
    PROTOCOLS,
    iterations_per_epoch,
    learning_rate,
    recipe_of,
    writers,
)
from convnext_backbones.recipes import table as table_of_recipes
from convnext_backbones.recipes.layer_decay import num_layers, parameter_groups
from convnext_backbones.runs import preparation, report
from convnext_backbones.runs.sample import ensure_sample_data

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs" / "detectron2"
# Every recipe whose head Detectron2 has.
RECIPES = {
    n: r for n, r in table_of_recipes.RECIPES.items() if "detectron2" in METHODS[r.method].hosts
}
# What changes training pictures, in order.
COCO_PICTURES = [
    "RandomFlip()",
    "RandomApply(AugmentationList[ResizeShortestEdge(400, 500, 600, max_size=1333, "
    "sample_style='choice'), RandomCrop(crop_type='absolute_range', crop_size=384, 600)], 0.5)",
    "ResizeShortestEdge(480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800, max_size=1333, "
    "sample_style='choice')",
]
LSJ_PICTURES = [
    "ResizeScale(min_scale=0.1, max_scale=2.0, target_height=1024, target_width=1024)",
    "FixedSizeCrop(crop_size=1024, 1024, pad=False)",
    "RandomFlip()",
]
ADE20K_PICTURES = [
    "ResizeShortestEdge(256, 1024, max_size=4096)",
    "RandomCrop_CategoryAreaConstraint(crop_type='absolute', crop_size=512, 512, "
    "single_category_max_area=0.75, ignored_category=0)",
    "RandomFlip()",
    "ColorAugSSDTransform(rgb)",
]
PICTURES = {"coco_3x": COCO_PICTURES, "coco_boxes_3x": COCO_PICTURES, "coco_lsj_3x": LSJ_PICTURES,
            "ade20k_160k": ADE20K_PICTURES}  # fmt: skip

SHIPPED = pytest.mark.parametrize(
    "path", sorted(p for p in CONFIGS.iterdir() if p.is_file()), ids=lambda path: path.name
)


LAZY = "configs/detectron2/coco_mask_rcnn_convnextv2_atto.py"
YAML = "configs/detectron2/ade20k_sem_seg_fpn_convnextv2_atto.yaml"
SHORT = {
    LAZY: ["train.max_iter=2", "train.eval_period=1", "train.checkpointer.period=1",
           "train.log_period=1", "dataloader.train.total_batch_size=2"],
    YAML: ["SOLVER.MAX_ITER=2", "TEST.EVAL_PERIOD=1", "SOLVER.CHECKPOINT_PERIOD=1",
           "SOLVER.IMS_PER_BATCH=2"],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with the repository's configs and no data but the sample data."""
    path = tmp_path_factory.mktemp("work")
    (path / "configs").symlink_to(ROOT / "configs")
    ensure_sample_data(path / "data/sample")
    return path


def tool(folder: Path, name: str, *arguments, code: int = 0) -> str:
    """What a tool prints, run in `folder` without a GPU; fails unless it exits with `code`."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / f"{name}.py", *map(str, arguments)],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed[-3000:]
    return printed


def table(printed: str) -> dict[str, str]:
    """The rows of the last metrics table."""
    last = printed[printed.rindex("metric") :]
    return dict(re.findall(r"[│|] (.+?) +[│|] +([-\d.]+) +[│|]", last))


@pytest.fixture(scope="module", params=[LAZY, YAML], ids=["LazyConfig", "YAML"])
def trained(request, folder):
    """The work directory, the output and the config of a two-step run on sample data."""
    work_dir = Path(request.param).suffix[1:]
    printed = tool(folder, "train_detectron2", request.param, "--sample", "--work-dir", work_dir,
                   *events.TRACKER, *SHORT[request.param])  # fmt: skip
    return folder / work_dir, printed, request.param


def loaded(path: Path, **options) -> run.Run:
    """The shipped config, to be built without memory."""
    config = run.load_config(str(path), **options)
    config.set(device="meta")
    preparation.replace_sync_bn(config.cfg)
    return config


def built(config: run.Run) -> torch.nn.Module:
    with torch.device("meta"):
        return run.build(config)


def by_name(groups: list[dict]) -> dict[str, tuple[float, float]]:
    """Parameter name -> learning rate and weight decay."""
    return {n: (g["lr"], g["weight_decay"]) for g in groups for n in g["param_names"]}


def multiplier(config: run.Run, optimizer) -> ParamScheduler:
    scheduler = config.build_lr_scheduler(optimizer)
    return scheduler if isinstance(scheduler, ParamScheduler) else scheduler._multiplier


def described(augmentation) -> str:
    """An augmentation and its settings, however the config wrote its lists."""
    augmentation = getattr(augmentation, "tfm", augmentation)
    kind = type(augmentation).__name__
    if kind == "RandomApply":
        inner = ", ".join(described(a) for a in augmentation.aug.augs)
        return f"RandomApply(AugmentationList[{inner}], {augmentation.prob})"
    if kind == "ColorAugSSDTransform":
        return f"{kind}({'rgb' if augmentation.is_rgb else 'bgr'})"
    plain = re.sub(r"[\[(]([\d., ]+?),?[\])](?=[,)])", r"\1", repr(augmentation))
    return plain.replace("short_edge_length=", "").replace(", sample_style='range'", "")


# ---- configs -------------------------------------------------------------------------------------
def test_every_config_comes_in_both_kinds():
    names = {path.name for path in CONFIGS.iterdir() if path.is_file()}
    assert names == {f"{name}.{kind}" for name in RECIPES for kind in ("py", "yaml")}


def test_the_generator_writes_the_configs_that_are_here():
    files = {ROOT / path: text for path, text in writers.detectron2.files().items()}
    assert set(files) == {path for path in CONFIGS.rglob("*.*") if path.suffix in (".py", ".yaml")}
    for path, text in files.items():
        assert path.read_text() == text, f"{path.name}: run tools/make_configs.py"


@SHIPPED
def test_a_config_is_its_row_of_the_table(path):
    row = recipe_of(path.stem)
    coco = row["dataset"] == "coco"
    variant = VARIANTS[row["variant"]]
    config = loaded(path)
    model = built(config)
    backbone = model.backbone.bottom_up
    assert (backbone.depths, backbone.dims, backbone.version) == variant[3:5] + (variant.version,)
    assert backbone.out_features == ("stage1", "stage2", "stage3", "stage4")
    assert backbone.stages[-1][-1].drop_path.rate == pytest.approx(row["drop_path"])
    if variant.version == 1:
        settings = config.cfg.MODEL.CONVNEXT if path.suffix == ".yaml" else config.cfg.model
        assert "1.0" in re.search(r"layer_scale_init_value: ?([\d.]+)", str(settings).lower().replace("'", ""))[1]  # fmt: skip
    assert not any(p.requires_grad is False for p in model.parameters())
    assert model.pixel_mean.shape == (3, 1, 1)

    settings = config.settings
    assert (settings.batch, settings.amp) == (row["batch"], row["amp"])
    assert settings.weights == row["init"]
    assert CATALOGUE[settings.weights].variant == variant.name
    assert settings.max_iter == row["iterations"]
    epoch = row["iterations"] // row["epochs"] if coco else 16000
    assert settings.eval_period == settings.checkpointer["period"] == epoch
    assert settings.train_data == ["coco_2017_train" if coco else "ade20k_train"]
    assert settings.test_data == ["coco_2017_val" if coco else "ade20k_val"]

    optimizer = config.build_optimizer(model)
    assert type(optimizer) is torch.optim.AdamW  # no gradient clipping, which would be a subclass
    assert {group["betas"] for group in optimizer.param_groups} == {(0.9, 0.999)}
    expected = parameter_groups(
        model.named_parameters(), variant.depths, lr=row["lr"], weight_decay=row["weight_decay"],
        decay_rate=row["layer_decay"], decay_type=row["decay_type"],
    )  # fmt: skip
    assert by_name(optimizer.param_groups) == by_name(expected)


@SHIPPED
def test_the_learning_rate_follows_the_tables_curve(path):
    """One step earlier or later: Detectron2 counts the warm-up's last step otherwise than MMEngine."""
    row = RECIPES[path.stem]
    protocol = PROTOCOLS[row.protocol]
    config = loaded(path)
    end = config.settings.max_iter
    curve = multiplier(config, torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=row.lr))
    warm = protocol.warmup_iterations
    steps = [m * iterations_per_epoch(protocol) for m in protocol.milestones]
    for iteration in [
        0,
        warm // 2,
        warm,
        *(s + k for s in steps for k in (-1, 1)),
        end // 2,
        end - 1,
    ]:
        wanted = learning_rate(row, iteration) / row.lr
        assert curve(iteration / end) == pytest.approx(wanted, abs=2 / warm)


@pytest.mark.parametrize("name", RECIPES)
def test_a_network_has_the_published_size_but_for_detectron2s_cascade(name):
    row = RECIPES[name]
    variant = VARIANTS[row.variant]
    model = built(loaded(CONFIGS / f"{name}.py"))
    classifier = 1000 * (variant.dims[-1] + 1) + 2 * variant.dims[-1]  # and its norm
    expected = variant.classifier_params - classifier + 2 * sum(variant.dims)  # a norm a stage
    assert sum(p.numel() for p in model.backbone.bottom_up.parameters()) == expected
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    if row.method in ("mask_rcnn", "faster_rcnn"):
        assert millions == pytest.approx(COUNTED[name][0], abs=0.051)
    elif row.method == "cascade_mask_rcnn":  # two mask heads and the boxes of 79 classes fewer
        assert millions == pytest.approx(COUNTED[name][0] - 6.25, abs=0.1)
    elif row.method == "cascade_rcnn":  # the boxes of 79 classes fewer, in three stages
        fewer = 3 * 79 * 4 * (1024 + 1) / 1e6
        assert millions == pytest.approx(COUNTED[name][0] - fewer, abs=0.1)
    else:  # an FPN with biases; convolutions with GroupNorm, 1 + 1 + 2 + 3; 150 classes
        laterals, outputs = 256 * sum(variant.dims) + 4 * 256, 4 * (9 * 256 * 256 + 256)
        convolutions = 4 * (9 * 256 * 128 + 2 * 128) + 3 * (9 * 128 * 128 + 2 * 128)
        heads = laterals + outputs + convolutions + 150 * (128 + 1)
        assert sum(p.numel() for p in model.parameters()) == expected + heads


@SHIPPED
def test_training_pictures_change_as_in_the_recipe(path):
    config = loaded(path)
    if path.suffix == ".yaml":
        augmentations = data.train_augmentations(config.cfg)
        assert config.cfg.INPUT.FORMAT == "RGB"
    else:
        mapper = instantiate(config.cfg.dataloader.train.mapper)
        augmentations = mapper.augmentations.augs
        assert mapper.image_format == "RGB"
    wanted = PICTURES[RECIPES[path.stem].protocol]
    assert [described(a) for a in augmentations] == wanted


@pytest.mark.parametrize("name", RECIPES)
def test_both_kinds_of_a_config_build_the_same_network(name):
    yaml_model, lazy_model = (built(loaded(CONFIGS / f"{name}.{kind}")) for kind in ("yaml", "py"))
    shapes = [{n: v.shape for n, v in m.state_dict().items()} for m in (yaml_model, lazy_model)]
    assert shapes[0] == shapes[1]


@SHIPPED
def test_a_config_opens_with_what_a_reader_asks(path):
    text = path.read_text()
    words = (
        "Paper",
        "Command",
        "Hardware",
        "Recipe",
        "Data",
        "Schedule",
        "Weights",
        "Expected",
        "Status",
    )
    for word in (*words, path.name):
        assert word in text
    assert all(len(line) <= 120 for line in text.splitlines() if "http" not in line)


@pytest.mark.parametrize("host", ["mmdet", "mmseg"])
@pytest.mark.parametrize("name", [name for name in RECIPES if name.endswith("_t")])
@pytest.mark.parametrize("kind", ["py", "yaml"])
def test_the_optimizer_has_the_groups_of_the_hosts_own_constructors(name, host, kind):
    """MMDetection's and MMSegmentation's, parameter by parameter (test_layer_decay.py: all sizes)."""
    pytest.importorskip(host)
    module = f"{host}.engine.optimizers.layer_decay_optimizer_constructor"
    constructor = importlib.import_module(module).LearningRateDecayOptimizerConstructor
    row = RECIPES[name]

    config = loaded(CONFIGS / f"{name}.{kind}")
    model = built(config)
    ours = by_name(config.build_optimizer(model).param_groups)

    there = torch.nn.Module()  # the backbone where they look for it, and one head
    there.backbone, there.head = model.backbone.bottom_up, model.backbone.fpn_lateral2
    theirs = constructor(
        dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=row.lr, weight_decay=0.05)),
        dict(decay_rate=row.layer_decay, decay_type=row.decay_type, num_layers=6),
    )(there)
    prefixes = {"backbone.": "backbone.bottom_up.", "head.": "backbone.fpn_lateral2."}
    for there_name, group in by_name(theirs.optimizer.param_groups).items():
        start = next(prefix for prefix in prefixes if there_name.startswith(prefix))
        assert ours.pop(there_name.replace(start, prefixes[start], 1)) == group
    assert not any(".bottom_up." in name for name in ours)


def test_the_layers_of_a_config_are_counted_from_its_depths():
    for name, row in RECIPES.items():
        model = built(config := loaded(CONFIGS / f"{name}.py"))
        groups = config.build_optimizer(model).param_groups
        depths = VARIANTS[row.variant].depths
        layers = 6 if row.decay_type == "stage_wise" else num_layers(depths) + 2
        assert len({group["group_name"].split("_")[1] for group in groups}) == layers


# ---- pieces --------------------------------------------------------------------------------------
def test_yaml_keys_leave_detectron2_as_it_is_until_they_are_set():
    cfg = get_cfg()
    add_training_config(cfg)
    sgd = optimizer.build_optimizer(cfg, torch.nn.Linear(2, 2))
    assert isinstance(sgd, torch.optim.SGD)
    assert type(optimizer.build_lr_scheduler(cfg, sgd)).__name__ == "LRMultiplier"
    names = [type(a).__name__ for a in data.train_augmentations(cfg)]
    assert names == ["RandomFlip", "ResizeShortestEdge"]


def test_gradient_clipping_is_what_yaml_says():
    config = loaded(CONFIGS / "coco_mask_rcnn_convnextv2_atto.yaml")
    config.override("SOLVER.CLIP_GRADIENTS.ENABLED=True")
    assert type(config.build_optimizer(built(config))).__name__ == "AdamWWithGradientClip"


def test_layer_decay_without_a_convnext_is_refused():
    with pytest.raises(UserError, match="one ConvNeXt backbone, this one has 0"):
        optimizer.layer_decay_groups(torch.nn.Linear(2, 2), lr=1, weight_decay=0, decay_rate=0.9)


def test_a_frozen_teacher_stands_beside_the_student_and_two_students_do_not():
    options = dict(lr=1, weight_decay=0, decay_rate=0.9)
    model = torch.nn.ModuleList([ConvNeXt("atto"), ConvNeXt("nano")])
    with pytest.raises(UserError, match="2 that are trained; freeze all but one"):
        optimizer.layer_decay_groups(model, **options)
    model[1].requires_grad_(False)
    groups = optimizer.layer_decay_groups(model, **options)
    alone = optimizer.layer_decay_groups(model[0], **options)
    assert [g["lr"] for g in groups] == [g["lr"] for g in alone]
    assert [len(g["params"]) for g in groups] == [len(g["params"]) for g in alone]
    model.requires_grad_(False)
    with pytest.raises(UserError, match="no parameter to train"):
        optimizer.layer_decay_groups(model, **options)


def test_label_maps_lose_their_zero(tmp_path):
    """0 is "no class", class k is k + 1; both the mapper and the evaluator see k and 255."""
    labels = np.array([[0, 1, 2], [150, 3, 0]], np.uint8)
    Image.fromarray(labels).save(tmp_path / "labels.png")
    Image.new("RGB", (3, 2)).save(tmp_path / "picture.png")
    expected = np.array([[255, 0, 1], [149, 2, 255]])
    found = data.load_label_map(str(tmp_path / "labels.png"), dtype=int)
    assert np.array_equal(found, expected)
    assert found.dtype == int
    mapper = data.SemSegMapper(is_train=True, augmentations=[], image_format="RGB")
    record = {
        "file_name": str(tmp_path / "picture.png"),
        "sem_seg_file_name": str(tmp_path / "labels.png"),
    }
    assert np.array_equal(mapper(record)["sem_seg"], expected)


def test_ade20k_is_registered_as_it_is_distributed():
    register_data_sets("ade20k_train", "ade20k_val")
    meta = MetadataCatalog.get("ade20k_val")
    assert meta.sem_seg_root.endswith("ADEChallengeData2016/annotations/validation")
    assert len(meta.stuff_classes) == 150
    assert "ade20k_train" in DatasetCatalog.list()


def test_the_log_is_read_with_the_names_and_scales_of_the_other_frameworks(tmp_path):
    (tmp_path / "metrics.json").write_text(
        '{"iteration": 19, "total_loss": 2.0, "loss_mask": 0.5, "lr": 0.1}\n'
        '{"iteration": 19, "total_loss": 1.0}\n'
        '{"iteration": 39, "bbox/AP50": 50.0, "bbox/AP": NaN, "sem_seg/mIoU": 40.0}\n'
    )
    training, validation = report.scalars(run.read_log(tmp_path))
    assert training == [{"at": 19, "loss": 1.0}]
    metrics = report.metrics_of(validation[0])
    assert metrics["box AP50"] == 0.5
    assert metrics["mIoU (%)"] == 40.0
    curves = report.save_curves(training, validation, tmp_path / "curves.png")
    assert curves.stat().st_size > 10_000


def test_sync_bn_becomes_bn_without_a_gpu(capsys):
    for kind in ("py", "yaml"):
        config = run.load_config(str(CONFIGS / f"coco_cascade_mask_rcnn_convnext_t.{kind}"))
        if torch.cuda.is_available():
            pytest.skip("this machine has a GPU")
        config.processes = 2
        run.fit_to_device(config)
        assert "SyncBN -> BN" in capsys.readouterr().out
        assert (config.settings.device, config.settings.amp) == ("cpu", False)
        assert "SyncBN" not in str(config.cfg)


# ---- wrong input ---------------------------------------------------------------------------------
def test_wrong_configs_and_keys_are_named(tmp_path):
    lazy, plain = (str(CONFIGS / f"coco_mask_rcnn_convnext_t.{kind}") for kind in ("py", "yaml"))
    broken, half = tmp_path / "broken.py", tmp_path / "half.py"
    broken.write_text("model = (\n")
    zero = tmp_path / "zero.py"
    zero.write_text("model = 1 / 0\n")
    half.write_text("model = dict()\n")
    unknown = tmp_path / "unknown.yaml"
    unknown.write_text("MODEL: {CONVNEXT: {ARCHH: tiny}}\n")
    (tmp_path / "config.txt").touch()
    for arguments, words in (
        (("none.py",), "there is no config none.py"),
        ((str(tmp_path / "config.txt"),), "neither in .py nor in .yaml"),
        ((str(broken),), "cannot be read"),
        ((str(zero),), "cannot be read: ZeroDivisionError"),
        ((str(half),), "lacks dataloader, optimizer, lr_multiplier, train"),
        ((str(unknown),), "MODEL.CONVNEXT.ARCHH"),
        ((lazy, "train.max_itr=3"), "no train.max_itr: did you mean 'max_iter'"),
        ((lazy, "optimizer.lrr=3"), "no optimizer.lrr: did you mean 'lr'"),
        ((lazy, "model.proposal_generator.nms_tresh=1"), "did you mean 'nms_thresh'"),
        ((lazy, "model.nothing.depth=3"), "no model.nothing.depth"),
        ((lazy, "dataloader.train.mapper.augmentations.7.prob=1"), "Valid: '0', '1', '2'"),
        ((lazy, "train.max_iter"), "is no override; write key=value"),
        ((plain, "SOLVER.BASE_LRR=3"), "no SOLVER.BASE_LRR: "),
        ((plain, "SOLVERS.BASE_LR=3"), "no SOLVERS.BASE_LR"),
        ((plain, "SOLVER.MAX_ITER=many"), "SOLVER.MAX_ITER=many: "),
    ):
        path, *options = arguments
        with pytest.raises(UserError) as caught:
            pytest.fail(f"{arguments}: {run.load_config(path, options=options)}")
        assert words in str(caught.value)


def test_right_keys_of_both_kinds_are_taken():
    lazy = run.load_config(
        str(CONFIGS / "coco_cascade_mask_rcnn_convnext_t.py"),
        options=["train.max_iter=3", "model.backbone.bottom_up.with_cp=True", "optimizer.eps=1e-6",
                 "model.roi_heads.box_heads.1.fc_dims=[8]"],
    ).cfg  # fmt: skip
    assert (lazy.train.max_iter, lazy.optimizer.eps) == (3, 1e-6)
    assert lazy.model.backbone.bottom_up.with_cp is True
    assert [list(head.fc_dims) for head in lazy.model.roi_heads.box_heads] == [[1024], [8], [1024]]
    plain = run.load_config(
        str(CONFIGS / "coco_mask_rcnn_convnext_t.yaml"), options=["SOLVER.STEPS=(1,2)"]
    ).cfg
    assert plain.SOLVER.STEPS == (1, 2)


@pytest.mark.parametrize("top", ["MODEL", "model"])
def test_yaml_never_executes(top, tmp_path):
    """Detectron2 itself reads both kinds of YAML with the unsafe loader."""
    hostile, mark = tmp_path / "hostile.yaml", tmp_path / "executed"
    hostile.write_text(f"{top}: {{WEIGHTS: !!python/object/apply:os.mkdir ['{mark}']}}\n")
    with pytest.raises(UserError, match="could run code"):
        run.load_config(str(hostile))
    assert not mark.exists()
    yaml.unsafe_load(hostile.read_text())
    assert mark.exists()


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("model.backbone.bottom_up.drop_path_ratee=0.1", "model .* did you mean 'drop_path_rate'"),
        ("model.roi_heads.num_clases=3", "model .* unexpected keyword argument 'num_clases'"),
        ("dataloader.train.num_worker=3", "training data .* unexpected keyword .* 'num_worker'"),
    ],
)
def test_an_option_that_is_refused_when_it_is_built_is_a_sentence(
    option, words, folder, monkeypatch
):
    """Callables that take any keyword say only then what they do not have."""
    monkeypatch.chdir(folder)
    config = run.load_config(LAZY, sample=True, options=["train.device=cpu", option])
    with pytest.raises(UserError, match=words):
        run.train(config, resume=False)


def test_missing_data_and_batches_that_do_not_divide_are_sentences(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, root in (("coco_mask_rcnn", "coco"), ("ade20k_sem_seg_fpn", "ADEChallengeData2016")):
        config = run.load_config(str(CONFIGS / f"{name}_convnext_t.yaml"))
        with pytest.raises(UserError, match=rf"Expected layout:\n +\S*{root}/\n(.|\n)*--sample"):
            run.check_data(config)
    config.override("DATASETS.TRAIN=('ade20k_trian',)")
    with pytest.raises(UserError, match=r"no data set 'ade20k_trian' .* 'ade20k_train'"):
        run.check_data(config)
    config.processes = 3
    with pytest.raises(UserError, match="16 pictures cannot be split over 3 processes"):
        run.fit_to_device(config)


def test_sample_refuses_what_it_cannot_shrink(tmp_path):
    (tmp_path / "other.yaml").write_text("MODEL: {META_ARCHITECTURE: RetinaNet}")
    cfg = run.load_config(str(tmp_path / "other.yaml")).cfg
    with pytest.raises(UserError, match=r"--sample does not fit this config .*RetinaNet"):
        use_sample(cfg)
    cfg = run.load_config(str(CONFIGS / "coco_mask_rcnn_convnext_t.py")).cfg
    del cfg.model.roi_heads.box_pooler
    with pytest.raises(UserError, match=r"--sample does not fit .* box_pooler"):
        use_sample(cfg)


@pytest.mark.parametrize("kind", ["py", "yaml"])
def test_shrink_makes_the_backbone_small_and_nothing_else(kind, capsys):
    path = CONFIGS / f"coco_cascade_mask_rcnn_convnextv2_h.{kind}"
    config = loaded(path, shrink=True)
    assert (
        "--shrink changes this config:\n  backbone: depths (1, 1, 1, 1)" in capsys.readouterr().out
    )
    model, whole = built(config), built(loaded(path))
    backbone = model.backbone.bottom_up
    assert (backbone.depths, backbone.dims) == ((1, 1, 1, 1), (16, 32, 64, 128))
    assert backbone.stages[-1][-1].drop_path.rate == 0.5
    assert config.settings.weights == ""
    for name in ("proposal_generator", "roi_heads"):
        shapes = [[p.shape for p in getattr(m, name).parameters()] for m in (model, whole)]
        assert shapes[0] == shapes[1]


def test_shrink_refuses_another_backbone(tmp_path):
    (tmp_path / "other.yaml").write_text("MODEL: {META_ARCHITECTURE: RetinaNet}")
    with pytest.raises(UserError, match=r"--shrink needs a ConvNeXt .* build_resnet_backbone"):
        run.load_config(str(tmp_path / "other.yaml"), shrink=True)


def test_a_data_set_without_an_evaluator_is_refused_before_training(folder, monkeypatch):
    monkeypatch.chdir(folder)
    config = run.load_config(YAML, sample=True)
    config.override("DATASETS.TEST=('lvis_v1_val',)")
    with pytest.raises(UserError, match="evaluator_type='lvis'"):
        run.check_data(config)


def test_add_functions_are_all_that_a_yaml_file_needs():
    cfg = get_cfg()
    add_convnext_config(cfg)
    cfg.merge_from_file(str(CONFIGS / "coco_mask_rcnn_convnextv2_t.yaml"), allow_unsafe=False)
    assert cfg.MODEL.CONVNEXT.ARCH == "tiny"


# ---- runs ----------------------------------------------------------------------------------------
def test_a_run_ends_with_metrics_curves_and_predictions(trained):
    work_dir, printed, config = trained
    expected = {"box AP50", "mask AP50"} if config == LAZY else {"mIoU (%)", "pixel accuracy (%)"}
    assert expected <= table(printed).keys()
    assert "--sample changes this config:" in printed
    assert "mixed precision -> float32" in printed
    assert printed.count("last validation:") == 1
    for name in ("curves.png", "predictions.png"):
        assert f"{work_dir.name}/{name}" in printed
        assert np.asarray(Image.open(work_dir / name).convert("L")).std() > 5


def test_a_run_ends_with_its_page(trained):
    work_dir, printed, config = trained
    check_page(work_dir, printed, "boxes" if config == LAZY else "label maps")


def test_evaluating_the_checkpoint_gives_the_runs_last_metrics_again(trained, folder):
    work_dir, printed, config = trained
    weights = "train.init_checkpoint" if config == LAZY else "MODEL.WEIGHTS"
    again = tool(folder, "train_detectron2", work_dir / "config.yaml", "--eval-only",
                 f"{weights}={work_dir / 'model_final.pth'}")  # fmt: skip
    assert table(again) == table(printed)


def test_the_console_shows_steps_and_the_log_file_everything(trained):
    work_dir, printed, config = trained
    log = (work_dir / "log.txt").read_text()
    talk = [*noise.DETECTRON2, *noise.DETECTRON2_BOXES] if config == LAZY else noise.DETECTRON2
    assert noise.not_shown(talk, printed, log) == []
    assert noise.lacking(noise.STEPS, printed, log) == []
    assert noise.lacking(("total_loss: ", "validation: ", "Saving checkpoint to"), printed) == []


def test_the_command_that_a_run_prints_evaluates_its_checkpoint(trained, folder):
    """The one of every framework, which finds Detectron2 by the config."""
    work_dir, printed, _ = trained
    line = re.search(r"evaluate: +python \S+test.py (\S+) (\S+)", printed)
    assert line.groups() == (f"{work_dir.name}/config.yaml", f"{work_dir.name}/model_best.pth")
    again = table(tool(folder, "test", *line.groups()))
    best = loop.evaluated(work_dir)["best"]
    assert best["metric"] in ("segm/AP", "sem_seg/mIoU")
    if best["metric"] == "segm/AP":
        assert float(again["mask AP"]) == pytest.approx(best["value"] / 100, abs=0.0006)
    else:
        assert float(again["mIoU (%)"]) == pytest.approx(best["value"], abs=0.006)
    assert (work_dir / "test" / "log.txt").is_file()


def test_predict_draws_every_picture_of_a_folder(trained, tmp_path, folder):
    work_dir, _, _ = trained
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(2):
        source = folder / f"data/sample/coco/val2017/{number:06d}.jpg"
        (pictures / source.name).write_bytes(source.read_bytes())
    arguments = (work_dir / "config.yaml", work_dir / "model_final.pth", pictures, "--out",
                 tmp_path / "out", "--score", 0)  # fmt: skip
    assert "2 pictures drawn" in tool(folder, "predict", *arguments)
    for number in range(2):
        drawn = Image.open(tmp_path / "out" / f"{number:06d}.png").convert("RGB")
        picture = Image.open(pictures / f"{number:06d}.jpg").convert("RGB").resize(drawn.size)
        assert np.abs(np.asarray(drawn, float) - np.asarray(picture, float)).mean() > 3


def test_a_tracker_has_config_losses_metrics_and_pictures(trained):
    work_dir, _, config = trained
    found = events.shown(work_dir)
    assert (
        "ConvNeXt" in found.texts["config/text_summary"]
        or "convnext" in found.texts["config/text_summary"]
    )
    assert found.scalars["total_loss"][-1] >= 1
    metric = "segm/AP" if config == LAZY else "sem_seg/mIoU"
    assert metric in found.scalars or "bbox/AP" in found.scalars
    assert sorted(found.pictures) == [f"validation/{k}" for k in range(4)]


def test_resume_goes_on_where_the_run_stopped(trained, folder):
    work_dir, _, config = trained
    before = torch.load(work_dir / "model_final.pth", weights_only=True)
    options = [option for option in SHORT[config] if "max_iter" not in option.lower()]
    longer = "train.max_iter=3" if config == LAZY else "SOLVER.MAX_ITER=3"
    printed = tool(folder, "train_detectron2", config, "--sample", "--work-dir", work_dir.name,
                   "--resume", longer, *events.TRACKER, *options)  # fmt: skip
    assert "Starting training from iteration 2" in printed
    after = torch.load(work_dir / "model_final.pth", weights_only=True)
    assert after["iteration"] == before["iteration"] + 1 == 2
    steps = [
        {int(s["step"]) for s in content["trainer"]["optimizer"]["state"].values()}
        for content in (before, after)
    ]
    assert steps == [{2}, {3}]
    training, _ = report.scalars(run.read_log(work_dir))
    assert training[-1]["at"] == 2
    if config == LAZY:
        assert [record["at"] for record in training] == [0, 1, 2]
        assert events.shown(work_dir).scalars["total_loss"] == [0, 1, 2]


def test_wrong_input_is_a_sentence_and_no_stack_trace(folder):
    for arguments, words in (
        ((LAZY,), "the train data is not there"),
        ((LAZY, "--sample", "train.init_checkpoint=none.pth"), "none.pth: there is no such file"),
    ):
        printed = tool(folder, "train_detectron2", *arguments, code=2)
        assert printed.count("error: ") == 1
        assert words in printed
        assert "Traceback" not in printed


def test_wrong_calls_are_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for arguments, words in (
        (("--resume", "--work-dir", "empty"), "nothing to resume: empty holds no checkpoint"),
        (("--eval-only",), "nothing to evaluate: give train.init_checkpoint=FILE"),
        (("--num-machines", "2", "--machine-rank", "1"), "--num-machines needs --dist-url"),
        (("--num-gpus", "3"), "a batch of 4 pictures cannot be split over 3 processes"),
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UserError, match=words):
            train_detectron2.main([LAZY, "--sample", *arguments])


# A LazyConfig of its own: each process takes its share of the same four pictures, and the rate is
# such that the weights show the gradient.
GRADIENT_CONFIG = """
import torch
from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, SemanticSegmentor
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.solver.build import get_default_optimizer_params
from detectron2.utils import comm
from fvcore.common.param_scheduler import LinearParamScheduler
from convnext_backbones.adapters.detectron2 import ConvNeXtV2


def pictures(total_batch_size):
    torch.manual_seed(0)
    whole = [
        dict(image=torch.rand(3, 64, 64), sem_seg=torch.randint(0, 3, (64, 64)))
        for _ in range(total_batch_size)
    ]
    torch.manual_seed(comm.get_rank())
    return [whole[comm.get_rank() :: comm.get_world_size()]]


model = L(SemanticSegmentor)(
    backbone=L(FPN)(
        bottom_up=L(ConvNeXtV2)(
            arch=dict(depths=[1, 1], dims=[8, 16]), out_features=["stage1", "stage2"]
        ),
        in_features=["stage1", "stage2"],
        out_channels=8,
    ),
    sem_seg_head=L(SemSegFPNHead)(
        input_shape=dict(p2=L(ShapeSpec)(channels=8, stride=4), p3=L(ShapeSpec)(channels=8, stride=8)),
        num_classes=3, conv_dims=8, common_stride=4, norm="LN",
    ),
    pixel_mean=[0.5, 0.5, 0.5],
    pixel_std=[0.25, 0.25, 0.25],
)
dataloader = dict(train=L(pictures)(total_batch_size=4), test=dict())
optimizer = L(torch.optim.SGD)(params=L(get_default_optimizer_params)(), lr=1.0)
lr_multiplier = L(LinearParamScheduler)(start_value=1.0, end_value=1.0)
train = dict(
    output_dir="./output", init_checkpoint="", max_iter=1, amp=dict(enabled=False), ddp=dict(),
    checkpointer=dict(period=1), eval_period=0, log_period=1, device="cpu", seed=0,
)
"""


def test_two_processes_give_the_gradients_of_one(folder):
    config = folder / "gradient.py"
    config.write_text(GRADIENT_CONFIG)
    seed_all_rng(0)
    start = run.build(run.load_config(str(config))).state_dict()
    gradients = {}
    for processes in (1, 2):
        tool(folder, "train_detectron2", config, "--num-gpus", processes, "--work-dir", processes)
        content = torch.load(folder / f"{processes}/model_final.pth", weights_only=True)
        gradients[processes] = {n: start[n] - value for n, value in content["model"].items()}
    for name, one in gradients[1].items():
        scale = one.abs().max()
        assert scale > 1e-7, name
        torch.testing.assert_close(
            gradients[2][name], one, atol=1e-4 * scale.item() + 1e-7, rtol=0, msg=name
        )


@pytest.mark.slow
def test_a_detector_learns_the_sample_data(folder):
    """About 5 minutes on two cores; box AP50 0.80 and mask AP50 0.82 were measured."""
    printed = tool(folder, "train_detectron2", LAZY, "--sample", "--work-dir", "learns")
    assert float(table(printed)["box AP50"]) >= 0.5
    assert float(table(printed)["mask AP50"]) >= 0.5


@pytest.mark.slow
@SHIPPED
def test_every_config_trains_on_the_sample_data(path, folder, monkeypatch):
    """Two steps and one evaluation, as tools/train_detectron2.py CONFIG --sample --shrink does it."""
    monkeypatch.chdir(folder)
    key = "train.max_iter" if path.suffix == ".py" else "SOLVER.MAX_ITER"
    config = run.load_config(str(path), sample=True, shrink=True, options=[f"{key}=2"])
    config.set(output_dir=path.name, device="cpu")
    run.check_data(config)
    run.fit_to_device(config)
    seed_all_rng(0)
    before = run.build(config).state_dict()
    seed_all_rng(0)
    model = run.train(config, resume=False)
    after = model.state_dict()
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert any(name.startswith("backbone.bottom_up.stages.3") for name in moved)
    assert all(p.isfinite().all() for p in model.parameters())
    training, validation = report.scalars(run.read_log(Path(path.name)))
    assert math.isfinite(training[-1]["loss"])
    metric = "box AP50" if path.name.startswith("coco") else "mIoU (%)"
    assert math.isfinite(report.metrics_of(validation[-1])[metric])
    assert Path(path.name, "model_final.pth").is_file()
