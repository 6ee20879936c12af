"""The Triton kernels, in Triton's interpreter: against float64, and in a block's two passes.

Triton reads TRITON_INTERPRET when it is imported, so what needs the interpreter runs in a process of
its own. What needs a GPU is skipped without one.
"""

import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from convnext_backbones.kernels.triton import choice as triton_choice

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "tune_kernels.py"
KERNELS = {
    "depthwise_norm", "layer_norm_backward", "depthwise_input_gradient",
    "depthwise_weight_gradient", "linear_gelu", "gelu_backward", "linear_scale_residual",
    "scale_gradient", "grn_scale", "grn_scale_backward",
    "second_gradients",
}  # fmt: skip
OF_V2 = {"scale_gradient", "grn_scale", "grn_scale_backward"}
needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None or not triton_choice._has_triton(),
    reason="needs Triton",
)
needs_gpu = pytest.mark.skipif(not triton_choice.available("cuda"), reason="needs an NVIDIA GPU")

# Small tiles, and a block with random weights: what the interpreted tests begin with.
BEGINNING = """
import torch
from convnext_backbones.kernels import block as block_module
from convnext_backbones.kernels.steps import Settings, Weights
from convnext_backbones.kernels.triton import depthwise as triton_depthwise, linear as triton_linear
from convnext_backbones.kernels.triton.passes import KERNELS

tile = {"rows": 2, "columns": 8, "channels": 16, "num_warps": 1}
triton_depthwise.DEPTHWISE_CONFIGS = (tile,) * 5
triton_depthwise.WEIGHT_GRADIENT_CONFIGS = ({**tile, "columns": 4, "spread": 2},)
triton_depthwise.LAYER_NORM_CONFIGS = ({"values": 64, "num_warps": 1, "spread": 2},) * 3
linear = {"positions": 16, "outputs": 32, "inputs": 16, "num_warps": 1, "num_stages": 1}
triton_linear.LINEAR_CONFIGS, triton_linear.FLOAT32_LINEAR = (linear,), linear
tile = {"positions": 8, "channels": 32, "num_warps": 1, "spread": 4}
triton_linear.ELEMENTWISE_CONFIGS = (tile,)

torch.manual_seed(0)

def given(x, keep, weights, dtype, kernels=None, inside=None):
    # what a block is called with: (N, C, H, W)
    keep = None if keep is None else keep.view(-1, 1, 1, 1)
    settings = Settings(1, 1e-6, 1e-6, dtype or x.dtype, x.dtype, kernels)
    return x.permute(0, 3, 1, 2), keep, inside, Weights(**weights), settings

def triton_block(x, keep=None, dtype=None, use=KERNELS, inside=None, **weights):
    kernels = {name: {} for name in use} or {"none": {}}
    out = block_module.fast_block(*given(x, keep, weights, dtype, kernels, inside))
    return out.permute(0, 2, 3, 1)

def plain_block(x, keep=None, dtype=None, inside=None, **weights):
    return block_module.plain_block(*given(x, keep, weights, dtype, None, inside)).permute(0, 2, 3, 1)

def block(n, h, w, c, version, dtype=torch.float32):
    t = {
        "x": torch.randn(n, h, w, c), "dwconv": torch.randn(c, 1, 7, 7) / 7,
        "dwconv_bias": torch.randn(c), "norm": 1 + torch.randn(c) / 5,
        "norm_bias": torch.randn(c), "pwconv1": torch.randn(4 * c, c) / c**0.5,
        "pwconv1_bias": torch.randn(4 * c) / 5, "pwconv2": torch.randn(c, 4 * c) / (4 * c) ** 0.5,
        "pwconv2_bias": torch.randn(c),
    }
    if version == 1:
        t |= {"gamma": torch.randn(c)}
    else:
        t |= {"grn_gamma": torch.randn(4 * c), "grn_beta": torch.randn(4 * c) / 5}
    return {name: value.to(dtype) for name, value in t.items()}

def outcome(run, t, gradient, keep, **options):
    t = {name: value.detach().clone().requires_grad_() for name, value in t.items()}
    out = run(**t, keep=keep, **options)
    gradients = torch.autograd.grad(out, list(t.values()), gradient.to(out.dtype))
    return {"out": out.detach()} | dict(zip(t, gradients, strict=True))

def error(found, exact):
    return ((found.double() - exact).abs().max() / exact.abs().max()).item()
"""


def in_interpreter(code: str, *, interpret: bool = True, **variables: str) -> str:
    """What the code prints, in a process of its own; fails if it does."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | variables
    environment.pop("TRITON_INTERPRET", None)
    if interpret:
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


@needs_triton
def test_every_kernel_agrees_with_float64_in_every_dtype():
    done = subprocess.run(
        [sys.executable, TOOL, "--interpret"],
        env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    compared = {(line.split()[0], line.split()[3]) for line in done.stdout.splitlines()[2:]}
    dtypes = ("float32", "float16", "bfloat16")
    assert compared >= {(kernel, dtype) for kernel in KERNELS for dtype in dtypes}


@needs_triton
def test_a_wrong_kernel_fails_the_comparison():
    code = """
        import torch
        from convnext_backbones.lab import kernel_tuning
        from convnext_backbones.errors import UserError
        from convnext_backbones.kernels.triton import passes
        kernel, plain = passes.KERNELS["linear_gelu"]
        def wrong(*args, **options):
            h, z, energy = kernel(*args, **options)
            h[-1, -1, -1, -1] += 0.05
            return h, z, energy
        passes.KERNELS = {"linear_gelu": (wrong, plain)}
        try:
            kernel_tuning.check_shape("cpu", torch.float32, (1, 3, 4, 16), True, 0)
        except UserError as error:
            print(error)
    """
    assert "linear_gelu v1 on (1, 3, 4, 16)" in in_interpreter(code)


@needs_triton
@pytest.mark.parametrize("version", [1, 2])
def test_of_what_is_visible_a_block_has_the_values_and_gradients_of_the_plain_one(version):
    code = f"""
        from convnext_backbones.kernels.steps import Visible
        from convnext_backbones.kernels.triton import passes
        rows = torch.tensor([0, 5, 6, 11, 17, 18, 19, 23, 30, 35])  # 5 of each map's 18
        mask = torch.zeros(36, dtype=torch.bool).index_fill_(0, rows, True).view(2, 3, 6)
        t = block(2, 3, 6, 20, {version})
        gradient, keep = torch.randn(2, 3, 6, 20), torch.tensor([0.8, 1.25])
        exact = {{k: v.double() for k, v in t.items()}}
        exact = outcome(plain_block, exact, gradient, keep, inside=Visible(mask, rows))
        kernel, plain = passes.KERNELS["linear_gelu"]
        def counted(x, *args, **options):
            assert x.shape == (2, 5, 1, 20), x.shape
            return kernel(x, *args, **options)
        passes.KERNELS["linear_gelu"] = counted, plain
        found = outcome(triton_block, t, gradient, keep, inside=Visible(mask, rows))
        for name in exact:
            assert error(found[name], exact[name]) < 3e-6, name
        assert torch.equal(found["out"][~mask], t["x"][~mask])
        with torch.no_grad():
            assert torch.equal(triton_block(**t, keep=keep, inside=Visible(mask, rows)), found["out"])
    """
    in_interpreter(BEGINNING + textwrap.dedent(code))


@needs_triton
@pytest.mark.parametrize("version", [1, 2])
def test_a_block_has_the_values_and_gradients_of_the_plain_one(version):
    """Sizes that no tile divides; a dropped sample; compiled; bfloat16 within its rounding."""
    code = f"""
        for dtype, limit in ((torch.float32, 3e-6), (torch.bfloat16, 0.1))[:{version}]:
            t = block(2, 3, 6, 20, {version}, dtype)
            gradient, keep = torch.randn(2, 3, 6, 20), torch.tensor([0.0, 1.25])
            exact = outcome(plain_block, {{k: v.double() for k, v in t.items()}}, gradient, keep)
            found = outcome(triton_block, t, gradient, keep)
            for name in exact:
                assert error(found[name], exact[name]) < limit, (dtype, name)
                assert found[name].dtype == dtype and found[name].shape == exact[name].shape
            with torch.no_grad():
                out = triton_block(**t, keep=keep)
            assert torch.equal(out, found["out"])
            assert torch.equal(out[0], t["x"][0])  # the dropped sample
        use = ("linear_gelu", "layer_norm_backward")  # the others in plain operators
        mixed = outcome(triton_block, t, gradient, keep, use=use)
        assert all(error(mixed[name], exact[name]) < limit for name in exact)
    """
    in_interpreter(BEGINNING + textwrap.dedent(code))


@needs_triton
def test_a_map_of_zeros_has_finite_gradients():
    code = """
        t = {name: torch.zeros_like(value) for name, value in block(1, 3, 4, 16, 2).items()}
        found = outcome(triton_block, t, torch.ones(1, 3, 4, 16), None)
        assert all(value.isfinite().all() for value in found.values())
        assert torch.equal(found["x"], torch.ones(1, 3, 4, 16))  # along the shortcut alone
    """
    in_interpreter(BEGINNING + textwrap.dedent(code))


@needs_triton
def test_vectors_may_be_float32_beside_a_bfloat16_map():
    code = """
        t = block(1, 3, 4, 16, 2)
        mixed = {**t, "x": t["x"].bfloat16()}
        found = outcome(triton_block, mixed, torch.randn(1, 3, 4, 16), None)
        assert found["out"].dtype == found["x"].dtype == torch.bfloat16
        assert all(found[name].dtype == torch.float32 for name in t if name != "x")
    """
    in_interpreter(BEGINNING + textwrap.dedent(code))


@needs_triton
@pytest.mark.parametrize("version", [1, 2])
def test_the_residual_sum_may_be_float32_beside_bfloat16_arithmetic(version):
    """As under autocast: the result and the gradients are float32, their errors those of bfloat16."""
    code = f"""
        t = block(2, 3, 4, 16, {version})
        gradient, keep = torch.randn(2, 3, 4, 16), torch.tensor([0.0, 1.25])
        exact = outcome(plain_block, {{k: v.double() for k, v in t.items()}}, gradient, keep)
        for use in (KERNELS, ()):
            found = outcome(triton_block, t, gradient, keep, dtype=torch.bfloat16, use=use)
            for name in exact:
                assert found[name].dtype == torch.float32
                assert error(found[name], exact[name]) < 0.1, (use, name)
            assert torch.equal(found["out"][0], t["x"][0])  # the dropped sample, not rounded
    """
    in_interpreter(BEGINNING + textwrap.dedent(code))


@needs_triton
@pytest.mark.parametrize("version", [1, 2])
def test_in_float16_an_initial_layer_scale_loses_no_gradient(version):
    """Times a weight it would be 0; and the gradient before it, as loss scaling makes it, infinite."""
    code = f"""
        t = block(2, 3, 4, 16, {version})
        if {version} == 1:
            t["gamma"] = t["gamma"] * 1e-6
        gradient, keep = torch.randn(2, 3, 4, 16) * 1e5, torch.tensor([0.0, 1.25])
        gradient *= 1.0 if {version} == 1 else 1e-3
        exact = outcome(plain_block, {{k: v.double() for k, v in t.items()}}, gradient, keep)
        found = outcome(triton_block, t, gradient, keep, dtype=torch.float16)
        for name in exact:
            assert error(found[name], exact[name]) < 0.01, name
    """
    in_interpreter(BEGINNING + textwrap.dedent(code))


@needs_triton
@pytest.mark.parametrize("capability", [pytest.param(80, marks=pytest.mark.slow), 90])
def test_every_kernel_compiles_for_a_gpu_that_is_not_there(capability, tmp_path):
    """What the interpreter does not see: types, layouts, shared memory. Needs no GPU."""
    code = f"""
        import torch, triton
        from triton.backends.compiler import GPUTarget
        from triton.runtime import driver
        from triton.runtime.jit import JITFunction

        class Driver:
            def get_current_target(self):
                return GPUTarget("cuda", {capability}, 32)
            def get_current_device(self):
                return 0
            def get_current_stream(self, device):
                return 0

        driver.set_active(Driver())
        launch, memory = JITFunction.run, {{}}
        def compile_only(self, *args, warmup=False, **options):
            kernel = launch(self, *args, warmup=True, **options)
            memory[self.fn.__name__] = kernel.metadata.shared
            return kernel
        JITFunction.run = compile_only

        from convnext_backbones.lab import kernel_tuning
        from convnext_backbones.kernels.triton.passes import KERNELS
        t = kernel_tuning.inputs(1, 4, 4, 96, torch.bfloat16, "cpu")
        for name, (kernel, _) in KERNELS.items():
            given, options = kernel_tuning.arguments(name, t, 2)
            configurations = kernel_tuning.configurations(name, torch.bfloat16, False)
            slow = name == "depthwise_weight_gradient"  # its last configuration is the quickest
            if not slow or {capability} == 90:
                kernel(*given, **options, config=configurations[-1 if slow else 0])
        # One kernel makes both convolutions, and one sums over tiles.
        assert len(memory) == (11 if {capability} == 90 else 10), memory
        limit = 163 * 1024 if {capability} == 80 else 227 * 1024
        assert max(memory.values()) <= limit, memory
    """
    in_interpreter(code, interpret=False, TRITON_CACHE_DIR=str(tmp_path))


@needs_gpu
def test_every_kernel_agrees_with_float64_on_the_gpu():
    command = [sys.executable, TOOL, "--quick", "--check-only"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@needs_triton
@pytest.mark.skipif(torch.cuda.is_available(), reason="it is about machines without a GPU")
def test_times_are_medians_of_a_call_in_milliseconds(monkeypatch):
    from convnext_backbones.lab import kernel_tuning

    calls = []
    monkeypatch.setattr(kernel_tuning, "seconds", lambda run, device: 3e-4)  # of three calls
    monkeypatch.setattr(
        kernel_tuning,
        "interleaved",
        lambda runs, rounds, device: {key: [run() or key[1] / 1e3] for key, run in runs.items()},
    )
    runs = [lambda: calls.append("a"), lambda: calls.append("b")]
    assert kernel_tuning.milliseconds(runs, 1) == [1.0, 1.0]
    assert calls == ["a", "b"] + ["a"] * 20 + ["b"] * 20


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_the_tool_says_what_it_needs():
    done = subprocess.run([sys.executable, TOOL], capture_output=True, text=True)
    assert done.returncode == 2
    assert "needs Triton 3.4 or later and an NVIDIA GPU" in done.stderr
    assert "Traceback" not in done.stderr


# The choice


def test_asking_for_the_choice_does_not_import_triton_and_says_no_on_a_cpu():
    code = """
        import importlib.util, sys, torch
        path = "convnext_backbones/kernels/triton/choice.py"
        spec = importlib.util.spec_from_file_location("triton_choice", path)  # without the package
        choice = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(choice)
        assert not choice.available("cpu")
        assert choice.tuned("cpu", torch.float32, 2, 56, 56, 96, 1, training=True) == {}
        assert "triton" not in sys.modules
    """
    in_interpreter(code, interpret=False)


def test_without_triton_nothing_is_available(monkeypatch):
    monkeypatch.setattr(triton_choice, "_has_triton", lambda: False)
    assert not triton_choice.available("cpu")
    assert not triton_choice.available("cuda")


def row(kernel: str, ratio: float, n: int, h: int, w: int, c: int, version: int = 1) -> dict:
    return {
        "kernel": kernel, "dtype": "torch.bfloat16", "n": n, "h": h, "w": w, "c": c,
        "version": version, "config": {"of": [n, h, w, c]}, "ms": ratio, "plain_ms": 1.0,
        "ratio": ratio,
    }  # fmt: skip


@pytest.fixture
def device(tmp_path, monkeypatch):
    """A GPU's name, and functions to write its tables of the user and of the package."""
    monkeypatch.setattr(triton_choice, "available", lambda device: True)
    monkeypatch.setattr(triton_choice, "device_slug", lambda device: "a-gpu")
    monkeypatch.setattr(triton_choice, "cache_file", lambda slug: tmp_path / f"{slug}.json")
    monkeypatch.setattr(triton_choice, "PACKAGED", tmp_path / "package")
    (tmp_path / "package").mkdir()

    def forget():
        triton_choice.read_table.cache_clear()
        triton_choice._chosen.cache_clear()

    def write(*rows: dict, package: bool = False) -> None:
        path = tmp_path / "package" / "a-gpu.json" if package else tmp_path / "a-gpu.json"
        path.write_text(json.dumps({"device": "A GPU", "measured": rows}))
        forget()

    forget()
    yield write
    forget()


def choice(
    n: int, h: int, w: int, c: int, version: int = 1, dtype=torch.bfloat16, training=True
) -> set:
    return set(triton_choice.tuned("cuda", dtype, n, h, w, c, version, training=training))


def blocks(*shape: int, training: float = 0.5, inference: float = 0.5) -> list[dict]:
    """The rows of whole blocks."""
    ratios = {triton_choice.TRAINING: training, triton_choice.INFERENCE: inference}
    return [row(name, ratio, *shape) for name, ratio in ratios.items()]


def test_without_a_table_no_kernel_runs(device):
    assert choice(2, 128, 128, 96) == set()


def test_a_kernel_runs_where_it_was_faster_and_only_there(device):
    device(
        row("linear_gelu", 0.5, 2, 128, 128, 96),
        row("depthwise_norm", 1.2, 2, 128, 128, 96),
        *blocks(2, 128, 128, 96),
        row("linear_gelu", 0.99, 2, 16, 16, 768),
        row("depthwise_norm", 0.8, 2, 16, 16, 768),
        *blocks(2, 16, 16, 768),
    )
    assert choice(2, 128, 128, 96) == {"linear_gelu"}
    assert choice(2, 16, 16, 768) == {"depthwise_norm"}
    assert choice(2, 128, 128, 96, version=2) == set()
    assert choice(2, 128, 128, 96, dtype=torch.float16) == set()


def test_kernels_run_only_where_a_whole_block_is_faster_with_them(device):
    kernel = row("linear_gelu", 0.5, 2, 128, 128, 96)
    device(kernel, *blocks(2, 128, 128, 96, training=1.1))
    assert choice(2, 128, 128, 96) == set()
    assert choice(2, 128, 128, 96, training=False) == {"linear_gelu"}
    device(kernel)
    assert choice(2, 128, 128, 96) == choice(2, 128, 128, 96, training=False) == set()


def test_a_shape_stands_for_the_nearest_measured_one_and_not_for_a_far_one(device):
    device(
        *(row("linear_gelu", 0.5, 2, 128, 128, 96), *blocks(2, 128, 128, 96)),
        *(row("linear_gelu", 1.5, 2, 200, 336, 96), *blocks(2, 200, 336, 96)),
    )
    assert choice(2, 120, 160, 96) == {"linear_gelu"}
    assert choice(2, 200, 304, 96) == set()
    assert choice(1, 32, 32, 96) == set()  # 32 times fewer positions
    assert choice(64, 128, 128, 96) == set()
    assert choice(2, 128, 128, 192) == set()


def test_the_users_table_goes_before_the_packages(device):
    kernel = row("linear_gelu", 0.5, 2, 128, 128, 96)
    device(kernel, *blocks(2, 128, 128, 96), package=True)
    assert choice(2, 128, 128, 96) == {"linear_gelu"}
    device(row("linear_gelu", 1.5, 2, 128, 128, 96))
    assert choice(2, 128, 128, 96) == set()


@needs_triton
def test_the_tool_measures_every_kernel_for_both_versions(tmp_path, monkeypatch):
    """With times that are made up, one shape, and no GPU."""
    from convnext_backbones.cli import tune_kernels
    from convnext_backbones.lab import kernel_tuning

    inputs = kernel_tuning.inputs
    monkeypatch.setattr(kernel_tuning, "inputs", lambda *s: inputs(*s[:5], "cpu"))
    monkeypatch.setattr(kernel_tuning, "timed_shapes", lambda *_: [(2, 4, 4, 16)])
    monkeypatch.setattr(kernel_tuning, "fitting", lambda run: True)
    times = [1.0, 2.0]
    monkeypatch.setattr(kernel_tuning, "milliseconds", lambda runs, *_: times[: len(runs)])
    monkeypatch.setattr(kernel_tuning, "Block", lambda c, version: torch.nn.Identity())
    monkeypatch.setattr(torch.nn.Module, "cuda", lambda module: module)
    randn = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *size, **_: randn(*size))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "A GPU")
    monkeypatch.setattr(triton_choice, "device_slug", lambda device: "a-gpu")
    path = tmp_path / "folder" / "a-gpu.json"
    args = tune_kernels.parse(["--output", str(path)])
    kernel_tuning.tune(args.sizes, args.dtypes, args.output, args.quick)
    rows = json.loads(path.read_text())["measured"]
    found = {(r["kernel"], r["version"]): r["ratio"] for r in rows}
    assert len(found) == len(rows)
    whole = {triton_choice.TRAINING, triton_choice.INFERENCE}
    assert set(found) == {(k, v) for k in KERNELS | whole for v in (1, 2)} - {(k, 1) for k in OF_V2}
    assert set(found.values()) == {0.5}


@needs_triton
def test_the_choice_reads_what_the_tool_writes(device, tmp_path, monkeypatch):
    from convnext_backbones.lab import kernel_tuning

    device()
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    rows = [row("linear_gelu", 0.5, 2, 128, 128, 96), row("linear_gelu", 1.5, 2, 16, 16, 768)]
    rows += blocks(2, 128, 128, 96)
    kernel_tuning._write(tmp_path / "a-gpu.json", {kernel_tuning._key(r): r for r in rows})
    assert json.loads((tmp_path / "a-gpu.json").read_text())["versions"]["torch"]
    assert triton_choice.read_table("a-gpu") == rows
    assert choice(2, 128, 128, 96) == {"linear_gelu"}


@needs_triton
def test_the_packages_tables_name_kernels_and_configurations_that_exist():
    from convnext_backbones.lab import kernel_tuning

    paths = list(triton_choice.PACKAGED.glob("*.json"))
    assert paths
    for path in paths:
        table = json.loads(path.read_text())
        assert re.sub(r"[^a-z0-9]+", "-", table["device"].lower()) == path.stem
        for measured in table["measured"]:
            triton_choice._check(measured)
            if measured["kernel"] not in (triton_choice.TRAINING, triton_choice.INFERENCE):
                dtype = getattr(torch, measured["dtype"].removeprefix("torch."))
                known = kernel_tuning.configurations(measured["kernel"], dtype, interpret=False)
                assert measured["config"] in known


@pytest.mark.parametrize("text", ["{", "[]", '{"measured": [{"kernel": 3}]}'])
def test_a_broken_table_is_left_out_with_a_warning(device, tmp_path, text):
    device()
    (tmp_path / "a-gpu.json").write_text(text)
    with pytest.warns(UserWarning, match="no table of kernel measurements"):
        assert choice(2, 128, 128, 96) == set()
