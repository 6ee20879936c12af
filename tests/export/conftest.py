"""A checkpoint to export."""

import pytest
import torch
from randomness import randomised

from convnext_backbones import create_classifier


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "atto.pth"
    torch.save(randomised(create_classifier("convnextv2_atto", num_classes=3)).state_dict(), path)
    yield path
    path.unlink()
