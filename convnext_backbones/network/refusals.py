"""Refusals: for every wrong option or image a sentence with what came, what is valid, what to do."""

import inspect

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from ..errors import UserError
from .variants import nearest


def check_images(images: Tensor, channels: int, dtype: torch.dtype, *, smallest: int) -> None:
    """Refuse what a network with weights of this dtype cannot take.

    channels: what the stem takes. smallest: the least height and width in pixels.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.jit.is_scripting():
        return  # shapes and types are symbols there
    if isinstance(images, Proxy):  # and with torch.fx
        return
    if not isinstance(images, Tensor):
        raise TypeError(
            f"images must be a tensor of shape (N, {channels}, H, W), got a "
            f"{type(images).__name__}; see convnext_backbones.EvaluationTransform for pictures"
        )
    if images.dim() != 4:
        fix = "add the batch dimension: images[None]" if images.dim() == 3 else "give a 4-D batch"
        raise ValueError(
            f"images must have shape (N, {channels}, H, W), got {tuple(images.shape)}; {fix}"
        )
    if images.shape[1] != channels:
        fix = "give images, or in_channels, that fit"
        if images.shape[3] == channels:
            fix = "use images.permute(0, 3, 1, 2)"
        raise ValueError(
            f"images have {images.shape[1]} channels (shape {tuple(images.shape)}), the model "
            f"was built with in_channels={channels}; {fix}"
        )
    if not images.is_floating_point():
        raise ValueError(
            f"images are {images.dtype}; give normalised floating-point pixels "
            f"({dtype}), e.g. (images / 255 - mean) / std"
        )
    if images.dtype != dtype and not _autocast_takes(images):
        raise ValueError(
            f"images are {images.dtype}, the weights {dtype}; "
            f"use images.to({dtype}), or model.to({images.dtype}), or torch.autocast"
        )
    if min(images.shape[2:]) < smallest:
        raise ValueError(
            f"images are {images.shape[2]}x{images.shape[3]}; this network needs at least "
            f"{smallest}x{smallest} pixels: resize or pad"
        )


def _autocast_takes(images: Tensor) -> bool:
    device = images.device.type
    available = torch.amp.is_autocast_available(device)
    return available and torch.is_autocast_enabled(device) and images.dtype != torch.float64


def check_takes_mask(layer: nn.Module) -> None:
    """Refuse, where images are padded, a module that cannot be told where: layer(x, inside)."""
    if torch.compiler.is_compiling():
        return
    try:
        inspect.signature(layer.forward).bind(None, None)
    except TypeError as error:
        raise UserError(
            f"image_sizes were given, but a {type(layer).__name__}, put in the place of a layer of this "
            "network, takes a map alone; with image_sizes it is called as layer(x, inside), inside "
            "being True where (N, H, W) is image: give its forward a second argument, or call the "
            "network without image_sizes (ignore_padding=False)"
        ) from error


def refuse_in_graph(x: Tensor, name: str, value) -> Tensor:
    """x; in a graph of torch.fx a step that refuses a value for the argument `name`.

    The graph takes all arguments of the model, but is traced as if those after the images were None.
    """
    if isinstance(value, Proxy):
        return x.tracer.create_proxy("call_function", refuse_in_graph, (x, name, value), {})
    if value is not None:
        raise UserError(
            f"this graph was traced by torch.fx without {name}, and takes none; leave {name} out, or "
            "use the model itself, which torch.compile and torch.jit.trace take with it"
        )
    return x


def check_frozen_stages(frozen_stages, num_stages: int) -> None:
    """Refuse what is no number of stages of this network."""
    whole = isinstance(frozen_stages, int) and not isinstance(frozen_stages, bool)
    if not whole or not 0 <= frozen_stages <= num_stages:
        raise ValueError(
            f"frozen_stages must be a whole number, 0 (freeze nothing) to {num_stages} (freeze "
            f"all stages), got {frozen_stages!r}"
        )


def check_options(in_channels, patch_size, drop_path_rate, layer_scale_init_value) -> None:
    """Refuse values that no network has."""
    for name, value in (("in_channels", in_channels), ("patch_size", patch_size)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {value!r}")
    if not isinstance(drop_path_rate, (int, float)) or not 0 <= drop_path_rate <= 1:
        raise ValueError(f"drop_path_rate must be between 0 and 1, got {drop_path_rate!r}")
    scale = 0.0 if layer_scale_init_value is None else layer_scale_init_value
    if not isinstance(scale, (int, float)) or not scale >= 0:
        raise ValueError(
            "layer_scale_init_value must be a number from 0 on, or 0 or None for no layer scale, "
            f"got {layer_scale_init_value!r}"
        )


# Options of other implementations, and what to write here.
_ELSEWHERE = {
    "stem_patch_size": "write patch_size",
    "ignore_padding": "give image_sizes to its call; the frameworks' adapters have the option",
    "drop_path": "write drop_path_rate",
    "num_channels": "write in_channels",
    "in_chans": "write in_channels",
    "dims": "write arch=dict(depths=..., dims=...)",
    "depths": "write arch=dict(depths=..., dims=...)",
    "num_labels": "write num_classes",
    "layer_norm_eps": "write norm_eps, which the classifier's final norm has",
    "hidden_sizes": "write arch=dict(depths=..., dims=...)",
    "use_grn": "GRN is what ConvNeXtV2 has and ConvNeXt has not",
    "gap_before_final_norm": "leave it out: a dense backbone returns maps",
    "linear_pw_conv": "leave it out: pointwise layers are always linear",
    "norm_cfg": "leave it out: the norm is LayerNorm with eps 1e-6",
    "act_cfg": "leave it out: the activation is GELU",
    "gradient_checkpointing": "write with_cp",
}


def refuse_unknown_options(owner: str, unknown: dict, signature_of) -> None:
    """TypeError for options that `signature_of` does not have, with the nearest valid one."""
    for name in unknown:
        if name in _ELSEWHERE:
            raise TypeError(f"{owner} has no option {name!r}: {_ELSEWHERE[name]}")
        options = list(inspect.signature(signature_of).parameters)[1:-1]  # without self, **unknown
        raise TypeError(f"{owner} has no option {name!r}; {nearest(name, options)}")
