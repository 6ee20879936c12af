"""Stem, downsampling and block in bfloat16 on CPUs with AMX: modules around the kernels in C++."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import library


def fits(channels: int) -> bool:
    """Can the kernel compute a block of so many channels?"""
    return channels % 8 == 0


def takes(x: Tensor) -> bool:
    """Can the kernels compute with this tensor: one in memory, seen by nothing but the network?

    What compiles, exports, traces or counts the model sees operators of torch alone. So does a
    machine without AMX to which a prepared model was brought.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not library.runs_here():
        return False
    return type(x) is Tensor and x.device.type == "cpu" and not torch._C._len_torch_dispatch_stack()


class AmxBlock(nn.Module):
    """A block whose LayerNorm, layer scale and GRN's beta are folded already.

    Args:
        depthwise, depthwise_bias: (C, 1, 7, 7) and (C,).
        weight1, bias1, weight2, bias2: of the pointwise layers, (4C, C), (4C,), (C, 4C), (C,).
        grn_gamma: (4C,), or None in V1.
    """

    def __init__(
        self,
        depthwise: Tensor,
        depthwise_bias: Tensor,
        weight1: Tensor,
        bias1: Tensor,
        weight2: Tensor,
        bias2: Tensor,
        grn_gamma: Tensor | None,
        *,
        dilation: int,
        eps: float,
        grn_eps: float,
    ):
        super().__init__()
        self.channels = depthwise.shape[0]
        self.dilation, self.eps, self.grn_eps = dilation, eps, grn_eps
        taps = _chunks(depthwise.flatten(1).t())
        self.register_buffer("depthwise", taps)
        self.register_buffer("depthwise_bias", _chunks(depthwise_bias[None]))
        self.register_buffer("weight1", _blocks(weight1).bfloat16())
        self.register_buffer("bias1", bias1.float())
        self.register_buffer("weight2", _blocks(weight2).bfloat16())
        self.register_buffer("bias2", _padded(bias2))
        self.register_buffer("grn_gamma", None if grn_gamma is None else grn_gamma.float())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in bfloat16, channels-last, to the same."""
        n, c, height, width = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x, memory_format=torch.channels_last)
        if x.numel() == 0:
            return y
        grn = self.grn_gamma is not None
        library.run(
            "convnext_block",
            x.data_ptr(), y.data_ptr(), n, height, width, c, self.dilation,
            self.depthwise.data_ptr(), self.depthwise_bias.data_ptr(), self.eps,
            self.weight1.data_ptr(), self.bias1.data_ptr(),
            self.weight2.data_ptr(), self.bias2.data_ptr(),
            self.grn_gamma.data_ptr() if grn else None, self.grn_eps,
        )  # fmt: skip
        return y


class AmxDownsample(nn.Module):
    """LayerNorm without affine and a 2x2 convolution of stride 2.

    Args:
        weight, bias: (O, C, 2, 2) and (O,).
    """

    def __init__(self, weight: Tensor, bias: Tensor, *, eps: float):
        super().__init__()
        self.out, self.channels = weight.shape[:2]
        self.eps = eps
        weight = F.pad(weight.permute(0, 2, 3, 1), (0, -self.channels % 32))
        self.register_buffer("weight", _blocks(weight.flatten(1)).bfloat16())
        self.register_buffer("bias", _padded(bias))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in bfloat16, channels-last, to (N, O, H // 2, W // 2)."""
        n, c, height, width = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        y = _empty(n, self.out, height // 2, width // 2)
        library.run(
            "convnext_downsample", x.data_ptr(), y.data_ptr(), n, height, width, c, self.out,
            self.eps, self.weight.data_ptr(), self.bias.data_ptr(),
        )  # fmt: skip
        return y


class AmxStem(nn.Module):
    """A convolution of patches and LayerNorm.

    Args:
        weight, bias: (O, C, p, p) and (O,). norm_weight, norm_bias: (O,).
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, norm_weight: Tensor, norm_bias: Tensor, *, eps: float
    ):
        super().__init__()
        self.out, self.patch, self.eps = weight.shape[0], weight.shape[-1], eps
        self.register_buffer("weight", _blocks(weight.flatten(1)).bfloat16())
        self.register_buffer("bias", _padded(bias))
        self.register_buffer("norm_weight", _padded(norm_weight))
        self.register_buffer("norm_bias", _padded(norm_bias))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H // p, W // p) in bfloat16, channels-last."""
        n, c, height, width = images.shape
        images = images.float().contiguous()
        y = _empty(n, self.out, height // self.patch, width // self.patch)
        library.run(
            "convnext_stem", images.data_ptr(), y.data_ptr(), n, c, height, width, self.patch,
            self.out, self.weight.data_ptr(), self.bias.data_ptr(), self.norm_weight.data_ptr(),
            self.norm_bias.data_ptr(), self.eps,
        )  # fmt: skip
        return y


def _empty(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=torch.bfloat16, memory_format=torch.channels_last)


def _padded(x: Tensor) -> Tensor:
    return F.pad(x.float(), (0, -len(x) % 32))


def _chunks(x: Tensor) -> Tensor:
    """(T, C) to (C / 16, T, 16), the channels padded with zeros."""
    x = F.pad(x.float(), (0, -x.shape[1] % 16))
    return x.unflatten(1, (-1, 16)).transpose(0, 1).contiguous()


def _blocks(weight: Tensor) -> Tensor:
    """(out, in) to (out / 32, in / 32, 2, 16, 16, 2), as AMX reads it; padded with zeros."""
    out, taken = weight.shape
    weight = F.pad(weight, (0, -taken % 32, 0, -out % 32))
    weight = weight.reshape(-(-out // 32), 2, 16, -(-taken // 32), 16, 2)
    return weight.permute(0, 3, 1, 4, 2, 5).contiguous()
