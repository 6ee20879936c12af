"""preprocessor_config.json: the pixels are those of transformers' own image processor, or it is refused."""

import json
import subprocess
import sys

import pytest
import torch
from pictures import picture
from transformers import AutoImageProcessor
from transformers.models.convnext.image_processing_convnext import ConvNextImageProcessor
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

from convnext_backbones.checkpoints.huggingface_preprocessor import (
    PROCESSORS,
    preprocessor_config_of,
    read_preprocessor_config,
)
from convnext_backbones.errors import UserError
from convnext_backbones.network.preprocessing import EvaluationTransform

GIVEN = {"size": {"shortest_edge": 96}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}


def written(folder, content):
    path = folder / "preprocessor_config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": {"shortest_edge": 224}, "crop_pct": 0.95},
        {"size": {"shortest_edge": 160}, "resample": 2, "image_mean": (0.4, 0.5, 0.6)},
    ],
)
def test_the_config_of_an_image_processor_gives_its_pixels(tmp_path, options):
    processor = ConvNextImageProcessor(**options)
    processor.save_pretrained(tmp_path)
    transform = EvaluationTransform(
        **read_preprocessor_config(tmp_path / "preprocessor_config.json")
    )
    expected = processor(picture(3), return_tensors="pt").pixel_values[0]
    assert (transform(picture(3)) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    "content",
    ["{", "[]", "{}", {"size": {"height": 224, "width": 224}},
     {"size": 224, "image_mean": [0, 0, 0], "image_std": [1, 1, 0]}],
)  # fmt: skip
def test_the_config_of_another_transform_is_refused(tmp_path, content):
    with pytest.raises(UserError, match="is not the evaluation transform of a ConvNeXt"):
        read_preprocessor_config(written(tmp_path, content))


@pytest.mark.parametrize(
    "options",
    [
        {"do_rescale": False},
        {"do_normalize": False},
        {"do_rescale": False, "do_normalize": False},
        {"rescale_factor": 1 / 127.5},
        {"rescale_factor": 2},
        {"rescale_factor": 1 / 100, "do_normalize": False},
        {"rescale_factor": 1 / 100, "do_rescale": False},
        {"size": {"shortest_edge": 384}},
        {"size": {"shortest_edge": 400}, "crop_pct": 0.5},
        {"do_center_crop": True, "crop_size": {"height": 96, "width": 96}},
        {"resample": 0},
        {"do_convert_rgb": True},
        {"do_pad": False, "do_center_crop": False},
    ],
    ids=str,
)
def test_what_is_switched_on_and_off_gives_the_processors_pixels(tmp_path, options):
    processor = ConvNextImageProcessor(**{**GIVEN, **options})
    transform = EvaluationTransform(
        **read_preprocessor_config(written(tmp_path, {**GIVEN, **options}))
    )
    expected = processor(picture(3), return_tensors="pt").pixel_values[0].float()
    scale = expected.abs().max().clamp(min=1)
    assert (transform(picture(3)) - expected).abs().max() / scale < 1e-5


@pytest.mark.parametrize("resample", [1, 4, 5])
def test_filters_that_torch_lacks_are_pillows(resample):
    options = {**GIVEN, "resample": resample}
    transform = EvaluationTransform(**read_preprocessor_config(options))
    expected = ConvNextImageProcessorPil(**options)(picture(3), return_tensors="pt").pixel_values[0]
    assert (transform(picture(3)) - expected).abs().max() < 1e-5


def test_what_is_left_out_is_what_the_processor_does_then(tmp_path):
    processor = ConvNextImageProcessor(**GIVEN)
    transform = EvaluationTransform(**read_preprocessor_config(GIVEN))
    expected = processor(picture(3), return_tensors="pt").pixel_values[0]
    assert (transform(picture(3)) - expected).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("fields", "mean", "std"),
    [
        ({"image_mean": 0.5, "image_std": 0.25}, [0.5] * 3, [0.25] * 3),
        ({"image_mean": 0}, [0] * 3, GIVEN["image_std"]),
        ({"image_mean": [0.5], "image_std": 0.5}, [0.5], [0.5]),
        ({"image_std": 1}, GIVEN["image_mean"], [1] * 3),
    ],
    ids=str,
)
def test_one_number_is_every_channels(fields, mean, std):
    options = read_preprocessor_config({**GIVEN, **fields})
    assert (options["mean"], options["std"]) == (mean, std)
    torch.testing.assert_close(EvaluationTransform(**options).mean, mean)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"do_resize": False}, "do_resize=False; do_resize is here must be true"),
        ({"do_pad": True}, "do_pad=True; do_pad is here must be false"),
        ({"do_center_crop": True, "crop_size": 90}, "do_center_crop=True"),
        ({"do_center_crop": True}, "do_center_crop=True"),
        ({"do_flip_channel_order": True}, "do_flip_channel_order=true is a step that Evaluation"),
        ({"do_thumbnail": True}, "do_thumbnail=true is a step"),
        ({"do_resize": "yes"}, "do_resize='yes'; write true or false"),
        ({"do_normalize": 0}, "do_normalize=0; write true or false"),
        ({"resample": 9}, "resample=9 has no counterpart here; interpolation: 0 nearest-exact, 1 lanczos"),
        ({"resample": "bicubic"}, "resample='bicubic' has no counterpart"),
        ({"resample": [3]}, r"resample=\[3\] has no counterpart"),
        ({"resample": True}, "resample=True has no counterpart"),
        ({"size": {"height": 224, "width": 224}}, "size={'height'"),
        ({"size": "224"}, "size='224'; size is here image_size"),
        ({"size": None}, "size=None"),
        ({"size": 0}, "image_size must be a positive whole number"),
        ({"crop_pct": 1.5}, "crop_pct must be above 0 and at most 1"),
        ({"crop_pct": "0.9"}, "crop_pct must be above 0"),
        ({"rescale_factor": 0}, "rescale_factor=0; rescale_factor is here a number above 0"),
        ({"rescale_factor": "1/255"}, "rescale_factor='1/255'"),
        ({"image_mean": "imagenet"}, "image_mean='imagenet'; image_mean is here mean: a number"),
        ({"image_mean": [0.5, "a", 0.5]}, "image_mean="),
        ({"image_mean": [0.5, 0.5]}, "one number per channel"),
        ({"image_mean": None}, "image_mean=None"),
        ({"image_std": 0}, "std above 0"),
        ({"image_std": [True, 1, 1]}, "image_std="),
        ({"image_mean": float("nan")}, "image_mean=nan"),
        ({"image_processor_type": "ViTImageProcessor"}, "image_processor_type is 'ViTImageProcessor'"),
        ({"feature_extractor_type": "CLIPFeatureExtractor"}, "is 'CLIPFeatureExtractor'"),
        ({"image_processor_type": ["a"]}, r"image_processor_type is \['a'\]"),
    ],
    ids=str,
)  # fmt: skip
def test_what_the_transform_cannot_do_is_one_sentence(tmp_path, fields, sentence):
    path = written(tmp_path, {**GIVEN, **fields})
    with pytest.raises(
        UserError, match=rf"^{path}: is not the evaluation transform .*{sentence}"
    ) as error:
        read_preprocessor_config(path)
    assert "Error" not in str(error.value)


@pytest.mark.parametrize("kind", PROCESSORS)
def test_every_name_of_the_processor_is_read(kind):
    field = "feature_extractor_type" if "Extractor" in kind else "image_processor_type"
    assert read_preprocessor_config({**GIVEN, field: kind})["image_size"] == 96


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_size": 320, "crop_pct": 0.9, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)},
        {"image_size": 384, "interpolation": "bilinear"},
    ],
    ids=str,
)
def test_options_go_there_and_back(tmp_path, options):
    given = EvaluationTransform(**options)
    path = written(tmp_path, preprocessor_config_of(options))
    again = EvaluationTransform(**read_preprocessor_config(path))
    for name in ("image_size", "crop_pct", "warp", "mean", "std", "interpolation"):
        assert getattr(again, name) == getattr(given, name), name


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_size": 384},
        {"image_size": 384, "crop_pct": 1.0, "warp": False},
        {"image_size": 400, "crop_pct": 0.95, "warp": False},
        {"image_size": 96, "warp": True},
    ],
    ids=str,
)
def test_the_processor_that_is_written_gives_our_pixels(tmp_path, options):
    written(tmp_path, preprocessor_config_of(options))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    expected = processor(picture(3), return_tensors="pt").pixel_values[0]
    assert (EvaluationTransform(**options)(picture(3)) - expected).abs().max() < 1e-5


def test_importing_checkpoints_imports_no_torchvision():
    code = (
        "import sys, convnext_backbones.checkpoints.conversion; print('torchvision' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
