"""docs/pretraining.md: its Python runs as it stands there, without a network."""

import torch
from pages import run

from convnext_backbones.pretraining import FCMAE
from convnext_backbones.pretraining.files import official_state


def test_the_blocks_run_one_after_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "work_dirs/mine"
    folder.mkdir(parents=True)
    torch.save({"model": official_state(FCMAE("atto"))}, folder / "convnextv2_atto_fcmae.pth")
    names = run("pretraining.md")
    assert names["backbone"].channels == (40, 80, 160, 320)
    assert names["prediction"].shape == (2, 35, 3072)
    assert names["mask"].shape == (2, 35)
    assert names["features"].shape == (2, 320, 7, 5)
    assert "decoder: loaded, too" in capsys.readouterr().out
