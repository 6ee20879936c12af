"""The benchmark's other runtimes, and freed memory: lab/benchmark/runtimes.py, allocation.py."""

import importlib.util
import json

import pytest
import torch

from convnext_backbones import ConvNeXtClassifier
from convnext_backbones.errors import UserError
from convnext_backbones.kernels import cpp
from convnext_backbones.kernels.allocation import keep_freed_memory
from convnext_backbones.lab.benchmark import allocation, contests, measuring, page, runtimes
from convnext_backbones.lab.random_weights import fill_randomly

SMALL = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
CPU = torch.device("cpu")
SIZE = (2, 64, 96)


@pytest.fixture(scope="module")
def ours():
    return fill_randomly(ConvNeXtClassifier(SMALL, version=2, num_classes=10))


# --- runtimes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_another_runtime_runs_our_graph_in_its_own_contest(monkeypatch, ours, runtime):
    if reason := runtimes.why_no_runtime(runtime):
        pytest.skip(reason)
    if cpp.choice(torch.float32)[0] is None:
        pytest.skip("without our kernels this compiles for a minute")
    monkeypatch.setenv("CONVNEXT_BACKBONES_MASK", "bf16")
    title = f"prepared compiled / {runtime}"
    assert contests.why_not(contests.CONTESTS[title], CPU) is None
    assert "in float32" in contests.why_not(
        contests.CONTESTS[f"prepared compiled fp32 / {runtime} fp32"], CPU
    )
    row = contests.run_contest(title, ours, ["timm"], SIZE, rounds=1)
    assert row["best_peer"].startswith(runtime)
    assert row["best_peer"].endswith(" fp32")
    assert row["peers_ranked"] == [runtime]
    assert row["prepared"] == f"fp32, the C++ kernels ({cpp.choice(torch.float32)[0]})"
    assert row["relative_differences"][row["best_peer"]] < 1e-4
    json.dumps(row)


def test_a_runtime_with_other_outputs_is_refused(monkeypatch, ours):
    monkeypatch.setattr(
        contests, "exported", lambda *_: ("openvino 1", lambda: torch.ones(SIZE[0], 10))
    )
    with pytest.raises(contests.DisagreementError, match="openvino 1 fp32 gives other outputs"):
        contests.run_contest("prepared compiled fp32 / openvino fp32", ours, [], SIZE, rounds=1)


def test_a_missing_runtime_is_left_out_with_the_way_to_install_it(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if "onnx" in name else find(name)
    )
    reason = contests.why_not(contests.CONTESTS["prepared compiled / onnxruntime"], CPU)
    assert reason.startswith("onnxruntime and onnxscript are not installed: pip install")
    assert "CPUs" in contests.why_not(
        contests.CONTESTS["prepared compiled / openvino"], torch.device("cuda")
    )


def test_onnx_runtime_has_no_bfloat16_on_a_cpu(ours):
    with pytest.raises(UserError, match="onnxruntime computes in fp32 on a CPU, not in bf16"):
        runtimes.exported("onnxruntime", ours, torch.zeros(1, 3, 64, 64), "bf16")


def test_onnx_runtimes_threads_sleep_after_a_run(monkeypatch, ours):
    if reason := runtimes.why_no_runtime("onnxruntime"):
        pytest.skip(reason)
    import onnxruntime

    told, session = [], onnxruntime.InferenceSession

    def keeping(path, options, **others):
        told.append(options.get_session_config_entry("session.force_spinning_stop"))
        return session(path, options, **others)

    monkeypatch.setattr(onnxruntime, "InferenceSession", keeping)
    runtimes.exported("onnxruntime", ours, torch.zeros(1, 3, 64, 64), "fp32")
    assert told == ["1"]


def test_threads_sleep_before_another_runtime_computes(monkeypatch, ours):
    pauses = []
    monkeypatch.setattr(measuring.time, "sleep", pauses.append)
    monkeypatch.setattr(
        contests,
        "exported",
        lambda _, ours, images, dtype: ("openvino 1", lambda: contests.infer(ours, images)),
    )
    contests.run_contest("prepared compiled fp32 / openvino fp32", ours, [], SIZE, rounds=2)
    assert pauses == [contests.FALLS_ASLEEP] * 4  # two contestants, two rounds
    pauses.clear()
    contests.run_contest("inference, eager fp32", ours, ["timm"], SIZE, rounds=1)
    assert not any(pauses)


# --- freed memory -------------------------------------------------------------------------------


@pytest.mark.skipif(not keep_freed_memory(False), reason="this C library has no mallopt")
def test_freed_memory_is_kept_and_given_back_in_turn(ours):
    told = []

    def keep(value):
        told.append(value)
        return keep_freed_memory(value)

    row = allocation.measure_allocation(ours, SIZE, rounds=2, keep=keep)
    assert told == [False, True, False, False, True, False]
    assert {name: len(values) for name, values in row["seconds"].items()} == {
        allocation.KEPT: 2, allocation.GIVEN_BACK: 2,
    }  # fmt: skip
    assert row["ratio"]["low"] <= row["ratio"]["median"] <= row["ratio"]["high"]
    assert row["faults"][allocation.KEPT] >= 0
    _, line = page.allocation_table({"allocation": {"2": row}})
    assert line[:2] == ("V2", "2x3x64x96")
    assert f"{row['ratio']['median']:.2f} (" in line[4]


def test_where_memory_cannot_be_kept_the_reason_is_told(ours):
    row = allocation.measure_allocation(ours, SIZE, keep=lambda value: False)
    assert "has no mallopt" in row["skipped"]
    assert row["skipped"] in page.allocation_table({"allocation": {"2": row}})[1][4]
