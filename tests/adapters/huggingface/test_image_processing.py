"""ConvNeXtImageProcessor: the pixels of transformers' own, and a sentence where that goes on in silence."""

import itertools
import json

import numpy as np
import pytest
import torch
from pictures import picture
from PIL import Image
from torchvision.transforms import InterpolationMode
from transformers import AutoImageProcessor, BatchFeature
from transformers.models.convnext.image_processing_convnext import ConvNextImageProcessor
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil

from convnext_backbones.adapters.huggingface import ConvNeXtConfig, ConvNeXtImageProcessor
from convnext_backbones.adapters.huggingface.image_options import _MEANING, _NONE_HERE, _OPTIONS
from convnext_backbones.checkpoints import CATALOGUE
from convnext_backbones.checkpoints.huggingface_preprocessor import read_preprocessor_config
from convnext_backbones.errors import UserError
from convnext_backbones.network.preprocessing import EvaluationTransform

GIVEN = {"size": {"shortest_edge": 64}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
SQUARE = {"height": 60, "width": 60}
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")


def pixels(processor, images, **options):
    return processor(images, **{"return_tensors": "pt", **options}).pixel_values


def assert_same(ours, expected, within=1e-6):
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype
    difference = (ours.double() - expected.double()).abs().max()
    assert difference <= within * expected.double().abs().max().clamp(min=1)


OPTIONS = [
    {},
    {"size": 96},
    {"size": {"shortest_edge": 100}, "crop_pct": 0.8},
    {"size": {"shortest_edge": 100}, "crop_pct": 1.25},  # smaller than the crop: zeros around it
    {"size": {"shortest_edge": 383}},
    {"size": {"shortest_edge": 384}},
    {"size": {"shortest_edge": 400}, "crop_pct": 0.5},
    {"resample": 0},
    {"resample": 2},
    {"resample": Image.Resampling.BILINEAR},
    {"image_mean": 0.5, "image_std": 0.25},
    {"image_mean": [0.5, 0.5, 0.5], "image_std": 0.25},
    {"image_mean": 120, "image_std": 60, "do_rescale": False},
    {"rescale_factor": 1 / 127.5},
    {"rescale_factor": 2.0, "do_normalize": False},
    {"do_center_crop": True, "crop_size": SQUARE},
    {"do_center_crop": True, "crop_size": {"height": 33, "width": 90}},
    {"do_center_crop": True, "crop_size": 51},
    {"do_center_crop": True, "crop_size": [50, 61], "do_resize": False},
    {"do_center_crop": True, "crop_size": {"height": 500, "width": 201}, "do_resize": False},
    {"do_convert_rgb": True},
    {"device": "cpu", "disable_grouping": True, "default_to_square": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_pixels_are_those_of_transformers_with_any_option(options):
    expected = pixels(ConvNextImageProcessor(**{**GIVEN, **options}), picture(3))
    assert_same(pixels(ConvNeXtImageProcessor(**{**GIVEN, **options}), picture(3)), expected)
    at_the_call = pixels(ConvNeXtImageProcessor(**GIVEN), picture(3), **options)
    assert_same(at_the_call, expected)


@pytest.mark.parametrize("switches", list(itertools.product([True, False], repeat=4)), ids=str)
def test_pixels_are_those_of_transformers_with_any_steps(switches):
    options = {**GIVEN, "crop_size": SQUARE, **dict(zip(STEPS, switches, strict=True))}
    expected = pixels(ConvNextImageProcessor(**options), picture(5))
    assert_same(pixels(ConvNeXtImageProcessor(**options), picture(5)), expected)


@pytest.mark.parametrize("resample", range(6))
@pytest.mark.parametrize("size", [64, 400])
def test_every_filter_gives_the_pixels_of_pillow_or_of_the_fast_processor(resample, size):
    options = {**GIVEN, "resample": resample, "size": {"shortest_edge": size}}
    by_torch = resample in (0, 2, 3)
    peer = (ConvNextImageProcessor if by_torch else ConvNextImageProcessorPil)(**options)
    ours = ConvNeXtImageProcessor(**options)
    assert_same(pixels(ours, picture(3)), pixels(peer, picture(3)), within=1e-5)
    floats = np.asarray(picture(3)).astype(np.float32)
    assert pixels(ours, floats).shape == (1, 3, size, size)
    if not by_torch:  # bytes are rounded after each of the two directions
        one_step = 1 / 255 / min(GIVEN["image_std"])
        assert (pixels(ours, floats) - pixels(ours, picture(3))).abs().max() <= 2 * one_step


def test_filters_have_torchvisions_names_too():
    ours = ConvNeXtImageProcessor(**GIVEN)
    for mode, number in ((InterpolationMode.BOX, 4), (InterpolationMode.BICUBIC, 3)):
        assert_same(
            pixels(ours, picture(3), resample=mode), pixels(ours, picture(3), resample=number)
        )


def kinds_of_pictures():
    array = np.asarray(picture(3))
    tensor = torch.from_numpy(array.copy())
    return {
        "PIL": picture(3),
        "PIL list": [picture(3), picture(3)],
        "array (H, W, C)": array,
        "array (C, H, W)": array.transpose(2, 0, 1),
        "tensor (H, W, C)": tensor,
        "tensor (C, H, W)": tensor.permute(2, 0, 1),
        "tensor (N, C, H, W)": tensor.permute(2, 0, 1)[None],
        "float array": array / 255,
        "float tensor": tensor.permute(2, 0, 1) / 255,
        "int32 array": array.astype(np.int32),
        "several sizes": [picture(1), picture(2)],
        "arrays and PIL": [array, picture(3)],
    }


@pytest.mark.parametrize("name", kinds_of_pictures())
def test_pictures_of_every_kind_have_the_pixels_of_transformers(name):
    images = kinds_of_pictures()[name]
    expected = pixels(ConvNextImageProcessor(**GIVEN), images)
    assert_same(pixels(ConvNeXtImageProcessor(**GIVEN), images), expected)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_a_picture_of_any_mode_is_taken_as_rgb_where_that_is_asked_for(mode):
    image = picture(3).convert(mode)
    options = {**GIVEN, "do_convert_rgb": True}
    expected = pixels(ConvNextImageProcessor(**options), image)
    assert_same(pixels(ConvNeXtImageProcessor(**options), image), expected)


def test_one_channel_needs_one_number():
    grey = np.asarray(picture(3).convert("L"))[..., None]
    options = {**GIVEN, "image_mean": [0.5], "image_std": [0.5]}
    expected = pixels(ConvNextImageProcessor(**options), grey)
    assert expected.shape == (1, 1, 64, 64)
    assert_same(pixels(ConvNeXtImageProcessor(**options), grey), expected)


def test_a_file_is_read_by_its_path(tmp_path):
    picture(3).save(tmp_path / "a.png")
    ours = ConvNeXtImageProcessor(**GIVEN)
    assert_same(pixels(ours, str(tmp_path / "a.png")), pixels(ours, picture(3)))


def test_the_layout_of_an_ambiguous_array_is_said():
    array = np.random.default_rng(0).integers(0, 256, (3, 40, 3), dtype=np.uint8)
    for layout in ("channels_first", "channels_last"):
        options = {**GIVEN, "size": 16, "do_center_crop": True, "crop_size": 8}
        expected = pixels(ConvNextImageProcessor(**options), array, input_data_format=layout)
        ours = pixels(ConvNeXtImageProcessor(**options), array, input_data_format=layout)
        assert_same(ours, expected)


def test_results_are_tensors_arrays_or_a_list_in_either_layout():
    ours = ConvNeXtImageProcessor(**GIVEN)
    expected = pixels(ours, [picture(1), picture(2)])
    arrays = ours([picture(1), picture(2)], return_tensors="np")
    assert isinstance(arrays, BatchFeature)
    assert isinstance(arrays["pixel_values"], np.ndarray)
    assert np.array_equal(arrays.pixel_values, expected)
    several = ours([picture(1), picture(2)], do_resize=False).pixel_values
    assert isinstance(several, list)
    assert [tuple(x.shape[1:]) for x in several] == [picture(k).size[::-1] for k in (1, 2)]
    last = pixels(ours, [picture(1), picture(2)], data_format="channels_last")
    assert torch.equal(last, expected.permute(0, 2, 3, 1))


def test_a_height_and_a_width_are_warped_to():
    ours = pixels(ConvNeXtImageProcessor(**GIVEN), picture(3), size={"height": 40, "width": 70})
    transform = EvaluationTransform(40, warp=True, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4))
    assert ours.shape == (1, 3, 40, 70)
    square = pixels(ConvNeXtImageProcessor(**GIVEN), picture(3), size={"height": 40, "width": 40})
    assert_same(square[0], transform(picture(3)), within=1e-5)


def test_pictures_are_padded_right_and_below():
    ours = ConvNeXtImageProcessor(**GIVEN, do_resize=False, do_pad=True)
    images = [picture(1), picture(2)]
    alone = ours(images, do_pad=False).pixel_values
    for options in ({}, {"pad_size": {"height": 450, "width": 500}}):
        together = pixels(ours, images, **options)
        if options:
            assert together.shape == (2, 3, 450, 500)
        for padded, image in zip(together, alone, strict=True):
            _, height, width = image.shape
            assert torch.equal(padded[:, :height, :width], image)
            assert padded[:, height:].abs().sum() == padded[:, :, width:].abs().sum() == 0


# ---- files


@pytest.mark.parametrize("options", OPTIONS[:15], ids=str)
def test_a_file_of_transformers_gives_its_pixels_and_ours_is_read_again(tmp_path, options):
    peer = ConvNextImageProcessor(**{**GIVEN, **options})
    peer.save_pretrained(tmp_path / "a")
    ours = ConvNeXtImageProcessor.from_pretrained(tmp_path / "a")
    assert_same(pixels(ours, picture(3)), pixels(peer, picture(3)))
    ours.save_pretrained(tmp_path / "b")
    again = ConvNeXtImageProcessor.from_pretrained(tmp_path / "b")
    assert again.to_dict() == ours.to_dict()
    theirs = {**peer.to_dict(), "image_processor_type": "ConvNeXtImageProcessor"}
    assert again.to_dict() == theirs
    assert_same(pixels(again, picture(3)), pixels(peer, picture(3)))


def test_a_file_of_the_first_versions_is_read(tmp_path):
    """As facebook/convnext-tiny-224 has it."""
    file = {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "do_normalize": True,
            "do_resize": True, "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
            "resample": 3, "size": 224}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(file))
    ours = ConvNeXtImageProcessor.from_pretrained(tmp_path)
    assert_same(pixels(ours, picture(3))[0], EvaluationTransform()(picture(3)), within=1e-5)


def test_options_of_from_pretrained_win():
    ours = ConvNeXtImageProcessor.from_pretrained("convnext_tiny.fb_in1k", crop_pct=1.0, size=96)
    assert (ours.crop_pct, ours.size.shortest_edge) == (1.0, 96)


@pytest.mark.parametrize("name", [
    "convnextv2_tiny.fcmae_ft_in1k", "facebook/convnext-base-384", "convnext_tiny.tv_in1k",
    "convnext_nano.r384_in12k", "convnext_base.clip_laion2b_augreg_ft_in1k", "convnext_tiny.in12k_ft_in1k_384",
])  # fmt: skip
def test_a_name_of_the_catalogue_gives_the_pixels_of_its_evaluation(tmp_path, name):
    weights = next(w for w in CATALOGUE.values() if name in (w.name, *w.aliases))
    expected = EvaluationTransform(**weights.preprocessing)(picture(3))
    ours = ConvNeXtImageProcessor.from_pretrained(name)
    assert_same(pixels(ours, picture(3))[0], expected, within=1e-5)
    ours.save_pretrained(tmp_path)
    for read in (ConvNeXtImageProcessor.from_pretrained, AutoImageProcessor.from_pretrained):
        assert type(read(tmp_path)) is ConvNeXtImageProcessor
        assert torch.equal(pixels(read(tmp_path), picture(3)), pixels(ours, picture(3)))
    own = EvaluationTransform(**read_preprocessor_config(tmp_path / "preprocessor_config.json"))
    assert_same(own(picture(3)), expected, within=1e-5)


def test_auto_image_processor_is_ours_beside_our_config(tmp_path):
    ConvNeXtConfig(depths=[1, 1], hidden_sizes=[8, 8]).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 96}))
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is ConvNeXtImageProcessor


# ---- what cannot be taken


def test_every_option_has_a_meaning_or_a_reason():
    assert set(_OPTIONS) == set(_MEANING) | set(_NONE_HERE)


WRONG = [
    ({"do_flip": True}, "do_flip=True is no option of ConvNeXtImageProcessor"),
    ({"crop_pc": 0.9}, "crop_pc=0.9 is no option.*did you mean 'crop_pct'"),
    ({"image_seq_length": 5}, "image_seq_length=5: it counts the tokens"),
    ({"do_resize": "yes"}, "do_resize='yes'; do_resize is True or False"),
    ({"do_normalize": 1}, "do_normalize=1; do_normalize is True or False"),
    ({"size": 0}, "size=0; size is a number of pixels"),
    ({"size": "224"}, "size='224'; size is"),
    ({"size": {"longest_edge": 224}}, "size={'longest_edge': 224}"),
    ({"size": {"shortest_edge": 224, "longest_edge": 300}}, "size={'shortest_edge'"),
    ({"size": {"height": 224}}, "size={'height': 224}"),
    ({"size": [224]}, r"size=\[224\]"),
    ({"size": 224.0}, "size=224.0"),
    ({"crop_size": {"shortest_edge": 224}}, "crop_size={'shortest_edge': 224}"),
    ({"crop_pct": 0}, "crop_pct=0; crop_pct is a number above 0"),
    ({"resample": 6}, "resample=6; resample is a filter of Pillow: 0 nearest-exact, 1 lanczos"),
    ({"resample": "bicubic"}, "resample='bicubic'"),
    ({"resample": True}, "resample=True"),
    ({"resample": InterpolationMode.NEAREST}, "resample=<InterpolationMode.NEAREST"),
    ({"rescale_factor": 0}, "rescale_factor=0"),
    ({"rescale_factor": "1/255"}, "rescale_factor='1/255'"),
    ({"image_mean": "imagenet"}, "image_mean='imagenet'; image_mean is a number, or one for"),
    ({"image_mean": [0.5, "a"]}, "image_mean="),
    ({"image_mean": float("nan")}, "image_mean=nan"),
    ({"image_std": 0}, "image_std=0; image_std is a number above 0"),
    ({"image_std": [1, 0, 1]}, r"image_std=\[1, 0, 1\]"),
    ({"data_format": "NCHW"}, "data_format='NCHW'; data_format is one of channels_first, channels_last"),
    ({"input_data_format": 3}, "input_data_format=3"),
    ({"return_tensors": "tf"}, "return_tensors='tf'; return_tensors is 'pt', 'np', or None"),
    ({"device": "gpu"}, "device='gpu'"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "sentence"), WRONG, ids=str)
def test_a_wrong_option_is_a_sentence_wherever_it_is_given(tmp_path, options, sentence):
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(GIVEN))
    with pytest.raises(UserError, match=sentence):
        ConvNeXtImageProcessor(**{**GIVEN, **options})
    with pytest.raises(UserError, match=sentence):
        ConvNeXtImageProcessor(**GIVEN)(picture(3), **options)
    with pytest.raises(UserError, match=sentence):
        ConvNeXtImageProcessor.from_pretrained(tmp_path, **options)


@pytest.mark.parametrize(
    ("images", "options", "sentence"),
    [
        (lambda: None, {}, "pictures are PIL images, arrays or tensors .* got a NoneType"),
        (lambda: 3, {}, "got a int"),
        (lambda: "nofile.jpg", {}, "got 'nofile.jpg'"),
        (list, {}, "there are no pictures in the list"),
        (lambda: np.zeros((40, 50, 7)), {}, r"shape \(40, 50, 7\) cannot be read .* say which"),
        (lambda: picture(3).convert("L"), {}, "has 1 channels.*3 numbers; give do_convert_rgb=True"),
        (lambda: picture(3).convert("RGBA"), {}, "has 4 channels"),
        (lambda: picture(3), {"image_mean": [0.5] * 4}, "must be of equal length"),
        (lambda: picture(3), {"do_center_crop": True}, "do_center_crop is on, and crop_size is not given"),
        (lambda: [picture(1), picture(2)], {"do_resize": False}, "make no batch; give do_resize"),
        (lambda: picture(3), {"do_pad": True, "pad_size": 20}, "pad_size is 20x20, and a picture 64x64"),
    ],
)  # fmt: skip
def test_a_wrong_picture_is_a_sentence(images, options, sentence):
    with pytest.raises(UserError, match=sentence):
        pixels(ConvNeXtImageProcessor(**GIVEN), images(), **options)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", "no preprocessor_config.json could be read"),
        ("[1]", "is no JSON object"),
        ({"image_processor_type": "ViTImageProcessor"}, "'ViTImageProcessor', and a ConvNeXt's is one of"),
        ({**GIVEN, "do_thumbnail": True}, "do_thumbnail=True is no option"),
    ],
    ids=str,
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path, content, sentence):
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "preprocessor_config.json").write_text(text)
    with pytest.raises(UserError, match=sentence):
        ConvNeXtImageProcessor.from_pretrained(tmp_path)


def test_a_name_that_nobody_knows_is_a_sentence(tmp_path):
    for name in (tmp_path, "/no/such/folder"):
        with pytest.raises(UserError, match=r"no preprocessor_config\.json could be read"):
            ConvNeXtImageProcessor.from_pretrained(name, local_files_only=True)
    with pytest.raises(UserError, match="is no classifier"):
        ConvNeXtImageProcessor.from_pretrained("convnext_tiny.fb_in1k_mask_rcnn_3x_coco")
