"""The depthwise convolution's gradients on x86, by convolutions that oneDNN is fast at.

oneDNN's own weight gradient takes twenty times as long as its forward convolution. But the weight
gradient is itself a depthwise convolution: of the padded input with the output's gradient as
kernel, which leaves one position for each tap. And the input gradient is the forward convolution
with flipped taps.

Its weight, (C, 1, k, k), is the same memory with many strides: that of the dimension of size 1 is free.
Convolutions give gradients strides of their own there, and DDP compares all of them, warns and copies.
"""

import platform

import torch
from torch import Tensor
from torch.nn import functional as F

FAST = platform.machine() in ("x86_64", "AMD64") and torch.backends.mkldnn.is_available()
TILE = 48  # positions; oneDNN handles a kernel as large as a whole map, but slower


def in_its_layout(weight: Tensor) -> Tensor:
    """The (C, 1, k, k) weight, by views through which its gradient has its strides, to the last."""
    trains = torch.is_grad_enabled() and weight.requires_grad and not torch.jit.is_tracing()
    if not trains or weight.shape[1] != 1:
        return weight
    if weight.stride(1) == 1:  # of a model in memory_format=torch.channels_last
        return weight.permute(0, 2, 3, 1).squeeze(3).unsqueeze(3).permute(0, 3, 1, 2)
    return weight.squeeze(1).unsqueeze(1)


def input_gradient(gradient: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """(N, C, H, W) gradient of the output and (C, 1, k, k) weight to that of the input."""
    padding = dilation * (weight.shape[-1] // 2)
    flipped = weight.flip(2, 3)
    return F.conv2d(gradient, flipped, padding=padding, dilation=dilation, groups=weight.shape[0])


def weight_gradient(x: Tensor, gradient: Tensor, size: int, dilation: int) -> Tensor:
    """(N, C, H, W) input and gradient of the output to the (C, 1, size, size) gradient of the weight.

    In float32 at least: a sum over all positions. A dilated convolution has a strided one's gradient.
    """
    channels, height, width = x.shape[1:]
    padding = dilation * (size // 2)
    if gradient.dtype in (torch.float16, torch.bfloat16):
        x, gradient = x.float(), gradient.float()
    total = x.new_zeros(1, channels, size, size)
    for image, kernel in zip(x.split(1), gradient, strict=True):
        for top in range(0, height, TILE):
            for left in range(0, width, TILE):
                tile = kernel[:, None, top : top + TILE, left : left + TILE]
                window = _window(image, top, left, tile.shape[2], tile.shape[3], padding)
                total += F.conv2d(window, tile, stride=dilation, groups=channels)
    return total.transpose(0, 1)


def _window(image: Tensor, top: int, left: int, rows: int, columns: int, reach: int) -> Tensor:
    """What of a (1, C, H, W) image a tile sees: itself and `reach` around it, zeros beyond the image."""
    height, width = image.shape[2:]
    bottom, right = top + rows + reach, left + columns + reach
    top, left = top - reach, left - reach
    inside = image[:, :, max(top, 0) : bottom, max(left, 0) : right]
    beyond = (max(-left, 0), max(right - width, 0), max(-top, 0), max(bottom - height, 0))
    return F.pad(inside, beyond)


def backward(
    gradient: Tensor, x: Tensor, weight: Tensor, dilation: int, needs: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """The gradients of x, of the weight, each if needed, and of the bias."""
    if x.device.type == "cpu" and FAST:
        of_x = input_gradient(gradient, weight, dilation) if needs[0] else None
        size = weight.shape[-1]
        of_weight = weight_gradient(x, gradient, size, dilation) if needs[1] else None
        return of_x, of_weight, gradient.sum((0, 2, 3))
    padding = [dilation * (weight.shape[-1] // 2)] * 2
    c = weight.shape[0]
    return torch.ops.aten.convolution_backward(
        gradient,
        x.to(weight.dtype),
        weight,
        [c],
        [1, 1],
        padding,
        [dilation] * 2,
        False,
        [0, 0],
        c,
        (*needs, True),
    )
