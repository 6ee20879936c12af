"""Our network as a user deploys it on a CPU without PyTorch: exported, in ONNX Runtime and OpenVINO.

The graph holds the same weights, is of one size, and runs on as many threads.
"""

import copy
import importlib.metadata
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ...errors import UserError
from ...export.exportable import CLASSES, Exportable, Graph
from ...export.opened import ONNX, OPENVINO, SUFFIXES, open_exported
from ...export.sizes import Shapes
from ...export.writing import traced, written
from ...network.classifier import ConvNeXtClassifier

# Name to the kind of its file, what it is imported as, and the types that it can compute in.
RUNTIMES = {
    "onnxruntime": (ONNX, ("onnxruntime", "onnxscript"), ("fp32",)),
    "openvino": (OPENVINO, ("openvino", "onnxscript"), ("fp32", "bf16")),
}


def why_no_runtime(runtime: str) -> str | None:
    """What of a runtime is missing, and how to install it; None where it can be used."""
    packages = RUNTIMES[runtime][1]
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    return f'{" and ".join(missing)} {verb} not installed: pip install "convnext_backbones[export]"'


def exported(
    runtime: str, ours: ConvNeXtClassifier, images: Tensor, dtype: str
) -> tuple[str, Callable[[], Tensor]]:
    """Name with version, and the call that gives the logits of these images.

    Args:
        runtime: a key of RUNTIMES.
        dtype: "bf16" for the arithmetic of a runtime that has it, else "fp32".

    Raises:
        UserError: it is not installed, cannot take the network, or has no such arithmetic.
    """
    kind, _, dtypes = RUNTIMES[runtime]
    if dtype not in dtypes:
        raise UserError(f"{runtime} computes in {' and '.join(dtypes)} on a CPU, not in {dtype}")
    model = Exportable(copy.deepcopy(ours), ("logits",), CLASSES)
    batch, height, width = images.shape[0], *images.shape[2:]
    shapes = Shapes(batch, (height, width), multiple=1, least=32)
    write = written(traced(Graph(model, pixels=False), shapes), kind, model.outputs, half=False)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network").with_suffix(SUFFIXES[kind])
        write(path, {"precision": dtype, "outputs": list(model.outputs)})
        opened = open_exported(path)
    pixels = images.numpy()
    version = importlib.metadata.version(runtime)
    return f"{runtime} {version}", lambda: torch.from_numpy(opened.run(pixels)["logits"])
