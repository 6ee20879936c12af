"""Whose config a file is, told without executing it."""

import subprocess
import sys
from pathlib import Path

import pytest

from convnext_backbones.adapters import FRAMEWORKS, framework_of
from convnext_backbones.errors import UserError

ROOT = Path(__file__).parents[2]
FILES = [path for kind in ("*.py", "*.yaml") for path in (ROOT / "configs").rglob(kind)]
CONFIGS = sorted(path for path in FILES if "_base_" not in path.parts)  # a base alone is no config


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: str(p.relative_to(ROOT / "configs")))
def test_every_shipped_config_is_told(path):
    expected = "detectron2" if "detectron2" in path.parts else "openmmlab"
    assert framework_of(str(path)) == expected


TOLD = {
    "by its keys": ("a.py", "default_scope = 'mmdet'\n", "openmmlab"),
    "by a base that is a list": ("a.py", "_base_ = ['./b.py']\n", "openmmlab"),
    "by an import of the other framework beside its keys": (
        "a.py", "from detectron2.layers import x\noptim_wrapper = dict()\n", "openmmlab"),
    "by what it imports": ("a.py", "import detectron2.model_zoo as zoo\nmodel = zoo.get()\n", "detectron2"),
    "by an import inside a block": ("a.py", "if True:\n    from mmdet.models import x\n", "openmmlab"),
    "by this package's adapter": (
        "a.py", "from convnext_backbones.adapters.detectron2 import ConvNeXt\n", "detectron2"),
    "by this package's adapters": (
        "a.py", "from convnext_backbones.adapters import openmmlab\n", "openmmlab"),
    "by a word in a comment of the other": (
        "a.py", "# not for mmengine\nlr_multiplier = None\n", "detectron2"),
    "by YAML keys": ("a.yaml", "MODEL: {WEIGHTS: x}\n", "detectron2"),
    "by YAML that a LazyConfig run saved": ("a.yaml", "model: {}\nlr_multiplier: {}\n", "detectron2"),
    "by YAML of MMEngine": ("a.yml", "default_scope: mmdet\n", "openmmlab"),
    "by JSON": ("a.json", '{"default_scope": "mmdet"}', "openmmlab"),
}  # fmt: skip


@pytest.mark.parametrize("case", TOLD)
def test_a_config_is_told(case, tmp_path):
    name, text, expected = TOLD[case]
    (tmp_path / name).write_text(text)
    assert framework_of(str(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("own", "base", "expected"),
    [
        ("from ..base import model\n", "from detectron2.config import LazyCall\nmodel = 1\n", "detectron2"),
        ("from .. import base\n", "dataloader = dict()\n", "detectron2"),
        ("from mmengine.config import read_base\nwith read_base():\n    from ..base import *\n",
         "x = 1\n", "openmmlab"),
        ("_base_ = '../base.py'\n", "import detectron2\nx = 1\n", "openmmlab"),
    ],
)  # fmt: skip
def test_bases_are_followed(own, base, expected, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.py").write_text(own)
    (tmp_path / "base.py").write_text(base)
    assert framework_of(str(tmp_path / "mine" / "a.py")) == expected


def test_bases_in_a_circle_and_yaml_bases_are_followed(tmp_path):
    (tmp_path / "a.py").write_text("from .b import x\n")
    (tmp_path / "b.py").write_text("from .a import x\nimport mmcv\n")
    assert framework_of(str(tmp_path / "a.py")) == "openmmlab"
    (tmp_path / "c.yaml").write_text("_base_: [./d.yaml]\n")
    (tmp_path / "d.yaml").write_text("optim_wrapper: {}\n")
    assert framework_of(str(tmp_path / "c.yaml")) == "openmmlab"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.py", "model = dict()\n", "cannot be told.*default_scope.*lr_multiplier.*--framework"),
        ("a.py", "default_scope = 1\ndataloader = 2\n", "cannot be told"),
        ("a.yaml", "- 1\n", "cannot be told"),
        ("a.yaml", "", "cannot be told"),
        ("a.py", "model = (\n", "cannot be read"),
        ("a.py", "\0", "is no text"),
        ("a.yaml", "a: [\n", "cannot be read"),
        (None, "", r"there is no config .*a\.py; near it"),
    ],
)
def test_what_does_not_tell_is_a_sentence(name, text, words, tmp_path):
    if name:
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=words):
        framework_of(str(tmp_path / (name or "a.py")))


def test_a_config_is_not_executed_to_be_told(tmp_path):
    mark = tmp_path / "executed"
    (tmp_path / "a.py").write_text(f"import mmcv, pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    (tmp_path / "a.yaml").write_text(f"MODEL: !!python/object/apply:os.mkdir ['{mark}']\n")
    assert framework_of(str(tmp_path / "a.py")) == "openmmlab"
    assert framework_of(str(tmp_path / "a.yaml")) == "detectron2"
    assert not mark.exists()


def test_the_table_and_the_help_of_its_commands_import_no_framework():
    code = (
        "import sys\n"
        "from convnext_backbones.cli import train\n"
        "try:\n    train.main(['--help'])\n"
        "finally:\n    print('modules:', *sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    shown, _, modules = done.stdout.partition("modules:")
    for option in ("--launcher", "--cfg-options", "--auto-scale-lr", "--num-gpus", "--eval-only"):
        assert option in shown
    for row in FRAMEWORKS.values():
        assert row.title in shown
    assert not {"torch", "numpy", "mmengine", "detectron2", "matplotlib"} & set(modules.split())
