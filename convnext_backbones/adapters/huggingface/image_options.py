"""The options of ConvNeXtImageProcessor: which there are, and a sentence for each that cannot be taken."""

import math
from collections.abc import Mapping
from enum import Enum

import torch
from torchvision.transforms import InterpolationMode
from transformers.image_utils import SizeDict
from transformers.processing_utils import ImagesKwargs

from ...checkpoints.huggingface_preprocessor import RESAMPLE
from ...errors import OptionError, UserError
from ...network.variants import nearest


class ConvNeXtImageProcessorKwargs(ImagesKwargs, total=False):
    """What a ConvNeXt has beside the options of every image processor."""

    crop_pct: float | None
    warp: bool | None


# What a file may hold beside the options, and a call of transformers' own.
RECORDS = {"image_processor_type", "feature_extractor_type", "processor_class", "_processor_class",
            "auto_map", "_valid_processor_keys", "_valid_kwargs_names"}  # fmt: skip
# What from_pretrained may be given beside the options.
LOADING = {"return_unused_kwargs", "trust_remote_code", "code_revision", "use_fast", "backend",
           "cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token",
           "image_processor_filename", "_from_auto", "_from_pipeline"}  # fmt: skip
_OPTIONS = (*ImagesKwargs.__annotations__, "crop_pct", "warp")
_NONE_HERE = {"image_seq_length": "it counts the tokens of pictures in text"}
_LAYOUTS = ("channels_first", "channels_last")


def check(options: Mapping) -> None:
    """Refuse, each with a sentence, options that are none and values that are no option's."""
    for name, value in options.items():
        if name in _NONE_HERE and value is not None:
            raise OptionError(f"{name}={value!r}: {_NONE_HERE[name]}; leave it out")
        if name not in _OPTIONS:
            raise OptionError(
                f"{name}={value!r} is no option of ConvNeXtImageProcessor; "
                f"{nearest(name, sorted(set(_OPTIONS) - _NONE_HERE.keys()))}"
            )
        if value is not None and not _fits(name, value):
            raise UserError(f"{name}={value!r}; {name} is {_MEANING[name]}")


_SIZE = "a number of pixels, a height and a width, or a dict of them"
_MEANING = {
    "size": "a number of pixels, {'shortest_edge': it} or {'height': ..., 'width': ...}",
    "crop_size": _SIZE,
    "pad_size": _SIZE,
    "resample": f"a filter of Pillow: {', '.join(f'{number} {name}' for number, name in RESAMPLE.items())}",
    "rescale_factor": "a number above 0",
    "crop_pct": "a number above 0",
    "image_mean": "a number, or one for each channel",
    "image_std": "a number above 0, or one for each channel",
    "data_format": f"one of {', '.join(_LAYOUTS)}",
    "input_data_format": f"one of {', '.join(_LAYOUTS)}, or none for a grey (H, W)",
    "return_tensors": "'pt', 'np', or None for a list",
    "device": "a torch.device or its name",
    **dict.fromkeys(
        (name for name in _OPTIONS if name.startswith(("do_", "default_", "disable_", "warp"))),
        "True or False",
    ),
}


def _fits(name: str, value) -> bool:
    if name in ("size", "crop_size", "pad_size"):
        return _is_size(value, edge=name == "size")
    if name == "resample":
        return not isinstance(value, bool) and (
            value in list(RESAMPLE) or number_of(value) is not None
        )
    if name in ("image_mean", "image_std"):
        values = value if isinstance(value, (list, tuple)) else [value]
        return bool(values) and all(_is_number(v, above_0=name == "image_std") for v in values)
    if name in ("rescale_factor", "crop_pct"):
        return _is_number(value, above_0=True)
    if name == "data_format":
        return plain(value) in _LAYOUTS
    if name == "input_data_format":
        return plain(value) in (*_LAYOUTS, "none")
    if name == "return_tensors":
        return plain(value) in ("pt", "np")
    if name == "device":
        return _is_device(value)
    return isinstance(value, bool)


def _is_size(size, *, edge: bool) -> bool:
    if isinstance(size, SizeDict):
        size = dict(size)
    if isinstance(size, Mapping):
        size = {key: value for key, value in size.items() if value is not None}
        keys = [{"height", "width"}, {"shortest_edge"}] if edge else [{"height", "width"}]
        if size.keys() not in keys:
            return False
        size = list(size.values())
    elif isinstance(size, (list, tuple)) and len(size) != 2:
        return False
    numbers = size if isinstance(size, (list, tuple)) else [size]
    return all(type(n) is int and n > 0 for n in numbers)


def _is_number(value, *, above_0: bool) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and (value > 0 if above_0 else True)


def _is_device(value) -> bool:
    try:
        torch.device(value)
    except (RuntimeError, TypeError):
        return False
    return True


def as_transformers_has_it(name: str, value):
    """The value of an option of a call, whose types are looked at there: an int is no float."""
    if name == "resample":
        return int(value) if number_of(value) is None else number_of(value)
    if name in ("image_mean", "image_std", "rescale_factor", "crop_pct"):
        return [float(x) for x in value] if isinstance(value, (list, tuple)) else float(value)
    return value


def number_of(mode) -> int | None:
    """Pillow's number of one of torchvision's filters."""
    names = {name: number for number, name in RESAMPLE.items()}
    return names.get(mode.value) if isinstance(mode, InterpolationMode) else None


def plain(value):
    return value.value if isinstance(value, Enum) else value


def check_channels(images: list[torch.Tensor], mean, std) -> None:
    counts = {len(x) for x in (mean, std) if isinstance(x, (list, tuple))}
    if len(counts) > 1:
        raise UserError(f"image_mean={mean!r} and image_std={std!r} must be of equal length")
    for image in images:
        if counts and counts != {image.shape[0]}:
            raise UserError(
                f"a picture has {image.shape[0]} channels, and image_mean and image_std {min(counts)} numbers; "
                "give do_convert_rgb=True, or one number for all channels"
            )


def check_padding(images: list[torch.Tensor], pad_size: SizeDict | None) -> None:
    height, width = (max(image.shape[i] for image in images) for i in (-2, -1))
    if pad_size is not None and (pad_size.height < height or pad_size.width < width):
        raise UserError(
            f"pad_size is {pad_size.height}x{pad_size.width}, and a picture {height}x{width}; give a larger one, "
            "or leave it out for the largest picture's"
        )
