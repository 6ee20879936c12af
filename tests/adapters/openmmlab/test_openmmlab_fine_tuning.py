"""Runs of MMEngine that start from another run's weights or go on from their own: whole, or a sentence."""

import copy
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.runner import Runner

from convnext_backbones.adapters.openmmlab import ConvNeXtV2, run
from convnext_backbones.adapters.openmmlab.checkpoints import read_training_checkpoint
from convnext_backbones.adapters.openmmlab.fine_tuning import take_options
from convnext_backbones.adapters.openmmlab.signatures import walk
from convnext_backbones.checkpoints.layouts import to_layout
from convnext_backbones.errors import CheckpointError, UserError
from convnext_backbones.runs.fine_tuning import fit_whole

SIZE = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
CLASSES = ("road", "sky", "car")


class Pictures(BaseDataset):
    def load_data_list(self) -> list[dict]:
        return [{"index": index} for index in range(4)]

    def prepare_data(self, index: int):
        return {"inputs": torch.full((3, 32, 32), float(index))}


class Segmentor(BaseModel):
    """A backbone and a head, by MMSegmentation's names."""

    def __init__(self, classes=3, size=SIZE):
        super().__init__()
        self.backbone = ConvNeXtV2(size, out_indices=(3,))
        self.decode_head = nn.Module()
        self.decode_head.num_classes = classes
        self.decode_head.conv_seg = nn.Conv2d(32, classes, 1)

    def forward(self, inputs, data_samples=None, mode="tensor"):
        scores = self.decode_head.conv_seg(self.backbone(torch.stack(list(inputs)))[0])
        return {"loss": scores.square().mean()} if mode == "loss" else [scores]


class Constant(BaseMetric):
    """A metric that is never better than at first."""

    def process(self, data_batch, data_samples) -> None:
        self.results.append(1.0)

    def compute_metrics(self, results: list) -> dict:
        return {"mIoU": 1.0}


def runner(folder, model=None, *, classes=CLASSES, hooks=(), steps=2, **options):
    """A run of two steps."""
    dataset = Pictures(metainfo=dict(classes=classes))
    loader = dict(
        batch_size=2, num_workers=0, collate_fn=dict(type="pseudo_collate"),
        sampler=dict(type="InfiniteSampler", shuffle=False),
    )  # fmt: skip
    settings = dict(
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01)),
        param_scheduler=dict(type="PolyLR", end=9, by_epoch=False),
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=1)),
        val_dataloader=dict(
            batch_size=2, dataset=Pictures(), sampler=dict(type="DefaultSampler", shuffle=False)
        ),
        val_cfg=dict(),
        val_evaluator=Evaluator(Constant()),
    )
    return Runner(
        model=model or Segmentor(), work_dir=str(folder),
        train_dataloader=dict(dataset=dataset, **loader),
        train_cfg=dict(by_epoch=False, max_iters=steps, val_interval=1),
        custom_hooks=list(hooks), log_level="INFO",
        experiment_name=f"{folder.name}{np.random.randint(10**9)}",
        **{**settings, **options},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def loggers():
    yield
    MMLogger._instance_dict.clear()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's checkpoint after two steps."""
    folder = tmp_path_factory.mktemp("trained")
    runner(folder, hooks=[dict(type="EMAHook")]).train()
    MMLogger._instance_dict.clear()
    return read_training_checkpoint(str(folder / "iter_2.pth"))


def saved(tmp_path, content) -> str:
    file = tmp_path / "given.pth"
    torch.save(content, file)
    return str(file)


def log_of(folder) -> str:
    return "\n".join(file.read_text() for file in sorted(Path(folder).glob("*/*.log")))


# ---- another run's weights
def test_load_from_of_other_classes_keeps_what_fits_and_names_what_is_new(trained, tmp_path):
    own = ("car", "tree")
    file = saved(tmp_path, trained)
    started = runner(
        tmp_path / "a", Segmentor(2), classes=own, load_from=f"{file}?keep_classes=true"
    )
    started._train_loop = started.build_train_loop(started._train_loop)
    started.load_or_resume()
    state = started.model.state_dict()
    for name, value in trained["state_dict"].items():
        if "conv_seg" not in name:
            assert torch.equal(state[name], value), name
    rows = trained["state_dict"]["decode_head.conv_seg.weight"]
    assert torch.equal(state["decode_head.conv_seg.weight"][0], rows[2])
    assert "1 of 2 kept by name (car), new: tree" in log_of(tmp_path / "a")

    averages = dict(type="EMAHook")
    started = runner(tmp_path / "b", Segmentor(2), classes=own, load_from=file, hooks=[averages])
    started.train()
    assert "new: decode_head.conv_seg: 3 -> 2 classes" in log_of(tmp_path / "b")
    assert "do not match exactly" not in log_of(tmp_path / "b")


def test_load_from_with_mmpretrains_names_gives_the_backbone_its_weights(trained, tmp_path):
    state = trained["state_dict"]
    backbone = {n.removeprefix("backbone."): v for n, v in state.items() if n[:9] == "backbone."}
    foreign, _ = to_layout(backbone, "mmpretrain_backbone", version=2)
    head = {n: v for n, v in state.items() if not n.startswith("backbone.")}
    content = {"state_dict": {f"backbone.{n}": v for n, v in foreign.items()} | head}
    started = runner(tmp_path / "a", load_from=saved(tmp_path, content))
    started.load_or_resume()
    assert all(torch.equal(v, state[n]) for n, v in started.model.state_dict().items())
    assert "its ConvNeXt had mmpretrain_backbone names" in log_of(tmp_path / "a")


def test_load_from_of_a_backbone_alone_is_taken_as_pretrained(trained, tmp_path):
    state = {n.removeprefix("backbone."): v for n, v in trained["state_dict"].items()
             if n.startswith("backbone.")}  # fmt: skip
    started = runner(tmp_path / "a", load_from=saved(tmp_path, {"model": state}))
    started.load_or_resume()
    assert all(torch.equal(v, state[n]) for n, v in started.model.backbone.state_dict().items())
    assert "holds a ConvNeXt alone, taken as pretrained= is" in log_of(tmp_path / "a")
    started._load_from += "?keep_classes=true"
    started._has_loaded = False
    with pytest.raises(CheckpointError, match="without heads whose rows could be kept"):
        started.load_or_resume()


def test_models_without_a_convnext_load_as_they_did(tmp_path):
    class Other(Segmentor):
        def __init__(self):
            BaseModel.__init__(self)
            self.layer, self.new = nn.Linear(2, 2), nn.Linear(1, 1)

    file = saved(tmp_path, {"state_dict": {"layer.weight": torch.ones(2, 2)}})
    started = runner(tmp_path / "a", Other(), load_from=file)
    started.load_or_resume()
    assert started.model.layer.weight.eq(1).all()


# ---- going on
TEXTS = {
    "statement": "open({trace!r}, 'w')\n",
    "import": "import os\nos.mkdir({trace!r})\n",
    "from": "from os import mkdir\nx = mkdir({trace!r})\n",
    "lazy": "with read_base():\n    from .none import x\nopen({trace!r}, 'w')\n",
    "base": "_base_ = []\nx = open({trace!r}, 'w')\n",
    "expression": "gpu_ids = [open({trace!r}, 'w')]\n",
    "def": "def f(x=open({trace!r}, 'w')):\n    pass\n",
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_config_text_in_a_checkpoint_is_never_run(trained, tmp_path, kind):
    trace = tmp_path / "it_ran"
    content = copy.deepcopy(trained)
    content["meta"]["config"] = TEXTS[kind].format(trace=str(trace))
    content.pop("ema_state_dict")

    class Nothing(Hook):
        """A user's own hooks in the place of a shipped config's."""

    resumed = runner(
        tmp_path / "a", load_from=saved(tmp_path, content), resume=True, hooks=[Nothing()]
    )
    resumed.train()
    assert resumed.iter == 2
    assert not trace.exists()


def without(key):
    return lambda content: content.pop(key)


def spoilt(content):
    content["state_dict"]["decode_head.conv_seg.bias"][0] = float("nan")


def averaged(content):
    content["ema_state_dict"]["module.decode_head.conv_seg.bias"][0] = float("inf")


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (without("meta"), {}, r"holds no 'meta' \(the iteration\); it holds .*--weights"),
        (without("message_hub"), {}, r"no 'message_hub'"),
        (without("optimizer"), {}, r"no 'optimizer' \(the optimizer's state\)"),
        (without("param_schedulers"), {}, r"no 'param_schedulers'"),
        (lambda content: content["meta"].pop("iter"), {}, r"meta: .*no 'iter'"),
        (spoilt, {}, r"NaN or infinite.*conv_seg\.bias"),
        (averaged, {}, r"NaN or infinite.*conv_seg\.bias"),
        (None, dict(model=Segmentor(2)), r"conv_seg\.weight is \(3, 32, 1, 1\), not \(2, 32"),
        (None, dict(model=Segmentor(size=dict(depths=(2, 1, 1, 1), dims=(8, 16, 24, 32)))),
         r"backbone of this checkpoint is .*\(1, 1, 1, 1\).*model's is .*\(2, 1, 1, 1\)"),
        (None, dict(optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9))),
         r"its optimizer: it is of another kind"),
        (None, dict(optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1),
                                       paramwise_cfg=dict(bias_lr_mult=2.0))),
         r"it has 1 parameter groups, the config's AdamW has"),
        (None, dict(param_scheduler=[dict(type="PolyLR"), dict(type="LinearLR", start_factor=0.1)]),
         r"holds 1 schedules, and the config's param_scheduler is 2"),
    ],
)  # fmt: skip
def test_a_run_that_cannot_go_on_says_why(trained, tmp_path, change, options, words):
    content = copy.deepcopy(trained)
    if change:
        change(content)
    resumed = runner(tmp_path / "a", load_from=saved(tmp_path, content), resume=True, **options)
    with pytest.raises(UserError, match=words):
        resumed.train()


def test_a_run_goes_on_and_says_that_rates_are_its_own(trained, tmp_path):
    slower = dict(optimizer=dict(type="AdamW", lr=0.001))
    resumed = runner(
        tmp_path / "a", load_from=saved(tmp_path, trained), resume=True, steps=3,
        hooks=[dict(type="EMAHook")], optim_wrapper=slower,
    )  # fmt: skip
    resumed.train()
    assert resumed.iter == 3
    assert "rates that it began with, up to 0.01; those of the config, up to 0.001" in log_of(
        tmp_path / "a"
    )


def test_evaluation_refuses_weights_that_are_not_finite(trained, tmp_path):
    content = copy.deepcopy(trained)
    spoilt(content)
    with pytest.raises(UserError, match=r"NaN or infinite.*conv_seg\.bias"):
        run.load_trained(Segmentor(), saved(tmp_path, content))


# ---- the hosts' heads
@pytest.mark.parametrize(
    "config",
    [
        "ade20k_upernet_convnextv2_atto",
        "ade20k_mask2former_convnextv2_t",
        "coco_mask_rcnn_convnextv2_atto",
        "coco_cascade_mask_rcnn_convnextv2_atto",
        "coco_rtmdet_convnextv2_atto",
        "coco_dino_convnextv2_t_22k",
        "coco_mask2former_convnextv2_t",
    ],
)
def test_the_hosts_heads_of_other_classes_are_new_and_keep_rows_by_name(config):
    def built(count):
        cfg = run.load_config(config, shrink=True)
        for _, node in walk(cfg.model):
            for key in ("num_classes", "num_things_classes"):
                if key in node and node.get("type") != "RPNHead":
                    node[key] = count
            if "num_stuff_classes" in node:
                node.num_stuff_classes = 0
        return run.build_model(cfg, "cpu")

    theirs, ours = built(5), built(3)
    theirs.init_weights()  # DINO's level_embed is whatever lay in memory before, NaN now and then
    state = theirs.state_dict()
    fitted = fit_whole(ours, {"state_dict": state}, "run.pth", "")
    differ = {n for n, v in ours.state_dict().items() if v.shape != state[n].shape}
    assert differ
    assert {clause.partition(":")[0] for clause in fitted.new} == {
        n.rpartition(".")[0] for n in differ
    }
    assert all(clause.endswith(": 5 -> 3 classes") for clause in fitted.new)
    kept = fit_whole(
        ours, {"state_dict": state}, "run.pth", "",
        keep_classes=True, names=("a", "b", "c"), names_in_file=("c", "a", "x", "y", "b"),
    )  # fmt: skip
    assert kept.new == []
    for name in differ:
        old, new = state[name], kept.state[name]
        if len(new) == 4:  # with background
            assert torch.equal(new, old[[1, 4, 0, 5]])
        elif "fc_reg" in name:
            assert torch.equal(new, old.unflatten(0, (5, 4))[[1, 4, 0]].flatten(0, 1))
        else:
            assert torch.equal(new, old[[1, 4, 0]]), name


# ---- options
def taken(cfg, **given):
    nothing = dict(weights=None, keep_classes=False, freeze=None, lr_factor=None, early_stop=None)
    take_options(cfg, Namespace(**{**nothing, "resume": False, **given}))
    return cfg


def test_options_change_the_config_and_say_so(tmp_path, capsys):
    file = tmp_path / "run.pth"
    file.touch()
    cfg = run.load_config("coco_rtmdet_convnextv2_atto")
    before = copy.deepcopy(cfg)
    taken(cfg, weights=str(file), keep_classes=True, freeze=2, lr_factor=0.1, early_stop=4)
    assert cfg.load_from == f"{file}?keep_classes=true"
    assert cfg.model.backbone.frozen_stages == 2
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(before.optim_wrapper.optimizer.lr / 10)
    ends = [(s.eta_min, b.eta_min) for s, b in zip(cfg.param_scheduler, before.param_scheduler,
                                                   strict=True) if b.get("eta_min")]  # fmt: skip
    assert ends
    assert all(now == pytest.approx(was / 10) for now, was in ends)
    stopping = cfg.custom_hooks[-1]
    assert (stopping.type, stopping.monitor, stopping.patience) == (
        "StopEarly", "coco/bbox_mAP", 4,
    )  # fmt: skip
    said = capsys.readouterr().out
    for option in ("--weights", "--freeze 2", "--lr-factor 0.1", "--early-stop 4"):
        assert option in said


def test_resuming_goes_on_from_the_runs_own_last_checkpoint():
    cfg = run.load_config("ade20k_upernet_convnextv2_atto", options=dict(load_from="coco.pth"))
    assert taken(cfg, resume=True).load_from is None


def test_options_that_the_config_has_nothing_for_are_refused():
    cfg = run.load_config("ade20k_upernet_convnextv2_atto")
    cfg.default_hooks.checkpoint.pop("save_best")
    with pytest.raises(UserError, match=r"--early-stop 2 waits for a better metric.*by its name"):
        taken(cfg, early_stop=2)
    cfg.model.backbone = dict(type="mmseg.ResNet", depth=50)
    with pytest.raises(UserError, match=r"--freeze 1 counts the stages.*is mmseg.ResNet"):
        taken(cfg, freeze=1)
    cfg.optim_wrapper.optimizer.pop("lr")
    with pytest.raises(UserError, match=r"--lr-factor 0.5 multiplies optim_wrapper.optimizer.lr"):
        taken(cfg, lr_factor=0.5)


def test_a_run_stops_early(tmp_path):
    stopping = dict(type="StopEarly", monitor="mIoU", patience=2, min_delta=1e-9)
    rarely = dict(checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=100))
    started = runner(tmp_path, hooks=[stopping], steps=9, default_hooks=rarely)
    started.train()
    assert started.iter == 3  # the first is the best
    assert run.last_checkpoint(started) == tmp_path / "stopped_early_at_iter_3.pth"

    resumed = runner(tmp_path, hooks=[{**stopping, "patience": 3}], steps=9, resume=True)
    resumed.train()
    assert resumed.iter == 4  # two had been waited for
