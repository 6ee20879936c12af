"""One network as it can be deployed on a CPU: by PyTorch, and exported, in ONNX Runtime and OpenVINO.

All forms hold the same weights, see the same images, run on as many threads, and are timed turn about. Their outputs are
compared with PyTorch's in float32 first.
"""

import importlib.metadata
import statistics
import tempfile
from collections.abc import Callable, Iterator
from itertools import starmap
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...export.checking import TOLERANCES, root_mean_square_off
from ...export.exportable import Exportable, Graph
from ...export.opened import ONNX, open_exported
from ...export.pooling import make_exact
from ...export.quantising import quantised
from ...export.sizes import Shapes
from ...export.writing import annotate, as_openvino, quiet, traced, written
from .contests import FALLS_ASLEEP, DisagreementError, infer, prepare
from .machine import DTYPES, compiles_in_seconds, computes_in_bfloat16
from .measuring import interleaved, ratio
from .runtimes import RUNTIMES, why_no_runtime

EAGER = "PyTorch, eager fp32"
MOST_OFF = TOLERANCES | {"int8": 0.5}  # of random weights; what trained ones lose, export measures
CALIBRATED = 8  # pictures
Run = Callable[[], list[np.ndarray]]


def compare_forms(
    title: str,
    network: nn.Module,
    outputs: tuple[str, ...],
    images: Tensor,
    *,
    rounds: int = 7,
    most_seconds: float | None = None,
) -> dict:
    """A row of the results: seconds of every form, medians, ratios to EAGER, and how far outputs are off.

    Args:
        network: in evaluation mode; (N, 3, H, W) normalised images to one output or a tuple, of the names `outputs`.
        most_seconds: no further round begins after them; three are run in any case.

    `off` is the root mean square of the outputs' difference from EAGER's, by that of EAGER's.

    Raises:
        DisagreementError: a form gives other outputs.
    """
    with tempfile.TemporaryDirectory() as folder:
        forms = dict(_forms(network, outputs, images, Path(folder)))
    reference, off = forms[EAGER](), {}
    for name, run in forms.items():
        precision = name.rpartition(" ")[2]
        off[name] = max(starmap(root_mean_square_off, zip(reference, run(), strict=True)))
        if not off[name] <= MOST_OFF[precision]:
            raise DisagreementError(
                f"{title}: {name} gives other outputs than PyTorch in float32: they are {off[name]:.2g} off, "
                f"{MOST_OFF[precision]:g} is allowed; nothing was timed"
            )
    measured = interleaved(forms, rounds, images.device, most_seconds, pause=FALLS_ASLEEP)
    return {
        "model": title,
        "size": [images.shape[0], *images.shape[2:]],
        "medians": {name: statistics.median(values) for name, values in measured.items()},
        "ratios": {name: ratio(values, measured[EAGER])._asdict() for name, values in measured.items()},
        "seconds": measured,
        "off": off,
        "left_out": {r: why for r in RUNTIMES if (why := why_no_runtime(r))},
    }  # fmt: skip


def _forms(
    network: nn.Module, outputs: tuple[str, ...], images: Tensor, folder: Path
) -> Iterator[tuple[str, Run]]:
    """Name and call of every form that this machine has."""
    yield EAGER, lambda: _arrays(infer(network, images))
    low = ["bf16"] if computes_in_bfloat16(images.device) else []
    compiled = [True] if compiles_in_seconds(images.device) else []
    for dtype in ("fp32", *low):
        for compile in (False, *compiled):
            prepared, _ = prepare(network, dtype=DTYPES[dtype], compile=compile)
            yield (
                f"PyTorch, prepare_for_inference{'(compile=True)' * compile} {dtype}",
                lambda prepared=prepared: _arrays(infer(prepared, images)),
            )
    known = [name for name in RUNTIMES if not why_no_runtime(name)]
    if not known:
        return
    exact = _exported(network, outputs, images, folder)
    pixels = images.numpy()
    for runtime in known:
        of_openvino = runtime == "openvino"
        name = f"{runtime} {importlib.metadata.version(runtime)}"
        source = folder / "int8.onnx"
        generator = torch.Generator().manual_seed(2)
        more = (torch.randn(images.shape, generator=generator) for _ in range(CALIBRATED - 1))
        with quiet():
            quantised(
                exact, source, (x.numpy() for x in (images, *more)), ("",), symmetric=of_openvino
            )
        for precision in ("fp32", *(low if of_openvino else ()), "int8"):
            about = {"precision": precision, "outputs": list(outputs)}
            path = folder / f"{runtime}_{precision}.{'xml' if of_openvino else 'onnx'}"
            graph = source if precision == "int8" else exact
            if of_openvino:
                as_openvino(graph, path, about, outputs, half=False)
            else:
                annotate(graph, path, about)
            opened = open_exported(path)
            yield (
                f"{name} {precision}",
                lambda opened=opened: [opened.run(pixels)[key] for key in outputs],
            )


def _exported(network: nn.Module, outputs: tuple[str, ...], images: Tensor, folder: Path) -> Path:
    """An ONNX file for images of this size; of any batch, as export has it for int8."""
    model = Exportable(network, outputs, "features")
    make_exact(network)
    shapes = Shapes(None, tuple(images.shape[2:]), multiple=1, least=32)
    path = folder / "exact.onnx"
    graph = Graph(model, pixels=False)
    written(traced(graph, shapes), ONNX, outputs, half=False)(path, {})
    return path


def _arrays(outputs) -> list[np.ndarray]:
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    return [y.float().numpy() for y in outputs]
