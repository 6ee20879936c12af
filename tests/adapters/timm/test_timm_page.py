"""docs/timm.md: its Python runs as it stands there, without a network."""

import re
from pathlib import Path

import torch
from randomness import randomised

from convnext_backbones import create_classifier
from convnext_backbones.checkpoints import sources

PAGE = (Path(__file__).parents[3] / "docs" / "timm.md").read_text()
BLOCKS = re.findall(r"(?s)```python\n(.*?)```", PAGE)


def test_the_blocks_run_one_after_another(tmp_path, monkeypatch, capsys):
    published = randomised(create_classifier("convnextv2_atto"))
    torch.save({"model": published.state_dict()}, tmp_path / "published.pt")
    monkeypatch.setattr(sources, "download", lambda *args, **options: tmp_path / "published.pt")
    names = {}
    for block in BLOCKS:
        exec(block.replace("convnextv2_tiny", "convnextv2_atto"), names)
    assert capsys.readouterr().out == "[80, 160, 320] [8, 16, 16]\n"
    assert [tuple(x.shape[2:]) for x in names["maps"]] == [(28, 28), (14, 14), (14, 14)]
    stem = names["model"].downsample_layers[0][0].weight
    assert torch.equal(stem, published.downsample_layers[0][0].weight)
