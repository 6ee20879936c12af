"""Refusals: for every wrong option or image a sentence with what came, what is valid, what to do."""

import difflib
import inspect
import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.fx import Proxy

from ..errors import OptionError, UserError


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
        raise UserError(
            f"frozen_stages must be a whole number, 0 (freeze nothing) to {num_stages} (freeze "
            f"all stages), got {frozen_stages!r}"
        )


def check_options(
    in_channels, patch_size, drop_path_rate, layer_scale_init_value, init_std
) -> None:
    """Refuse values that no network has."""
    for name, value in (("in_channels", in_channels), ("patch_size", patch_size)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name} must be a positive whole number, got {value!r}")
    if not isinstance(drop_path_rate, (int, float)) or not 0 <= drop_path_rate <= 1:
        raise UserError(f"drop_path_rate must be between 0 and 1, got {drop_path_rate!r}")
    scale = 0.0 if layer_scale_init_value is None else layer_scale_init_value
    if not isinstance(scale, (int, float)) or not scale >= 0:
        raise UserError(
            "layer_scale_init_value must be a number from 0 on, or 0 or None for no layer scale, "
            f"got {layer_scale_init_value!r}"
        )
    if type(init_std) not in (int, float) or not 0 < init_std < math.inf:
        raise UserError(f"init_std must be a number above 0, got {init_std!r}")


# Options of other implementations, by the name that they have here.
_RENAMED = {
    "stem_patch_size": "patch_size",
    "drop_path": "drop_path_rate",
    "stochastic_depth_prob": "drop_path_rate",
    "num_channels": "in_channels",
    "in_chans": "in_channels",
    "ls_init_value": "layer_scale_init_value",
    "layer_scale": "layer_scale_init_value",
    "gradient_checkpointing": "with_cp",
    "use_checkpoint": "with_cp",
    "use_act_checkpoint": "with_cp",
    "layer_norm_eps": "norm_eps",
    "num_labels": "num_classes",
    "hidden_act": "activation",
    "act_layer": "activation",
    "initializer_range": "init_std",
}
# Those that are none here, and what to write.
_ELSEWHERE = {
    "ignore_padding": "give image_sizes to its call; the frameworks' adapters have the option",
    "pretrained": "write create_backbone(name, pretrained=...), or create_classifier",
    "dims": "write arch=dict(depths=..., dims=...)",
    "depths": "write arch=dict(depths=..., dims=...)",
    "channels": "write arch=dict(depths=..., dims=...)",
    "hidden_sizes": "write arch=dict(depths=..., dims=...)",
    "num_classes": "leave it out: a backbone has no head, create_classifier gives one that has",
    "num_labels": "leave it out: a backbone has no head, create_classifier gives one that has",
    "freeze_at": "write frozen_stages=k - 1 for freeze_at=k > 1; a backbone has it",
    "layer_norm_eps": "leave it out: the norms of a backbone have eps 1e-6",
    "norm_eps": "leave it out: the norms of a backbone have eps 1e-6",
    "use_grn": "leave it out: GRN is what ConvNeXtV2 has and ConvNeXt has not; name the one you want",
    "gap_before_final_norm": "leave it out: a dense backbone returns maps",
    "linear_pw_conv": "leave it out: pointwise layers are always linear",
    "norm_cfg": "leave it out: the norm is LayerNorm with eps 1e-6, dict(type='LN2d', eps=1e-6)",
    "act_cfg": "leave it out: the activation is GELU, dict(type='GELU'); others are activation='relu' etc.",
}


def refuse_unknown_options(
    owner: str,
    given: Iterable[str],
    *constructors,
    others: str = "leave out what no ConvNeXt has",
    **elsewhere: str,
) -> None:
    """OptionError for all options of `given` that no constructor has, each with what to write.

    others: what to do about those that are near none of the valid ones. elsewhere: what to write for
    an option, which is none of the owner's then.
    """
    valid = [name for name in _options(constructors) if name not in elsewhere]
    advised, strange, shown = [], [], False
    for name in given:
        if name in valid:
            continue
        close = difflib.get_close_matches(name.lower(), valid, n=1, cutoff=0.8)
        if name in elsewhere:
            advised.append(f"{name!r}: {elsewhere[name]}")
        elif _RENAMED.get(name) in valid:
            advised.append(f"{name!r}: write {_RENAMED[name]}")
        elif name in _ELSEWHERE:
            advised.append(f"{name!r}: {_ELSEWHERE[name]}")
        elif close:
            advised.append(f"{name!r}: did you mean {close[0]!r}?")
            shown = True
        else:
            strange.append(repr(name))
    if strange:
        advised.insert(0, f"{', '.join(strange)}: {others}")
    if advised:
        said = f"{owner} has no option {'; '.join(advised)}"
        if strange or shown:
            said += f"{'' if said[-1] == '?' else '.'} Valid: {', '.join(map(repr, valid))}"
        raise OptionError(said)


def _options(constructors) -> list[str]:
    parameters = [p for c in constructors for p in inspect.signature(c).parameters.values()]
    named = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self"]
    return list(dict.fromkeys(named))
