"""Triton kernels of a block's second half: its two linear layers with all that stands beside them.

Maps are (N, H, W, C) or (N, H, W, 4C), contiguous; products are summed in float32. Each function has
its plain twin, of the same arguments and results, which also states what it computes.

GRN needs sums over each image, so a tile never holds positions of two images where a `scale` or an
energy is asked for; elsewhere the batch is taken for one long image. Sums over positions are made in
two stages, first over tiles and then over the tiles' sums: the same result in every run.

The matrix products of the backward pass are torch.matmul's; only what stands between them is here.
"""

# ruff: noqa: N803  (compile-time constants are upper case, as everywhere in Triton)

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from ..grn import energy, fast_energy, wide_dtype
from ..steps import Weights, second_half
from .depthwise import INTERPRETED

# Sizes that are no compile-time constants: a new image size should compile nothing anew.
SIZES = ("image", "tiles_per_image", "position_tiles", "positions")

# positions x outputs of a tile, and inputs taken at a time
LINEAR_CONFIGS = (
    {"positions": 128, "outputs": 128, "inputs": 64, "num_warps": 8, "num_stages": 3},
    {"positions": 128, "outputs": 256, "inputs": 64, "num_warps": 8, "num_stages": 3},
    {"positions": 64, "outputs": 128, "inputs": 64, "num_warps": 4, "num_stages": 4},
    {"positions": 128, "outputs": 128, "inputs": 32, "num_warps": 4, "num_stages": 4},
)
FLOAT32_LINEAR = {"positions": 64, "outputs": 64, "inputs": 32, "num_warps": 4, "num_stages": 2}
# positions x channels of a tile; `spread`: programs to aim at
ELEMENTWISE_CONFIGS = (
    {"positions": 16, "channels": 128, "num_warps": 4, "spread": 2048},
    {"positions": 8, "channels": 128, "num_warps": 4, "spread": 4096},
    {"positions": 32, "channels": 64, "num_warps": 4, "spread": 2048},
)
NEIGHBOURS = 8  # tiles of positions computed together, so that the weights stay in the L2 cache


@triton.jit
def _normal_below(x):
    """How much of the normal distribution lies below x; GELU is x times that."""
    return 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))


@triton.jit
def _tile_of_program(
    position_tiles,
    tiles_per_image,
    image,
    outputs,
    POSITIONS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
):
    """The tile's number and its first position, which positions exist, its outputs, which exist.

    Programs walk down NEIGHBOURS tiles of positions before going to the next tile of outputs.
    """
    program = tl.program_id(0)
    group = program // (NEIGHBOURS * tl.cdiv(outputs, OUTPUTS))
    rows = min(position_tiles - group * NEIGHBOURS, NEIGHBOURS)
    within = program % (NEIGHBOURS * tl.cdiv(outputs, OUTPUTS))
    tile, block = group * NEIGHBOURS + within % rows, within // rows
    first = tile % tiles_per_image * POSITIONS
    start = (tile // tiles_per_image).to(tl.int64) * image + first
    inside = first + tl.arange(0, POSITIONS) < image
    output = block * OUTPUTS + tl.arange(0, OUTPUTS)
    return tile, block, start, inside, output, output < outputs


@triton.jit
def _product(
    x,  # of the tile's first position
    weight,  # of the tile's first output
    scale,  # (inputs,) factors of x, or None
    inside,  # which positions exist
    exists,  # which outputs exist
    inputs,
    EVEN: tl.constexpr,  # INPUTS divides inputs
    POSITIONS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """(x * scale) @ weight.T as a (POSITIONS, OUTPUTS) tile."""
    position, output = tl.arange(0, POSITIONS), tl.arange(0, OUTPUTS)
    total = tl.zeros((POSITIONS, OUTPUTS), tl.float32)
    for start in range(0, inputs, INPUTS):
        column = start + tl.arange(0, INPUTS)
        left_mask, right_mask = inside[:, None], exists[None, :]
        if not EVEN:
            left_mask = left_mask & (column < inputs)[None, :]
            right_mask = right_mask & (column < inputs)[:, None]
        left = tl.load(x + position[:, None] * inputs + column[None, :], mask=left_mask, other=0.0)
        if scale is not None:
            factor = tl.load(scale + column, mask=column < inputs, other=0.0).to(tl.float32)
            left = (left.to(tl.float32) * factor[None, :]).to(x.dtype.element_ty)
        right = tl.load(
            weight + output[None, :] * inputs + column[:, None], mask=right_mask, other=0.0
        )
        if INTERPRETED:  # which would multiply the bit patterns of bfloat16
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    return total


@triton.jit(do_not_specialize=SIZES[:3])
def _linear_gelu_kernel(
    x,
    weight,
    bias,
    z,
    h,
    partial,  # (tiles of positions, outputs): sums of squares of h, or None
    image,  # positions of an image
    tiles_per_image,
    position_tiles,
    inputs,
    outputs,
    EVEN: tl.constexpr,
    POSITIONS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
):
    tile, block, start, inside, output, exists = _tile_of_program(
        position_tiles, tiles_per_image, image, outputs, POSITIONS, OUTPUTS, NEIGHBOURS
    )
    total = _product(
        x + start * inputs, weight + (block * OUTPUTS).to(tl.int64) * inputs, None,
        inside, exists, inputs, EVEN, POSITIONS, OUTPUTS, INPUTS, PRECISION,
    )  # fmt: skip
    total += tl.load(bias + output, mask=exists, other=0.0).to(tl.float32)[None, :]
    mask = inside[:, None] & exists[None, :]
    offset = tl.arange(0, POSITIONS)[:, None] * outputs + output[None, :]
    rounded = total.to(h.dtype.element_ty)  # GELU of what the backward pass will read
    if z is not None:
        tl.store(z + start * outputs + offset, rounded, mask=mask)
    wide = rounded.to(tl.float32)
    activated = (wide * _normal_below(wide)).to(h.dtype.element_ty)
    tl.store(h + start * outputs + offset, activated, mask=mask)
    if partial is not None:
        # Read back out of the cache: summed where it is, the compiler computes GELU a second time,
        # in the layout of the sum.
        tl.debug_barrier()
        wide = tl.load(h + start * outputs + offset, mask=mask, other=0.0).to(tl.float32)
        energy = tl.sum(wide * wide, axis=0)
        tl.store(partial + tile.to(tl.int64) * outputs + output, energy, mask=exists)


@triton.jit(do_not_specialize=SIZES)
def _linear_scale_residual_kernel(
    h,
    weight,
    bias,
    residual,
    scale,  # (N, inputs) or None
    gamma,  # (outputs,) or None
    keep,  # (N,) or None
    out,
    image,  # positions of what is tiled as one image
    positions,  # positions of a sample, for keep
    tiles_per_image,
    position_tiles,
    inputs,
    outputs,
    EVEN: tl.constexpr,
    POSITIONS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    PRECISION: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
):
    tile, block, start, inside, output, exists = _tile_of_program(
        position_tiles, tiles_per_image, image, outputs, POSITIONS, OUTPUTS, NEIGHBOURS
    )
    factors = None
    if scale is not None:
        factors = scale + (tile // tiles_per_image).to(tl.int64) * inputs
    total = _product(
        h + start * inputs, weight + (block * OUTPUTS).to(tl.int64) * inputs, factors,
        inside, exists, inputs, EVEN, POSITIONS, OUTPUTS, INPUTS, PRECISION,
    )  # fmt: skip
    total += tl.load(bias + output, mask=exists, other=0.0).to(tl.float32)[None, :]
    if gamma is not None:
        total *= tl.load(gamma + output, mask=exists, other=0.0).to(tl.float32)[None, :]
    if keep is not None:
        sample = (start + tl.arange(0, POSITIONS)) // positions
        total *= tl.load(keep + sample, mask=inside, other=0.0).to(tl.float32)[:, None]
    mask = inside[:, None] & exists[None, :]
    offset = tl.arange(0, POSITIONS)[:, None] * outputs + output[None, :]
    total += tl.load(residual + start * outputs + offset, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + start * outputs + offset, total.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=SIZES[:1])
def _gelu_backward_kernel(
    gradient,
    z,
    scale,  # (N, channels), as of_energy, or both None
    of_energy,
    of_z,
    scaled,
    partial,  # (N, shares, channels): sums of of_z
    image,
    channels,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    sample, share = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    exists = channel < channels
    start = sample.to(tl.int64) * image * channels
    if scale is not None:
        factor = tl.load(scale + sample * channels + channel, mask=exists, other=0.0)[None, :]
        slope = tl.load(of_energy + sample * channels + channel, mask=exists, other=0.0)[None, :]
    total = tl.zeros((POSITIONS, CHANNELS), tl.float32)
    for tile in range(share, tl.cdiv(image, POSITIONS), tl.num_programs(1)):
        position = tile * POSITIONS + tl.arange(0, POSITIONS)
        mask = (position < image)[:, None] & exists[None, :]
        offset = start + position.to(tl.int64)[:, None] * channels + channel[None, :]
        value = tl.load(z + offset, mask=mask, other=0.0).to(tl.float32)
        through = tl.load(gradient + offset, mask=mask, other=0.0).to(tl.float32)
        below = _normal_below(value)
        activated = (value * below).to(z.dtype.element_ty)
        if scale is not None:
            wide = activated.to(tl.float32)
            through = through * factor + 2.0 * slope * wide
            activated = (wide * factor).to(z.dtype.element_ty)
        through *= below + value * 0.3989422804014327 * tl.exp(-0.5 * value * value)
        total += through
        tl.store(of_z + offset, through.to(of_z.dtype.element_ty), mask=mask)
        tl.store(scaled + offset, activated, mask=mask)
    row = (sample * tl.num_programs(1) + share).to(tl.int64)
    tl.store(partial + row * channels + channel, tl.sum(total, axis=0), mask=exists)


@triton.jit(do_not_specialize=SIZES[:1])
def _scale_gradient_kernel(
    gradient,
    z,
    partial,  # (N, shares, channels): sums of gradient * gelu(z)
    image,
    channels,
    POSITIONS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    sample, share = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    exists = channel < channels
    start = sample.to(tl.int64) * image * channels
    total = tl.zeros((POSITIONS, CHANNELS), tl.float32)
    for tile in range(share, tl.cdiv(image, POSITIONS), tl.num_programs(1)):
        position = tile * POSITIONS + tl.arange(0, POSITIONS)
        mask = (position < image)[:, None] & exists[None, :]
        offset = start + position.to(tl.int64)[:, None] * channels + channel[None, :]
        value = tl.load(z + offset, mask=mask, other=0.0).to(tl.float32)
        through = tl.load(gradient + offset, mask=mask, other=0.0).to(tl.float32)
        total += through * (value * _normal_below(value)).to(z.dtype.element_ty).to(tl.float32)
    row = (sample * tl.num_programs(1) + share).to(tl.int64)
    tl.store(partial + row * channels + channel, tl.sum(total, axis=0), mask=exists)


@triton.jit(do_not_specialize=("rows",))
def _sum_kernel(partial, total, rows, channels, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """(N, rows, channels) to its (N, channels) sums over rows."""
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    exists = channel < channels
    start = tl.program_id(0).to(tl.int64) * rows
    sums = tl.zeros((ROWS, CHANNELS), tl.float32)
    for first in range(0, rows, ROWS):
        row = first + tl.arange(0, ROWS)
        mask = (row < rows)[:, None] & exists[None, :]
        offset = (start + row)[:, None] * channels + channel[None, :]
        sums += tl.load(partial + offset, mask=mask, other=0.0)
    result = total + tl.program_id(0).to(tl.int64) * channels + channel
    tl.store(result, tl.sum(sums, axis=0), mask=exists)


def linear_gelu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    with_energy: bool,
    keep_z: bool = True,
    config: dict | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """As plain_linear_gelu."""
    outputs, inputs = weight.shape
    config, image, tiles_per_image, tiles = _tiling(x, config, with_energy)
    h = x.new_empty(*x.shape[:3], outputs)
    z = torch.empty_like(h) if keep_z else None
    partial = x.new_empty(tiles, outputs, dtype=torch.float32) if with_energy else None
    blocks = triton.cdiv(outputs, config["outputs"])
    _linear_gelu_kernel[(tiles * blocks,)](
        x, weight, bias, z, h, partial, image, tiles_per_image, tiles, inputs, outputs,
        **_constants(config, inputs),
    )  # fmt: skip
    sums = _sum_rows(partial.view(len(x), -1, outputs)) if with_energy else None
    return h, z, sums


def plain_linear_gelu(
    x: Tensor, weight: Tensor, bias: Tensor, *, with_energy: bool, keep_z: bool = True
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """h = gelu(z), z = x @ weight.T + bias, and the (N, 4C) sums of squares of h over each image.

    Returns h, z (None without keep_z) and the energies (None without with_energy).
    """
    z = F.linear(x, weight, bias.to(x.dtype))
    h = F.gelu(z)
    return h, z if keep_z else None, _energy(h) if with_energy else None


def linear_scale_residual(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor,
    *,
    scale: Tensor | None = None,
    gamma: Tensor | None = None,
    keep: Tensor | None = None,
    config: dict | None = None,
) -> Tensor:
    """As plain_linear_scale_residual."""
    outputs, inputs = weight.shape
    config, image, tiles_per_image, tiles = _tiling(h, config, scale is not None)
    out = torch.empty_like(residual)
    blocks = triton.cdiv(outputs, config["outputs"])
    positions = h.shape[1] * h.shape[2]
    _linear_scale_residual_kernel[(tiles * blocks,)](
        h, weight, bias, residual, scale, gamma, keep, out,
        image, positions, tiles_per_image, tiles, inputs, outputs,
        **_constants(config, inputs),
    )  # fmt: skip
    return out


def plain_linear_scale_residual(
    h: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor,
    *,
    scale: Tensor | None = None,
    gamma: Tensor | None = None,
    keep: Tensor | None = None,
) -> Tensor:
    """residual + keep * gamma * ((h * scale) @ weight.T + bias), as wide as the residual.

    scale: (N, 4C), GRN's; gamma: (C,), layer scale; keep: (N,), drop path. The factors are multiplied
    where that is least work.
    """
    w = Weights(*(None,) * 6, weight, bias.to(weight.dtype), gamma)
    if gamma is not None:
        w = w._replace(gamma=gamma.to(residual.dtype))
    shortcut, a = residual.flatten(1, 2), h.flatten(1, 2)
    second, scale = second_half(shortcut, keep, scale, w)
    return second(a if scale is None else a * scale, shortcut).view_as(residual)


def gelu_backward(
    gradient: Tensor,
    z: Tensor,
    scale: Tensor | None = None,
    of_energy: Tensor | None = None,
    *,
    config: dict | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As plain_gelu_backward."""
    of_z, scaled = torch.empty_like(z), torch.empty_like(z)
    grid, partial, config = _shares(z, config)
    _gelu_backward_kernel[grid](
        gradient, z, scale, of_energy, of_z, scaled, partial, z.shape[1] * z.shape[2], z.shape[3],
        POSITIONS=config["positions"], CHANNELS=config["channels"], num_warps=config["num_warps"],
    )  # fmt: skip
    return of_z, scaled, _sum_rows(partial.view(1, -1, z.shape[3]))[0]


def plain_gelu_backward(
    gradient: Tensor, z: Tensor, scale: Tensor | None = None, of_energy: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of z, gelu(z) * scale, and the sum of the former over all positions.

    gradient: of gelu(z) * scale, where scale, (N, 4C), stands for GRN; of_energy: with it, the gradient
    of the (N, 4C) sums of squares of gelu(z).
    """
    a = F.gelu(z)
    if scale is not None:
        factor = scale.to(z.dtype)[:, None, None]
        gradient = torch.addcmul(gradient * factor, a, 2 * of_energy.to(z.dtype)[:, None, None])
        a *= factor
    of_z = torch.ops.aten.gelu_backward(gradient, z)
    return of_z, a, of_z.sum((0, 1, 2))


def scale_gradient(gradient: Tensor, z: Tensor, *, config: dict | None = None) -> Tensor:
    """As plain_scale_gradient."""
    grid, partial, config = _shares(z, config)
    _scale_gradient_kernel[grid](
        gradient, z, partial, z.shape[1] * z.shape[2], z.shape[3],
        POSITIONS=config["positions"], CHANNELS=config["channels"], num_warps=config["num_warps"],
    )  # fmt: skip
    return _sum_rows(partial)


def plain_scale_gradient(gradient: Tensor, z: Tensor) -> Tensor:
    """From the gradient of gelu(z) * scale, that of scale, (N, 4C)."""
    return (gradient * F.gelu(z)).sum((1, 2), dtype=wide_dtype(z))


def _energy(h: Tensor) -> Tensor:
    """(N, H, W, 4C) to the (N, 4C) sums of squares, by the faster operators of either device."""
    return fast_energy(h.flatten(1, 2)) if h.is_cuda else energy(h)


def _tiling(x: Tensor, config: dict | None, by_image: bool):
    """The configuration, the positions taken for one image, its tiles, and all tiles."""
    config = config or (FLOAT32_LINEAR if x.dtype == torch.float32 else LINEAR_CONFIGS[0])
    images = len(x) if by_image else 1
    image = x.numel() // x.shape[3] // images
    tiles_per_image = triton.cdiv(image, config["positions"])
    return config, image, tiles_per_image, tiles_per_image * images


def _constants(config: dict, inputs: int) -> dict:
    tf32 = torch.backends.cuda.matmul.allow_tf32
    return {
        "EVEN": inputs % config["inputs"] == 0,
        "POSITIONS": config["positions"],
        "OUTPUTS": config["outputs"],
        "INPUTS": config["inputs"],
        "PRECISION": "tf32" if tf32 else "ieee",  # of float32 alone
        "NEIGHBOURS": NEIGHBOURS,
        "num_warps": config["num_warps"],
        "num_stages": config["num_stages"],
    }


def _shares(z: Tensor, config: dict | None):
    """The grid over images, shares of an image and channels, room for its sums, the configuration."""
    config = config or ELEMENTWISE_CONFIGS[0]
    n, h, w, channels = z.shape
    blocks = triton.cdiv(channels, config["channels"])
    shares = max(1, config["spread"] // (n * blocks))
    shares = min(shares, triton.cdiv(h * w, config["positions"]))
    partial = z.new_empty(n, shares, channels, dtype=torch.float32)
    return (n, shares, blocks), partial, config


def _sum_rows(partial: Tensor) -> Tensor:
    n, rows, channels = partial.shape
    total = partial.new_empty(n, channels)
    _sum_kernel[(n, triton.cdiv(channels, 32))](
        partial, total, rows, channels, ROWS=64, CHANNELS=32, num_warps=4
    )
    return total
