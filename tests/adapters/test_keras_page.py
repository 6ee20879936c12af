"""docs/keras.md: its Python runs as it stands there, without a network."""

import os

import numpy as np
import pytest
import torch
from pages import publish_atto, run
from PIL import Image
from randomness import randomised

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
adapter = pytest.importorskip("convnext_backbones.adapters.keras", exc_type=ImportError)

from transformers import ConvNextImageProcessor  # noqa: E402

from convnext_backbones import create_classifier  # noqa: E402
from convnext_backbones.checkpoints import sources  # noqa: E402


def test_the_blocks_run_one_after_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    publish_atto(tmp_path, monkeypatch)
    download = sources.download

    def published(address, *args, **options):
        """facebook/convnext-tiny-224 is a V1-Tiny, whose place no other network takes."""
        if "convnext-tiny" not in str(address):
            return download(address, *args, **options)
        torch.save(
            {"model": randomised(create_classifier("convnext_tiny")).state_dict()}, "tiny.pt"
        )
        return tmp_path / "tiny.pt"

    monkeypatch.setattr(sources, "download", published)
    names = run(
        "keras.md",
        {"convnextv2_tiny": "convnextv2_atto", '"convnext_tiny"': '"convnext_atto"'},
        images=np.random.default_rng(0).random((2, 64, 64, 3), dtype=np.float32),
        labels=np.array([1, 2]),
        image=Image.new("RGB", (320, 240), "sienna"),
        image_processor=ConvNextImageProcessor(size={"shortest_edge": 64}),
    )
    assert tuple(names["stage4"].shape) == (2, 2, 2, 320)
    assert capsys.readouterr().out.strip().splitlines()[-1] in names["model"].class_names
