"""Whole models in the benchmark: lab/benchmark/models.py, cli/_whole_models.py."""

import importlib.util
import json

import pytest
import torch
from torch import nn

from convnext_backbones import ConvNeXt, ConvNeXtV2
from convnext_backbones.cli import _whole_models, benchmark
from convnext_backbones.errors import UserError
from convnext_backbones.kernels import allocation
from convnext_backbones.lab.benchmark import machine, models, page
from convnext_backbones.lab.benchmark.contests import OURS, DisagreementError
from convnext_backbones.lab.random_weights import fill_randomly

SMALL = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
IMAGES = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


class Stub(nn.Module):
    """A backbone and a head."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(nn.Conv2d(32, 64, 1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1))

    def forward(self, images):
        return self.head(self.backbone(images)[-1])


def small(kind=ConvNeXtV2):
    return fill_randomly(kind(SMALL, out_indices=(1, 3)))


def whole(backbone, head):
    model = Stub(backbone)
    model.head.load_state_dict(head.state_dict())
    return models.WholeModel(
        model,
        lambda: {"loss": model(IMAGES).square().mean(), "noise": torch.rand(())},
        lambda: float(model(IMAGES[:1]).shape[1]),
        {"backbone": model.backbone, "head": model.head},
    )


# --- timm's backbone in the place of ours -------------------------------------------------------


@pytest.mark.parametrize("kind", [ConvNeXt, ConvNeXtV2])
@pytest.mark.parametrize("layout", ["NCHW", "channels_last"])
def test_timms_backbone_gives_our_maps_norms_included(kind, layout):
    ours = small(kind)
    theirs = models.TimmBackbone(ours, layout=layout)
    for own, other in zip(ours(IMAGES), theirs(IMAGES), strict=True):
        assert other.is_contiguous()
        assert (own - other).abs().max() <= 1e-4 * own.abs().max()
    assert all(parameter.requires_grad for parameter in theirs.parameters())
    named = models.TimmBackbone(ours, names=("stage2", "stage4"))(IMAGES)
    assert list(named) == ["stage2", "stage4"]


def test_timms_backbone_has_no_map_of_a_stem():
    with pytest.raises(UserError, match="this backbone gives its stem's"):
        models.TimmBackbone(ConvNeXt(SMALL, out_features=["stem", "stage1"]))


# --- the comparison -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    ours, head = small(), Stub(None).head
    theirs = {layout: whole(models.TimmBackbone(ours, layout=layout), head)
              for layout in ("NCHW", "channels_last")}  # fmt: skip
    found = models.compare_models("Stub", whole(ours, head), theirs, rounds=3)
    about = {"version": 2, "size": [64, 96], "pictures": 2}
    return [{**row, **about} for row in found]


def test_a_model_is_timed_in_training_and_in_inference(rows):
    assert [row["work"] for row in rows] == ["training", "inference"]
    for row in rows:
        assert set(row["medians"]) == {OURS, "timm"}
        assert row["best_layout"] == min(row["trial_seconds"], key=row["trial_seconds"].get)
        assert row["memory_ratio"] == row["memory"][OURS] / row["memory"]["timm"]
        assert row["difference"] < models.TOLERANCE
    assert [row["found"] for row in rows] == [None, 64.0]
    json.dumps(rows)


def test_the_profile_tells_the_parts_of_the_backward_pass_too(rows):
    training, inference = (row["profile"] for row in rows)
    for profile in (training, inference):
        assert sum(profile["parts"].values()) == pytest.approx(1)
        assert {"backbone", "head"} <= set(profile["parts"])
        assert len(profile["operators"]) <= models.SHOWN
    assert not any("backward" in name.lower() for name in inference["operators"])
    assert any("backward" in name.lower() for name in training["operators"])


def test_an_operator_of_the_backward_pass_belongs_to_the_part_of_its_forward_one():
    one, other = nn.Linear(1, 1), nn.Linear(600, 600)
    given = torch.ones(600, 600, requires_grad=True)

    def step():
        with torch.no_grad():  # only the other's backward pass takes time in a part
            one(torch.ones(1, 1))
        other(given).sum().backward()

    shares = models.profile(step, {"one": one, "other": other})["parts"]
    assert shares["other"] > 0.5 > shares["one"]
    assert "forward" not in vars(one)


def test_a_model_with_other_losses_is_not_timed():
    ours, head = small(), Stub(None).head
    other = models.TimmBackbone(ours)
    other.norms[-1].bias.data[0] += 1
    with pytest.raises(DisagreementError, match=r"Stub: .* losses differ .* nothing was timed"):
        next(models.compare_models("Stub", whole(ours, head), {"NCHW": whole(other, head)}))


# --- what is written ----------------------------------------------------------------------------


def test_a_run_of_models_leaves_the_machines_other_results(tmp_path, rows, no_results):
    contest = {"contest": "c", "version": 2, "arch": "tiny", "size": [1, 64, 64], "skipped": "why"}
    networks = no_results | {"contests": [contest]}
    run = {"command": "tool --models", "date": "2026-11-26"}
    whole_models = no_results | {"models": rows, "models_run": run}
    for results in (networks, whole_models, networks):
        page.write(results, tmp_path)
    kept = json.loads((tmp_path / "a.json").read_text())
    assert (kept["contests"], len(kept["models"])) == ([contest], 2)
    text = (tmp_path / "a.md").read_text()
    assert "`tool --models`, 2026-11-26" in text
    assert "skipped: why" in text
    for row in rows:
        assert f"{row['ratio']['median']:.2f} ({row['ratio']['low']:.2f} to " in text
    assert "## Where their time goes" in text


def test_a_run_that_is_stopped_leaves_the_rows_that_it_has(tmp_path, rows, no_results, monkeypatch):
    def stopped(*_, **__):
        yield rows[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(machine, "machine_speed", lambda device: no_results["machine"]["speeds"])
    monkeypatch.setattr(_whole_models, "measure_models", stopped)
    args = benchmark.parse_args(["--models", "--output", str(tmp_path)])
    with pytest.raises(KeyboardInterrupt):
        benchmark.measure_apart(args, no_results, "models")
    assert len(json.loads((tmp_path / "a.json").read_text())["models"]) == 1


def test_a_framework_that_is_not_installed_is_left_out_with_the_reason(monkeypatch):
    find = importlib.util.find_spec
    hidden = {"mmcv", "detectron2"}
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name in hidden else find(name)
    )
    found = list(_whole_models.measure_models([1], rounds=1))
    assert len(found) == len(_whole_models.ROWS)
    assert {row["skipped"] for row in found} == {"mmcv: not installed", "detectron2: not installed"}
    table = page.model_table({"models": found})
    assert "skipped: mmcv: not installed" in table[1]


def test_freed_memory_is_kept_before_a_model_is_timed(monkeypatch):
    called = []
    monkeypatch.setattr(allocation, "keep_freed_memory", lambda: called.append("kept"))
    monkeypatch.setattr(machine, "machine_speed", lambda device: {})
    monkeypatch.setattr(
        _whole_models, "measure_models", lambda *_, **__: called.append("timed") or []
    )
    args = benchmark.parse_args(["--models", "--quick"])
    results = {"command": "", "machine": {"date": ""}, "models": []}
    benchmark.measure_apart(args, results, "models")
    assert called == ["kept", "timed"]


def test_options_of_networks_are_refused_beside_models():
    for options in (["--only", "growth"], ["--full"], ["--arch", "base"], ["--sizes", "1x64x64"]):
        with pytest.raises(UserError, match=f"{options[0]} is about networks alone; leave it out"):
            benchmark.main(["--models", *options])


# --- models of the frameworks -------------------------------------------------------------------


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=row.title, marks=() if "RTMDet" in row.title else pytest.mark.slow)
        for row in _whole_models.ROWS
    ],
)
def test_with_either_backbone_a_models_losses_are_equal(row):
    pytest.importorskip("mmcv" if row.framework == "openmmlab" else "detectron2")
    ours, theirs = _whole_models.contestants(row, 2, (64, 96), shrink=True)
    assert models._difference(row.title, ours, theirs["NCHW"]) < models.TOLERANCE
    assert type(theirs["NCHW"].parts["backbone"]).__name__ in ("TimmBackbone", "FPN")
    ours.model.eval()
    with torch.inference_mode():
        assert ours.found() > 0
