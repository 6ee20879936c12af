"""The Triton kernels compared with plain PyTorch, and timed; the work of cli/tune_kernels.

Random inputs of the size that they have in a network go through every kernel in every configuration, its
plain twin, and the twin in float64. Timed are interleaved rounds; a kernel counts as faster where its
median is below that of every plain way to compute the same.
"""

import concurrent.futures
import datetime
import functools
import importlib.metadata
import itertools
import json
import multiprocessing
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..errors import UserError
from ..kernels import dispatch
from ..kernels.block import fast_block, plain_block
from ..kernels.steps import Settings, Weights
from ..kernels.triton import choice as triton_choice
from ..network.convnext import Block
from ..network.variants import VARIANTS
from .benchmark.measuring import interleaved, seconds
from .random_weights import fill_randomly

DTYPES = ("float32", "float16", "bfloat16")
IMAGES = ((64, 224, 224), (2, 512, 512), (2, 800, 1344))
CHECKED_MAP = (3, 19, 21)  # n, h, w: no tile divides it
CHECKED_CHANNELS = (40, 80, 352, 2816)  # beside those that are timed: Atto, Nano, Huge
INTERPRETED = ((2, 3, 7, 24),)
SMALL = {
    "depthwise": {"rows": 4, "columns": 8, "channels": 16, "num_warps": 1},
    "weight_gradient": {"rows": 2, "columns": 4, "channels": 16, "num_warps": 1, "spread": 4},
    "layer_norm": {"values": 128, "num_warps": 1, "spread": 4},
    "linear": {"positions": 16, "outputs": 32, "inputs": 16, "num_warps": 1, "num_stages": 1},
    "elementwise": {"positions": 8, "channels": 32, "num_warps": 1, "spread": 8},
    "small": {"num_warps": 1},
}  # for tiny maps in the interpreter
KIND = {
    "depthwise_norm": "depthwise",
    "depthwise_input_gradient": "depthwise",
    "depthwise_weight_gradient": "weight_gradient",
    "layer_norm_backward": "layer_norm",
    "linear_gelu": "linear",
    "linear_scale_residual": "linear",
    "gelu_backward": "elementwise",
    "scale_gradient": "elementwise",
    "grn_scale": "small",
    "grn_scale_backward": "small",
    "second_gradients": "small",
}  # kernel -> which configurations it has
OF_BOTH_VERSIONS = tuple(name for name in KIND if "depthwise" in name or "norm" in name)
OF_V2 = ("scale_gradient", "grn_scale", "grn_scale_backward")


# What is compared: each kernel's call on random tensors


def inputs(n: int, h: int, w: int, c: int, dtype: torch.dtype, device: str) -> dict[str, Tensor]:
    """Random tensors for a block and its kernels, of the size they have in a network."""

    def normal(*shape, std=1.0, mean=0.0):
        return (torch.randn(*shape, device=device) * std + mean).to(dtype)

    t = {
        "x": normal(n, h, w, c),
        "dwconv": normal(c, 1, 7, 7, std=1 / 7),
        "dwconv_bias": normal(c),
        "norm": normal(c, std=0.2, mean=1),
        "norm_bias": normal(c, std=0.2),
        "pwconv1": normal(4 * c, c, std=c**-0.5),
        "pwconv1_bias": normal(4 * c, std=0.2),
        "pwconv2": normal(c, 4 * c, std=(4 * c) ** -0.5),
        "pwconv2_bias": normal(c, std=0.2),
        "gamma": normal(c),
        "grn_gamma": normal(4 * c),
        "grn_beta": normal(4 * c, std=0.2),
        "gradient": normal(n, h, w, c),
        "of_h": normal(n, h, w, 4 * c),
        "z": normal(n, h, w, 4 * c),
        "y": normal(n, h, w, c, mean=0.5),
    }
    wide = t["y"].float()
    t["mean"] = wide.mean(-1, keepdim=True)
    t["rstd"] = (wide.var(-1, keepdim=True, correction=0) + 1e-6).rsqrt()
    t["h"] = torch.nn.functional.gelu(t["z"])
    t["scale"] = torch.randn(n, 4 * c, device=device) * 0.2 + 1
    t["of_energy"] = torch.randn(n, 4 * c, device=device) * 0.1
    t["of_pwconv2"] = normal(c, 4 * c)
    t["of_pwconv2_bias"] = torch.randn(c, device=device)
    t["energy"] = t["h"].float().square().sum((1, 2))
    t["norm_of_h"] = t["energy"].sqrt()
    t["keep"] = torch.tensor([0.0, 1.25], device=device).repeat(n)[:n]
    if n == 1:
        t["keep"] += 1.25
    return t


def arguments(kernel: str, t: dict[str, Tensor], version: int) -> tuple[list, dict]:
    """What a kernel is called with in a block of this version."""
    names = {
        "depthwise_norm": "x dwconv dwconv_bias norm norm_bias",
        "layer_norm_backward": "gradient y mean rstd norm norm_bias",
        "depthwise_input_gradient": "gradient dwconv x",
        "depthwise_weight_gradient": "x gradient",
        "linear_gelu": "x pwconv1 pwconv1_bias",
        "gelu_backward": "of_h z scale of_energy" if version == 2 else "of_h z",
        "linear_scale_residual": "h pwconv2 pwconv2_bias x",
        "scale_gradient": "of_h z",
        "grn_scale": "energy grn_gamma",
        "grn_scale_backward": "of_energy norm_of_h grn_gamma",
        "second_gradients": "of_pwconv2 of_pwconv2_bias pwconv2 pwconv2_bias",
    }[kernel]
    given, options = [t[name] for name in names.split()], {}
    if kernel in ("depthwise_norm", "layer_norm_backward", "grn_scale", "grn_scale_backward"):
        given.append(1e-6)
    if kernel == "second_gradients":
        given += [t["gamma"], None] if version == 1 else [None, t["grn_beta"]]
    if kernel == "depthwise_norm":
        options = {"dtype": t["y"].dtype}
    elif kernel == "linear_gelu":
        options = {"with_energy": version == 2}
    elif kernel == "linear_scale_residual" and version == 2:
        options = {"scale": t["scale"], "keep": t["keep"]}
    elif kernel == "linear_scale_residual":
        options = {"gamma": t["gamma"], "keep": t["keep"]}
    return given, options


def checked_shapes(sizes: list[str], quick: bool) -> list[tuple[int, int, int, int]]:
    """(n, h, w, c) on which the kernels are compared: the channels that are timed, and others."""
    timed = {c for *_, c in timed_shapes(sizes, quick)}
    channels = {*timed, *CHECKED_CHANNELS[: 1 if quick else None]}
    return [(*CHECKED_MAP, c) for c in sorted(channels)]


def configurations(kernel: str, dtype: torch.dtype, interpret: bool) -> list[dict]:
    from ..kernels.triton import depthwise as triton_depthwise
    from ..kernels.triton import linear as triton_linear
    from ..kernels.triton import small as triton_small

    kind = KIND[kernel]
    if interpret:
        found = [SMALL[kind]]
    elif kind == "linear":
        wide = dtype == torch.float32  # twice the bytes: smaller tiles
        found = [triton_linear.FLOAT32_LINEAR] if wide else list(triton_linear.LINEAR_CONFIGS)
    else:
        found = {
            "depthwise": triton_depthwise.DEPTHWISE_CONFIGS,
            "weight_gradient": triton_depthwise.WEIGHT_GRADIENT_CONFIGS,
            "layer_norm": triton_depthwise.LAYER_NORM_CONFIGS,
            "elementwise": triton_linear.ELEMENTWISE_CONFIGS,
            "small": triton_small.SMALL_CONFIGS,
        }[kind]
    if kernel == "depthwise_norm":
        return [{**config, "fused": fused} for config in found for fused in (True, False)]
    return list(found)


# The comparison with float64


def check(device: str, shapes: list, interpret: bool, jobs: int = 1) -> None:
    """Compare every kernel and whole blocks; a UserError names the first that is wrong.

    With several jobs the shapes are spread over processes: nearly all of the time goes into compiling,
    and what one process compiled, Triton's cache on the disk has for the others.
    """
    seed = torch.initial_seed()
    tasks = [
        (device, getattr(torch, name), shape, interpret, seed + i)
        for i, (shape, name) in enumerate(itertools.product(shapes, DTYPES))
    ]
    print(
        f"{'error over plain PyTorch':34}{'shape':>18}{'dtype':>10}{'worst ratio':>13}", flush=True
    )
    if jobs == 1:
        for task in tasks:
            print(check_shape(*task), flush=True)
        return
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        for report in pool.map(check_shape, *zip(*tasks, strict=True)):
            print(report, flush=True)


def check_shape(device: str, dtype: torch.dtype, shape: tuple, interpret: bool, seed: int) -> str:
    """Compare the kernels on maps of one shape and data type; the report's lines."""
    from ..kernels.triton.passes import KERNELS

    torch.manual_seed(seed)
    lines = []
    t = inputs(*shape, dtype, device)
    exact = {name: value.double() for name, value in t.items()}
    for name, (kernel, plain) in KERNELS.items():
        for version in _versions(name):
            given, options = arguments(name, t, version)
            usual = plain(*given, **options)
            given64, options64 = arguments(name, exact, version)
            reference = plain(*given64, **options64)
            worst = 0.0
            for config in configurations(name, dtype, interpret):
                found = fitting(functools.partial(kernel, *given, **options, config=config))
                if found is None:
                    continue
                where = f"{name} v{version} on {shape} in {dtype}, {config},"
                worst = max(worst, _compare(where, found, usual, reference, dtype, interpret))
            lines.append(_line(f"{name} v{version}", shape, dtype, worst))
    for version in (1, 2) if not interpret else ():
        worst = _check_block(t, exact, version, dtype, shape)
        lines.append(_line(f"block v{version}", shape, dtype, worst))
    return "\n".join(lines)


def fitting(run):
    """What `run` returns; None where its tiles need more shared memory than the device has."""
    from triton.runtime.errors import OutOfResources

    try:
        return run()
    except OutOfResources:
        return None


def _versions(kernel: str) -> tuple[int, ...]:
    """The versions for which a kernel is checked and timed: one where both call it alike."""
    return (1,) if kernel in OF_BOTH_VERSIONS else (2,) if kernel in OF_V2 else (1, 2)


def _line(label: str, shape: tuple, dtype: torch.dtype, worst: float) -> str:
    name = str(dtype).removeprefix("torch.")
    return f"{label:34}{'x'.join(map(str, shape)):>18}{name:>10}{worst:13.2f}"


def _check_block(t, exact, version: int, dtype, shape) -> float:
    from ..kernels.triton.passes import KERNELS

    others = ("grn_gamma", "grn_beta") if version == 1 else ("gamma",)
    names = [name for name in Weights._fields if name not in others]

    def outcome(block, tensors):
        x, *values = (tensors[name].detach().clone().requires_grad_() for name in ("x", *names))
        settings = Settings(1, 1e-6, 1e-6, x.dtype, x.dtype)
        keep = tensors["keep"].view(-1, 1, 1, 1)
        weights = Weights(**dict(zip(names, values, strict=True)))
        out = block(x.permute(0, 3, 1, 2), keep, weights, settings)
        gradient = tensors["gradient"].permute(0, 3, 1, 2)
        return out.detach(), *torch.autograd.grad(out, [x, *values], gradient)

    def plain(x, keep, weights, settings):
        return plain_block(x, keep, None, weights, settings)

    def by_kernels(x, keep, weights, settings):
        settings = settings._replace(kernels={name: {} for name in KERNELS})
        return fast_block(x, keep, None, weights, settings)

    found = outcome(by_kernels, t)
    where = f"block v{version} on {shape} in {dtype}"
    return _compare(where, found, outcome(plain, t), outcome(plain, exact), dtype, interpret=False)


def _compare(where: str, found, usual, reference, dtype: torch.dtype, interpret: bool) -> float:
    """Our largest error over that of plain PyTorch; a UserError where it is too large."""
    if isinstance(found, Tensor):
        found, usual, reference = (found,), (usual,), (reference,)
    worst = 0.0
    rounding = max(torch.finfo(dtype).eps, 1e-6)
    allowed = 4 if interpret and dtype == torch.bfloat16 else 2
    for index, (ours, plain, exact) in enumerate(zip(found, usual, reference, strict=True)):
        if exact is None:
            continue
        largest = exact.abs().max().clamp_min(1e-30)
        error = ((ours.double() - exact).abs().max() / largest).item()
        plain_error = ((plain.double() - exact).abs().max() / largest).item()
        if not error <= allowed * plain_error + allowed / 2 * rounding:  # also where it is NaN
            raise UserError(
                f"{where} is wrong: result {index} has an error of {error:.2g} of its largest value, "
                f"plain PyTorch {plain_error:.2g}"
            )
        worst = max(worst, error / max(plain_error, rounding / 4))
    return worst


# Timing


def tune(sizes: list[str], dtypes: list[str], output: Path | None, quick: bool) -> None:
    """Time every kernel for every shape, then blocks with the faster ones; write the table after each."""
    slug = triton_choice.device_slug("cuda")
    path = output or triton_choice.cache_file(slug)
    rows = {}
    if path.is_file():
        rows = {_key(row): row for row in json.loads(path.read_text())["measured"]}
    rounds = 7 if quick else 15
    print(f"\n{torch.cuda.get_device_name()}, times in ms, to {path}")
    print(
        f"{'kernel':27}{'shape':>18}{'dtype':>10}{'ours':>9}{'plain':>9}{'ratio':>7}  configuration"
    )
    for dtype in (getattr(torch, name) for name in dtypes):
        for shape in timed_shapes(sizes, quick):
            measured = _measured_kernels(inputs(*shape, dtype, "cuda"), dtype, shape, rounds)
            for version in (1, 2):
                of_version = {row["kernel"]: row for row in measured if row["version"] == version}
                kernels = triton_choice.kernels_of(of_version)
                measured += _measured_blocks(kernels, version, dtype, shape, rounds)
            rows |= {_key(row): row for row in measured}
            _write(path, rows)


def _measured_kernels(t: dict[str, Tensor], dtype: torch.dtype, shape, rounds: int) -> list[dict]:
    from ..kernels.triton.passes import KERNELS

    rows = []
    for name, (kernel, plain) in KERNELS.items():
        for version in _versions(name):
            row = _measured(name, kernel, plain, t, version, dtype, shape, rounds)
            stands_for = (1, 2) if name in OF_BOTH_VERSIONS else (version,)
            rows += [row | {"version": other} for other in stands_for]
    return rows


def _measured_blocks(
    kernels: dict, version: int, dtype: torch.dtype, shape, rounds: int
) -> list[dict]:
    """A block of a network with these kernels, over one of plain steps: a training step, and inference.

    Its weights are float32, and autocast chooses the data type, as in training; in inference they are of
    the data type themselves.
    """
    n, h, w, c = shape
    block = fill_randomly(Block(c, version=version)).cuda()
    x = torch.randn(n, c, h, w, device="cuda").contiguous(memory_format=torch.channels_last)
    gradient = torch.randn_like(x)
    rows = []
    for name in (triton_choice.TRAINING, triton_choice.INFERENCE):
        training = name == triton_choice.TRAINING
        if not training:
            block, x = block.to(dtype), x.detach().to(dtype)
        x.requires_grad_(training)

        def step(kernels, block=block, x=x, training=training):
            with torch.autocast("cuda", dtype, enabled=training and dtype != torch.float32):
                out = _by(kernels, block, x)
            if training:
                torch.autograd.grad(out, [x, *block.parameters()], gradient.to(out.dtype))

        runs = [functools.partial(step, kernels), functools.partial(step, None)]
        time, plain_time = milliseconds(runs, rounds, training) if kernels else (1.0, 1.0)
        rows.append(_row(name, version, dtype, shape, {}, time, plain_time))
    return rows


def _by(kernels: dict | None, block: Block, x: Tensor) -> Tensor:
    """The block's result by these kernels, asked for as in dispatch.run; None: by the plain steps."""
    if kernels is not None:
        weights, _ = dispatch.weights_or_reason(block, x)
        return dispatch.compute(block, x, None, weights, kernels)
    enabled, dispatch.enabled = dispatch.enabled, False
    try:
        return block(x)
    finally:
        dispatch.enabled = enabled


def timed_shapes(sizes: list[str], quick: bool) -> list[tuple[int, int, int, int]]:
    """(n, h, w, c) of every stage, each once."""
    sizes, images = (["tiny"], IMAGES[1:]) if quick else (sizes, IMAGES)
    found = {}
    for size in sizes:
        for stage, c in enumerate(VARIANTS[f"convnext_{size}"].dims):
            for n, height, width in images:
                found[n, height // (4 << stage), width // (4 << stage), c] = None
    return list(found)


def _measured(name, kernel, plain, t, version, dtype, shape, rounds) -> dict:
    given, options = arguments(name, t, version)
    best, config = None, None
    for candidate in configurations(name, dtype, interpret=False):
        run = functools.partial(kernel, *given, **options, config=candidate)
        if fitting(run) is None:
            continue
        (time,) = milliseconds([run], 3)
        if best is None or time < best:
            best, config = time, candidate
    runs = [functools.partial(kernel, *given, **options, config=config)]
    runs.append(functools.partial(plain, *given, **options))
    time, plain_time = milliseconds(runs, rounds)
    return _row(name, version, dtype, shape, config, time, plain_time)


def _row(name, version: int, dtype, shape, config: dict, time: float, plain_time: float) -> dict:
    """A row of the table, printed."""
    n, h, w, c = shape
    kind = str(dtype).removeprefix("torch.")
    ratio = time / plain_time
    label = f"{name} v{version}"
    print(
        f"{label:27}{'x'.join(map(str, shape)):>18}{kind:>10}{time:9.3f}{plain_time:9.3f}{ratio:7.2f}"
        f"  {' '.join(f'{k}={v}' for k, v in config.items())}",
        flush=True,
    )
    return {
        "kernel": name, "dtype": str(dtype), "n": n, "h": h, "w": w, "c": c, "version": version,
        "config": config, "ms": round(time, 5), "plain_ms": round(plain_time, 5),
        "ratio": round(ratio, 4),
    }  # fmt: skip


def milliseconds(
    functions: Sequence[Callable[[], object]], rounds: int, gradients: bool = False
) -> list[float]:
    """Median milliseconds of each function: every round times each once, over about 2 ms of calls."""
    with torch.set_grad_enabled(gradients):
        return _milliseconds(functions, rounds)


def _milliseconds(functions: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    device = torch.device("cuda")
    runs = {}
    for k, function in enumerate(functions):
        function()  # compiles
        once = seconds(functools.partial(_repeat, function, 3), device) / 3
        runs[k, max(1, min(50, round(2e-3 / once)))] = function
    repeated = {key: functools.partial(_repeat, run, key[1]) for key, run in runs.items()}
    measured = interleaved(repeated, rounds, device)
    return [1000 * statistics.median(times) / count for (_, count), times in measured.items()]


def _repeat(function: Callable[[], object], count: int) -> None:
    for _ in range(count):
        function()


def _key(row: dict) -> tuple:
    return tuple(row[key] for key in ("kernel", "dtype", "n", "h", "w", "c", "version"))


def _write(path: Path, rows: dict[tuple, dict]) -> None:
    """The table, a row a line; replaced as a whole, so that nobody reads half of it."""
    head = {
        "device": torch.cuda.get_device_name(),
        "date": datetime.date.today().isoformat(),
        "versions": {
            "torch": torch.__version__,
            "triton": importlib.metadata.version("triton"),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        },
    }
    lines = ",\n".join("  " + json.dumps(row) for row in rows.values())
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(
        json.dumps(head, indent=1).removesuffix("\n}") + f',\n "measured": [\n{lines}\n ]\n}}\n'
    )
    temporary.replace(path)
