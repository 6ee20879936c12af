"""Linear layers with what follows them in the same pass over memory."""

import torch
from torch import Tensor
from torch.nn import functional as F


def _onednn_linear():
    """oneDNN's fused linear layer, a private operator of torch; None where torch lacks it."""
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        fused = torch.ops.mkldnn._linear_pointwise
        x, weight = torch.ones(1, 2), torch.full((1, 2), 0.5)
        gelu = fused(x, weight, None, "gelu", [], "none")
        added = fused.binary(x, gelu, weight, None, "add")
        return fused if torch.equal(added, F.gelu(torch.ones(1, 1)) + 1) else None
    except (AttributeError, RuntimeError, TypeError):
        return None


_FUSED = _onednn_linear()


def _fuses(x: Tensor) -> bool:
    return _FUSED is not None and x.device.type == "cpu" and x.dtype == torch.float32


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x @ weight.T + bias."""
    return _FUSED(x, weight, bias, "none", [], "none") if _fuses(x) else F.linear(x, weight, bias)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(x @ weight.T + bias), with the exact GELU."""
    if _fuses(x):
        return _FUSED(x, weight, bias, "gelu", [], "none")
    return torch.ops.aten.gelu_(F.linear(x, weight, bias))


def linear_add(x: Tensor, weight: Tensor, bias: Tensor, added: Tensor) -> Tensor:
    """added + x @ weight.T + bias."""
    if _fuses(x):
        return _FUSED.binary(x, added, weight, bias, "add")
    return F.linear(x, weight, bias) + added
