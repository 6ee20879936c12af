"""int8 after training: convolutions and linear layers of an exported file in int8, the rest in float32.

ONNX Runtime's static quantiser puts pairs of QuantizeLinear and DequantizeLinear around them, by which ONNX
Runtime and OpenVINO choose their int8 kernels. docs/export.md compares it with others.
"""

import ast
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import UserError
from .opened import Opened, missing_library
from .writing import INPUT, MOST_OF_A_FILE

SCOPES = "pkg.torch.onnx.name_scopes"  # of a node: the modules that it comes from, outermost first
RESIDUAL = "downsample_layers"  # of our networks: the stem is the first
MATMULS = ("MatMul", "Gemm")


class Accuracy(NamedTuple):
    """What was measured of the float file and of the int8 one; lost: points of a hundred, of what lost most."""

    measured_on: str
    before: dict[str, float]
    after: dict[str, float]
    lost: float

    def __str__(self) -> str:
        words = ", ".join(
            f"{name} {value:.4g} -> {self.after[name]:.4g}" for name, value in self.before.items()
        )
        return f"{words} on {self.measured_on}"


class Int8(NamedTuple):
    """How a file is quantised.

    inputs: of the float file, what it is calibrated on, as the file takes it. pictures: how many. accuracy:
    of the float file and the int8 one. most_lost: points of a hundred beyond which no file is kept.
    """

    inputs: Callable[[Opened], Iterable[np.ndarray]]
    pictures: int
    accuracy: Callable[[Opened, Opened], Accuracy]
    most_lost: float


def quantised(
    source: Path, out: Path, inputs: Iterable[np.ndarray], low: tuple[str, ...], *, symmetric: bool
) -> int:
    """Write the ONNX file `source` with the layers of the modules `low` in int8; returns how many layers.

    Weights in int8 by channel; what comes into the layers by the range that the inputs have, in uint8 from
    the least to the greatest (ONNX Runtime's fast way) or in int8 symmetric about 0 (OpenVINO's). What comes
    out of a linear layer stays in float32, so that GRN's and the norms' statistics do.

    Raises:
        UserError: a library is missing, or there is no such layer.
    """
    try:
        import onnx
        from onnxruntime import quantization as ort
    except ModuleNotFoundError as error:
        raise missing_library(error.name, "--int8 needs it") from error

    class Reader(ort.CalibrationDataReader):
        def __init__(self):
            self.left = iter(inputs)

        def get_next(self):
            images = next(self.left, None)
            return None if images is None else {INPUT: images}

    model = onnx.load(source, load_external_data=False)
    layers = list(_layers(model.graph, low))
    if not layers:
        raise UserError("--int8: this network has no convolution and no linear layer")
    ort.quantize_static(
        source, out, Reader(), quant_format=ort.QuantFormat.QDQ, nodes_to_quantize=layers,
        per_channel=True, weight_type=ort.QuantType.QInt8,
        activation_type=ort.QuantType.QInt8 if symmetric else ort.QuantType.QUInt8,
        use_external_data_format=sum(f.stat().st_size for f in source.parent.iterdir()) > MOST_OF_A_FILE,
        extra_options={
            "OpTypesToExcludeOutputQuantization": list(MATMULS), "ActivationSymmetric": symmetric,
        },
    )  # fmt: skip
    return len(layers)


def _layers(graph, low: tuple[str, ...]) -> Iterator[str]:
    """The names of the layers with weights of their own. Left out are depthwise convolutions, which gain
    nothing, and the stem and downsampling layers: what comes out of them is added to all through a stage, and
    in 8 bits it cost a Mask R-CNN 3 points (docs/export.md)."""
    weights = {tensor.name for tensor in graph.initializer}
    wanted = {f"network.{name}".removesuffix(".") for name in low}
    for node in graph.node:
        if node.op_type not in ("Conv", *MATMULS) or node.input[1] not in weights:
            continue
        if any(a.name == "group" and a.i > 1 for a in node.attribute):
            continue
        scopes = next((p.value for p in node.metadata_props if p.key == SCOPES), "[]")
        if f".{RESIDUAL}." in scopes:
            continue
        if wanted & set(ast.literal_eval(scopes)):
            yield node.name
