"""Hugging Face's preprocessor_config.json of a ConvNeXt: to the options of EvaluationTransform, and back.

Fields that are left out have the defaults of transformers' ConvNextImageProcessor, but size, mean and
deviation, which must be there: its own are no ConvNeXt's.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from ..errors import UserError
from .huggingface_config import read_json

# Pillow's numbers of filters.
RESAMPLE = {0: "nearest-exact", 1: "lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "hamming"}
CROP_PCT = 224 / 256
BYTE = 255

# Each field of ConvNextImageProcessor that changes pixels, and what it is here.
FIELDS = {
    "do_resize": "must be true: EvaluationTransform always resizes",
    "size": 'image_size: a whole number of pixels, or {"shortest_edge": it}',
    "crop_pct": "crop_pct, below 384 pixels; from there on pictures are warped",
    "warp": "warp; of ConvNeXtImageProcessor alone",
    "resample": f"interpolation: {', '.join(f'{number} {name}' for number, name in RESAMPLE.items())}",
    "do_center_crop": "must be false, or crop to the size that the pictures have",
    "crop_size": "of do_center_crop alone",
    "do_rescale": "whether pixels are multiplied by rescale_factor; in mean and std here",
    "rescale_factor": "a number above 0, 1/255 by default",
    "do_normalize": "whether mean and std are applied; else they are 0 and 1",
    "image_mean": "mean: a number, or one a channel",
    "image_std": "std: a number above 0, or one a channel",
    "do_pad": "must be false",
}
OURS = "ConvNeXtImageProcessor"  # of adapters/huggingface, with `warp` beside the fields of transformers' own
PROCESSORS = ("ConvNextImageProcessor", OURS, "ConvNextImageProcessorFast", "ConvNextImageProcessorPil",
              "ConvNextFeatureExtractor")  # fmt: skip


def read_preprocessor_config(source: str | Path | Mapping) -> dict:
    """The options of EvaluationTransform that a preprocessor_config.json, or its content, asks for.

    Raises:
        UserError: not JSON, or a transform that EvaluationTransform is not; with what is there and
            what can be.
    """
    name = "the preprocessor config" if isinstance(source, Mapping) else source
    try:
        return _options(dict(source) if isinstance(source, Mapping) else read_json(Path(source)))
    except ValueError as error:  # EvaluationTransform's own, too
        raise UserError(
            f"{name}: is not the evaluation transform of a ConvNeXt ({error})"
        ) from error


def preprocessor_config_of(options: Mapping) -> dict:
    """The content of a preprocessor_config.json for the options of an EvaluationTransform."""
    from ..network.preprocessing import EvaluationTransform  # torchvision takes a second to import

    transform = EvaluationTransform(**options)
    resample = {mode: number for number, mode in RESAMPLE.items()}
    return {
        **_geometry(transform),
        "resample": resample[transform.interpolation.value],
        "rescale_factor": 1 / BYTE,
        "image_mean": transform.mean,
        "image_std": transform.std,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": True,
    }


def for_transformers(config: dict) -> dict:
    """The content of a preprocessor_config.json of ours as one of transformers' own; any other as it is.

    Raises:
        UserError: no image processor of transformers takes these steps.
    """
    if config.get("image_processor_type") != OURS:
        return config
    if config.get("warp") is None and isinstance(_edge_of(config), int):
        return {**config, "image_processor_type": PROCESSORS[0]}
    return preprocessor_config_of(read_preprocessor_config(config))


def _geometry(transform) -> dict:
    """ConvNextImageProcessor warps from 384 pixels on and not below; for all else there is another."""
    from ..network.preprocessing import WARP_FROM  # torchvision takes a second to import

    size = transform.image_size
    if transform.warp == (size >= WARP_FROM):
        return {
            "image_processor_type": PROCESSORS[0],
            "size": {"shortest_edge": size},
            "crop_pct": transform.crop_pct,
        }
    square = {"height": size, "width": size}
    shortest = {"shortest_edge": int(size / transform.crop_pct)}
    return {
        "image_processor_type": "BitImageProcessor",
        "size": square if transform.warp else shortest,
        "do_center_crop": not transform.warp,
        "crop_size": square,
        "do_convert_rgb": True,
    }


def _options(config: dict) -> dict:
    from ..network.preprocessing import EvaluationTransform  # torchvision takes a second to import

    kind = config.get("image_processor_type") or config.get("feature_extractor_type")
    if kind is not None and kind not in PROCESSORS:
        raise ValueError(f"image_processor_type is {kind!r}, and {PROCESSORS[0]} can be read")
    _check_switches(config)
    size = _size(config, "size")
    if config.get("do_center_crop"):
        _require(config, "do_center_crop", _crop_size(config) == (size, size))
    resample = config.get("resample")
    resample = 3 if resample is None else resample
    if type(resample) is not int or resample not in RESAMPLE:
        raise ValueError(f"resample={resample!r} has no counterpart here; {FIELDS['resample']}")
    options = {
        "image_size": size,
        "crop_pct": config.get("crop_pct") or CROP_PCT,
        **_normalisation(config),
        "interpolation": RESAMPLE[resample],
    }
    if config.get("warp") is not None:
        options["warp"] = config["warp"]
    EvaluationTransform(**options)
    return options


def _check_switches(config: dict) -> None:
    """A step that is switched on and is none of ours would be left out in silence."""
    for field, value in config.items():
        if field.startswith("do_") and value is not None and not isinstance(value, bool):
            raise ValueError(f"{field}={value!r}; write true or false")
        if field.startswith("do_") and value and field not in (*FIELDS, "do_convert_rgb"):
            raise ValueError(f"{field}=true is a step that EvaluationTransform does not take")
    _require(config, "do_resize", config.get("do_resize") is not False)
    _require(config, "do_pad", not config.get("do_pad"))


def _size(config: dict, field: str) -> int:
    size = _edge_of(config, field)
    _require(config, field, type(size) is int)
    return size


def _edge_of(config: dict, field: str = "size"):
    size = config.get(field)
    return size.get("shortest_edge") if isinstance(size, Mapping) else size


def _crop_size(config: dict) -> tuple:
    size = config.get("crop_size")
    return (size.get("height"), size.get("width")) if isinstance(size, Mapping) else (size, size)


def _normalisation(config: dict) -> dict:
    """mean and std for pixels in 0..1, of fields that may be meant for pixels in 0..255.

    (x * factor - mean) / std of a pixel x in 0..255 is (y - mean / scale) / (std / scale) of y in
    0..1, where scale is 255 * factor.
    """
    lists = [config.get(field) for field in ("image_mean", "image_std")]
    channels = next((len(v) for v in lists if isinstance(v, (list, tuple))), 3)
    mean = _per_channel(config, "image_mean", channels)
    std = _per_channel(config, "image_std", channels)
    if config.get("do_normalize") is False:
        mean, std = [0.0] * len(mean), [1.0] * len(std)
    factor = config.get("rescale_factor")
    factor = 1 / BYTE if factor is None else factor
    _require(config, "rescale_factor", _is_number(factor) and factor > 0)
    scale = 1.0 if math.isclose(factor, 1 / BYTE) else BYTE * factor
    if config.get("do_rescale") is False:
        scale = float(BYTE)
    if scale == 1:
        return {"mean": mean, "std": std}
    return {"mean": [m / scale for m in mean], "std": [s / scale for s in std]}


def _per_channel(config: dict, field: str, channels: int) -> list[float]:
    values = config.get(field)
    if _is_number(values):
        return [values] * channels
    _require(config, field, isinstance(values, (list, tuple)) and all(map(_is_number, values)))
    return list(values)


def _is_number(value) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _require(config: dict, field: str, fits: bool) -> None:
    if not fits:
        given = f"{field}={config[field]!r}" if field in config else f"{field} is missing"
        raise ValueError(f"{given}; {field} is here {FIELDS[field]}")
