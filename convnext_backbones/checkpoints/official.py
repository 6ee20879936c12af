"""The official layout, whose names are this package's own: V1, V2, and V2's FCMAE encoders."""

import re

import torch
from torch import Tensor

from ..variants import VARIANTS

# Of an official file, what a backbone has no place for. FCMAE files hold a decoder and its parts.
DECODER = re.compile(r"^(decoder|proj|pred)\.|^mask_token$")
CLASSIFIER = re.compile(r"^(norm|head)\.(weight|bias)$")


def state_dict_of(content: dict) -> dict[str, Tensor]:
    """The parameters in a file's content, under the names that the model itself has.

    Looks below `model`, `state_dict` and `model_ema`, and drops a `module.` prefix.
    """
    for key in ("model", "state_dict", "model_ema"):
        if isinstance(content.get(key), dict):
            content = content[key]
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    return {name.removeprefix("module."): value for name, value in state.items()}


def to_model_layout(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Official names and shapes to the model's: FCMAE made dense, GRN parameters 1-D."""
    if any(name.startswith("encoder.") for name in state):
        state = dict(_dense(name, value) for name, value in state.items())
    return {
        name: value.flatten() if re.search(r"\.grn\.(gamma|beta)$", name) else value
        for name, value in state.items()
    }


def _dense(name: str, value: Tensor) -> tuple[str, Tensor]:
    """One parameter of a sparse FCMAE encoder as its dense counterpart (MinkowskiEngine kernels)."""
    name = name.removeprefix("encoder.")
    if DECODER.match(name):
        return name, value
    name = name.replace(".ln.", ".").replace(".linear.", ".")
    if name.endswith(".kernel"):
        name = name.removesuffix("kernel") + "weight"
        size = round(value.shape[0] ** 0.5)
        if value.dim() == 3:  # (K*K, in, out)
            value = value.permute(2, 1, 0).reshape(value.shape[2], value.shape[1], size, size)
        else:  # depthwise (K*K, C)
            value = value.permute(1, 0).reshape(value.shape[1], 1, size, size)
        value = value.transpose(3, 2)
    elif name.endswith(".bias") and value.dim() == 2:  # (1, C)
        value = value.flatten()
    return name, value.contiguous()


def recognise(state: dict[str, Tensor]) -> str:
    """The name of the network whose parameters these are, e.g. "convnextv2_base"."""
    depths: dict[int, int] = {}
    dims: dict[int, int] = {}
    for name, value in state.items():
        match = re.match(r"stages\.(\d+)\.(\d+)\.dwconv\.weight$", name)
        if match:
            stage, block = int(match[1]), int(match[2])
            depths[stage] = max(depths.get(stage, 0), block + 1)
            dims[stage] = value.shape[0]
    if not depths:
        return "no ConvNeXt"
    version = 2 if any(".grn." in name for name in state) else 1
    found = (tuple(depths[k] for k in sorted(depths)), tuple(dims[k] for k in sorted(dims)))
    for variant in VARIANTS.values():
        if variant.version == version and (variant.depths, variant.dims) == found:
            return variant.name
    return f"a ConvNeXt V{version} of depths {found[0]} and dims {found[1]}"


def parameter_bytes(state: dict[str, Tensor]) -> int:
    """The size of all tensors, in bytes."""
    return sum(value.numel() * torch.finfo(value.dtype).bits // 8 for value in state.values()
               if value.is_floating_point())  # fmt: skip
