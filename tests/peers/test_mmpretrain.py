"""MMPretrain's ConvNeXt against ours, where its code can be had.

    pip download --no-deps mmpretrain==1.2.0 && unzip mmpretrain-1.2.0-*.whl
    CONVNEXT_MMPRETRAIN=. pytest tests/peers/test_mmpretrain.py

CONVNEXT_MMPRETRAIN names the folder that holds the package; without it the tests are skipped. It is
not installed, since mmdet and mmseg import it where it is, and fail beside transformers 5.
"""

import importlib
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from randomness import random_images, randomised, relative_difference
from torch import nn

from convnext_backbones import VARIANTS, create_backbone, create_classifier
from convnext_backbones.checkpoints import convert_checkpoint, load_pretrained

FOLDER = os.environ.get("CONVNEXT_MMPRETRAIN")
pytestmark = pytest.mark.skipif(FOLDER is None, reason="CONVNEXT_MMPRETRAIN is not set")


@pytest.fixture(scope="module")
def convnext():
    """Its class. The packages' own __init__ files, which import every model, are passed over."""
    added = {}
    for name in ("mmpretrain", "mmpretrain.models", "mmpretrain.models.utils",
                 "mmpretrain.models.backbones"):  # fmt: skip
        added[name] = types.ModuleType(name)
        added[name].__path__ = [str(Path(FOLDER, *name.split(".")))]
    sys.modules.update(added)
    norm = importlib.import_module("mmpretrain.models.utils.norm")
    added["mmpretrain.models.utils"].GRN = norm.GRN
    added["mmpretrain.models.utils"].build_norm_layer = norm.build_norm_layer
    yield importlib.import_module("mmpretrain.models.backbones.convnext").ConvNeXt
    for name in [n for n in sys.modules if n.split(".")[0] == "mmpretrain"]:
        del sys.modules[name]


class Classifier(nn.Module):
    """Its ImageClassifier in two lines: a backbone and a linear head named head.fc."""

    def __init__(self, backbone, width):
        super().__init__()
        self.backbone, self.head = backbone, nn.Module()
        self.head.fc = nn.Linear(width, 1000)

    def forward(self, images):
        return self.head.fc(self.backbone(images)[-1])


def build(convnext, name, **options):
    variant = VARIANTS[name]
    arch = {"depths": list(variant.depths), "channels": list(variant.dims)}
    v2 = dict(use_grn=True, layer_scale_init_value=0.0) if variant.version == 2 else {}
    return convnext(arch, **v2, **options)


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto", "convnextv2_tiny"])
def test_it_loads_our_file_strictly_and_we_its_own(tmp_path, convnext, name):
    ours = randomised(create_classifier(name))
    torch.save(ours.state_dict(), tmp_path / "ours.pth")
    convert_checkpoint(tmp_path / "ours.pth", tmp_path / "theirs.pth", "mmpretrain")
    theirs = Classifier(build(convnext, name), VARIANTS[name].dims[-1]).eval()
    state = torch.load(tmp_path / "theirs.pth", weights_only=True)["state_dict"]
    theirs.load_state_dict(state, strict=True)
    images = random_images(2, 3, 64, 64)
    with torch.no_grad():
        assert relative_difference(theirs(images), ours(images)) <= 2e-5
    torch.save({"meta": {}, "state_dict": theirs.state_dict()}, tmp_path / "own.pth")
    again = create_classifier(name)
    report = load_pretrained(again, tmp_path / "own.pth")
    assert (report.layout, report.share) == ("mmpretrain", 1)
    assert all(torch.equal(v, ours.state_dict()[n]) for n, v in again.state_dict().items())


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_a_detectors_backbone_with_output_norms_is_the_same(tmp_path, convnext, name):
    theirs = build(convnext, name, out_indices=(0, 1, 2, 3), gap_before_final_norm=False)
    randomised(theirs)  # its train() returns None
    state = {f"backbone.{n}": v for n, v in theirs.state_dict().items()}
    torch.save({"state_dict": state | {"neck.a": torch.ones(1)}}, tmp_path / "detector.pth")
    ours = create_backbone(name, out_indices=(0, 1, 2, 3)).eval()
    report = load_pretrained(ours, tmp_path / "detector.pth")
    assert (report.share, report.dropped) == (1, ("neck.a",))
    images = random_images(2, 3, 64, 64)
    with torch.no_grad():
        for got, expected in zip(ours(images), theirs(images), strict=True):
            assert relative_difference(got, expected) <= 2e-5
