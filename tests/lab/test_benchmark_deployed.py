"""Other runtimes in the benchmark: lab/benchmark/deployed.py, the forms of cli/_whole_models.py."""

import importlib.util
import json
import shutil

import pytest
import torch
from pages import DOCS
from torch import nn

from convnext_backbones.cli import _whole_models, run
from convnext_backbones.lab.benchmark import deployed, page
from convnext_backbones.lab.benchmark.contests import DisagreementError
from convnext_backbones.lab.benchmark.deployed import EAGER, compare_forms

for library in ("onnx", "onnxruntime", "openvino"):
    pytest.importorskip(library)


@pytest.fixture(scope="module")
def row():
    backbone = _whole_models._backbone(2, shrink=True)
    images = torch.randn(1, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    return {**compare_forms("backbone", backbone, ("a", "b"), images, rounds=3), "version": 2}


def test_every_form_is_compared_and_timed_turn_about(row):
    assert row["size"] == [1, 64, 48]
    names = list(row["medians"])
    assert names[0] == EAGER
    words = " ".join(names)
    for form in ("prepare_for_inference fp32", "onnxruntime", "openvino"):
        assert form in words
    assert sum(name.endswith("int8") for name in names) == 2
    for name, off in row["off"].items():
        assert len(row["seconds"][name]) == 3
        assert (off < 1e-5) == name.endswith("fp32"), (name, off)
        assert off < 0.1
    assert row["ratios"][EAGER]["median"] == 1
    assert row["left_out"] == {}


def test_a_form_with_other_outputs_is_not_timed(monkeypatch):
    class Other(nn.Module):
        def forward(self, x):
            return x.mean(dim=(1, 2, 3)) * (2 if torch.compiler.is_compiling() else 1)

    monkeypatch.setattr(
        deployed, "prepare", lambda network, **options: (network, "")
    )  # of a ConvNeXt
    monkeypatch.setattr(
        deployed, "quantised", lambda source, out, *args, **options: shutil.copy(source, out)
    )
    with pytest.raises(DisagreementError, match=r"one: onnxruntime .* gives other outputs"):
        compare_forms("one", Other(), ("y",), torch.rand(1, 3, 32, 32) + 1)


def test_missing_runtimes_and_frameworks_are_told(monkeypatch, row):
    monkeypatch.setattr(deployed, "why_no_runtime", lambda name: f"{name} is not installed")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(_whole_models, "DEPLOYED", {False: (64, 64)})
    found = list(_whole_models.measure_deployed([2], rounds=1, shrink=True))
    assert [name.partition(",")[0] for name in found[0]["medians"]] == ["PyTorch"] * len(found[0]["medians"])  # fmt: skip
    lines = [" ".join(line) for line in page.runtime_table({"runtimes": found})]
    assert any("left out: openvino is not installed" in line for line in lines)
    assert "skipped: mmengine, mmcv, mmdet, mmseg: not installed" in lines[-1]


def test_a_run_of_runtimes_leaves_the_machines_other_results(tmp_path, row, no_results):
    contest = {"contest": "c", "version": 2, "arch": "tiny", "size": [1, 64, 64], "skipped": "why"}
    ran = {"command": "tool --runtimes", "date": "2026-11-26"}
    networks = no_results | {"contests": [contest]}
    runtimes = no_results | {"runtimes": [row], "runtimes_run": ran}
    for results in (networks, runtimes, networks):
        page.write(results, tmp_path)
    kept = json.loads((tmp_path / "a.json").read_text())
    assert (kept["contests"], len(kept["runtimes"])) == ([contest], 1)
    text = (tmp_path / "a.md").read_text()
    assert "## Other runtimes\n\n`tool --runtimes`, 2026-11-26" in text
    for name in row["medians"]:
        assert f"| backbone | V2 tiny | 1x3x64x48 | {name} | " in text


@pytest.mark.parametrize("other", ["--models", "--full", "--sizes=1x64x64"])
def test_options_that_say_nothing_to_runtimes_are_refused(other, capsys):
    with pytest.raises(SystemExit):
        run("benchmark", ["--runtimes", other])
    assert "--runtimes" in capsys.readouterr().err


@pytest.mark.slow
def test_a_upernet_is_computed_by_every_form():
    pytest.importorskip("mmseg")
    config = _whole_models._config(_whole_models.ROWS[0], 2)
    network = _whole_models._upernet(config, (64, 64), shrink=True)
    found = compare_forms("UPerNet", network, ("logits",), torch.randn(1, 3, 64, 64), rounds=1)
    assert max(found["off"].values()) < 0.5


def test_the_page_of_export_says_what_the_results_say(row):
    folder = DOCS / "benchmarks"
    text = (DOCS / "export.md").read_text()
    assert page.with_kinds(text, folder, page.runtimes_of_kinds) == text
    machine = {"processor": "A", "flags": ["avx2"]}
    other = {"machine": machine, "contests": []}  # of before
    lines = page.runtimes_of_kinds([other, {"machine": machine, "runtimes": [row]}])
    assert lines[0] == ("model", "images", "computed by", "A, avx2")
    assert lines[1] == ("backbone, V2-T", "1x3x64x48", EAGER, "1.00")
    assert lines[-1][2] == "openvino int8"
    assert not any("." in line[2] for line in lines)


def test_results_write_the_page_of_export(tmp_path, row, no_results):
    folder = tmp_path / "benchmarks"
    (tmp_path / "export.md").write_text(f"a\n{page.BEGIN}\nold\n{page.END}\nb\n")
    results = no_results | {"runtimes": [row], "runtimes_run": {"command": "t", "date": "d"}}
    page.write(results, folder)
    text = (tmp_path / "export.md").read_text()
    assert (text[:2], text[-2:], "old" in text) == ("a\n", "b\n", False)
    assert f"| backbone, V2-T | 1x3x64x48 | {EAGER} | 1.00 |" in text
