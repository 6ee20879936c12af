"""docs/torchvision.md: its Python runs as it stands there, without a network."""

import re
from pathlib import Path

import torch
from randomness import randomised

from convnext_backbones import create_classifier
from convnext_backbones.checkpoints import sources

PAGE = (Path(__file__).parents[3] / "docs" / "torchvision.md").read_text()
BLOCKS = re.findall(r"(?s)```python\n(.*?)```", PAGE)


def test_the_blocks_run_one_after_another(tmp_path, monkeypatch, capsys):
    published = randomised(create_classifier("convnextv2_atto"))
    torch.save({"model": published.state_dict()}, tmp_path / "published.pt")
    monkeypatch.setattr(sources, "download", lambda *args, **options: tmp_path / "published.pt")
    names = {}
    for block in BLOCKS:
        small = block.replace("convnextv2_tiny", "convnextv2_atto").replace("768", "320")
        exec(small, names)
    assert capsys.readouterr().out == "{'0': 8, '1': 16, '2': 32, 'pool': 64}\n"
    maps = names["extractor"](torch.zeros(1, 3, 64, 64))
    assert {name: x.shape[1] for name, x in maps.items()} == {"middle": 192, "last": 768}
