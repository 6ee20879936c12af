"""What follows from a network's depths alone: strides, dilations and rates of drop path."""

import ctypes
import itertools


def strides_and_dilations(
    num_stages: int, patch_size: int, output_stride: int | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The stride in pixels of each stage's map, and the dilation of its blocks.

    Each stage doubles the stride, up to output_stride; dilation makes up for what is left out.
    """
    full = tuple(patch_size * 2**i for i in range(num_stages))
    if output_stride not in (None, *full):
        raise ValueError(
            f"output_stride={output_stride!r} is not one of this network's strides {list(full)}"
        )
    strides = tuple(min(stride, output_stride or stride) for stride in full)
    return strides, tuple(a // b for a, b in zip(full, strides, strict=True))


def drop_path_rates(last: float, depths: tuple[int, ...]) -> list[list[float]]:
    """The rate of every block of every stage, growing linearly from 0 to that of the last block.

    Rounded as by torch.linspace of the official code, but without tensors, which have no numbers under
    FakeTensorMode and on "meta".
    """
    count = sum(depths)
    steps = max(count - 1, 1)
    last = _float32(last)
    step = _float32(last / steps)
    rates = iter(
        _float32(step * i if i < count // 2 else last - step * (steps - i)) for i in range(count)
    )
    return [list(itertools.islice(rates, depth)) for depth in depths]


def _float32(number: float) -> float:
    return ctypes.c_float(number).value
