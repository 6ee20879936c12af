"""docs/torchvision.md: its Python runs as it stands there, without a network."""

import torch
from pages import publish_atto, run


def test_the_blocks_run_one_after_another(tmp_path, monkeypatch, capsys):
    publish_atto(tmp_path, monkeypatch)
    names = run("torchvision.md", {"convnextv2_tiny": "convnextv2_atto", "768": "320"})
    assert capsys.readouterr().out == "{'0': 8, '1': 16, '2': 32, 'pool': 64}\n"
    maps = names["extractor"](torch.zeros(1, 3, 64, 64))
    assert {name: x.shape[1] for name, x in maps.items()} == {"middle": 192, "last": 768}
