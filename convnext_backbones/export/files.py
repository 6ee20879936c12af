"""Export: a network to one checked file, or to none."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import UserError, is_full_disk
from .checking import TOLERANCES, Row, compare, expected
from .exportable import BATCH, SIZE, Exportable, Graph
from .opened import ONNX, PROGRAM, SUFFIXES, open_exported
from .pooling import make_exact
from .precision import LOW, lower
from .sizes import checked_shapes, shapes_of
from .writing import quiet, traced, written


class Options(NamedTuple):
    """Of an export; see cli/export.py."""

    to: str = ONNX
    dynamic: Sequence[str] = (SIZE, BATCH)
    fixed: tuple[int, int] | None = None
    batch: int | None = None
    precision: str = "fp32"
    pixels: bool = True
    tolerance: float | None = None


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
    shapes = shapes_of(model, options.dynamic, options.fixed, options.batch)
    for picture in pictures:
        _check_picture(picture, shapes)
    tolerance = options.tolerance or TOLERANCES[options.precision]
    with _beside(out) as folder:
        graph = Graph(model, pixels=options.pixels and model.mean is not None)
        wanted = expected(model, graph, checked_shapes(shapes), pictures)
        make_exact(model.network)
        weights_are_half = options.precision == "fp16"
        if options.precision in LOW and not (options.to != PROGRAM and options.precision == "bf16"):
            graph.dtype = LOW[options.precision] if model.low == ("",) else torch.float32
            lower(model.network, LOW[options.precision], model.low)
        with model.tracing():
            program = traced(graph, shapes)
        write = written(program, options.to, model.outputs, half=weights_are_half)
        about = {
            "task": model.task,
            "outputs": list(model.outputs),
            "input": "RGB pixels in 0..255" if graph.pixels else "normalised images",
            "mean": model.mean, "std": model.std, "bgr": model.bgr,
            "batch": shapes.batch, "size": shapes.size, "multiple": shapes.multiple,
            "least": shapes.least, "precision": options.precision, "tolerance": tolerance,
            "torch": torch.__version__, **model.about,
        }  # fmt: skip
        aside = folder / out.name
        write(aside, about)
        with quiet():
            rows = compare(open_exported(aside), wanted, model, options.precision, tolerance)
        write(aside, {**about, "differences": [row._asdict() for row in rows]})
        open_exported(aside)
        for file in sorted(folder.iterdir(), key=lambda file: file == aside):  # it comes last
            os.replace(file, out.with_name(file.name))
    return rows


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
