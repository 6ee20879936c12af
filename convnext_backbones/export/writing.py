"""A graph to a file: torch.export first, for all; then as it is, as ONNX, and from ONNX for OpenVINO."""

import contextlib
import json
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.fx.experimental._config as export_config
from torch import nn
from torch.export import Dim, ExportedProgram

from ..errors import UserError
from .exportable import Graph
from .opened import KEY, ONNX, OPENVINO, PROGRAM, missing_library
from .operators import translations
from .sizes import Shapes, traced_shape

INPUT = "images"
MOST_OF_A_FILE = 2**31  # bytes, of protobuf: larger weights stand in a file of their own


def traced(graph: Graph, shapes: Shapes) -> ExportedProgram:
    """The program that a graph computes for all of these shapes.

    Raises:
        UserError: it depends on the size or on the values of the images; names the module.
    """
    n, height, width = traced_shape(shapes)
    images = torch.zeros(n, graph.mean.shape[1], height, width)
    free = {0: Dim("batch", min=1)} if shapes.batch is None else {}
    if shapes.size is None:
        m = shapes.multiple
        for axis, name in ((2, "height"), (3, "width")):
            side = Dim(name, min=shapes.least) if m == 1 else m * Dim(name, min=shapes.least // m)
            free[axis] = side
    # sizes are no more than sizes: else torch guards against maps of one row or column
    with quiet(), export_config.patch(backed_size_oblivious=True):
        try:
            program = torch.export.export(graph, (images,), dynamic_shapes=(free,), strict=False)
            program._guards_code = []  # "batch > 1" among them, which the checks disprove
            return program
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"{_module_in(error, graph)} cannot be exported for {shapes}: {_first_line(error)}"
            ) from error


def written(
    program: ExportedProgram, kind: str, outputs: tuple[str, ...], *, half: bool
) -> Callable[[Path, dict], None]:
    """A function that writes the program as `kind`, with metadata, at a path.

    Raises:
        UserError: the library is missing, or there is no such operator; names both.
    """
    if kind == PROGRAM:
        return lambda path, about: torch.export.save(
            program, path, extra_files={KEY: json.dumps(about)}
        )
    try:
        import onnxscript  # noqa: F401

        if kind == OPENVINO:
            import openvino  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing_library(error.name, f"--to {kind} needs it") from error
    with quiet():
        try:
            model = torch.onnx.export(
                program, dynamo=True, verbose=False, input_names=[INPUT], output_names=list(outputs),
                custom_translation_table=translations(),
            )  # fmt: skip
        except Exception as error:
            raise UserError(
                f"this network cannot be written as ONNX: {_last_cause(error)}"
            ) from error

    def as_onnx(path: Path, about: dict) -> None:
        model.model.metadata_props[KEY] = json.dumps(about)
        with quiet():
            model.save(path)

    def by_onnx(path: Path, about: dict) -> None:
        aside = path.with_suffix(".onnx")
        as_onnx(aside, about)
        as_openvino(aside, path, about, outputs, half=half)
        for file in path.parent.glob(f"{aside.name}*"):
            file.unlink()

    return as_onnx if kind == ONNX else by_onnx


def as_openvino(
    source: Path, path: Path, about: dict, outputs: tuple[str, ...], *, half: bool
) -> None:
    """Write an ONNX file as OpenVINO's, with metadata."""
    import openvino

    network = openvino.convert_model(source)
    for port, name in zip(network.outputs, outputs, strict=True):
        port.get_tensor().set_names({name})
    network.set_rt_info(json.dumps(about), KEY)
    openvino.save_model(network, path, compress_to_fp16=half)


def annotate(source: Path, path: Path, about: dict) -> None:
    """Write an ONNX file with other metadata."""
    import onnx

    model = onnx.load(source)
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {KEY: json.dumps(about)})
    large = model.ByteSize() > MOST_OF_A_FILE
    onnx.save(model, path, save_as_external_data=large, location=f"{path.name}.data")


# ---- words ---------------------------------------------------------------------------------------
@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what exporters log and warn of."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _module_in(error: BaseException, graph: Graph) -> str:
    """The innermost module that ran when an error came, by its name in the network and its class."""
    names = {id(module): name for name, module in graph.network.named_modules()}
    found = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_locals.get("self")
        if isinstance(module, nn.Module) and id(module) in names:
            found = module
    if found is None:
        return f"the network, {type(graph.network).__name__},"
    return f"{names[id(found)] or 'the network'} ({type(found).__name__})"


def _first_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _last_cause(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return _first_line(error)
