"""MMPretrain's ConvNeXt against ours, where its code can be had.

    pip download --no-deps mmpretrain==1.2.0 && unzip mmpretrain-1.2.0-*.whl
    CONVNEXT_MMPRETRAIN=. pytest tests/peers/test_mmpretrain.py

CONVNEXT_MMPRETRAIN names the folder that holds the package; without it the tests are skipped. It is
not installed, since mmdet and mmseg import it where it is, and fail beside transformers 5.
"""

import importlib
import itertools
import os
import sys
import types
from pathlib import Path

import pytest
import torch
from names import under_our_names
from randomness import random_images, randomised, relative_difference
from torch import nn

from convnext_backbones import VARIANTS, ConvNeXt, ConvNeXtV2, create_backbone, create_classifier
from convnext_backbones.checkpoints import convert_checkpoint, load_pretrained
from convnext_backbones.recipes.layer_decay import layer_id, num_layers

DEPTHS, DIMS = (1, 2, 3, 1), (8, 16, 24, 32)
SUBSETS = [s for length in range(1, 5) for s in itertools.combinations(range(4), length)]
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
    return build_small(convnext, variant.version, variant.depths, variant.dims, **options)


def build_small(convnext, version, depths=DEPTHS, dims=DIMS, **options):
    arch = {"depths": list(depths), "channels": list(dims)}
    v2 = dict(use_grn=True, layer_scale_init_value=0.0) if version == 2 else {}
    return convnext(arch, **v2, **options)


def small_pair(convnext, version, depths=DEPTHS, dims=DIMS, **options):
    """Ours and its, as a dense backbone, with the same random weights in memory of their own."""
    ours = (ConvNeXtV2 if version == 2 else ConvNeXt)({"depths": depths, "dims": dims}, **options)
    theirs = build_small(convnext, version, depths, dims, gap_before_final_norm=False, **options)
    randomised(theirs, torch.float64)
    state = under_our_names(theirs.state_dict())
    ours.double().eval().load_state_dict({n: state[n] for n in ours.state_dict()})
    return ours, theirs


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


@pytest.mark.parametrize("indices", SUBSETS, ids=str)
@pytest.mark.parametrize("version", [1, 2])
def test_every_selection_has_its_maps(convnext, version, indices):
    """Ours builds no stage after the last selected one."""
    ours, theirs = small_pair(convnext, version, out_indices=indices)
    images = random_images(2, 3, 70, 66, dtype=torch.float64)
    with torch.no_grad():
        for got, expected in zip(ours(images), theirs(images), strict=True):
            assert relative_difference(got, expected) <= 1e-9


@pytest.mark.parametrize("version", [1, 2])
def test_five_stages_have_its_maps(convnext, version):
    depths, dims, every = (2, 1, 1, 2, 1), (8, 8, 12, 16, 24), (0, 1, 2, 3, 4)
    ours, theirs = small_pair(convnext, version, depths, dims, out_indices=every)
    images = random_images(2, 3, 70, 130, dtype=torch.float64)
    with torch.no_grad():
        for got, expected in zip(ours(images), theirs(images), strict=True):
            assert relative_difference(got, expected) <= 1e-9


@pytest.mark.parametrize("frozen_stages", [0, 1, 2, 4])
@pytest.mark.parametrize("version", [1, 2])
def test_frozen_stages_are_the_same_but_for_their_output_norms(convnext, version, frozen_stages):
    """Ours freezes the output norms of frozen stages too; there they go on training."""
    every = (0, 1, 2, 3)
    ours, theirs = small_pair(convnext, version, out_indices=every, frozen_stages=frozen_stages)
    for mode in (True, False):
        ours.train(mode), theirs.train(mode)
        for parts in ("downsample_layers", "stages"):
            for i in every:
                own, expected = getattr(ours, parts)[i], getattr(theirs, parts)[i]
                assert {m.training for m in own.modules()} == {
                    m.training for m in expected.modules()
                }
    marks = {n: torch.full_like(p, p.requires_grad) for n, p in theirs.named_parameters()}
    trained = {name for name, mark in under_our_names(marks).items() if mark.all()}
    norms = {f"norm{i}.{kind}" for i in range(frozen_stages) for kind in ("weight", "bias")}
    assert norms <= trained
    assert {n for n, p in ours.named_parameters() if p.requires_grad} == trained - norms


@pytest.mark.parametrize("with_cp", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("version", [1, 2])
def test_gradients_are_the_same(convnext, version, with_cp):
    ours, theirs = small_pair(convnext, version, out_indices=(0, 1, 2, 3), with_cp=with_cp)
    images = random_images(2, 3, 70, 66, dtype=torch.float64)
    ours.train(), theirs.train()  # its train() returns None
    for model in (ours, theirs):
        maps = model(images)
        sum((x * random_images(*x.shape, dtype=x.dtype, seed=3)).sum() for x in maps).backward()
    expected = under_our_names({n: p.grad for n, p in theirs.named_parameters()})
    for name, parameter in ours.named_parameters():
        assert relative_difference(parameter.grad, expected[name]) <= 1e-9, name


@pytest.mark.parametrize("version", [1, 2])
def test_drop_path_rates_are_its(convnext, version):
    theirs = build_small(convnext, version, drop_path_rate=0.4)
    ours = ConvNeXt({"depths": DEPTHS, "dims": DIMS}, drop_path_rate=0.4)
    blocks = [block for stage in theirs.stages for block in stage]
    expected = [getattr(block.drop_path, "drop_prob", 0.0) for block in blocks]
    assert [block.drop_path.rate for stage in ours.stages for block in stage] == expected


@pytest.mark.parametrize("version", [1, 2])
def test_initial_values_have_its_distributions(convnext, version):
    torch.manual_seed(0)
    dims = (40, 80, 96, 128)
    theirs = build_small(convnext, version, dims=dims, gap_before_final_norm=False)
    theirs.init_weights()
    ours = (ConvNeXtV2 if version == 2 else ConvNeXt)({"depths": DEPTHS, "dims": dims})
    state = under_our_names(theirs.state_dict())
    for name, own in ours.state_dict().items():
        expected = state[name]
        if expected.unique().numel() == 1:
            assert torch.equal(own, expected), name
        else:
            by_chance = expected.numel() ** -0.5  # the ratio's standard error is about as large
            assert (own.std() / expected.std()).item() == pytest.approx(1, abs=5 * by_chance), name
            assert own.mean().abs() <= 5 * by_chance * own.std(), name


@pytest.mark.parametrize("depths", [(3, 3, 9, 3), (3, 3, 27, 3)], ids=str)
@pytest.mark.parametrize("version", [1, 2])
def test_layers_of_layer_decay_are_its(convnext, version, depths):
    """For the depths for which its code was written."""
    ours, theirs = small_pair(convnext, version, depths, out_indices=(0, 1, 2, 3))
    layers = {n: theirs.get_layer_depth(n) for n, _ in theirs.named_parameters()}
    assert {count for _, count in layers.values()} == {num_layers(depths) + 2}
    marks = {n: torch.full_like(p, layers[n][0]) for n, p in theirs.named_parameters()}
    expected = under_our_names(marks)
    for name, _ in ours.named_parameters():
        assert (expected[name] == layer_id(name, depths)).all(), name
