"""Triton kernels of a block's first half: depthwise 7x7, LayerNorm, and their gradients.

Maps are (N, H, W, C), contiguous; statistics and sums are float32. Each function has its plain twin,
of the same arguments and results, which also states what it computes.

A 7x7 depthwise convolution does 49 multiplications for each value it reads, so the arithmetic limits
it as soon as values are not read 49 times. A program therefore makes several rows of a tile at once:
a row of the input, once in registers, goes into up to 7 rows of the output.
"""

# ruff: noqa: N803, N806  (compile-time constants are upper case, as everywhere in Triton)

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

from ..grn import wide_dtype

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)  # in Python, by Triton's interpreter
# Sizes that are no compile-time constants: a new image size should compile nothing anew.
SIZES = ("height", "width", "row_tiles", "column_tiles", "tiles", "positions")

# Tiles: output rows a program holds at once x columns x channels. `fused`: LayerNorm in the same
# kernel, whose programs then walk over all channels; small maps have too few tiles for that.
DEPTHWISE_CONFIGS = (
    {"rows": 4, "columns": 16, "channels": 64, "num_warps": 4},
    {"rows": 4, "columns": 8, "channels": 64, "num_warps": 2},
    {"rows": 4, "columns": 16, "channels": 32, "num_warps": 4},
    {"rows": 8, "columns": 8, "channels": 64, "num_warps": 4},
    {"rows": 2, "columns": 8, "channels": 128, "num_warps": 4},
)
# `spread`: programs to aim at; each sums over its share of the tiles.
WEIGHT_GRADIENT_CONFIGS = (
    {"rows": 4, "columns": 4, "channels": 64, "num_warps": 4, "spread": 1024},
    {"rows": 4, "columns": 8, "channels": 64, "num_warps": 8, "spread": 512},
    {"rows": 2, "columns": 8, "channels": 32, "num_warps": 4, "spread": 1024},
)
LAYER_NORM_CONFIGS = (
    {"values": 2048, "num_warps": 4, "spread": 512},
    {"values": 4096, "num_warps": 8, "spread": 512},
    {"values": 4096, "num_warps": 4, "spread": 1024},
)


@triton.jit
def _replaced(values, index: tl.constexpr, value):
    """The tuple with one value replaced."""
    return values[:index] + (value,) + values[index + 1 :]


@triton.jit
def _input_row(image, row, column, channel, height, width, channels: tl.constexpr):
    """A (columns, channels) piece of a row of an image as float32, zero beyond the map."""
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    offset = (row * width + column)[:, None] * channels + channel[None, :]
    mask = inside[:, None] & (channel < channels)[None, :]
    return tl.load(image + offset, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _convolve(
    image,
    taps,  # (49, channels)
    first_row,
    column,
    channel,
    height,
    width,
    channels: tl.constexpr,
    FLIP: tl.constexpr,
    ROWS: tl.constexpr,
):
    """ROWS rows of the convolution, a tuple of (columns, channels) pieces. FLIP turns the kernel."""
    # A tap's weights are loaded once for each column, so that they come in the layout of the tile.
    spread = channel[None, :] + 0 * column[:, None]
    exists = spread < channels
    sums = ()
    for _ in tl.static_range(ROWS):
        sums = sums + (tl.zeros((column.shape[0], channel.shape[0]), tl.float32),)
    for j in range(7):
        weights = ()
        for i in tl.static_range(7):
            tap = 48 - (i * 7 + j) if FLIP else i * 7 + j
            weight = tl.load(taps + tap * channels + spread, mask=exists, other=0.0)
            weights = weights + (weight.to(tl.float32),)
        for k in tl.static_range(ROWS + 6):
            x = _input_row(
                image, first_row + k - 3, column + j - 3, channel, height, width, channels
            )
            for row in tl.static_range(ROWS):
                if k - row >= 0 and k - row < 7:
                    sums = _replaced(sums, row, sums[row] + x * weights[k - row])
    return sums


@triton.jit(do_not_specialize=SIZES[:4])
def _depthwise_kernel(
    x,
    taps,
    bias,
    added,
    y,
    normed,
    mean_out,
    rstd_out,
    norm_weight,
    norm_bias,
    height,
    width,
    row_tiles,
    column_tiles,
    eps,
    channels: tl.constexpr,
    FLIP: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """y = depthwise(x) + bias + added, and normed = LayerNorm(y) where `normed` is given.

    Without LayerNorm the grid's second axis holds the blocks of channels; with it, a program walks
    over all of them twice: the second time it reads back the y that it wrote, out of the cache.
    """
    tile = tl.program_id(0)
    column = (tile % column_tiles) * COLUMNS + tl.arange(0, COLUMNS)
    first_row = (tile // column_tiles) % row_tiles * ROWS
    start = (tile // column_tiles // row_tiles).to(tl.int64) * height * width  # of the image
    BLOCKS: tl.constexpr = (channels + CHANNELS - 1) // CHANNELS
    FUSED: tl.constexpr = normed is not None
    first_block = 0 if FUSED else tl.program_id(1)
    last_block = BLOCKS if FUSED else first_block + 1

    means = ()
    squares = ()  # sums of squared differences from the mean
    for _ in tl.static_range(ROWS):
        means = means + (tl.zeros((COLUMNS,), tl.float32),)
        squares = squares + (tl.zeros((COLUMNS,), tl.float32),)

    for block in range(first_block, last_block):
        channel = block * CHANNELS + tl.arange(0, CHANNELS)
        exists = channel < channels
        sums = _convolve(
            x + start * channels, taps, first_row, column, channel, height, width, channels, FLIP, ROWS
        )  # fmt: skip
        constant = tl.zeros((CHANNELS,), tl.float32)
        if bias is not None:
            constant = tl.load(bias + channel, mask=exists, other=0.0).to(tl.float32)
        for k in tl.static_range(ROWS):
            row = first_row + k
            mask = ((row < height) & (column < width))[:, None] & exists[None, :]
            offset = (row * width + column)[:, None] * channels + channel[None, :]
            value = sums[k] + constant[None, :]
            if added is not None:
                value += tl.load(added + start * channels + offset, mask=mask, other=0.0).to(
                    tl.float32
                )
            value = value.to(y.dtype.element_ty)
            tl.store(y + start * channels + offset, value, mask=mask)
            if FUSED:  # statistics of what was stored, merged block by block (Chan et al., 1979)
                value = tl.where(exists[None, :], value.to(tl.float32), 0.0)
                seen = 1.0 * block * CHANNELS
                count = tl.sum(exists.to(tl.float32), axis=0)
                block_mean = tl.sum(value, axis=1) / count
                centred = tl.where(exists[None, :], value - block_mean[:, None], 0.0)
                difference = block_mean - means[k]
                square = squares[k] + tl.sum(centred * centred, axis=1)
                square += difference * difference * (seen * count / (seen + count))
                squares = _replaced(squares, k, square)
                means = _replaced(means, k, means[k] + difference * (count / (seen + count)))

    if FUSED:
        for k in tl.static_range(ROWS):
            position = start + (first_row + k) * width + column
            inside = (first_row + k < height) & (column < width)
            tl.store(mean_out + position, means[k], mask=inside)
            tl.store(rstd_out + position, tl.rsqrt(squares[k] / channels + eps), mask=inside)
        tl.debug_barrier()  # every thread sees what the others stored
        for block in range(BLOCKS):
            channel = block * CHANNELS + tl.arange(0, CHANNELS)
            exists = channel < channels
            weight = tl.load(norm_weight + channel, mask=exists, other=0.0).to(tl.float32)
            shift = tl.load(norm_bias + channel, mask=exists, other=0.0).to(tl.float32)
            for k in tl.static_range(ROWS):
                row = first_row + k
                mask = ((row < height) & (column < width))[:, None] & exists[None, :]
                offset = (row * width + column)[:, None] * channels + channel[None, :]
                value = tl.load(y + start * channels + offset, mask=mask, other=0.0).to(tl.float32)
                rstd = tl.rsqrt(squares[k] / channels + eps)
                value = (value - means[k][:, None]) * rstd[:, None]
                value = value * weight[None, :] + shift[None, :]
                value = value.to(normed.dtype.element_ty)
                tl.store(normed + start * channels + offset, value, mask=mask)


@triton.jit
def _add_seven(a0, a1, a2, a3, a4, a5, a6, b0, b1, b2, b3, b4, b5, b6):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5, a6 + b6


@triton.jit(do_not_specialize=SIZES[:5])
def _weight_gradient_kernel(
    x,
    gradient,
    partial,  # (programs, 49, channels)
    height,
    width,
    row_tiles,
    column_tiles,
    tiles,
    channels: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The sums over a share of the tiles of gradient x input, for each of the 49 taps.

    The sums of all taps stay in registers, so a thread should hold 2 values of a tile: the tile is
    small, COLUMNS x CHANNELS = 2 x threads.
    """
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    sums = ()
    for _ in tl.static_range(49):
        sums = sums + (tl.zeros((COLUMNS, CHANNELS), tl.float32),)
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        column = (tile % column_tiles) * COLUMNS + tl.arange(0, COLUMNS)
        first_row = (tile // column_tiles) % row_tiles * ROWS
        start = tl.cast(tile // column_tiles // row_tiles, tl.int64) * height * width * channels
        of_rows = ()
        for k in tl.static_range(ROWS):
            of_row = _input_row(
                gradient + start, first_row + k, column, channel, height, width, channels
            )
            of_rows = of_rows + (of_row,)
        for j in tl.static_range(7):
            for k in tl.static_range(ROWS + 6):
                row = _input_row(
                    x + start, first_row + k - 3, column + j - 3, channel, height, width, channels
                )
                for i in tl.static_range(7):
                    if k - i >= 0 and k - i < ROWS:
                        product = row * of_rows[k - i]
                        sums = _replaced(sums, i * 7 + j, sums[i * 7 + j] + product)
    base = partial + tl.program_id(0).to(tl.int64) * 49 * channels + channel
    for i in tl.static_range(7):
        row_sums = ()
        if INTERPRETED:  # where a reduction of several tensors is a Python loop over their elements
            for j in tl.static_range(7):
                row_sums = row_sums + (tl.sum(sums[i * 7 + j], axis=0),)
        else:
            row_sums = tl.reduce(sums[i * 7 : i * 7 + 7], 0, _add_seven)  # one exchange of warps
        for j in tl.static_range(7):
            tl.store(base + (i * 7 + j) * channels, row_sums[j], mask=channel < channels)


@triton.jit(do_not_specialize=SIZES[5:])
def _layer_norm_backward_kernel(
    gradient,
    y,
    mean,
    rstd,
    norm_weight,
    norm_bias,
    of_y,
    normed,
    partial,  # (programs, 3, channels): sums for norm.weight, norm.bias, and the bias before it
    positions,
    channels: tl.constexpr,
    ROWS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    channel = tl.arange(0, CHANNELS)
    exists = channel < channels
    weight = tl.load(norm_weight + channel, mask=exists, other=0.0).to(tl.float32)[None, :]
    shift = tl.load(norm_bias + channel, mask=exists, other=0.0).to(tl.float32)[None, :]
    of_weight = tl.zeros((ROWS, CHANNELS), tl.float32)
    of_norm_bias = tl.zeros((ROWS, CHANNELS), tl.float32)
    of_bias = tl.zeros((ROWS, CHANNELS), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(positions, ROWS), tl.num_programs(0)):
        position = tl.cast(tile, tl.int64) * ROWS + tl.arange(0, ROWS)
        inside = position < positions
        mask = inside[:, None] & exists[None, :]
        offset = position[:, None] * channels + channel[None, :]
        through = tl.load(gradient + offset, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(y + offset, mask=mask, other=0.0).to(tl.float32)
        centre = tl.load(mean + position, mask=inside, other=0.0)[:, None]
        inverse = tl.load(rstd + position, mask=inside, other=0.0)[:, None]
        value = tl.where(mask, (value - centre) * inverse, 0.0)
        again = (value * weight + shift).to(normed.dtype.element_ty)
        tl.store(normed + offset, again, mask=mask)
        of_weight += through * value
        of_norm_bias += through
        through *= weight
        average = tl.sum(through, axis=1)[:, None] / channels
        projection = tl.sum(through * value, axis=1)[:, None] / channels
        through = tl.where(mask, (through - average - value * projection) * inverse, 0.0)
        of_bias += through
        tl.store(of_y + offset, through.to(of_y.dtype.element_ty), mask=mask)
    base = partial + tl.program_id(0).to(tl.int64) * 3 * channels + channel
    tl.store(base, tl.sum(of_weight, axis=0), mask=exists)
    tl.store(base + channels, tl.sum(of_norm_bias, axis=0), mask=exists)
    tl.store(base + 2 * channels, tl.sum(of_bias, axis=0), mask=exists)


def depthwise_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    *,
    dtype: torch.dtype,
    keep_y: bool = True,
    config: dict | None = None,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """As plain_depthwise_norm; a wider x is not rounded."""
    config = dict(config or _depthwise_default(x, norm=True))
    if not config.pop("fused"):
        y = torch.empty_like(x, dtype=dtype)
        _launch_depthwise(x, weight, bias, None, y, config)
        return _layer_norm(y, norm_weight, norm_bias, eps, keep_y)
    normed = torch.empty_like(x, dtype=dtype)
    y = torch.empty_like(normed) if keep_y else normed  # else overwritten by its own normalisation
    mean = x.new_empty(*x.shape[:3], 1, dtype=torch.float32)
    rstd = torch.empty_like(mean)
    norm = (normed, mean, rstd, norm_weight, norm_bias, eps)
    _launch_depthwise(x, weight, bias, None, y, config, norm)
    return normed, y if keep_y else None, mean, rstd


def plain_depthwise_norm(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    *,
    dtype: torch.dtype,
    keep_y: bool = True,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """y = depthwise(x) + bias, and LayerNorm(y) with its mean and 1 / deviation, (N, H, W, 1).

    Returns the normalised map, y (None without keep_y), mean and 1 / deviation. weight: (C, 1, 7, 7).
    dtype: that of both maps; x may be wider.
    """
    y = _depthwise(x.to(dtype), weight.to(dtype), bias.to(dtype))
    return _layer_norm(y, norm_weight, norm_bias, eps, keep_y)


def depthwise_input_gradient(
    gradient: Tensor, weight: Tensor, added: Tensor | None = None, *, config: dict | None = None
) -> Tensor:
    """As plain_depthwise_input_gradient."""
    config = dict(config or _depthwise_default(gradient, norm=False))
    config.pop("fused", None)
    of_x = torch.empty_like(gradient if added is None else added)
    _launch_depthwise(gradient, weight, None, added, of_x, config, flip=True)
    return of_x


def plain_depthwise_input_gradient(
    gradient: Tensor, weight: Tensor, added: Tensor | None = None
) -> Tensor:
    """The gradient of depthwise's input, plus `added`, that of the same input along the shortcut.

    As wide as `added`.
    """
    channels_last = gradient.permute(0, 3, 1, 2)
    of_x, _, _ = _convolution_backward(channels_last, channels_last, weight, (True, False))
    of_x = of_x.permute(0, 2, 3, 1).contiguous()
    return of_x if added is None else of_x + added


def depthwise_weight_gradient(x: Tensor, gradient: Tensor, *, config: dict | None = None) -> Tensor:
    """As plain_depthwise_weight_gradient."""
    n, h, w, c = x.shape
    config = dict(config or WEIGHT_GRADIENT_CONFIGS[0])
    rows, columns, block = config["rows"], config["columns"], config["channels"]
    row_tiles, column_tiles = triton.cdiv(h, rows), triton.cdiv(w, columns)
    tiles, blocks = n * row_tiles * column_tiles, triton.cdiv(c, block)
    programs = max(1, min(tiles, config["spread"] // blocks))
    partial = x.new_empty(programs, 49, c, dtype=torch.float32)
    _weight_gradient_kernel[(programs, blocks)](
        x, gradient, partial, h, w, row_tiles, column_tiles, tiles, c,
        ROWS=rows, COLUMNS=columns, CHANNELS=block, num_warps=config["num_warps"],
    )  # fmt: skip
    return partial.sum(0).t().reshape(c, 1, 7, 7)


def plain_depthwise_weight_gradient(x: Tensor, gradient: Tensor) -> Tensor:
    """The (C, 1, 7, 7) gradient of the weight, from that of the result and the input, maybe wider."""
    weight = gradient.new_empty(x.shape[-1], 1, 7, 7)
    x = x.to(gradient.dtype)
    _, of_weight, _ = _convolution_backward(
        gradient.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2), weight, (False, True)
    )
    return of_weight


def layer_norm_backward(
    gradient: Tensor,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    *,
    config: dict | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As plain_layer_norm_backward; rstd has eps in it."""
    c = y.shape[-1]
    config = config or LAYER_NORM_CONFIGS[1]
    positions, block = y.numel() // c, triton.next_power_of_2(c)
    rows = max(1, config["values"] // block)
    programs = min(config["spread"], triton.cdiv(positions, rows))
    of_y, normed = torch.empty_like(y), torch.empty_like(y)
    partial = y.new_empty(programs, 3, c, dtype=torch.float32)
    _layer_norm_backward_kernel[(programs,)](
        gradient, y, mean, rstd, norm_weight, norm_bias, of_y, normed, partial, positions, c,
        ROWS=rows, CHANNELS=block, num_warps=config["num_warps"],
    )  # fmt: skip
    return of_y, normed, *partial.sum(0).unbind()


def plain_layer_norm_backward(
    gradient: Tensor,
    y: Tensor,
    mean: Tensor,
    rstd: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The gradient of y, LayerNorm(y) again, and the gradients of norm.weight and norm.bias and of a
    bias that was added to y: the sum of y's over all positions."""
    kind = y.dtype if y.device.type == "cpu" else mean.dtype  # of torch's statistics
    weight, bias = norm_weight.to(y.dtype), norm_bias.to(y.dtype)
    of_y, of_weight, of_bias = torch.ops.aten.native_layer_norm_backward(
        gradient, y, (y.shape[-1],), mean.to(kind), rstd.to(kind), weight, bias, (True, True, True)
    )
    normed = F.layer_norm(y, (y.shape[-1],), weight, bias, eps)
    return of_y, normed, of_weight, of_bias, of_y.sum((0, 1, 2))


def _launch_depthwise(x, weight, bias, added, y, config, norm=None, flip=False):
    n, h, w, c = x.shape
    rows, columns, block = config["rows"], config["columns"], config["channels"]
    row_tiles, column_tiles = triton.cdiv(h, rows), triton.cdiv(w, columns)
    normed, mean, rstd, norm_weight, norm_bias, eps = norm or (None,) * 5 + (0.0,)
    blocks = triton.cdiv(c, block) if norm is None else 1
    taps = weight.reshape(c, 49).t().contiguous()  # so that a tap's channels lie side by side
    _depthwise_kernel[(n * row_tiles * column_tiles, blocks)](
        x, taps, bias, added, y, normed, mean, rstd, norm_weight, norm_bias,
        h, w, row_tiles, column_tiles, eps, c,
        FLIP=flip, ROWS=rows, COLUMNS=columns, CHANNELS=block, num_warps=config["num_warps"],
    )  # fmt: skip


def _depthwise_default(x: Tensor, norm: bool) -> dict:
    """A configuration for a shape that was never measured."""
    n, h, w, _ = x.shape
    config = dict(DEPTHWISE_CONFIGS[0] if w > 8 else DEPTHWISE_CONFIGS[1])
    tiles = n * triton.cdiv(h, config["rows"]) * triton.cdiv(w, config["columns"])
    if norm:
        config["fused"] = tiles >= 512  # enough for all multiprocessors
    return config


def _depthwise(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    y = F.conv2d(x.permute(0, 3, 1, 2), weight, bias, padding=3, groups=x.shape[-1])
    return y.permute(0, 2, 3, 1).contiguous()


def _layer_norm(y, norm_weight, norm_bias, eps, keep_y):
    normed, mean, rstd = torch.native_layer_norm(
        y, y.shape[-1:], norm_weight.to(y.dtype), norm_bias.to(y.dtype), eps
    )
    wide = wide_dtype(y)
    return normed, y if keep_y else None, mean.to(wide), rstd.to(wide)


def _convolution_backward(gradient, x, weight, needs):
    c = x.shape[1]
    return torch.ops.aten.convolution_backward(
        gradient, x, weight.to(x.dtype), [c], [1, 1], [3, 3], [1, 1], False, [0, 0], c, (*needs, False)
    )  # fmt: skip
