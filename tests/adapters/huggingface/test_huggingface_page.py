"""docs/huggingface.md: its Python runs as it stands there, without a network, and its tables are whole."""

import re

import pytest
import transformers
from pages import publish_atto, run, text_of
from PIL import Image
from test_huggingface_homes import HOMES, NO_HOMES

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
    publish_atto(tmp_path, monkeypatch)
    Image.new("RGB", (320, 240), "sienna").save(tmp_path / "cat.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["convnext-tiny-224", "convnextv2-tiny-1k-224"])
def test_the_blocks_run_one_after_another(place, name, capsys):
    names = run("huggingface.md", {"convnext-tiny-224": name})
    assert (place / "newts" / "model.safetensors").exists()
    assert type(names["again"]).__name__ == "ConvNeXtForImageClassification"
    assert type(names["processor"]).__name__ == "ConvNeXtImageProcessor"
    assert "LABEL_" in capsys.readouterr().out


def test_the_tables_name_every_model_that_loads_a_backbone():
    rows = [line for line in text_of("huggingface.md").splitlines() if line.startswith("| ")]
    cells = {name for row in rows for name in re.split(r", | \| |\| ", row)}
    assert set(HOMES) <= cells
    assert set(NO_HOMES) <= cells
