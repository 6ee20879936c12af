"""Which units of an image are removed, and images as units and back.

A unit is as many pixels as one position of the last map, 32x32 in the published networks: every stride's
windows then lie wholly in what is visible or wholly in what is removed. Units count row by row.
"""

import torch
from torch import Tensor

from ..errors import UserError
from ..kernels.steps import Inside, Visible


def grid_of(height: int, width: int, unit: int) -> tuple[int, int]:
    """Rows and columns of units in an image.

    Raises:
        UserError: no multiples of the unit, or a single unit, of which nothing could be left to see.
    """
    if height % unit or width % unit or not height or not width:
        valid = [f"{n // unit * unit} or {-(-n // unit) * unit}" if n > unit else f"{unit}"
                 for n in (height, width) if n % unit or not n]  # fmt: skip
        raise UserError(
            f"images of {height}x{width} pixels (height x width) are not made of whole units of {unit}x{unit}: "
            f"give sides that are multiples of {unit}, such as {' and '.join(valid)}"
        )
    if height == width == unit:
        raise UserError(
            f"images of {height}x{width} pixels are a single unit, which cannot be both seen and removed; give "
            f"larger ones, such as {2 * unit}x{2 * unit}"
        )
    return height // unit, width // unit


def check_ratio(ratio) -> None:
    """UserError for what is no share of an image that can be removed."""
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < 1:
        raise UserError(f"mask_ratio must be between 0 and 1, such as 0.6, got {ratio!r}")


def removed_units(units: int, ratio: float) -> int:
    """How many units of an image are removed: all but int(units * (1 - ratio)), and neither none nor all."""
    kept = int(units * (1 - ratio) + 1e-6)  # 10 * (1 - 0.9) is 0.99.. in floating point
    return units - min(max(kept, 1), units - 1)


def random_mask(
    count: int, units: int, ratio: float, *, device: torch.device | str = "cpu"
) -> Tensor:
    """(count, units) of float32, 1 where a unit is removed: for each image as many, drawn by itself."""
    removed = removed_units(units, ratio)
    order = torch.rand(count, units, device=device).argsort(dim=1)
    return torch.zeros(count, units, device=device).scatter_(1, order[:, :removed], 1.0)


def visible_maps(
    mask: Tensor, grid: tuple[int, int], unit: int, strides: tuple[int, ...]
) -> list[Inside]:
    """For each stride the (N, H // stride, W // stride) positions that are visible, True, of an (N, units) mask.

    Where as many are in each image, with their places.
    """
    visible = mask == 0
    least, most = visible.sum(1).aminmax()
    as_many = bool(least == most)
    if as_many:
        units = (~visible).to(torch.uint8).argsort(dim=1, stable=True)[:, : int(most)]
    maps, of_units = [], visible.view(-1, *grid)
    for stride in strides:
        scale = unit // stride
        inside = of_units.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        maps.append(Visible(inside, _places(units, grid, scale)) if as_many else inside)
    return maps


def _places(units: Tensor, grid: tuple[int, int], scale: int) -> Tensor:
    """(N, V) units of scale x scale positions to their positions among those of all N maps, (N * V * scale**2,)."""
    images = torch.arange(len(units), device=units.device).view(-1, 1, 1, 1)
    within = torch.arange(scale, device=units.device)
    units = units[..., None, None]
    row = (images * grid[0] + units // grid[1]) * scale + within[:, None]
    column = units % grid[1] * scale + within
    return (row * (grid[1] * scale) + column).flatten()


def units_of(images: Tensor, unit: int) -> Tensor:
    """(N, C, H, W) to (N, units, unit * unit * C), each unit's values by row, column, channel."""
    n, channels, height, width = images.shape
    x = images.view(n, channels, height // unit, unit, width // unit, unit)
    x = x.permute(
        0, 2, 4, 3, 5, 1
    )  # rows and columns of units, then those of pixels, then channels
    return x.reshape(n, (height // unit) * (width // unit), unit * unit * channels)


def images_of(values: Tensor, grid: tuple[int, int], unit: int) -> Tensor:
    """units_of the other way round: (N, units, unit * unit * C) to (N, C, H, W)."""
    n, _, width = values.shape
    channels = width // unit**2
    x = values.reshape(n, *grid, unit, unit, channels).permute(0, 5, 1, 3, 2, 4)
    return x.reshape(n, channels, grid[0] * unit, grid[1] * unit)
