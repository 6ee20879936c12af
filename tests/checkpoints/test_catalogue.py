"""The table of published weights, against the installed timm and torchvision and our own tables."""

import re

import numpy as np
import pytest
import timm
import torch
import torchvision.models
from PIL import Image
from timm.data import create_transform

from convnext_backbones import VARIANTS, ConvNeXtClassifier
from convnext_backbones.checkpoints.catalogue import CATALOGUE, find_weights, nearest_names
from convnext_backbones.network.preprocessing import EvaluationTransform

ROWS = list(CATALOGUE.values())
IN_TIMM = [weights for weights in ROWS if f"timm/{weights.name}" in weights.aliases]
OF_TORCHVISION = [weights for weights in ROWS if weights.name.endswith(".tv_in1k")]
NOT_OUR_NETWORKS = re.compile(r"_(ols|hnf|mlp|rms)|xxlarge|^test_")  # other stems, heads and sizes


def name_of(weights) -> str:
    return weights.name


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def test_no_two_rows_share_a_name():
    names = [name for w in ROWS for name in (w.name, w.url, *w.aliases)]
    assert len(names) == len(set(names))
    assert len({w.filename for w in ROWS}) == len(ROWS)
    assert all(CATALOGUE[name].name == name for name in CATALOGUE)


@pytest.mark.parametrize("weights", ROWS, ids=name_of)
def test_every_name_of_a_row_finds_it(weights):
    for name in (weights.name, weights.url, weights.filename, *weights.aliases):
        assert find_weights(name) is weights
    assert find_weights(f"/some/folder/{weights.filename}") is weights


@pytest.mark.parametrize("weights", ROWS, ids=name_of)
def test_a_row_is_complete(weights):
    network = weights.name.split(".")[0]
    assert weights.variant == (None if "_iso_" in network else network)
    assert weights.variant is None or weights.variant in VARIANTS
    assert weights.url.startswith("https://")
    assert weights.training_data
    assert weights.licence
    assert weights.top1 is None or weights.num_classes == 1000
    assert (weights.ema is True) == ("_ema." in weights.url)
    if weights.sha256:
        assert re.fullmatch("[0-9a-f]{8,64}", weights.sha256)
        assert weights.sha256 in weights.url
    if weights.preprocessing:
        assert EvaluationTransform(**weights.preprocessing).image_size == weights.resolution
    else:
        assert weights.task in ("coco", "ade20k")


def test_the_official_families_are_counted_as_in_their_readmes():
    def count(pattern):
        return sum(bool(re.search(pattern, w.url)) for w in ROWS)

    assert count(r"convnext/convnext_(tiny|small|base|large)_1k_\d+(_ema)?\.pth") == 6 + 3
    assert count(r"convnext/convnext_\w+_22k_224\.pth") == 5
    assert count(r"convnext/convnext_\w+_22k_1k_\d+") == 10
    assert count(r"convnext/convnext_iso_") == 3
    assert count(r"pt_only/") == 8
    assert count(r"im1k/") == 8
    assert count(r"im22k/") == 10
    assert count(r"/coco/") == 7
    assert count(r"/ade20k/") == 6


def test_the_accuracies_are_those_of_the_variants():
    found = {}
    for weights in ROWS:
        if re.search(r"\.(fb_in1k|fcmae_ft_in1k)$", weights.name) and weights.variant:
            found[weights.variant] = weights.top1
    expected = {v.name: v.published_in1k_top1 for v in VARIANTS.values() if v.published_in1k_top1}
    assert found == expected


@pytest.mark.parametrize("weights", ROWS, ids=name_of)
def test_the_licence_is_the_publishers(weights):
    if "convnextv2" in weights.name:
        assert weights.licence == "CC-BY-NC-4.0"
    elif "fbaipublicfiles" in weights.url:
        assert weights.licence == "MIT"
    elif weights in IN_TIMM:
        licence = timm.get_pretrained_cfg(weights.name).license
        assert weights.licence.lower() == licence.lower()


@pytest.mark.parametrize("weights", IN_TIMM, ids=name_of)
def test_a_row_agrees_with_timm(weights):
    config = timm.get_pretrained_cfg(weights.name, allow_unregistered=False)
    assert config.hf_hub_id == f"timm/{weights.name}"
    assert config.input_size == (3, weights.resolution, weights.resolution)
    assert config.num_classes == weights.num_classes
    if config.url:
        assert weights.url == config.url or config.url.rsplit("/", 1)[1] in weights.aliases
    else:
        assert weights.url.endswith(f"/timm/{weights.name}/resolve/main/model.safetensors")
    ours = EvaluationTransform(**weights.preprocessing)
    assert (ours.mean, ours.std) == (list(config.mean), list(config.std))
    assert ours.interpolation.value == config.interpolation
    assert ours.warp == (config.crop_mode == "squash")
    if not ours.warp:
        assert ours.crop_pct == config.crop_pct


def test_every_tag_of_timm_that_fits_our_networks_has_a_row():
    tags = {tag for tag in timm.list_pretrained("convnext*") if not NOT_OUR_NETWORKS.search(tag)}
    assert tags == {weights.name for weights in IN_TIMM}


@pytest.mark.parametrize("variant", sorted({weights.variant for weights in IN_TIMM}))
def test_timms_networks_have_our_parameters(variant):
    with torch.device("meta"):
        theirs = timm.create_model(variant)
        ours = ConvNeXtClassifier(VARIANTS[variant].size, version=VARIANTS[variant].version)
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, theirs)]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("weights", OF_TORCHVISION, ids=name_of)
def test_a_row_agrees_with_torchvision(weights):
    (name,) = [alias for alias in weights.aliases if alias.startswith("ConvNeXt_")]
    theirs = torchvision.models.get_weight(name)
    assert theirs.url == weights.url
    assert theirs.meta["_metrics"]["ImageNet-1K"]["acc@1"] == weights.top1
    assert len(theirs.meta["categories"]) == weights.num_classes
    transform, ours = theirs.transforms(), EvaluationTransform(**weights.preprocessing)
    assert transform.crop_size == [ours.image_size]
    assert transform.resize_size == [int(ours.image_size / ours.crop_pct)]
    assert (transform.mean, transform.std) == (ours.mean, ours.std)
    assert transform.interpolation == ours.interpolation


def test_every_torchvision_file_has_a_row():
    enums = torchvision.models.list_models(include="convnext_*")
    urls = {w.url for name in enums for w in torchvision.models.get_model_weights(name)}
    assert urls == {weights.url for weights in OF_TORCHVISION}


@pytest.mark.parametrize(
    "name",
    [
        "convnext_atto.d2_in1k",
        "convnext_base.clip_laion2b",
        "convnext_tiny.in12k_ft_in1k_384",
        "convnext_nano.r384_in12k_ft_in1k",
    ],
)
def test_the_preprocessing_gives_timms_pixels(name):
    config = timm.get_pretrained_cfg(name)
    theirs = create_transform(
        config.input_size, mean=config.mean, std=config.std, crop_pct=config.crop_pct,
        interpolation=config.interpolation, crop_mode=config.crop_mode,
    )  # fmt: skip
    ours = EvaluationTransform(**CATALOGUE[name].preprocessing)
    image = picture(480, 360)  # gives even borders: the two round half pixels differently
    difference = (ours(image) - theirs(image)).abs().mean() * min(config.std) * 255
    assert difference < 1, f"{difference} grey levels of 255"


def test_the_preprocessing_gives_torchvisions_pixels():
    weights = CATALOGUE["convnext_tiny.tv_in1k"]
    theirs = torchvision.models.get_weight("ConvNeXt_Tiny_Weights.IMAGENET1K_V1").transforms()
    image = picture(472, 472)
    difference = EvaluationTransform(**weights.preprocessing)(image) - theirs(image)
    assert difference.abs().mean() * 0.225 * 255 < 1


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("facebook/convnext-large-384-22k-1k", "convnext_large.fb_in22k_ft_in1k_384"),
        ("facebook/convnextv2-nano-22k-384", "convnextv2_nano.fcmae_ft_in22k_in1k_384"),
        ("facebook/convnext-tiny-224-22k", None),  # Hugging Face has no such repository
        ("convnext_tiny_1k_224_ema.pth", "convnext_tiny.fb_in1k"),
        ("https://mirror/x/convnext_tiny_1k_224.pth?a=b#c", "convnext_tiny.fb_in1k_no_ema"),
        ("https://huggingface.co/facebook/convnext-base-384/resolve/main/pytorch_model.bin",
         "convnext_base.fb_in1k_384"),
        ("https://huggingface.co/timm/convnext_pico.d1_in1k/resolve/main/model.safetensors",
         "convnext_pico.d1_in1k"),
        ("https://huggingface.co/someone/convnext/resolve/main/model.safetensors", None),
        ("ConvNeXt_Base_Weights.IMAGENET1K_V1", "convnext_base.tv_in1k"),
        ("runs/convnext-tiny-finetuned.pth", None),
        ("convnext_tiny", None),  # several files
    ],
)  # fmt: skip
def test_names_of_other_places_are_known(name, row):
    found = find_weights(name)
    assert (found and found.name) == row


def test_the_nearest_names_are_told():
    assert nearest_names("convnextv2_tiny") == [
        "convnextv2_tiny.fcmae",
        "convnextv2_tiny.fcmae_ft_in1k",
        "convnextv2_tiny.fcmae_ft_in22k_in1k",
        "convnextv2_tiny.fcmae_ft_in22k_in1k_384",
    ]
    assert nearest_names("convnext_smal.fb_in22k")[0] == "convnext_small.fb_in22k"
    assert nearest_names("facebook/convnext-tini-224")[0] == "facebook/convnext-tiny-224"
    assert nearest_names("resnet50") == []
