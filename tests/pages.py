"""The Python of the pages in docs/, which tests run as it stands there, without a network."""

import re
from pathlib import Path

import torch
from randomness import randomised

from convnext_backbones import create_classifier
from convnext_backbones.checkpoints import sources

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def text_of(page: str) -> str:
    return (DOCS / page).read_text()


def python_of(page: str) -> list[str]:
    """Its blocks, in order."""
    return re.findall(r"(?s)```python\n(.*?)```", text_of(page))


def publish_atto(folder: Path, monkeypatch):
    """A V2-Atto of random weights, whose file is what every download gives."""
    model = randomised(create_classifier("convnextv2_atto"))
    torch.save({"model": model.state_dict()}, folder / "published.pt")
    monkeypatch.setattr(sources, "download", lambda *args, **options: folder / "published.pt")
    return model
