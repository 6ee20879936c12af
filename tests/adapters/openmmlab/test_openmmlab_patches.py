"""What the adapter changes in MMEngine can be taken back, and takes nothing of a user's."""

import subprocess
import sys

import pytest
import torch

pytest.importorskip("mmengine")

from mmengine.model import BaseDataPreprocessor
from mmengine.runner import CheckpointLoader

from convnext_backbones.adapters.openmmlab import ConvNeXt, patches
from convnext_backbones.adapters.openmmlab.checkpoints import read_training_checkpoint
from convnext_backbones.network.padding import noted_image_sizes


@pytest.fixture(autouse=True)
def as_it_was():
    """The process as the adapter's import leaves it."""
    yield
    patches.SAFE_READING.apply()
    patches.SIZE_NOTES.undo()


def test_mmengines_own_readers_come_back():
    """In a process of its own, which has them from before."""
    code = (
        "from mmengine.runner import CheckpointLoader\n"
        "before = dict(CheckpointLoader._schemes)\n"
        "from convnext_backbones.adapters.openmmlab.patches import SAFE_READING\n"
        "changed = {k for k, v in CheckpointLoader._schemes.items() if v is not before[k]}\n"
        "assert changed == set(before), set(before) - changed\n"
        "SAFE_READING.apply()\n"
        "assert SAFE_READING.undo()\n"
        "assert list(CheckpointLoader._schemes.items()) == list(before.items())\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_later_reader_of_a_user_stays(caplog):
    def mine(filename, map_location=None):
        return {}

    CheckpointLoader.register_scheme("", mine, force=True)
    try:
        assert not patches.SAFE_READING.undo()
        assert CheckpointLoader._schemes[""] is mine
        assert "MMEngine's reader of files was replaced by somebody else" in caplog.text
        assert CheckpointLoader._schemes["http://"] is not read_training_checkpoint
    finally:
        CheckpointLoader.register_scheme("", read_training_checkpoint, force=True)


def test_a_data_preprocessor_notes_sizes_until_that_is_undone():
    patches.SIZE_NOTES.undo()
    assert "__call__" not in vars(BaseDataPreprocessor)  # it is inherited from torch's Module
    ConvNeXt("atto", ignore_padding=True)
    first = BaseDataPreprocessor.__call__
    ConvNeXt("atto", ignore_padding=True)
    assert BaseDataPreprocessor.__call__ is first

    class Sample(dict):
        img_shape = (3, 4)

    class Identity(BaseDataPreprocessor):
        def forward(self, data, training=False):
            return data

    def batch():
        return dict(inputs=torch.zeros(1, 3, 8, 8), data_samples=[Sample(img_shape=(3, 4))])

    assert noted_image_sizes(Identity()(batch())["inputs"]) == [(3, 4)]
    assert patches.SIZE_NOTES.undo()
    assert BaseDataPreprocessor.__call__ is torch.nn.Module.__call__
    with pytest.raises(ValueError, match="not known for this batch"):
        noted_image_sizes(Identity()(batch())["inputs"])


@pytest.mark.parametrize("name", ["ConvNeXt", "ConvNeXtV2"])
def test_a_backbone_that_is_registered_before_stays_and_ours_keeps_its_full_name(name):
    """As MMPretrain's or a user's own, in a process of its own."""
    code = (
        "from mmengine.registry import MODELS\n"
        f"mine = MODELS.register_module(module=type({name!r}, (), {{}}))\n"
        "import convnext_backbones.adapters.openmmlab\n"
        f"assert MODELS.get({name!r}) is mine\n"
        f"print(type(MODELS.build(dict(type='convnext_backbones.{name}', arch='atto'))))\n"
        "print(MODELS.get('ConvNeXtV2'), MODELS.get('ConvNeXt'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert f"adapters.openmmlab.backbone.{name}'>" in done.stdout
    assert done.stderr.count("registered before, and stays so") == 1
    assert f'Write type="convnext_backbones.{name}"' in done.stderr


def test_a_constructor_that_is_registered_before_stays():
    code = (
        "from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as registry\n"
        "mine = registry.register_module(module=type('ConvNeXtLayerDecay', (), {}))\n"
        "import convnext_backbones.adapters.openmmlab\n"
        "assert registry.get('ConvNeXtLayerDecay') is mine\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert "This package's is convnext_backbones.adapters.openmmlab.optimizer.Conv" in done.stderr


def test_the_adapter_can_be_reloaded():
    code = (
        "import importlib\n"
        "from convnext_backbones.adapters.openmmlab import backbone\n"
        "from mmengine.registry import MODELS\n"
        "importlib.reload(backbone)\n"
        "assert MODELS.get('ConvNeXt') is backbone.ConvNeXt\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert "registered" not in done.stderr
