"""Runs of Detectron2 that start from another run's weights or go on from their own: whole, or a sentence."""

import copy
import json
import logging
from argparse import Namespace

import pytest
import torch
from torch import nn

pytest.importorskip("detectron2")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import SimpleTrainer
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from convnext_backbones.adapters.detectron2 import ConvNeXtV2, run
from convnext_backbones.adapters.detectron2.checkpoints import ClassNames
from convnext_backbones.adapters.detectron2.fine_tuning import (
    EarlyStopping,
    StoppedEarly,
    take_options,
)
from convnext_backbones.adapters.detectron2.loop import EVALUATED
from convnext_backbones.errors import CheckpointError, UserError

SIZE = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
YAML = "detectron2/coco_mask_rcnn_convnextv2_atto.yaml"
LAZY = "detectron2/coco_mask_rcnn_convnextv2_atto.py"


class Segmentor(nn.Module):
    """A backbone and a head, by Detectron2's names."""

    def __init__(self, classes=3, size=SIZE):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.bottom_up = ConvNeXtV2(size, out_features=("stage4",))
        self.sem_seg_head = nn.Module()
        self.sem_seg_head.predictor = nn.Conv2d(32, classes, 1)  # it keeps no count

    def forward(self, pictures):
        maps = self.backbone.bottom_up(pictures)["stage4"]
        return {"loss": self.sem_seg_head.predictor(maps).square().mean()}


def training(folder, model=None, kind=torch.optim.AdamW, names=(), **options):
    model = model or Segmentor()
    trainer = SimpleTrainer(
        model, [torch.ones(1, 3, 32, 32)] * 4, kind(model.parameters(), lr=0.01)
    )
    return trainer, DetectionCheckpointer(
        model, str(folder), trainer=trainer, classes=ClassNames(names), **options
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's checkpoint after two steps, and its content."""
    folder = tmp_path_factory.mktemp("trained")
    trainer, checkpointer = training(folder, names=("road", "sky", "car"))
    trainer.train(0, 2)
    checkpointer.save("model_final", iteration=1)
    return torch.load(folder / "model_final.pth", weights_only=False)


def saved(folder, content) -> str:
    torch.save(content, folder / "given.pth")
    (folder / "last_checkpoint").write_text("given.pth")
    return str(folder / "given.pth")


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, logger="detectron2")
    return caplog


def test_classes_of_one_name_keep_their_rows(trained, tmp_path, log):
    file = saved(tmp_path, trained)
    _, checkpointer = training(tmp_path, Segmentor(2), names=("car", "tree"))
    fresh = checkpointer.model.sem_seg_head.predictor.weight[1].clone()
    checkpointer.resume_or_load(f"{file}?keep_classes=true", resume=False)
    rows = checkpointer.model.sem_seg_head.predictor.weight
    assert torch.equal(rows[0], trained["model"]["sem_seg_head.predictor.weight"][2])
    assert torch.equal(rows[1], fresh)
    assert "1 of 2 kept by name (car), new: tree" in log.text
    log.clear()
    _, checkpointer = training(tmp_path, Segmentor(2))
    checkpointer.resume_or_load(file, resume=False)
    assert "new: sem_seg_head.predictor: 3 -> 2 classes" in log.text
    with pytest.raises(CheckpointError, match="this run's data name no classes"):
        checkpointer.load(f"{file}?keep_classes=true", checkpointables=[])


def test_mmdetections_detectors_are_told_as_such_and_give_their_backbone(trained, tmp_path):
    model = {n.replace("bottom_up.", ""): v for n, v in trained["model"].items() if "bottom" in n}
    content = {"state_dict": model | {"decode_head.conv_seg.weight": torch.ones(2)}}
    file = saved(tmp_path, content)
    _, checkpointer = training(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"is a model of MMDetection or.*pth\?prefix=backbone$"
    ):
        checkpointer.resume_or_load(file, resume=False)
    checkpointer.resume_or_load(f"{file}?prefix=backbone", resume=False)
    state = checkpointer.model.backbone.state_dict()
    for name, value in model.items():
        assert torch.equal(state[name.replace("backbone.", "bottom_up.")], value)


def spoilt(content):
    content["model"]["sem_seg_head.predictor.bias"][0] = float("nan")


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (lambda c: c.pop("trainer"), {}, r"holds no 'trainer' \(the optimizer's state\).*--weights"),
        (lambda c: c["trainer"].pop("optimizer"), {}, r"trainer: .*no 'optimizer'"),
        (spoilt, {}, r"NaN or infinite.*predictor\.bias"),
        (None, dict(model=Segmentor(2)), r"predictor\.weight is \(3, 32, 1, 1\), not \(2, 32"),
        (None, dict(model=Segmentor(size=dict(depths=(2, 1, 1, 1), dims=(8, 16, 24, 32)))),
         r"backbone of this checkpoint is .*\(1, 1, 1, 1\).*model's is .*\(2, 1, 1, 1\)"),
        (None, dict(kind=torch.optim.RMSprop), r"its optimizer: it is of another kind"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_go_on_says_why(trained, tmp_path, change, options, words):
    content = copy.deepcopy(trained)
    if change:
        change(content)
    saved(tmp_path, content)
    _, checkpointer = training(tmp_path, **options)
    with pytest.raises(UserError, match=words):
        checkpointer.load(str(tmp_path / "given.pth"))


def test_a_run_goes_on_from_its_own(trained, tmp_path):
    saved(tmp_path, trained)
    trainer, checkpointer = training(tmp_path)
    assert checkpointer.resume_or_load("", resume=True)["iteration"] == 1
    assert trainer.iter == trained["trainer"]["iteration"]


@pytest.mark.parametrize("masks", [True, False])
def test_the_hosts_heads_of_other_classes_are_new(tmp_path, log, masks):
    def built(count):
        config = run.load_config(YAML, shrink=True)
        config.cfg.MODEL.DEVICE = "cpu"
        config.cfg.MODEL.ROI_HEADS.NUM_CLASSES = count
        config.cfg.MODEL.MASK_ON = masks
        return build_model(config.cfg)

    theirs, ours = built(5), built(3)
    file = saved(tmp_path, {"model": theirs.state_dict()})
    DetectionCheckpointer(ours).load(file)
    layers = ["roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"]
    for layer in layers + ["roi_heads.mask_head.predictor"] * masks:
        assert f"{layer}: 5 -> 3 classes" in log.text
    names = dict(classes=ClassNames("abc"))
    entry = {"model": theirs.state_dict(), "classes": {"names": list("caxyb")}}
    ours = built(3)
    DetectionCheckpointer(ours, **names).load(f"{saved(tmp_path, entry)}?keep_classes=true")
    old, new = theirs.state_dict(), ours.state_dict()
    name = "roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(new[name], old[name][[1, 4, 0, 5]])
    name = "roi_heads.box_predictor.bbox_pred.bias"
    assert torch.equal(new[name], old[name].unflatten(0, (5, 4))[[1, 4, 0]].flatten())


# ---- options
def taken(config, **given):
    nothing = dict(weights=None, keep_classes=False, freeze=None, lr_factor=None, early_stop=None)
    take_options(config, Namespace(**{**nothing, "resume": False, **given}))
    return config


def test_options_change_either_kind_of_config_and_say_so(tmp_path, capsys):
    file = tmp_path / "run.pth"
    file.touch()
    given = dict(weights=str(file), keep_classes=True, freeze=2, lr_factor=0.1, early_stop=4)
    plain, lazy = run.load_config(YAML), run.load_config(LAZY)
    rates = plain.cfg.SOLVER.BASE_LR, lazy.cfg.optimizer.lr
    taken(plain, **given)
    taken(lazy, **given)
    assert plain.settings.weights == lazy.settings.weights == f"{file}?keep_classes=true"
    assert plain.cfg.MODEL.BACKBONE.FREEZE_AT == lazy.cfg.model.backbone.bottom_up.freeze_at == 3
    assert pytest.approx(rates[0] / 10) == plain.cfg.SOLVER.BASE_LR
    assert lazy.cfg.optimizer.lr == pytest.approx(rates[1] / 10)
    assert plain.early_stop == lazy.early_stop == 4
    said = capsys.readouterr().out
    for option in ("--weights", "--freeze 2", "--lr-factor 0.1", "--early-stop 4"):
        assert said.count(option) == 2
    assert taken(run.load_config(YAML), freeze=0).cfg.MODEL.BACKBONE.FREEZE_AT == 0


def test_options_that_the_config_has_nothing_for_are_refused():
    config = run.load_config(YAML)
    config.cfg.TEST.EVAL_PERIOD = 0
    with pytest.raises(UserError, match=r"--early-stop 2 waits.*TEST\.EVAL_PERIOD \(now 0\)"):
        taken(config, early_stop=2)
    config.cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    with pytest.raises(UserError, match=r"--freeze 1 counts the stages.*is build_resnet_fpn"):
        taken(config, freeze=1)


@pytest.mark.parametrize(
    ("best", "patience", "stops"),
    [(None, 2, 4), (1, 1, 4), (3, 2, 8), (5, 2, 10), (7, 3, None)],
)
def test_a_run_stops_after_so_many_validations_without_a_better_metric(
    tmp_path, capsys, best, patience, stops
):
    notes = dict(metric="sem_seg/mIoU", value=30.0, iteration=best) if best is not None else None
    (tmp_path / EVALUATED).write_text(json.dumps(dict(metrics=[], best=notes)))
    trainer, checkpointer = training(tmp_path)
    hook = EarlyStopping(patience, 2, tmp_path, checkpointer)
    hook.trainer = trainer
    trainer.max_iter, at = 12, None
    with EventStorage():
        for trainer.iter in range(12):
            try:
                hook.after_step()
            except StoppedEarly:
                at = trainer.iter + 1
                break
    assert at == stops
    assert (tmp_path / f"model_{(at or 0) - 1:07d}.pth").exists() == (at is not None)
    assert ("stopped early" in capsys.readouterr().out) == (at is not None)
