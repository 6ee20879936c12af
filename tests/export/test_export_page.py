"""docs/export.md: its Python as it stands there."""

import pytest
from pages import publish_atto, run

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_the_page_of_export(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = publish_atto(tmp_path, monkeypatch)
    swaps = {'"convnextv2_tiny"': '"convnextv2_atto"', "224": "64"}
    names = run("export.md", swaps)
    assert max(row.relative for row in names["differences"]) < 1e-5
    assert names["logits"].shape == (4, model.num_classes)
    for path in tmp_path.iterdir():
        path.unlink()
