"""EvaluationTransform against transformers' ConvNextImageProcessor, on a photograph and others."""

from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F
from transformers.models.convnext.image_processing_convnext import ConvNextImageProcessor
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

from convnext_backbones.network.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    EvaluationTransform,
)

PROCESSORS = {"torchvision": ConvNextImageProcessor, "PIL": ConvNextImageProcessorPil}
SIZES = [160, 224, 383, 384, 512]
ONE_STEP = (1 / 255 / torch.tensor(IMAGENET_STD))[:, None, None]


def photograph():
    """Grace Hopper's portrait, which ships with matplotlib: 512x606 pixels."""
    return Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg")


def landscape():
    """A cutting of the portrait, wider than high, with odd sides."""
    return photograph().crop((37, 100, 500, 423))


def narrow():
    """A small and narrow picture, which is enlarged."""
    return photograph().resize((61, 173))


def drawing():
    """Hard edges and an alpha channel: matplotlib's logo."""
    return Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "logo2.png").convert("RGB")


PICTURES = [photograph, landscape, narrow, drawing]


def processed(backend, image, image_size, **options):
    processor = PROCESSORS[backend](
        size={"shortest_edge": image_size}, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD
    )
    return processor(image, return_tensors="pt", **options).pixel_values[0]


def steps(ours, expected):
    """The difference in units of a uint8 rounding step."""
    assert ours.shape == expected.shape
    assert ours.dtype == torch.float32
    return (ours - expected).abs() / ONE_STEP


@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("kind", ["PIL image", "uint8 tensor"])
@pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.__name__)
def test_pixels_are_those_of_transformers(picture, kind, image_size):
    image = picture() if kind == "PIL image" else F.pil_to_tensor(picture())
    ours = EvaluationTransform(image_size)(image)
    assert steps(ours, processed("torchvision", image, image_size)).max() < 0.001
    difference = steps(ours, processed("PIL", image, image_size))
    # When they enlarge, transformers' own two backends are two steps apart in a few pixels of a
    # million; ours is the torchvision one.
    assert difference.max() < 2.001
    assert (difference > 1.001).float().mean() < 1e-5


@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("picture", PICTURES, ids=lambda p: p.__name__)
def test_float_pixels_are_those_of_transformers_without_rescaling(picture, image_size):
    tensor = F.pil_to_tensor(picture()).float() / 255
    ours = EvaluationTransform(image_size)(tensor)
    expected = processed("torchvision", tensor, image_size, do_rescale=False)
    assert steps(ours, expected).max() < 0.001


@pytest.mark.parametrize("crop_pct", [0.8, 0.875, 0.95, 1.0])
def test_crop_pct_is_that_of_transformers(crop_pct):
    ours = EvaluationTransform(224, crop_pct=crop_pct)(landscape())
    expected = processed("torchvision", landscape(), 224, crop_pct=crop_pct)
    assert steps(ours, expected).max() < 0.001


@pytest.mark.parametrize("width", range(300, 316))
def test_centre_is_that_of_transformers_for_every_remainder(width):
    picture = photograph().resize((width, 200))
    ours = EvaluationTransform(64)(picture)
    assert steps(ours, processed("torchvision", picture, 64)).max() < 0.001


@pytest.mark.parametrize("name", ["bilinear", "bicubic", "nearest-exact"])
def test_interpolation_is_that_of_transformers(name):
    ours = EvaluationTransform(224, interpolation=name)(landscape())
    resample = Image.Resampling[name.removesuffix("-exact").upper()]
    expected = processed("torchvision", landscape(), 224, resample=resample)
    assert steps(ours, expected).max() < 0.001


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_point_types_become_float32(dtype):
    tensor = F.pil_to_tensor(photograph()).to(dtype) / 255
    ours = EvaluationTransform(64)(tensor)
    assert torch.equal(ours, EvaluationTransform(64)(tensor.float()))


def test_a_batch_is_the_pictures_one_by_one_and_stays_as_it_was():
    batch = torch.stack([F.pil_to_tensor(photograph()), F.pil_to_tensor(photograph()).flip(2)])
    before = batch.clone()
    transform = EvaluationTransform(96)
    output = transform(batch)
    assert torch.equal(batch, before)
    assert torch.equal(output, torch.stack([transform(image) for image in batch]))


def test_a_float_batch_of_the_right_size_stays_as_it_was():
    batch = torch.rand(2, 3, 384, 384)
    before = batch.clone()
    EvaluationTransform(384)(batch)
    assert torch.equal(batch, before)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_a_picture_of_another_mode_is_taken_as_rgb(mode):
    picture = photograph().convert(mode)
    ours = EvaluationTransform(64)(picture)
    assert torch.equal(ours, EvaluationTransform(64)(picture.convert("RGB")))
    assert ours.shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(32, 32, 3, dtype=torch.uint8), r"got \(32, 32, 3\); .*permute\(2, 0, 1\)"),
        (torch.zeros(32, 32, dtype=torch.uint8), r"\(3, H, W\) or \(N, 3, H, W\), got \(32, 32\)"),
        (torch.zeros(1, 32, 32), r"got \(1, 32, 32\)"),
        (torch.zeros(3, 0, 32), "0x32; give one with pixels"),
        (
            torch.zeros(3, 32, 32, dtype=torch.int64),
            r"got torch.int64; use image.to\(torch.uint8\)",
        ),
        (torch.full((3, 32, 32), 255.0), r"in 0..1, found 255; divide by 255"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused_with_the_fix(image, message):
    with pytest.raises(ValueError, match=message):
        EvaluationTransform()(image)


@pytest.mark.parametrize("image", [np.zeros((32, 32, 3), np.uint8), "picture.jpg", None])
def test_what_is_no_image_is_refused(image):
    with pytest.raises(TypeError, match=r"PIL image or a tensor, got a .*torch.from_numpy"):
        EvaluationTransform()(image)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "image_size must be a positive whole number, got 0"),
        ({"image_size": (224, 224)}, "image_size must be a positive whole number, got"),
        ({"crop_pct": 0}, "crop_pct must be above 0 and at most 1, got 0"),
        ({"crop_pct": 1.2}, "crop_pct must be above 0 and at most 1, got 1.2"),
        ({"mean": (0.5,)}, "one number per channel"),
        ({"std": (0.5, 0, 0.5)}, "std above 0"),
        ({"interpolation": "cubic"}, "unknown interpolation 'cubic'; did you mean 'bicubic'"),
    ],
    ids=str,
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EvaluationTransform(**options)


def test_warping_can_be_chosen_apart_from_the_size():
    image = torch.randint(256, (3, 500, 700), dtype=torch.uint8)
    cut = EvaluationTransform(384, crop_pct=1.0, warp=False)(image)
    resized = F.resize(image, [384], InterpolationMode.BICUBIC)
    left = (resized.shape[2] - 384) // 2
    expected = F.to_dtype(resized[:, :, left : left + 384], torch.float32, scale=True)
    expected = F.normalize(expected, list(IMAGENET_MEAN), list(IMAGENET_STD))
    torch.testing.assert_close(cut, expected)
    warped = EvaluationTransform(224, warp=True)(image)
    expected = F.resize(image, [224, 224], InterpolationMode.BICUBIC)
    expected = F.normalize(
        F.to_dtype(expected, torch.float32, scale=True), list(IMAGENET_MEAN), list(IMAGENET_STD)
    )
    torch.testing.assert_close(warped, expected)
    with pytest.raises(ValueError, match="warp must be True, False or None"):
        EvaluationTransform(224, warp="yes")
