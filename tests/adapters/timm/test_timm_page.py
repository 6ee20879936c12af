"""docs/timm.md: its Python runs as it stands there, without a network."""

import torch
from pages import publish_atto, run


def test_the_blocks_run_one_after_another(tmp_path, monkeypatch, capsys):
    published = publish_atto(tmp_path, monkeypatch)
    names = run("timm.md", {"convnextv2_tiny": "convnextv2_atto"})
    assert capsys.readouterr().out == "[80, 160, 320] [8, 16, 16]\n"
    assert [tuple(x.shape[2:]) for x in names["maps"]] == [(28, 28), (14, 14), (14, 14)]
    stem = names["model"].downsample_layers[0][0].weight
    assert torch.equal(stem, published.downsample_layers[0][0].weight)
