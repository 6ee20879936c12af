"""Export: a network to one checked file, or to none."""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError, is_full_disk
from .checking import TOLERANCES, Expected, Row, compare, expected
from .exportable import BATCH, SIZE, Exportable, Graph
from .opened import ONNX, OPENVINO, PROGRAM, SUFFIXES, Opened, open_exported
from .pooling import make_exact
from .precision import LOW, lower
from .quantising import Int8, quantised
from .sizes import checked_shapes, shapes_of
from .writing import annotate, as_openvino, quiet, traced, written

CALLS = 5  # of a file that is timed


class Options(NamedTuple):
    """Of an export; see cli/export.py."""

    to: str = ONNX
    dynamic: Sequence[str] = (SIZE, BATCH)
    fixed: tuple[int, int] | None = None
    batch: int | None = None
    precision: str = "fp32"
    pixels: bool = True
    tolerance: float | None = None
    int8: Int8 | None = None  # where the precision is "int8"


def export(
    model: Exportable, out: str | Path, options: Options, pictures: Sequence[Tensor] = ()
) -> list[Row]:
    """Write `model`, which is changed, to the file `out`, once the file agrees with it; returns what
    differs.

    pictures: (1, 3, H, W) in 0..255, to be compared beside generated images.

    Raises:
        UserError: the network cannot be exported, the file differs, or cannot be written. Nothing is left
            then, and what was there before still is.
    """
    out = Path(out).expanduser()
    check_name(out, options)
    if (options.precision == "int8") != (options.int8 is not None):
        raise UserError('precision="int8" and Options(int8=..), how it is quantised, go together')
    shapes = shapes_of(model, options.dynamic, options.fixed, options.batch)
    for picture in pictures:
        _check_picture(picture, shapes)
    exact = "fp32" if options.int8 else options.precision
    tolerance = options.tolerance or TOLERANCES[exact]
    with _beside(out) as folder:
        graph = Graph(model, pixels=options.pixels and model.mean is not None)
        wanted = expected(model, graph, checked_shapes(shapes), pictures)
        make_exact(model.network)
        if exact in LOW and not (options.to != PROGRAM and exact == "bf16"):
            graph.dtype = LOW[exact] if model.low == ("",) else torch.float32
            lower(model.network, LOW[exact], model.low)
        free = shapes
        if options.int8 and BATCH not in model.fixed:
            # of a graph of one shape ONNX Runtime makes other products, which it computes in float32
            free = shapes._replace(batch=None)
        with model.tracing():
            program = traced(graph, free)
        about = {
            "task": model.task,
            "outputs": list(model.outputs),
            "input": "RGB pixels in 0..255" if graph.pixels else "normalised images",
            "mean": model.mean, "std": model.std, "bgr": model.bgr,
            "batch": shapes.batch, "size": shapes.size, "multiple": shapes.multiple,
            "least": shapes.least, "precision": exact, "tolerance": tolerance,
            "torch": torch.__version__, **model.about,
        }  # fmt: skip
        aside = folder / out.name
        with tempfile.TemporaryDirectory(dir=folder) as within:
            first = Path(within, "exact.onnx") if options.int8 else aside
            write = written(
                program,
                ONNX if options.int8 else options.to,
                model.outputs,
                half=exact == "fp16",
            )
            write(first, about)
            with quiet():
                rows = compare(open_exported(first), wanted, model, exact, tolerance)
            if options.int8:
                rows = _in_int8(model, options, first, aside, wanted, about, rows)
            else:
                write(aside, {**about, "differences": [row._asdict() for row in rows]})
                open_exported(aside)
        for file in sorted(folder.iterdir(), key=lambda file: file == aside):  # it comes last
            os.replace(file, out.with_name(file.name))
    return rows


def _in_int8(
    model: Exportable,
    options: Options,
    exact: Path,
    out: Path,
    wanted: Sequence[Expected],
    about: dict,
    rows: Sequence[Row],
) -> list[Row]:
    """Write the float file `exact` in int8; returns what differs from PyTorch then, of dense outputs.

    Raises:
        UserError: more accuracy is lost than may be.
    """
    before = open_exported(exact)
    with quiet():
        file = exact.with_name("int8.onnx")
        layers = quantised(
            exact, file, options.int8.inputs(before), model.low, symmetric=options.to == OPENVINO
        )
    about = {**about, "precision": "int8"}
    about["int8"] = {
        "layers": layers,
        "calibration_pictures": options.int8.pictures,
        "exact_form_agrees_to": max(row.relative for row in rows),
    }

    def write() -> None:
        if options.to == OPENVINO:
            as_openvino(file, out, about, model.outputs, half=False)
        else:
            annotate(file, out, about)

    write()
    after = open_exported(out)
    with quiet():
        rows = compare(after, wanted, model, "int8", None)
    accuracy = options.int8.accuracy(before, after)
    if not accuracy.lost <= options.int8.most_lost:
        raise UserError(
            f"--int8 loses {accuracy.lost:.2g} points, more than the {options.int8.most_lost:g} of --most-lost: "
            f"{accuracy}. Calibrate on more pictures, such as yours are (--calibration), give another "
            "--most-lost, or take --fp16 or --bf16"
        )
    about["int8"] |= {**accuracy._asdict(), "seconds": _seconds(before, after, wanted[0])}
    about["differences"] = [row._asdict() for row in rows]
    write()
    return rows


def _seconds(before: Opened, after: Opened, given: Expected) -> dict:
    """The least of a few calls of the float file, in ONNX Runtime, and of the int8 one, turn about."""
    images, found = given.images.numpy(), {"float32": [], "int8": []}
    for _ in range(CALLS):
        for opened, times in zip((before, after), found.values(), strict=True):
            started = time.perf_counter()
            opened.run(images)
            times.append(time.perf_counter() - started)
    return {"images": given.title, **{name: min(times) for name, times in found.items()}}


def check_name(out: Path, options: Options) -> None:
    """UserError for a name or a precision that this kind of file does not have."""
    suffix = SUFFIXES[options.to]
    if out.suffix.lower() != suffix:
        raise UserError(f"--out {out}: a file of {options.to} ends in {suffix}")
    if options.to == ONNX and options.precision == "bf16":
        raise UserError(
            "--bf16: ONNX Runtime computes no bfloat16 on a CPU, so that the file could not be checked; "
            "take --fp16, or --to openvino or exported-program"
        )
    if options.to == PROGRAM and options.precision == "int8":
        raise UserError(
            "--int8 is for --to onnx and openvino, whose runtimes have int8 kernels; a program of torch has them "
            "only once it is compiled"
        )


def _check_picture(picture: Tensor, shapes) -> None:
    height, width = picture.shape[2:]
    if shapes.batch not in (None, 1):
        raise UserError("--pictures are compared one by one, and the file takes other batches")
    if shapes.size and shapes.size != (height, width):
        raise UserError(f"a picture came as {height}x{width}, and the file takes {shapes}")


@contextlib.contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """A folder that is removed, on the disk of `out`."""
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as folder:
            if out.is_dir():
                raise UserError(f"--out {out} is a folder; give a file's name")
            yield Path(folder)
    except OSError as error:
        if not out.parent.is_dir():
            raise UserError(
                f"--out {out}: there is no folder {out.parent}; make it first"
            ) from error
        why = "the disk is full" if is_full_disk(error) else error.strerror or str(error)
        raise UserError(f"--out {out} cannot be written: {why}") from error
