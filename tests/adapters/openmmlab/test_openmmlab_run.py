"""Configs and options of MMDetection and MMSegmentation that cannot be run: a sentence each."""

import time
from argparse import Namespace
from pathlib import Path

import pytest

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from convnext_backbones.adapters.openmmlab import run
from convnext_backbones.errors import UserError

CONFIG = str(Path(__file__).parents[3] / "configs" / "coco_mask_rcnn_convnextv2_atto.py")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = 1 / 0\ndefault_scope = 'mmdet'\n", "cannot be read: ZeroDivisionError: division"),
        ("from detectron2.config import LazyCall as L\nx = L()(1)\n", "cannot be read"),
        (
            "_base_ = './none.py'\n",
            r"cannot be read: it names .*none\.py, and there is no such file",
        ),
        ("model = (\n", "cannot be read: SyntaxError"),
        ("custom_imports = dict(imports=['nowhere'])\n", "cannot be read: ImportError"),
        (
            "default_scope = 'mmpose'\n",
            "default_scope='mmpose'; this tool runs 'mmdet' and 'mmseg'",
        ),
    ],
)
def test_a_config_that_cannot_be_run_is_refused(text, words, tmp_path):
    (tmp_path / "config.py").write_text(text)
    with pytest.raises(UserError, match=words):
        run.load_config(str(tmp_path / "config.py"))


def test_overrides_are_read_as_mmengine_reads_them():
    pairs = ["a.b=3", "c=[1,2]", "d=(1.5,x)", "e=f=g"]
    found = run.overrides(Namespace(cfg_options=pairs))
    assert found == {"a.b": 3, "c": [1, 2], "d": (1.5, "x"), "e": "f=g"}
    assert run.overrides(Namespace(cfg_options=[])) == {}


@pytest.mark.parametrize("pairs", [["a"], ["a=1", "b"], ["a=[1,(2]"]])
def test_an_override_that_is_none_is_refused(pairs):
    with pytest.raises(UserError, match=r"is no override; write key=value|Imbalanced brackets"):
        run.overrides(Namespace(cfg_options=pairs))


def test_an_override_that_does_not_fit_the_config_is_refused():
    with pytest.raises(UserError, match=r"--cfg-options do not fit .*coco_mask_rcnn"):
        run.load_config(CONFIG, options={"param_scheduler.9.end": 1})


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (
            "model.backbone.out_indices=(9,)",
            r"cannot be built: .*out_indices holds 9; valid: -4\.\.3",
        ),
        (
            "model.backbone.arch=tinny",
            r"cannot be built: .*unknown arch 'tinny'.*did you mean 'tiny'",
        ),
        ("model.backbone.depth=50", r"depth"),
        ("model.neck.num_outs=1", r"cannot be built"),
        ("model.roi_head.type=NoHead", r"cannot be built: .*NoHead"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(option, words):
    cfg = run.load_config(CONFIG, options=run.overrides(Namespace(cfg_options=[option])))
    run.init_default_scope(cfg.default_scope)
    runner = object.__new__(run.QuietRunner)  # without data, log and work directory
    with pytest.raises(UserError, match=words):
        runner.build_model(cfg.model)


def test_runs_that_begin_at_once_have_names_of_their_own(monkeypatch):
    names = []
    monkeypatch.setattr(
        run.Runner, "setup_env", lambda self, env_cfg: names.append(int(time.time()))
    )
    runner = run.QuietRunner.__new__(run.QuietRunner)
    runner.setup_env({})
    runner.setup_env({})
    assert len(set(names)) == 2
