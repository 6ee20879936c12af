"""Stem, downsampling and block of prepared networks: modules around the kernels in C++."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..dispatch import watched
from .library import FAMILIES, Family, run, runs_here


class _Kernel(nn.Module):
    """A module that a family computes; see library.py.

    A prepared model may be brought to another machine, where its family does not run.
    """

    def __init__(self, family: str):
        super().__init__()
        self.family = family

    def takes(self, x: Tensor) -> bool:
        """Can it compute with this tensor here: one in memory, seen by nothing but the network?

        What compiles, exports, traces or counts the model sees operators of torch alone.
        """
        plain = type(x) is Tensor and x.device.type == "cpu"
        return plain and runs_here(self.family) and not watched()

    def _empty(self, *shape: int) -> Tensor:
        dtype = FAMILIES[self.family].dtype
        return torch.empty(shape, dtype=dtype, memory_format=torch.channels_last)

    def _matrix(self, weight: Tensor) -> Tensor:
        """(out, in) as the family multiplies it."""
        return (_blocks if self.family == "amx" else _panels)(weight, FAMILIES[self.family])

    def _row(self, x: Tensor) -> Tensor:
        """(channels,) padded with zeros as the columns of a matrix are."""
        return F.pad(x.float(), (0, -len(x) % FAMILIES[self.family].width))

    def _chunks(self, x: Tensor) -> Tensor:
        """(T, C) to (C / lanes, T, lanes), the channels padded with zeros."""
        lanes = FAMILIES[self.family].lanes
        x = F.pad(x.float(), (0, -x.shape[1] % lanes))
        return x.unflatten(1, (-1, lanes)).transpose(0, 1).contiguous()


class CppBlock(_Kernel):
    """A block whose LayerNorm, layer scale and GRN's beta are folded already.

    Args:
        family: a key of FAMILIES.
        depthwise, depthwise_bias: (C, 1, 7, 7) and (C,), C a multiple of 8.
        weight1, bias1, weight2, bias2: of the pointwise layers, (4C, C), (4C,), (C, 4C), (C,).
        grn_gamma: (4C,), or None in V1.
    """

    def __init__(
        self,
        family: str,
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
        super().__init__(family)
        self.dilation, self.eps, self.grn_eps = dilation, eps, grn_eps
        self.register_buffer("depthwise", self._chunks(depthwise.flatten(1).t()))
        self.register_buffer("depthwise_bias", self._chunks(depthwise_bias[None]))
        self.register_buffer("weight1", self._matrix(weight1))
        self.register_buffer("bias1", self._row(bias1))
        self.register_buffer("weight2", self._matrix(weight2))
        self.register_buffer("bias2", self._row(bias2))
        self.register_buffer("grn_gamma", None if grn_gamma is None else grn_gamma.float())

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in the family's type, channels-last, to the same."""
        n, c, height, width = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        y = torch.empty_like(x, memory_format=torch.channels_last)
        if x.numel() == 0:
            return y
        grn = self.grn_gamma is not None
        run(
            self.family, "block",
            x.data_ptr(), y.data_ptr(), n, height, width, c, self.dilation,
            self.depthwise.data_ptr(), self.depthwise_bias.data_ptr(), self.eps,
            self.weight1.data_ptr(), self.bias1.data_ptr(),
            self.weight2.data_ptr(), self.bias2.data_ptr(),
            self.grn_gamma.data_ptr() if grn else None, self.grn_eps,
        )  # fmt: skip
        return y


class CppDownsample(_Kernel):
    """LayerNorm without affine and a 2x2 convolution of stride 2.

    Args:
        family: a key of FAMILIES. weight, bias: (O, C, 2, 2) and (O,).
    """

    def __init__(self, family: str, weight: Tensor, bias: Tensor, *, eps: float):
        super().__init__(family)
        self.out, self.eps = weight.shape[0], eps
        taps = weight.flatten(2).unbind(2)
        if family == "amx":  # one matrix, each tap's channels padded
            matrix = self._matrix(
                torch.cat([F.pad(tap, (0, -tap.shape[1] % 32)) for tap in taps], 1)
            )
        else:
            matrix = torch.stack([self._matrix(tap) for tap in taps])
        self.register_buffer("weight", matrix)
        self.register_buffer("bias", self._row(bias))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) in the family's type, channels-last, to (N, O, H // 2, W // 2)."""
        n, c, height, width = x.shape
        x = x.contiguous(memory_format=torch.channels_last)
        y = self._empty(n, self.out, height // 2, width // 2)
        run(
            self.family, "downsample", x.data_ptr(), y.data_ptr(), n, height, width, c, self.out,
            self.eps, self.weight.data_ptr(), self.bias.data_ptr(),
        )  # fmt: skip
        return y


class CppStem(_Kernel):
    """A convolution of patches and LayerNorm.

    Args:
        family: a key of FAMILIES. weight, bias: (O, C, p, p) and (O,). norm_weight, norm_bias: (O,).
    """

    def __init__(
        self,
        family: str,
        weight: Tensor,
        bias: Tensor,
        norm_weight: Tensor,
        norm_bias: Tensor,
        *,
        eps: float,
    ):
        super().__init__(family)
        self.out, self.patch, self.eps = weight.shape[0], weight.shape[-1], eps
        self.register_buffer("weight", self._matrix(weight.flatten(1)))
        self.register_buffer("bias", self._row(bias))
        self.register_buffer("norm_weight", self._row(norm_weight))
        self.register_buffer("norm_bias", self._row(norm_bias))

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) to (N, O, H // p, W // p) in the family's type, channels-last."""
        n, c, height, width = images.shape
        images = images.float().contiguous()
        y = self._empty(n, self.out, height // self.patch, width // self.patch)
        run(
            self.family, "stem", images.data_ptr(), y.data_ptr(), n, c, height, width, self.patch,
            self.out, self.weight.data_ptr(), self.bias.data_ptr(), self.norm_weight.data_ptr(),
            self.norm_bias.data_ptr(), self.eps,
        )  # fmt: skip
        return y


def _blocks(weight: Tensor, family: Family) -> Tensor:
    """(out, in) to (out / 32, in / 32, 2, 16, 16, 2), as AMX reads it; padded with zeros."""
    out, taken = weight.shape
    weight = F.pad(weight, (0, -taken % 32, 0, -out % 32))
    weight = weight.reshape(-(-out // 32), 2, 16, -(-taken // 32), 16, 2)
    return weight.permute(0, 3, 1, 4, 2, 5).contiguous().to(family.dtype)


def _panels(weight: Tensor, family: Family) -> Tensor:
    """(out, in) to (out / width, in, width), or to (out / width, in / 2, width, 2) in bfloat16, whose pairs
    are multiplied at once; padded with zeros."""
    out, taken = weight.shape
    step = 4 // family.dtype.itemsize
    weight = F.pad(weight, (0, -taken % step, 0, -out % family.width))
    weight = weight.reshape(-(-out // family.width), family.width, -1, step)
    return weight.permute(0, 2, 1, 3).contiguous().to(family.dtype)
