"""The table of variants and the reading of `arch`."""

import re

import pytest
import torch
from fvcore.nn import FlopCountAnalysis
from torch.utils.flop_counter import FlopCounterMode

from convnext_backbones import VARIANTS, create_classifier
from convnext_backbones.network.variants import get_variant, nearest, resolve_arch

PUBLISHED = [v for v in VARIANTS.values() if v.published_gflops_224 is not None]
# Official READMEs print one decimal (V1 and large V2) or two (small V2).
ROUNDED = {v.name: len(str(v.published_gflops_224).partition(".")[2]) for v in PUBLISHED}
# Counted by fvcore, which adds 5 operations per element of a LayerNorm: 4.47, where convolutions
# and matrix products alone are 4.46. Every other figure is the latter.
COUNTED_WITH_NORMS = ["convnextv2_tiny"]


def classifier_and_images(name):
    with torch.device("meta"):
        return create_classifier(name).eval(), torch.empty(1, 3, 224, 224)


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_classifier_has_the_published_number_of_parameters(variant):
    model, _ = classifier_and_images(variant.name)
    assert sum(p.numel() for p in model.parameters()) == variant.classifier_params


@pytest.mark.parametrize("variant", PUBLISHED, ids=lambda v: v.name)
def test_multiply_accumulates_equal_the_published_rounding(variant):
    model, images = classifier_and_images(variant.name)
    with FlopCounterMode(display=False) as counter:
        model(images)
    gmacs = counter.get_total_flops() / 2e9  # two operations per multiply-accumulate
    if variant.name in COUNTED_WITH_NORMS:
        # fvcore traces, which the meta device does not bear.
        analysis = FlopCountAnalysis(create_classifier(variant.name), torch.ones(1, 3, 224, 224))
        counts = analysis.unsupported_ops_warnings(False).by_operator()
        assert (counts["conv"] + counts["linear"]) / 1e9 == pytest.approx(gmacs, rel=1e-12)
        gmacs = analysis.total() / 1e9
    assert round(gmacs, ROUNDED[variant.name]) == variant.published_gflops_224


V1, V2, TIMM = (
    "facebookresearch/ConvNeXt README",
    "facebookresearch/ConvNeXt-V2 README",
    "timm 1.0.31",
)
# The papers' and READMEs' figures; timm's sizes where they have no model.
# name, version, size, depths, dims, parameters, GFLOPs at 224, top-1 at 224
EXPECTED = (
    ("convnext_atto", 1, "atto", (2, 2, 6, 2), (40, 80, 160, 320), 3695520, None, None, TIMM),
    ("convnext_femto", 1, "femto", (2, 2, 6, 2), (48, 96, 192, 384), 5217784, None, None, TIMM),
    ("convnext_pico", 1, "pico", (2, 2, 6, 2), (64, 128, 256, 512), 9045672, None, None, TIMM),
    ("convnext_nano", 1, "nano", (2, 2, 8, 2), (80, 160, 320, 640), 15593560, None, None, TIMM),
    ("convnext_tiny", 1, "tiny", (3, 3, 9, 3), (96, 192, 384, 768), 28589128, 4.5, 82.1, V1),
    ("convnext_small", 1, "small", (3, 3, 27, 3), (96, 192, 384, 768), 50223688, 8.7, 83.1, V1),
    ("convnext_base", 1, "base", (3, 3, 27, 3), (128, 256, 512, 1024), 88591464, 15.4, 83.8, V1),
    ("convnext_large", 1, "large", (3, 3, 27, 3), (192, 384, 768, 1536), 197767336, 34.4, 84.3, V1),
    ("convnext_xlarge", 1, "xlarge", (3, 3, 27, 3), (256, 512, 1024, 2048), 350196968, 60.9, None, V1),
    ("convnextv2_atto", 2, "atto", (2, 2, 6, 2), (40, 80, 160, 320), 3708400, 0.55, 76.7, V2),
    ("convnextv2_femto", 2, "femto", (2, 2, 6, 2), (48, 96, 192, 384), 5233240, 0.78, 78.5, V2),
    ("convnextv2_pico", 2, "pico", (2, 2, 6, 2), (64, 128, 256, 512), 9066280, 1.37, 80.3, V2),
    ("convnextv2_nano", 2, "nano", (2, 2, 8, 2), (80, 160, 320, 640), 15623800, 2.45, 81.9, V2),
    ("convnextv2_tiny", 2, "tiny", (3, 3, 9, 3), (96, 192, 384, 768), 28635496, 4.47, 83.0, V2),
    ("convnextv2_base", 2, "base", (3, 3, 27, 3), (128, 256, 512, 1024), 88717800, 15.4, 84.9, V2),
    ("convnextv2_large", 2, "large", (3, 3, 27, 3), (192, 384, 768, 1536), 197956840, 34.4, 85.8, V2),
    ("convnextv2_huge", 2, "huge", (3, 3, 27, 3), (352, 704, 1408, 2816), 660289640, 115, 86.3, V2),
)  # fmt: skip


@pytest.mark.parametrize("row", EXPECTED, ids=lambda row: row[0])
def test_a_variant_is_as_published(row):
    assert len(VARIANTS) == len(EXPECTED)
    *figures, source = row
    variant = VARIANTS[row[0]]
    assert list(variant[:-1]) == figures
    assert variant.source.startswith(source)


def test_table_cannot_be_changed():
    with pytest.raises(TypeError):
        VARIANTS["convnext_tiny"] = None


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("convnextv2_tinny", "convnextv2_tiny"),
        ("ConvNeXt_Tiny", "convnext_tiny"),
        ("convnext-base", "convnext_base"),
        ("convnextv2_hug", "convnextv2_huge"),
    ],
)
def test_unknown_variant_names_the_nearest_and_all(wrong, right):
    message = f"unknown variant '{wrong}'; did you mean '{right}'"
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        get_variant(wrong)
    assert all(repr(name) in str(error.value) for name in VARIANTS)


def test_a_name_of_weights_is_told_where_it_goes():
    words = r"did you mean 'convnextv2_tiny', with pretrained='convnextv2_tiny\.fcmae_ft_in1k'\?"
    with pytest.raises(ValueError, match=words):
        get_variant("convnextv2_tiny.fcmae_ft_in1k")


@pytest.mark.parametrize("wrong", [None, 3, ["convnext_tiny"], "", "resnet50"], ids=repr)
def test_what_is_no_variant_name_is_refused_with_the_valid_ones(wrong):
    with pytest.raises(ValueError, match=r"unknown variant .*'convnext_atto'"):
        get_variant(wrong)


@pytest.mark.parametrize("version", [1, 2])
def test_every_size_resolves_to_its_row(version):
    for variant in VARIANTS.values():
        if variant.version == version:
            assert resolve_arch(variant.size, version) == (variant.depths, variant.dims)


@pytest.mark.parametrize("key", ["dims", "channels"])
def test_arch_dict_resolves_and_is_left_as_it_was(key):
    arch = {"depths": [1, 2, 3], key: [8, 16, 32]}
    assert resolve_arch(arch, 1) == ((1, 2, 3), (8, 16, 32))
    assert arch == {"depths": [1, 2, 3], key: [8, 16, 32]}


@pytest.mark.parametrize(
    ("arch", "version", "right"),
    [
        ("tinny", 1, "tiny"),
        ("Base", 2, "base"),
        ("convnext_tiny", 1, "tiny"),
        ("convnextv2_large", 2, "large"),
        ("xlarge", 2, "large"),
    ],
)
def test_unknown_size_names_the_nearest(arch, version, right):
    with pytest.raises(ValueError, match=f"unknown arch '{arch}'.* did you mean '{right}'"):
        resolve_arch(arch, version)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"depths": (1, 2), "dims": (8,)}, "one per stage"),
        ({"depths": (), "dims": ()}, "one per stage"),
        ({"depths": (1, 0), "dims": (8, 16)}, "positive whole numbers"),
        ({"depths": (1, -1), "dims": (8, 16)}, "positive whole numbers"),
        ({"depths": (1, 1.0), "dims": (8, 16)}, "positive whole numbers"),
        ({"depths": (1, True), "dims": (8, 16)}, "positive whole numbers"),
        ({"depths": 3, "dims": (8, 16)}, "must be lists"),
        ({"depths": (1, 1), "dims": None}, "must be lists"),
        ({"depths": "33", "dims": (8, 16)}, "must be lists"),
        ({"depths": (1, 1)}, "keys depths and dims, got .'depths'."),
        ({"depths": (1,), "dims": (8,), "width": 1}, "keys depths and dims, got .*width"),
    ],
    ids=repr,
)
def test_wrong_arch_dict_is_refused(arch, message):
    with pytest.raises(ValueError, match=message):
        resolve_arch(arch, 1)


@pytest.mark.parametrize("arch", [None, 4, ("tiny",), ["tiny"]], ids=repr)
def test_arch_of_another_type_is_refused(arch):
    with pytest.raises(TypeError, match="a size name such as 'tiny' or dict"):
        resolve_arch(arch, 2)


def test_nearest_gives_no_hint_for_what_is_like_nothing():
    assert nearest("qqq", ["tiny", "base"]) == "Valid: 'tiny', 'base'"
    assert nearest("TINY", ["tiny", "base"]).startswith("did you mean 'tiny'? ")


def test_the_nearest_word_is_found_whatever_its_case():
    assert nearest("drop_path", ["DROP_PATH_RATE", "ARCH"]).startswith(
        "did you mean 'DROP_PATH_RATE'?"
    )
    assert nearest("Tiny", ["tiny", "base"]).startswith("did you mean 'tiny'?")
    assert nearest("zzz", ["tiny"]) == "Valid: 'tiny'"
