"""Which sizes a file takes, and which of them it is checked at."""

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..errors import UserError
from .exportable import BATCH, SIZE, Exportable

TRACED = 2  # the batch that is traced where it is dynamic


class Shapes(NamedTuple):
    """The batches, heights and widths of a file; None: any that the network takes."""

    batch: int | None
    size: tuple[int, int] | None
    multiple: int
    least: int

    def __str__(self) -> str:
        sides = f"{self.size[0]}x{self.size[1]}" if self.size else f"any from {self.least} on"
        if not self.size and self.multiple > 1:
            sides += f" in multiples of {self.multiple}"
        return f"batch {self.batch or 'any'}, height and width {sides}"


def shapes_of(
    model: Exportable, dynamic: Iterable[str], fixed: tuple[int, int] | None, batch: int | None
) -> Shapes:
    """What the options ask for, as far as the network can.

    Raises:
        UserError: the network is right at one size only, and none was given; a size that it does not take.
    """
    if fixed:
        model.check_size(*fixed)
    size_is_free = SIZE in dynamic and not fixed
    if size_is_free and SIZE in model.fixed:
        raise UserError(f"{model.fixed[SIZE]}; give one with --fixed HxW")
    if not size_is_free and not fixed:
        raise UserError("without a dynamic hw the file takes one size: give it with --fixed HxW")
    if BATCH in model.fixed and batch is None:
        batch = 1
    batch_is_free = BATCH in dynamic and batch is None
    return Shapes(
        batch=None if batch_is_free else batch or 1, size=fixed,
        multiple=model.multiple, least=model.least,
    )  # fmt: skip


def size_of(text: str) -> tuple[int, int]:
    """HxW, as 512x1024."""
    found = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if not found:
        raise UserError(f"{text!r} is no size; write HEIGHTxWIDTH in pixels, e.g. 512x1024")
    return int(found[1]), int(found[2])


def traced_shape(shapes: Shapes) -> tuple[int, int, int]:
    """Batch, height and width of the images that are traced; no two equal, for exporters take equal sides
    for one."""
    step = shapes.multiple if shapes.multiple > 1 else 32
    base = -(-(shapes.least + 2 * step) // step) * step
    height, width = shapes.size or (base, base + step)
    return shapes.batch or TRACED, height, width


def checked_shapes(shapes: Shapes) -> list[tuple[int, int, int]]:
    """The traced one and others, in batch, height and width: the least, a wide one, an odd one."""
    batch, height, width = traced_shape(shapes)
    if shapes.size:
        return [(shapes.batch or n, height, width) for n in (batch, 1, 3)]
    m = shapes.multiple
    odd = m if m > 1 else 1  # 97 x 131 where any size goes
    return [
        (batch, height, width),
        (shapes.batch or 1, shapes.least, shapes.least),
        (shapes.batch or 1, height + odd, width + 3 * odd),
        (shapes.batch or 3, max(shapes.least, height - m), width + max(64 // m, 2) * m),
    ]
