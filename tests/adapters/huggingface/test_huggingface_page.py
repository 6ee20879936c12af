"""docs/huggingface.md: its Python runs as it stands there, without a network, and its tables are whole."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from randomness import randomised
from test_huggingface_homes import HOMES, NO_HOMES

from convnext_backbones import create_classifier
from convnext_backbones.checkpoints import sources

PAGE = (Path(__file__).parents[3] / "docs" / "huggingface.md").read_text()
BLOCKS = re.findall(r"(?s)```python\n(.*?)```", PAGE)
SMALL = {"depths": [1, 1, 1, 1], "hidden_sizes": [8, 16, 24, 32], "num_labels": 3}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a picture and what transformers saves in place of the hub's names."""
    for name, model in (
        ("convnext-tiny-224", transformers.ConvNextForImageClassification(transformers.ConvNextConfig(**SMALL))),
        ("convnextv2-tiny-1k-224", transformers.ConvNextV2ForImageClassification(transformers.ConvNextV2Config(**SMALL))),
    ):  # fmt: skip
        model.save_pretrained(tmp_path / "facebook" / name)
        transformers.ConvNextImageProcessor().save_pretrained(tmp_path / "facebook" / name)
    published = randomised(create_classifier("convnextv2_atto"))
    torch.save({"model": published.state_dict()}, tmp_path / "published.pt")
    Image.new("RGB", (320, 240), "sienna").save(tmp_path / "cat.png")
    monkeypatch.setattr(sources, "download", lambda *args, **options: tmp_path / "published.pt")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["convnext-tiny-224", "convnextv2-tiny-1k-224"])
def test_the_blocks_run_one_after_another(place, name, capsys):
    names = {}
    for block in BLOCKS:
        exec(block.replace("convnext-tiny-224", name), names)
    assert (place / "newts" / "model.safetensors").exists()
    assert type(names["again"]).__name__ == "ConvNeXtForImageClassification"
    assert type(names["processor"]).__name__ == "ConvNeXtImageProcessor"
    assert "LABEL_" in capsys.readouterr().out


def test_the_tables_name_every_model_that_loads_a_backbone():
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")]
    cells = {name for row in rows for name in re.split(r", | \| |\| ", row)}
    assert set(HOMES) <= cells
    assert set(NO_HOMES) <= cells
