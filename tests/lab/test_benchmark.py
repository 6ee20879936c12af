"""lab/benchmark and tools/benchmark.py: honest comparisons, and what is written of them."""

import io
import json
import re
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import timm
import torch
from matplotlib.image import imread
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from convnext_backbones import VARIANTS, ConvNeXtClassifier
from convnext_backbones.cli import benchmark
from convnext_backbones.errors import UserError, exit_with_sentence
from convnext_backbones.kernels import cpp
from convnext_backbones.lab.benchmark import contests, growth, machine, measuring, page
from convnext_backbones.lab.benchmark.contests import OURS
from convnext_backbones.lab.benchmark.figures import figures
from convnext_backbones.lab.peers import MissingPeerError, build_peer
from convnext_backbones.lab.random_weights import fill_randomly

TOOL = Path(__file__).parents[2] / "tools" / "benchmark.py"
SMALL = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
CPU = torch.device("cpu")
SIZE = (1, 64, 64)


def small(version=2):
    return fill_randomly(ConvNeXtClassifier(SMALL, version=version, num_classes=10))


# --- measuring ----------------------------------------------------------------------------------


def test_the_ratio_is_that_of_the_rounds_not_of_the_medians():
    ours, theirs = [1.0, 20.0, 3.0], [2.0, 10.0, 4.0]
    assert measuring.ratio(ours, theirs) == pytest.approx((0.75, 0.625, 1.375))
    assert measuring.ratio([3.0], [2.0]) == (1.5, 1.5, 1.5)


def test_every_round_calls_each_contestant_once_and_begins_with_another():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "abc"}
    measured = measuring.interleaved(runs, 4, CPU)
    assert "".join(calls) == "abc" + "bca" + "cab" + "abc"
    assert {name: len(values) for name, values in measured.items()} == dict.fromkeys("abc", 4)
    assert all(value > 0 for values in measured.values() for value in values)


def test_no_round_begins_after_the_seconds_that_are_given_but_three_are_run():
    def run():
        time.sleep(0.01)

    assert len(measuring.interleaved({"a": run}, 7, CPU, 0.0)["a"]) == 3
    assert len(measuring.interleaved({"a": run}, 2, CPU, 0.0)["a"]) == 2
    assert len(measuring.interleaved({"a": run}, 4, CPU, 60.0)["a"]) == 4


def test_peak_memory_is_what_was_held_at_once_beside_what_was_there():
    given = torch.ones(1000, 1000)

    def run():
        a = given.exp()  # 4 MB
        del a
        b = given.exp()
        return b.exp()  # 8 MB

    assert measuring.peak_memory(run, CPU) == 8_000_000
    assert measuring.peak_memory(run, CPU) == 8_000_000


def test_peak_memory_of_a_step_counts_activations_and_gradients():
    layer = nn.Linear(1000, 1000, bias=False)
    images = torch.ones(500, 1000)

    def run():
        layer(images).relu().sum().backward()
        layer.zero_grad(set_to_none=True)

    activation, gradient = 500 * 1000 * 4, 1000 * 1000 * 4
    assert activation + gradient <= measuring.peak_memory(run, CPU) <= 3 * activation + gradient


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_base", "convnextv2_atto"])
def test_the_limits_flops_are_those_that_torch_counts_in_timms_model(name):
    variant = VARIANTS[name]
    arch = {"depths": variant.depths, "dims": variant.dims}
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        timm.create_model(name, num_classes=0)(torch.randn(2, 3, 64, 96))
    assert machine.flops(arch, (2, 64, 96)) == counter.get_total_flops()


def test_the_limits_grow_with_area_and_shrink_with_speed():
    speeds = {f"matrix product {d}, FLOP/s": 1e11 for d in machine.DTYPES} | {"copy, bytes/s": 1e10}
    limits = machine.limits(SMALL, SIZE, "fp32", speeds)
    doubled = machine.limits(SMALL, (1, 64, 128), "fp32", speeds)
    assert doubled == pytest.approx({kind: 2 * value for kind, value in limits.items()})
    faster = machine.limits(SMALL, SIZE, "bf16", {name: 2 * v for name, v in speeds.items()})
    assert faster["arithmetic"] == limits["arithmetic"] / 2
    assert faster["traffic"] == limits["traffic"] / 4  # half the bytes at twice the speed
    # stage 1 at 64x64: 13 maps of 16x16 positions, 8 channels, 4 bytes
    one = {"depths": (1,), "dims": (8,)}
    assert machine.traffic(one, SIZE, 4) == 13 * 16 * 16 * 8 * 4


# --- contests -----------------------------------------------------------------------------------


@pytest.mark.parametrize("title", ["inference, eager fp32", "training, eager bf16 autocast"])
def test_a_contest_gives_the_ratio_to_the_best_peer(title):
    row = contests.run_contest(title, small(), ["timm", "transformers"], SIZE, rounds=3)
    peers = {n: m for n, m in row["medians"].items() if n != OURS}
    assert len(peers) == 2
    assert row["best_peer"] == min(peers, key=peers.get)
    expected = measuring.ratio(row["seconds"][OURS], row["seconds"][row["best_peer"]])
    assert row["ratio"] == expected._asdict()
    assert set(row["trial_seconds"][row["best_peer"]]) == {"NCHW", "channels_last"}
    trial = row["trial_seconds"][row["best_peer"]]
    assert row["layouts"][row["best_peer"]] == min(trial, key=trial.get)
    memory = row.get("memory")
    assert (memory is None) == title.startswith("inference")
    if memory:
        least = min(m for n, m in memory.items() if n != OURS)
        assert row["memory_ratio"] == memory[OURS] / least
    json.dumps(row)


def test_as_typed_chooses_no_layout_for_anyone():
    row = contests.run_contest("inference, as typed", small(1), ["torchvision"], SIZE, rounds=1)
    (tried,) = row["trial_seconds"].values()
    assert list(tried) == ["NCHW"]
    assert set(row["layouts"].values()) == {"NCHW"}


def test_only_finalists_run_in_the_rounds():
    row = contests.run_contest(
        "inference, eager fp32", small(), ["timm", "transformers"], SIZE, rounds=1, finalists=1
    )
    assert len(row["trial_seconds"]) == 2
    assert set(row["medians"]) == {OURS, row["best_peer"]}


@pytest.mark.parametrize("title", ["inference, eager fp32", "training, eager fp32"])
def test_a_peer_with_other_weights_is_refused(monkeypatch, title):
    def other_weights(name, ours):
        peer = build_peer(name, ours)
        bias = peer.model.get_parameter("stages.2.blocks.0.mlp.fc2.bias")
        bias.data = bias.data.clone()
        bias.data[0] += 0.1
        return peer

    monkeypatch.setattr(contests, "build_peer", other_weights)
    with pytest.raises(
        contests.DisagreementError, match=r"timm .* other outputs .* nothing was timed"
    ):
        contests.run_contest(title, small(), ["timm"], SIZE, rounds=1)


def test_a_contest_leaves_our_model_as_it_was():
    ours = small()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    for title in ("training, eager fp32", "prepared bf16 / eager bf16"):
        contests.run_contest(title, ours, ["timm"], SIZE, rounds=1)
    assert not ours.training
    assert all(torch.equal(value, before[name]) for name, value in ours.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in ours.parameters())


def test_a_peer_named_by_the_caller_has_to_be_there(monkeypatch):
    monkeypatch.delenv("CONVNEXT_OFFICIAL", raising=False)
    with pytest.raises(MissingPeerError, match="CONVNEXT_OFFICIAL is not set"):
        contests.available_peers(["official"], small())
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "timm", None)
        with pytest.raises(
            MissingPeerError, match=r"^timm_conv_mlp .* \(.*\); pip install timm, or"
        ):
            contests.available_peers(["timm_conv_mlp"], small())
    with pytest.raises(UserError, match=r"no peer 'tim'; choose out of timm,"):
        contests.available_peers(["timm", "tim"], small())
    with pytest.raises(UserError, match=r"no peer is left .* torchvision has no ConvNeXt V2"):
        contests.available_peers(["torchvision"], small())
    held, left_out = contests.available_peers(None, small())
    assert {"timm", "timm_conv_mlp", "transformers"} <= set(held)
    assert {"torchvision", "official"} <= set(left_out)


# --- kinds of processors ------------------------------------------------------------------------


def mask(monkeypatch, words):
    """Treat what the words name as missing, see kernels/processor.py."""
    monkeypatch.setenv("CONVNEXT_BACKBONES_MASK", words)


def test_without_instructions_for_bfloat16_its_contests_say_nothing(monkeypatch):
    mask(monkeypatch, "bf16")
    for title, contest in contests.CONTESTS.items():
        reason = contests.why_not(contest, CPU)
        if "bf16" in title:
            assert reason == "this device has no instructions for bfloat16 and would emulate it"
        elif contest.runtime:
            assert contest.prepared == "default" or reason is not None
        elif machine.can_compile(CPU):
            assert reason is None
    assert list(machine.machine_speed(CPU, rounds=1)) == [
        "matrix product fp32, FLOP/s", "copy, bytes/s",
    ]  # fmt: skip
    assert machine.describe_machine(CPU)["masked"] == ["amx_bf16", "avx512_bf16"]


def test_without_a_compiler_no_contest_compiles(monkeypatch):
    mask(monkeypatch, "compiler")
    for title, contest in contests.CONTESTS.items():
        if "compiled" in title:
            assert contests.why_not(contest, CPU) is not None
    assert "needs a C++ compiler" in contests.why_not(
        contests.CONTESTS["inference, compiled fp32"], CPU
    )
    assert contests.why_not(contests.CONTESTS["inference, eager fp32"], CPU) is None


def test_only_our_kernels_and_gpus_compile_in_seconds(monkeypatch):
    mask(monkeypatch, "amx,avx512,avx2")
    assert not machine.compiles_in_seconds(CPU)
    assert machine.compiles_in_seconds(torch.device("cuda"))


def test_a_prepared_network_comes_with_its_dtype_and_what_computes_it(monkeypatch):
    mask(monkeypatch, "amx,avx512,avx2")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        _, form = contests.prepare(small(), dtype=torch.bfloat16, compile=True)
    assert form.startswith("bf16, the kernels for CPUs are left out, torch.compile used: this")
    assert (
        contests.prepare(small(), dtype=torch.float64, compile=True)[1]
        == "torch.float64, torch.compile"
    )
    mask(monkeypatch, "bf16")
    family, _ = cpp.choice(torch.float32)
    if family:
        assert contests.prepare(small(), compile=True)[1] == f"fp32, the C++ kernels ({family})"
    assert contests.prepare(small(), compile=False)[1] == "fp32, eager steps"


def test_another_warning_than_the_one_that_is_told_goes_on(monkeypatch):
    def prepare(model, **options):
        warnings.warn("something else", stacklevel=1)
        return model

    monkeypatch.setattr(contests, "prepare_for_inference", prepare)
    with pytest.warns(UserWarning, match="something else"):
        contests.prepare(small(), compile=False)


def test_the_tool_runs_on_a_processor_that_has_neither_bfloat16_nor_a_compiler(
    monkeypatch, tmp_path
):
    mask(monkeypatch, "amx,avx512,bf16,compiler")
    printed = tool("--quick", "--arch", "atto", "--sizes", "1x32x32", "--rounds", 1, "--versions", 2,
                   "--peers", "timm", "--output", tmp_path, "--only", "inference", "prepared",
                   "growth")  # fmt: skip
    results = json.loads(next(tmp_path.glob("*.json")).read_text())
    page = next(tmp_path.glob("*.md")).read_text()
    eager, *compiled, by_default = results["contests"]
    assert "ratio" in eager
    assert "ratio" in by_default
    assert by_default["prepared"] == "fp32, eager steps"
    for row in compiled:
        assert f"skipped: {row['skipped']}" in page
        assert f"skipped: {row['skipped']}" in printed
    assert "matrix product bf16" not in page
    assert re.search(r"^Masked: .*amx_bf16, .*avx512_bf16", page, re.MULTILINE)
    assert results["growth"]["2"]["prepared"] == "fp32, eager steps"


def test_growth_compares_the_areas_in_order(monkeypatch):
    mask(monkeypatch, "compiler")  # compilation takes a minute
    sizes = ((32, 32), (32, 64), (64, 64))
    grown = growth.measure_growth(small(), "timm", layout="NCHW", sizes=sizes, rounds=2)
    times, memory = grown["seconds"][OURS], grown["memory"][OURS]
    assert grown["pixels"] == [1024, 2048, 4096]
    assert grown["growth"] == [times[1] / times[0], times[2] / times[1]]
    assert grown["memory_growth"] == [memory[1] / memory[0], memory[2] / memory[1]]
    assert memory == sorted(memory)
    assert OURS in grown["new_shape"]


# --- the tool -----------------------------------------------------------------------------------


def tool(*arguments, code=0):
    """What the tool prints, run in this process, with small areas for the growth."""
    text, status = io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(text), redirect_stderr(text):
        patch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        patch.setattr(growth, "DOUBLING", ((32, 32), (32, 64), (64, 64)))
        try:
            with exit_with_sentence():
                benchmark.main()
        except SystemExit as ended:
            status = ended.code
    assert status == code, text.getvalue()
    return text.getvalue()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What a small run prints, and the folder it wrote. Nothing is compiled, which takes a minute."""
    folder = tmp_path_factory.mktemp("benchmark")
    with uncompiled():
        printed = tool("--quick", "--arch", "atto", "--sizes", "1x64x64", "--rounds", 2,
                       "--versions", 2, "--peers", "timm", "transformers", "--output", folder,
                       "--only", "inference", "training", "prepared", "growth")  # fmt: skip
    return printed, folder


@contextmanager
def uncompiled():
    with pytest.MonkeyPatch.context() as patch:
        mask(patch, "compiler")
        yield


def contests_that_ran(results):
    """Rows with figures; all but those that say nothing on this kind of processor."""
    rows = [row for row in results["contests"] if "skipped" not in row]
    skipped = [row for row in results["contests"] if "skipped" in row]
    with uncompiled():
        assert all(contests.why_not(contests.CONTESTS[row["contest"]], CPU) for row in skipped)
    assert {"inference, eager fp32", "training, eager fp32"} <= {row["contest"] for row in rows}
    return rows


def test_the_results_name_machine_versions_and_command(written):
    printed, folder = written
    (path,) = folder.glob("*.json")
    results = json.loads(path.read_text())
    found = results["machine"]
    assert path.stem == machine.slug(found)
    assert found["threads"] == torch.get_num_threads()
    assert found["packages"]["torch"] == torch.__version__.split("+")[0]
    assert {"timm", "transformers", "python", "convnext_backbones"} <= set(found["packages"])
    assert all(speed > 0 for speed in found["speeds"].values())
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    assert results["command"].startswith("python tools/benchmark.py --quick --arch atto")
    assert [row["contest"] for row in results["contests"]] == [
        "inference, eager fp32", "prepared compiled bf16 / eager fp32",
        "prepared compiled fp32 / eager fp32", "prepared / eager fp32", "training, eager fp32",
    ]  # fmt: skip
    assert str(path) in printed


def test_the_page_shows_the_medians_of_the_results(written):
    printed, folder = written
    (path,) = folder.glob("*.json")
    page = path.with_suffix(".md").read_text()
    for row in contests_that_ran(json.loads(path.read_text())):
        spread = f"{row['ratio']['median']:.2f} ({row['ratio']['low']:.2f} to "
        assert spread in page
        assert spread in printed
    for picture in folder.glob("*.png"):
        assert f"]({picture.name})" in page


def test_the_page_names_what_computed_the_prepared_networks(written):
    printed, folder = written
    (path,) = folder.glob("*.json")
    results, page = json.loads(path.read_text()), path.with_suffix(".md").read_text()
    ours = fill_randomly(ConvNeXtClassifier("atto", version=2))
    with uncompiled():
        _, form = contests.prepare(ours, compile=machine.compiles_in_seconds(CPU))
    assert results["growth"]["2"]["prepared"] == form
    assert f"growth, ours prepared: {form}" in page
    assert f"growth, ours prepared: {form}" in printed
    for row in contests_that_ran(results):
        assert ("prepared" in row) == row["contest"].startswith("prepared")
        if "prepared" in row:
            assert f"- {row['contest']}: {row['prepared']}" in page


def test_the_table_of_the_kinds_is_that_of_the_results_files():
    folder = Path(__file__).parents[2] / "docs" / "benchmarks"
    text = (folder / "README.md").read_text()
    assert page.with_kinds(text, folder) == text
    assert text.count("| V2 inference, eager float32 |") >= 3


def test_processors_of_one_name_that_compute_with_other_instructions_are_other_kinds():
    new = {"device": "cpu", "processor": "AMD EPYC", "flags": ["avx2", "avx512f", "avx512_bf16"]}
    old = new | {"flags": ["avx2"]}
    xeon = new | {"processor": "Intel(R) Xeon(R)", "flags": ["avx2", "amx_bf16", "amx_tile"]}
    gpu = {"device": "cuda", "processor": "NVIDIA H100 80GB HBM3", "flags": ["avx2"]}
    assert [machine.slug(kind) for kind in (new, old, xeon, gpu)] == [
        "amd-epyc-avx512-bf16", "amd-epyc-avx2", "intel-xeon-amx-bf16", "nvidia-h100-80gb-hbm3",
    ]  # fmt: skip


def test_the_plots_are_not_empty(written):
    pictures = list(written[1].glob("*.png"))
    assert {picture.stem.rpartition("-")[2] for picture in pictures} == {"ratios", "area"}
    assert all(imread(picture)[..., :3].std() > 0.05 for picture in pictures)


def test_figures_to_reach_are_compared_with_the_right_rows():
    contest, size = "training, eager fp32", [1, 512, 512]
    row = {"contest": contest, "version": 2, "arch": "tiny", "size": size, "memory_ratio": 0.61,
           "ratio": {"median": 0.54, "low": 0.5, "high": 0.6}}  # fmt: skip
    others = [row | {"size": [1, 224, 224]}, row | {"arch": "atto"}, {**row, "version": 1}]
    results = {"machine": {"device": "cpu"}, "contests": [row], "growth": {}, "start_up": {}}
    time, memory = figures(results)
    assert (time["most"], time["reached"], time["holds"]) == (0.55, 0.54, True)
    assert (memory["most"], memory["reached"], memory["holds"]) == (0.60, 0.61, False)
    assert [f["most"] for f in figures(results | {"contests": others})] == [0.85]


def test_a_figure_of_float32_says_what_the_products_alone_take_of_the_peers_time():
    speeds = {"matrix product fp32, FLOP/s": 1e11, "copy, bytes/s": 1e10}
    row = {"contest": "inference, eager fp32", "version": 2, "arch": "tiny", "size": [1, 512, 512],
           "ratio": {"median": 0.7, "low": 0.7, "high": 0.7}, "best_peer": "timm",
           "medians": {"timm": 2.0, contests.OURS: 1.4}}  # fmt: skip
    trained = row | {"contest": "training, eager fp32", "memory_ratio": 0.4}
    results = {"machine": {"device": "cpu", "speeds": speeds}, "contests": [row, trained]}
    found = figures(results | {"growth": {}, "start_up": {}})
    variant = VARIANTS["convnextv2_tiny"]
    work = machine.flops({"depths": variant.depths, "dims": variant.dims}, (1, 512, 512))
    assert found[0]["products"] == pytest.approx(work / 1e11 / 2.0)
    assert found[1]["products"] == pytest.approx(3 * found[0]["products"])
    assert "products" not in found[2]  # memory


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--arch", "teeny"], "there is no ConvNeXt V1 'teeny'; choose out of"),
        (["--peers", "tim"], "there is no peer 'tim'; choose out of"),
        (["--sizes", "512"], "invalid size"),
        (["--rounds", "0"], "invalid number"),
        (["--quick", "--full"], "not allowed with"),
        (["--only", "speed"], "invalid choice"),
    ],
    ids=str,
)
def test_a_wrong_option_is_answered_with_a_sentence(arguments, sentence):
    printed = tool(*arguments, code=2)
    assert sentence in printed
    assert "Traceback" not in printed


@pytest.mark.skipif(torch.cuda.is_available(), reason="it is about machines without CUDA")
def test_cuda_without_a_device_is_answered_with_a_sentence():
    assert "has no CUDA device" in tool("--device", "cuda", code=2)


def test_help_explains_the_options():
    """In a process of its own, as a user starts it."""
    done = subprocess.run([sys.executable, TOOL, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for option in ("--quick", "--full", "--only", "--peers", "--device", "--output"):
        assert option in done.stdout


def test_start_up_is_measured_in_a_fresh_process():
    start = growth.measure_start_up("convnext_atto", processes=1)[OURS]
    assert 0 < start["import"] < start["total"]
    assert start["torch"] + start["import"] < start["total"]
    assert "convnext_backbones" in sys.modules  # in this process it would have cost nothing
