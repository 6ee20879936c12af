"""ConvNeXtImageProcessor: pictures to pixels with the face of transformers' ConvNextImageProcessor.

    processor = ConvNeXtImageProcessor.from_pretrained("convnextv2_tiny.fcmae_ft_in1k")
    model(**processor(picture, return_tensors="pt"))

Fields, defaults and pixels are those of transformers' own; what that takes and leaves out in silence, such
as data_format, do_pad and fields that it does not know, is done here or refused. The steps are computed by
network.preprocessing.processed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torchvision.transforms import InterpolationMode
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import SizeDict

from ...checkpoints.catalogue import find_weights
from ...checkpoints.huggingface_preprocessor import PROCESSORS, RESAMPLE
from ...errors import UserError
from ...network.preprocessing import CROP_PCT, WARP_FROM, EvaluationTransform, processed
from .image_options import (
    LOADING,
    RECORDS,
    ConvNeXtImageProcessorKwargs,
    as_transformers_has_it,
    check,
    check_channels,
    check_padding,
    number_of,
    plain,
)


class ConvNeXtImageProcessor(TorchvisionBackend):
    """Pictures to pixel_values, (N, C, height, width): resized, cropped, rescaled, normalised, padded.

    Every option is a field of preprocessor_config.json, an argument here, and one of the call, which wins.

    Args:
        do_convert_rgb: take pictures of any mode as RGB; without it their channels stay as they are.
        do_resize, size, crop_pct, warp, resample: an edge, {"shortest_edge": edge}: below 384 pixels the
            shortest edge is resized to edge / crop_pct and the centre cut out, from there on the picture is
            warped to a square; warp=True or False: one of the two at any size. {"height": ..., "width": ...}:
            it is warped to that. resample: Pillow's number of a filter.
        do_center_crop, crop_size: of height and width, after resizing; zeros where it is larger.
        do_rescale, rescale_factor: multiply pixels.
        do_normalize, image_mean, image_std: a number, or one for each channel.
        do_pad, pad_size: with zeros right and below, to a height and width or to the largest of the batch.
        data_format: of the result, "channels_first" or "channels_last".
        input_data_format: of arrays and tensors that do not tell.
        return_tensors: "pt", "np", or None for a list of tensors.
        device: where to compute.
        disable_grouping: taken, and without effect.

    Raises:
        UserError: an option or a picture that cannot be taken, with what can.
    """

    valid_kwargs = ConvNeXtImageProcessorKwargs
    default_to_square = False
    do_resize, size, crop_pct, resample = True, {"shortest_edge": 384}, CROP_PCT, 3
    do_rescale, do_normalize = True, True
    image_mean, image_std = [0.5] * 3, [0.5] * 3

    def __init__(self, **options):
        check({name: value for name, value in options.items() if name not in RECORDS})
        super().__init__(**options)

    @classmethod
    def get_image_processor_dict(cls, pretrained_model_name_or_path, **options):
        """Also for a name of the catalogue: the pixels that its weights were evaluated with."""
        name = str(pretrained_model_name_or_path)
        known = find_weights(name)
        if known and name in (known.name, *known.aliases) and not Path(name).exists():
            if known.preprocessing is None:
                raise UserError(f"{name} is no classifier; its config says how pictures are read")
            return _fields_of(EvaluationTransform(**known.preprocessing)), options
        try:
            return super().get_image_processor_dict(name, **options)
        except OSError as error:
            raise UserError(
                f"{name}: no preprocessor_config.json could be read ({' '.join(str(error).split())[:200]}); "
                "give a folder that save_pretrained wrote, or a name of checkpoints.CATALOGUE"
            ) from error

    @classmethod
    def from_dict(cls, image_processor_dict: Mapping, **options):
        if not isinstance(image_processor_dict, Mapping):
            raise UserError(
                f"the preprocessor config is no JSON object: {image_processor_dict!r:.60}"
            )
        if not options.get("return_unused_kwargs"):
            check({name: value for name, value in options.items() if name not in LOADING})
        kinds = ("image_processor_type", "feature_extractor_type")
        kind = next((image_processor_dict[k] for k in kinds if image_processor_dict.get(k)), None)
        if kind not in (None, cls.__name__, *PROCESSORS):
            raise UserError(
                f"the preprocessor config is of image_processor_type={kind!r}, and a ConvNeXt's is one of "
                f"{', '.join(PROCESSORS)}; load it with transformers' AutoImageProcessor"
            )
        return super().from_dict(dict(image_processor_dict), **options)

    def preprocess(self, images, *args, **options) -> BatchFeature:
        options = {name: value for name, value in options.items() if value is not None}
        check(options)
        options = {name: as_transformers_has_it(name, value) for name, value in options.items()}
        return super().preprocess(images, *args, **options)

    def _validate_preprocess_kwargs(self, **options) -> None:
        """Of the call's options and one's own together; each by itself was looked at before."""
        for step, field in (("do_resize", "size"), ("do_center_crop", "crop_size"),
                            ("do_normalize", "image_mean"), ("do_normalize", "image_std")):  # fmt: skip
            if options.get(step) and options.get(field) is None:
                raise UserError(f"{step} is on, and {field} is not given; give it, or {step}=False")

    def _prepare_images_structure(self, images, expected_ndims: int = 3):
        try:
            found = super()._prepare_images_structure(images, expected_ndims=expected_ndims)
        except (TypeError, ValueError, IndexError) as error:
            raise UserError(
                "pictures are PIL images, arrays or tensors of (H, W, C) or (C, H, W), batches of them, lists "
                f"of these, paths or URLs, got {_said(images)} "
                f"({' '.join(str(error).split())[:120]})"
            ) from error
        if not found:
            raise UserError("there are no pictures in the list; give one at least")
        return found

    def process_image(self, image, *args, **options) -> torch.Tensor:
        try:
            return super().process_image(image, *args, **options)
        except ValueError as error:
            shape = tuple(getattr(image, "shape", ()))
            raise UserError(
                f"a picture of shape {shape} cannot be read ({error}); give (H, W, C) or (C, H, W) of 1, 3 or 4 "
                "channels, and with input_data_format say which"
            ) from error

    def _preprocess(
        self,
        images: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict,
        resample: int,
        do_center_crop: bool,
        crop_size: SizeDict,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean: float | Sequence[float],
        image_std: float | Sequence[float],
        do_pad: bool,
        pad_size: SizeDict | None,
        return_tensors: str | None,
        crop_pct: float,
        warp: bool | None,
        data_format: str | None = None,
        **without_effect,
    ) -> BatchFeature:
        if do_normalize:
            check_channels(images, image_mean, image_std)
        images = [
            processed(
                image,
                size=(size.shortest_edge or (size.height, size.width)) if do_resize else None,
                crop_pct=crop_pct,
                warp=warp,
                interpolation=InterpolationMode(RESAMPLE[int(resample)]),
                crop_size=(crop_size.height, crop_size.width) if do_center_crop else None,
                rescale_factor=rescale_factor if do_rescale else None,
                mean=image_mean if do_normalize else None,
                std=image_std if do_normalize else None,
            )
            for image in images
        ]
        if do_pad:
            check_padding(images, pad_size)
            images = self.pad(images, pad_size=pad_size)
        if plain(data_format) == "channels_last":
            images = [image.permute(1, 2, 0) for image in images]
        shapes = {tuple(image.shape) for image in images}
        if return_tensors is not None and len(shapes) > 1:
            raise UserError(
                f"pictures of {' and '.join(map(str, sorted(shapes)[:3]))} make no batch; give do_resize or "
                "do_pad=True, or leave return_tensors out for a list"
            )
        return BatchFeature(data={"pixel_values": images}, tensor_type=return_tensors)


def _fields_of(transform: EvaluationTransform) -> dict:
    """The preprocessor config of an evaluation, with `warp` where the size does not tell it."""
    size = transform.image_size
    warp = transform.warp
    return {
        "size": {"shortest_edge": size},
        "crop_pct": transform.crop_pct,
        "warp": None if warp == (size >= WARP_FROM) else warp,
        "resample": number_of(transform.interpolation),
        "image_mean": transform.mean,
        "image_std": transform.std,
    }


def _said(images) -> str:
    return repr(images) if isinstance(images, str) else f"a {type(images).__name__}"
