"""Mistakes in configs of MMDetection and MMSegmentation: a sentence each, before the first step."""

import itertools
import json
import logging
import os
import re
import signal
from argparse import Namespace
from pathlib import Path

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from mmengine.config import Config
from PIL import Image

from convnext_backbones.adapters.openmmlab import config_mistakes, run
from convnext_backbones.errors import Stopped, UserError
from convnext_backbones.runs.sample_data import (
    PALETTE,
    SEGMENTATION_CLASSES,
    SHAPES,
    make_sample_data,
)

CONFIGS = Path(__file__).parents[3] / "configs"
SEMANTIC = "ade20k_upernet_convnextv2_atto"
MASKS = "coco_mask_rcnn_convnextv2_atto"
MASK2FORMER = "ade20k_mask2former_convnext_t"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sample data of 6 + 2 pictures: made/ade/ADEChallengeData2016 and made/coco."""
    path = tmp_path_factory.mktemp("work")
    make_sample_data(path / "made", train=6, val=2, seed=0)
    return path


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("custom_hooks=[dict(type='EMAHook')]", "a dict cannot be given on the command line"),
        ("custom_hooks=[dict(type='EMAHook',momentum=1)]", "these are no values"),
        ("model.backbone={}", "a dict cannot be given on the command line"),
        ("custom_hooks=EMAHook", "custom_hooks has 'EMAHook' where a dict"),
        ("param_scheduler=[a,b]", "param_scheduler has 'a' where a dict"),
        ("train_dataloader.dataset.pipeline=x", "train_dataloader.dataset.pipeline has 'x' where"),
        ("train_dataloader.dataset=x", "train_dataloader.dataset is 'x'; it takes a dict"),
        ("val_evaluator=IoUMetric", "val_evaluator has 'IoUMetric' where a dict"),
        ("default_hooks.logger=5", "default_hooks.logger is 5; it takes a dict"),
        ("train_cfg=3", "train_cfg is 3; it takes a dict"),
    ],
)
def test_a_text_in_the_place_of_a_dict_is_refused(option, words):
    with pytest.raises(UserError, match=re.escape(words)):
        run.load_config(
            str(CONFIGS / f"{SEMANTIC}.py"), options=run.overrides(Namespace(cfg_options=[option]))
        )


ROOTS = {"ade20k": "made/ade/ADEChallengeData2016", "coco": "made/coco"}


def mine(base: str, text: str = "", classes=None) -> str:
    """A config on a shipped one, with the data of `folder` unless its text says otherwise."""
    kind = base.partition("_")[0]
    classes = classes or (SHAPES if kind == "coco" else SEGMENTATION_CLASSES)
    kind_of_data = ", type='BaseSegDataset', reduce_zero_label=True" if kind == "ade20k" else ""
    count, root = len(classes), "" if "data_root" in text else f"data_root = {ROOTS[kind]!r}\n"
    heads = {
        SEMANTIC: f"decode_head=dict(num_classes={count}), auxiliary_head=dict(num_classes={count})",
        MASK2FORMER: f"decode_head=dict(num_classes={count}, loss_cls=dict(class_weight={[1.0] * count + [0.1]}))",
        MASKS: f"roi_head=dict(bbox_head=dict(num_classes={count}), mask_head=dict(num_classes={count}))",
    }  # fmt: skip
    return (
        f"_base_ = {str(CONFIGS / base)!r} + '.py'\n{root}"
        f"model = dict({heads.get(base, '')})\n"
        f"meta = dict(classes={tuple(classes)!r})\n"
        f"own = dict(metainfo=meta{kind_of_data})\n"
        "train_dataloader = dict(num_workers=0, dataset=own)\n"
        "val_dataloader = dict(num_workers=0, dataset=own)\n"
        f"test_dataloader = val_dataloader\n{text}"
    ).replace(f"{str(CONFIGS / base)!r} + '.py'", repr(f"{CONFIGS / base}.py"))


def read(text: str, *options: str, shrink: bool = False) -> Config:
    """As train does before the first step."""
    Path("mine.py").write_text(text)
    options = run.overrides(Namespace(cfg_options=list(options)))
    cfg = run.load_config("mine.py", shrink=shrink, options=options)
    run.check_data(cfg)
    return cfg


# ---- data_root -----------------------------------------------------------------------------------
@pytest.mark.parametrize("base", [SEMANTIC, MASKS])
def test_data_root_is_one_knob_in_the_file_and_on_the_command_line(base, here):
    root = ROOTS[base.partition("_")[0]]
    elsewhere = mine(base, "data_root = 'elsewhere'\n")
    for cfg in (
        read(mine(base)),
        read(elsewhere, f"data_root={root}/"),
        read(elsewhere, f"data_root={here / root}"),
    ):
        for split in ("train", "val", "test"):
            assert Path(cfg[f"{split}_dataloader"].dataset.data_root).resolve() == here / root
        if "ann_file" in cfg.val_evaluator:
            expected = here / root / "annotations/instances_val2017.json"
            assert Path(cfg.val_evaluator.ann_file).resolve() == expected
            assert cfg.test_evaluator.ann_file == cfg.val_evaluator.ann_file
    own = mine(base, "data_root = 'elsewhere'\nown['data_root'] = data_root\n")
    assert read(own, f"data_root={root}").val_dataloader.dataset.data_root == root
    Path("middle.py").write_text(elsewhere)
    again = read(f"_base_ = './middle.py'\ndata_root = {root!r}\n")
    assert again.train_dataloader.dataset.data_root == root


def test_a_home_is_expanded_and_a_missing_place_is_told_with_the_configs_own_paths(
    here, monkeypatch
):
    monkeypatch.setenv("HOME", str(here))
    assert read(mine(SEMANTIC, f"data_root = '~/{ROOTS['ade20k']}'\n"))
    with pytest.raises(UserError) as told:
        read(mine(SEMANTIC, "data_root = '~/street'\n"),
             "train_dataloader.dataset.data_prefix.img_path=left", "train_dataloader.dataset.img_suffix=.png")  # fmt: skip
    said = str(told.value)
    assert f"{here}/street/" in said
    assert "left/*.png" in said
    assert "annotations/training/*.png" in said
    assert "ADEChallengeData2016.zip" not in said
    assert "data_root" in said


def test_a_data_root_that_reaches_nothing_is_refused(here):
    text = mine(SEMANTIC, "data_root = 'x'\n") + "".join(
        f"{split}_dataloader = dict(dataset=dict(**own, data_root={ROOTS['ade20k']!r}))\n"
        for split in ("train", "val", "test")
    )
    with pytest.raises(
        UserError, match=r"data_root='x' reaches no data set: theirs lie at made/ade"
    ):
        read(text)


def test_a_wrong_suffix_and_an_empty_folder_are_counted(here):
    with pytest.raises(UserError, match=r"6 \.jpg files in .*images/training, none ends in \.jpeg: set train_dataloader\.dataset\.img_suffix"):  # fmt: skip
        read(mine(SEMANTIC), "train_dataloader.dataset.img_suffix=.jpeg")
    with pytest.raises(UserError, match=r"6 \.png files .*none ends in _L\.png: .*seg_map_suffix"):
        read(mine(SEMANTIC), "train_dataloader.dataset.seg_map_suffix=_L.png")
    (here / ROOTS["ade20k"] / "images/empty").mkdir(exist_ok=True)
    with pytest.raises(UserError, match=r"images/empty is an empty folder"):
        read(mine(SEMANTIC), "train_dataloader.dataset.data_prefix.img_path=images/empty")
    with pytest.raises(UserError, match=r"4 of 6 pictures .* have no label map of their name"):
        read(
            mine(SEMANTIC),
            "train_dataloader.dataset.data_prefix.seg_map_path=annotations/validation",
        )


# ---- a sentence each -----------------------------------------------------------------------------
SWIN = "model = dict(backbone=dict(type='SwinTransformer', embed_dims=96))\n"
MISTAKES = {
    # keys that no part reads
    "a misspelt key": (SEMANTIC, "train_dataloder = dict(batch_size=2)\n", [], "no part of a run reads 'train_dataloder'; did you mean 'train_dataloader'"),
    "a misspelt key on the command line": (SEMANTIC, "", ["train_dataloder.batch_size=2"], "did you mean 'train_dataloader'"),
    "a new key on the command line": (SEMANTIC, "", ["mine=2"], "no part of a run reads 'mine'"),
    "a misspelt entry": (SEMANTIC, "", ["train_dataloader.batchsize=2"], "train_dataloader has no 'batchsize'; did you mean 'batch_size'"),
    "a misspelt part": (SEMANTIC, "", ["model.backbon.arch=tiny"], "model has no 'backbon'; did you mean 'backbone'"),
    "a misspelt part in the file": (SEMANTIC, "optim_wrapper = dict(optimizer=dict(weight_deca=0))\n", [], "AdamW does not take 'weight_deca'; did you mean 'weight_decay'"),
    "an entry that no signature takes": (SEMANTIC, "", ["model.test_cfg.crop_sizee=(1,1)"], "model.test_cfg has no 'crop_sizee'; did you mean 'crop_size'"),
    "a misspelt hook": (SEMANTIC, "", ["default_hooks.chekpoint.interval=5"], "did you mean 'checkpoint'"),
    "a misspelt hook in the file": (SEMANTIC, "default_hooks = dict(chekpoint=dict(interval=5))\n", [], "default_hooks.chekpoint has no type.*did you mean 'checkpoint'"),
    "a variable set again": (SEMANTIC, "crop_size = (64, 64)\n", [], "'crop_size' is a variable of the base.*model.data_preprocessor.size"),
    "a pipeline set again": (SEMANTIC, "train_pipeline = [dict(type='LoadImageFromFile')]\n", [], "'train_pipeline' is a variable.*train_dataloader.dataset.pipeline"),
    "a variable on the command line": (SEMANTIC, "", ["crop_size=(64,64)"], "'crop_size' is a variable"),
    # what merges and should not
    "another optimizer": (SEMANTIC, "optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.1))\n", [], r"SGD does not take 'betas', left over from the base's AdamW: write optimizer=dict\(_delete_=True"),
    "another loop": (MASKS, "train_cfg = dict(type='IterBasedTrainLoop', max_iters=9)\n", [], "IterBasedTrainLoop does not take 'max_epochs'.*_delete_=True"),
    "another evaluator": (MASKS, "val_evaluator = dict(type='VOCMetric', metric='mAP')\n", [], "VOCMetric does not take 'ann_file'.*_delete_=True"),
    # classes
    "classes left in one head": (SEMANTIC, "model = dict(decode_head=dict(num_classes=5))\n", [], "5 classes .*model.auxiliary_head.num_classes is 150: set model.auxiliary_head.num_classes=5"),
    "another data set's class": (SEMANTIC, "own.update(type='ADE20KDataset')\n", [], "is a ADE20KDataset, whose label maps are of its own 150 classes, without 'background'.*BaseSegDataset"),
    "classes of COCO": (MASKS, "", ["model.roi_head.mask_head.num_classes=80"], "model.roi_head.mask_head.num_classes is 80"),
    "Mask2Former's weights": (MASK2FORMER, "model = dict(decode_head=dict(num_classes=5))\n", [], "class_weight holds 151 numbers; 5 classes need 6"),
    "a text for classes": (MASKS, "", ["train_dataloader.dataset.metainfo.classes=RBC"], r'the text \'RBC\'; write a tuple of names: \("RBC",\)'),
    "one name for several": (MASKS, "val_dataloader = dict(dataset=dict(metainfo=dict(classes=['a,b'])))\n", [], r'write \("a", "b"\)'),
    "a list for metainfo": (MASKS, "val_dataloader = dict(dataset=dict(metainfo=[dict(classes=('a',))]))\n", [], "must be dict"),
    "a class twice": (MASKS, "val_dataloader = dict(dataset=dict(metainfo=dict(classes=('a', 'a'))))\n", [], "names 'a' more than once"),
    "a palette of another length": (MASKS, "val_dataloader = dict(dataset=dict(metainfo=dict(palette=[(1, 2, 3)])))\n", [], "palette has 1 colour for 80 classes"),
    "classes of the training data alone": (MASKS, "val_dataloader = dict(dataset=dict(metainfo=dict(classes=('a',))))\n", [], "disagree about the number of classes"),
    # numbers, metrics, files
    "no validation interval": (SEMANTIC, "", ["train_cfg.val_interval=0"], "val_interval is 0; it must be a whole number from 1"),
    "no batch": (SEMANTIC, "", ["train_dataloader.batch_size=0"], "batch_size is 0"),
    "no step": (SEMANTIC, "", ["train_cfg.max_iters=0"], "max_iters is 0"),
    "a metric that is not given": (MASKS, "val_evaluator = dict(metric='bbox')\n", ["default_hooks.checkpoint.save_best=coco/segm_mAP"], "save_best waits for 'coco/segm_mAP', which the evaluator does not give; it gives coco/bbox_mAP"),
    "another evaluator's metric": (MASKS, "val_evaluator = dict(_delete_=True, type='VOCMetric')\ndefault_hooks = dict(checkpoint=dict(save_best='coco/bbox_mAP'))\n", [], "it gives pascal_voc/AP50, pascal_voc/mAP"),
    "an early stop on nothing": (SEMANTIC, "custom_hooks = [dict(type='EarlyStoppingHook', monitor='mAP')]\n", [], "custom_hooks.0.monitor waits for 'mAP'"),
    "an evaluator's file": (MASKS, "", ["val_evaluator.ann_file=none.json"], "ann_file is none.json, which is missing; the val data set's is made/coco/annotations/instances_val2017.json"),
    # parts that do not fit
    "another size": (SEMANTIC, "", ["model.backbone.arch=tiny"], r"model.decode_head.in_channels=\[96, 192, 384, 768\]"),
    "anchors of other strides": (MASKS, "model = dict(backbone=dict(out_indices=(1, 2, 3)), neck=dict(in_channels=[80, 160, 320], start_level=1))\n", [], r"maps have strides \[16, 32, 64, 128, 256\].*strides is \[4, 8, 16, 32, 64\]"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_with_what_to_write(name, here):
    base, text, options, words = MISTAKES[name]
    text = mine(base) + text
    if text.count("\nmodel = ") > 1:  # the later one is what the file says
        text = text.replace(text[text.index("\nmodel = ") : text.index("\nmeta = ")], "", 1)
    with pytest.raises(UserError, match=f"(?s){words}"):
        read(text, *options)


def test_what_is_meant_is_taken(here, caplog):
    """Names used by the file itself, entries that a signature takes, and a run's own flat config."""
    text = mine(
        SEMANTIC, "lr = 1e-3\noptim_wrapper = dict(optimizer=dict(lr=lr))\nmy_name = 'street'\n"
    )
    with caplog.at_level(logging.WARNING):
        cfg = read(text, "train_dataloader.drop_last=True", "train_cfg.dynamic_intervals=[(1,2)]",
                   "optim_wrapper.accumulative_counts=2", "default_hooks.stop.type=EarlyStoppingHook",
                   "default_hooks.stop.monitor=mIoU", "randomness.deterministic=True",
                   "load_from=none.pth", "optim_wrapper.clip_grad.max_norm=1")  # fmt: skip
    assert "'my_name', which no part of a run reads" in caplog.text
    cfg.dump("flat.py")
    flat = run.load_config("flat.py", options={})
    run.check_data(flat)
    assert flat.train_dataloader.dataset.data_root == ROOTS["ade20k"]
    moved = run.load_config("flat.py", options={"data_root": "elsewhere"})
    assert moved.train_dataloader.dataset.data_root == "elsewhere"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.py")), ids=lambda path: path.stem)
def test_no_shipped_config_contradicts_itself(path):
    assert config_mistakes.contradictions(run.load_config(str(path))) == []


# ---- other packages' backbones -------------------------------------------------------------------
def test_the_later_of_pretrained_and_init_cfg_counts_and_is_named(here, capsys):
    backbone = read(mine(SEMANTIC), "model.backbone.pretrained=mine.pth").model.backbone
    text = mine(SEMANTIC).replace(
        "model = dict(", "model = dict(backbone=dict(pretrained='mine.pth'), "
    )
    capsys.readouterr()
    backbone = read(text).model.backbone
    assert (backbone.pretrained, backbone.init_cfg) == ("mine.pth", None)
    assert "pretrained was written after init_cfg and counts" in capsys.readouterr().out


PASTED = """
custom_imports = dict(imports=["mmpretrain.models"], allow_failed_imports=False)
model["backbone"] = dict(
    _delete_=True, type="mmpretrain.ConvNeXt", arch="tiny", out_indices=[0, 1, 2, 3], drop_path_rate=0.4,
    layer_scale_init_value=1.0, gap_before_final_norm=False,
    init_cfg=dict(type="Pretrained", checkpoint="none.pth", prefix="backbone."))
model["decode_head"]["in_channels"] = [96, 192, 384, 768]
model["auxiliary_head"]["in_channels"] = 384
"""


def test_mmpretrains_convnext_is_read_as_ours_where_mmpretrain_is_not_installed(
    here, capsys, monkeypatch
):
    monkeypatch.setattr(config_mistakes, "find_spec", lambda name: None)
    cfg = read(mine(SEMANTIC, PASTED))
    assert cfg.model.backbone.type == "ConvNeXt"
    assert "mmpretrain.ConvNeXt -> ConvNeXt of this package" in capsys.readouterr().out
    built = run.build_model(cfg)
    assert built.backbone.norm0.normalized_shape == (96,)


def test_an_import_of_mmpretrain_that_nothing_needs_is_left_out_and_named(
    here, capsys, monkeypatch
):
    monkeypatch.setattr(config_mistakes, "find_spec", lambda name: None)
    cfg = read(mine(SEMANTIC, PASTED.replace("mmpretrain.ConvNeXt", "ConvNeXt")))
    assert cfg.custom_imports.imports == []
    assert "custom_imports: mmpretrain.models left out" in capsys.readouterr().out


def test_what_else_of_mmpretrain_a_config_names_is_imported_and_not_found(here, monkeypatch):
    monkeypatch.setattr(config_mistakes, "find_spec", lambda name: None)
    other = 'model["decode_head"]["type"] = "mmpretrain.LinearHead"'
    with pytest.raises(UserError, match=r"Failed to import mmpretrain\.models"):
        read(mine(SEMANTIC, PASTED + other))


# ---- the schedule --------------------------------------------------------------------------------
def test_what_lies_beyond_a_run_is_told():
    cfg = run.load_config(MASKS)
    assert config_mistakes.schedule_notes(cfg, iterations=36 * 7330, epochs=36) == []
    warmup, steps, *_ = config_mistakes.schedule_notes(cfg, iterations=400, epochs=1)
    assert (
        warmup == "LinearLR is a warm-up of 1000 steps in a run of 400 steps: lr is never reached"
    )
    assert steps == (
        "MultiStepLR: milestones 27, 33 lie beyond a run of 1 epochs, and the learning rate does not fall there"
    )
    cfg = run.load_config(SEMANTIC)
    poly, validation = config_mistakes.schedule_notes(cfg, iterations=9000, epochs=1.5)
    assert "PolyLR ends at 160000 steps, in a run of 9000 steps" in poly
    assert (
        "val_interval=16000 is longer than the run (9000 steps), which validates once, at its end"
        in validation
    )


# ---- runs ----------------------------------------------------------------------------------------
SHORT = [
    "train_cfg.val_interval=2", "default_hooks.logger.interval=1", "default_hooks.checkpoint.interval=2",
    "model.test_cfg.mode=whole", "train_dataloader.batch_size=2",
]  # fmt: skip


COUNT = itertools.count()


def small(work_dir: Path, *options: str, text: str = "", steps: int = 4) -> Config:
    """A segmentation run of seconds on the pictures of `folder`."""
    shrunk = f"""
palette = {[list(colour) for colour in PALETTE]!r}
test = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", reduce_zero_label=True), dict(type="PackSegInputs")]
train = [*test[:2], dict(type="RandomCrop", crop_size=(64, 64)), test[2]]
meta.update(palette=palette)
train_dataloader["dataset"] = own | dict(pipeline=train)
val_dataloader["dataset"] = own | dict(pipeline=test)
model["decode_head"].update(channels=16)
model["auxiliary_head"].update(channels=16)
model["data_preprocessor"] = dict(size=(64, 64))
{text}
"""
    cfg = read(
        mine(SEMANTIC, shrunk), *SHORT, f"train_cfg.max_iters={steps}", *options, shrink=True
    )
    run.set_work_dir(cfg, work_dir)
    cfg.launcher = "none"
    # MMEngine keeps both by their names for the life of a process
    cfg.experiment_name = cfg.visualizer.name = f"{work_dir}, {next(COUNT)}"
    run.fit_to_device(cfg)
    return cfg


def test_a_run_keeps_its_best_checkpoint_and_the_scores_of_its_classes(here, tmp_path):
    cfg = small(tmp_path / "first")
    run.train(cfg, resume=False)
    assert run.best_checkpoint(cfg).name.startswith("best_mIoU_iter_")
    validations = [entry for entry in run.read_log(tmp_path / "first") if entry.validation]
    assert [entry.iteration for entry in validations] == [2, 4]
    of_classes = {f"IoU-{name} (%)" for name in SEGMENTATION_CLASSES}
    assert all(of_classes | {"mIoU"} <= entry.record.keys() for entry in validations)
    (tmp_path / "first").rename(tmp_path / "second")
    run.set_work_dir(cfg, tmp_path / "second")
    assert run.last_checkpoint(cfg) == tmp_path / "second" / "iter_4.pth"


def test_a_loss_that_is_no_number_ends_the_run_and_saves_nothing(here, tmp_path):
    cfg = small(tmp_path, "optim_wrapper.optimizer.lr=1e30", "param_scheduler.0.start_factor=1.0",
                "default_hooks.checkpoint.interval=1", steps=30)  # fmt: skip
    with pytest.raises(UserError, match=r"is not finite .*lower optim_wrapper\.optimizer\.lr.*"):
        run.train(cfg, resume=False)
    for saved in tmp_path.glob("*.pth"):
        run.load_trained(run.build_model(cfg, "cpu"), str(saved))
        state = run.read_training_checkpoint(str(saved))["state_dict"]
        assert all(tensor.isfinite().all() for tensor in state.values())


def test_a_validation_of_void_alone_is_told(here, tmp_path):
    cfg = small(tmp_path, steps=2)
    labels = here / ROOTS["ade20k"] / "annotations"
    (labels / "void").mkdir(exist_ok=True)
    for file in (labels / "validation").glob("*.png"):
        Image.new("L", Image.open(file).size).save(labels / "void" / file.name)
    cfg.val_dataloader.dataset.data_prefix.seg_map_path = "annotations/void"
    with pytest.raises(UserError, match=r"mIoU nan: no picture .* has a labelled pixel"):
        run.train(cfg, resume=False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_the_step_and_the_run_goes_on_from_it(number, here, tmp_path, monkeypatch):
    sent = []

    def after_train_iter(self, runner, *args, **kwargs):
        if runner.iter == 0 and not sent:
            sent.append(os.kill(os.getpid(), number))

    monkeypatch.setattr(run.ClassesHook, "after_train_iter", after_train_iter)
    cfg = small(tmp_path)
    with pytest.raises(
        Stopped, match=r"stopped after step 1, .*interrupted_at_iter_1\.pth.*--resume"
    ) as end:
        run.train(cfg, resume=False)
    assert end.value.status == 128 + number
    assert run.last_checkpoint(cfg) == tmp_path / "interrupted_at_iter_1.pth"
    runner = run.train(small(tmp_path), resume=True)
    assert runner.iter == 4
    training = [entry.iteration for entry in run.read_log(tmp_path) if not entry.validation]
    assert training == [1, 2, 3, 4]


def test_boxes_without_masks_are_refused_for_a_config_that_learns_masks(here, tmp_path):
    for split in ("train", "val"):
        file = here / ROOTS["coco"] / f"annotations/instances_{split}2017.json"
        content = json.loads(file.read_text())
        content["annotations"] = [
            {k: v for k, v in a.items() if k != "segmentation"} for a in content["annotations"]
        ]
        file.with_name(f"boxes_{split}.json").write_text(json.dumps(content))
    cfg = read(
        mine(MASKS), "train_dataloader.dataset.ann_file=annotations/boxes_train.json", shrink=True
    )
    run.set_work_dir(cfg, tmp_path)
    cfg.launcher = "none"
    run.fit_to_device(cfg)
    with pytest.raises(UserError, match=r"have a box and no mask .*coco_faster_rcnn"):
        run.train(cfg, resume=False)
