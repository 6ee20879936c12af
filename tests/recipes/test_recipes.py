"""The table of recipes: what is published, what follows from it, and how it is read."""

import json

import pytest

from convnext_backbones.checkpoints.catalogue import CATALOGUE
from convnext_backbones.network.variants import VARIANTS
from convnext_backbones.recipes import (
    COUNTED,
    METHODS,
    PROTOCOLS,
    RECIPES,
    get_recipe,
    iterations,
    iterations_per_epoch,
    layer_scales,
    learning_rate,
    protocol_of,
    recipe_of,
)
from convnext_backbones.recipes.layer_decay import num_layers

ROWS = list(RECIPES.values())

# facebookresearch/ConvNeXt: README and configs of object_detection and semantic_segmentation.
# name, lr, layer decay, drop path, num_layers, scores, million parameters, GFLOPs
OFFICIAL = (
    ("coco_mask_rcnn_convnext_t", 1e-4, 0.95, 0.4, 6, (46.2, 41.7), 48, 262),
    ("coco_cascade_mask_rcnn_convnext_t", 2e-4, 0.7, 0.4, 6, (50.4, 43.7), 86, 741),
    ("coco_cascade_mask_rcnn_convnext_s", 2e-4, 0.7, 0.6, 12, (51.9, 45.0), 108, 827),
    ("coco_cascade_mask_rcnn_convnext_b", 2e-4, 0.8, 0.7, 12, (52.7, 45.6), 146, 964),
    ("coco_cascade_mask_rcnn_convnext_b_22k", 1e-4, 0.8, 0.6, 12, (54.0, 46.9), 146, 964),
    ("coco_cascade_mask_rcnn_convnext_l_22k", 1e-4, 0.7, 0.7, 12, (54.8, 47.6), 255, 1354),
    ("coco_cascade_mask_rcnn_convnext_xl_22k", 1e-4, 0.7, 0.8, 12, (55.2, 47.7), 407, 1898),
    ("ade20k_upernet_convnext_t", 1e-4, 0.9, 0.4, 6, (46.0, 46.7), 60, 939),
    ("ade20k_upernet_convnext_s", 1e-4, 0.9, 0.3, 12, (48.7, 49.6), 82, 1027),
    ("ade20k_upernet_convnext_b", 1e-4, 0.9, 0.4, 12, (49.1, 49.9), 122, 1170),
    ("ade20k_upernet_convnext_b_22k", 1e-4, 0.9, 0.4, 12, (52.6, 53.1), 122, 1828),
    ("ade20k_upernet_convnext_l_22k", 1e-4, 0.9, 0.4, 12, (53.2, 53.7), 235, 2458),
    ("ade20k_upernet_convnext_xl_22k", 8e-5, 0.9, 0.4, 12, (53.6, 54.0), 391, 3335),
)


@pytest.mark.parametrize("row", OFFICIAL, ids=lambda row: row[0])
def test_the_official_recipes_stand_as_published(row):
    name, lr, decay, drop_path, layers, scores, params, gflops = row
    recipe = RECIPES[name]
    coco = name.startswith("coco")
    assert (recipe.lr, recipe.layer_decay, recipe.drop_path) == (lr, decay, drop_path)
    assert recipe.decay_type == ("layer_wise" if coco else "stage_wise")
    assert num_layers(VARIANTS[recipe.variant].depths) == layers
    found = (recipe.box_ap, recipe.mask_ap) if coco else (recipe.miou, recipe.miou_multiscale)
    assert found == scores
    assert (recipe.params, recipe.gflops) == (params, gflops)
    assert recipe.status == "published"
    weights = CATALOGUE[recipe.init]
    assert weights.training_data == ("ImageNet-22K" if name.endswith("22k") else "ImageNet-1K")
    assert weights.ema is False
    large = recipe.variant in ("convnext_large", "convnext_xlarge")
    assert recipe.amp != large  # use_fp16 in the official configs
    crop = PROTOCOLS[recipe.protocol].crop_size
    assert crop == (None if coco else (640, 640) if name.endswith("22k") else (512, 512))


def test_the_one_published_recipe_of_version_2_is_mmdetections():
    recipe = RECIPES["coco_mask_rcnn_convnextv2_b"]
    protocol = PROTOCOLS[recipe.protocol]
    assert (recipe.lr, recipe.layer_decay, recipe.drop_path) == (1e-4, 0.95, 0.4)
    assert (recipe.box_ap, recipe.mask_ap, recipe.memory_gb) == (52.9, 46.4, 22.5)
    assert (protocol.batch, protocol.epochs, protocol.milestones) == (32, 36, (27, 33))
    assert (protocol.ratio_range, protocol.crop_size) == ((0.1, 2.0), (1024, 1024))
    assert recipe.init == "convnextv2_base.fcmae"


@pytest.mark.parametrize(
    ("prefix", "sizes"),
    [
        ("coco_mask_rcnn_convnextv2", 8),
        ("coco_cascade_mask_rcnn_convnextv2", 8),
        ("ade20k_upernet_convnextv2", 8),
    ],
)
def test_version_2_has_every_size(prefix, sizes):
    variants = {row.variant for row in ROWS if row.name.startswith(prefix)}
    assert variants == {v.name for v in VARIANTS.values() if v.version == 2}
    assert len(variants) == sizes


@pytest.mark.parametrize("row", [r for r in ROWS if "v2" in r.variant], ids=lambda r: r.name)
def test_version_2s_figures_lie_in_the_papers_sweeps(row):
    """COCO's sweep begins at drop path 0.2, for Base and larger; smaller networks get less."""
    small = row.variant.split("_")[1] in ("atto", "femto", "pico", "nano")
    if row.method in ("mask_rcnn", "cascade_mask_rcnn"):
        assert row.layer_decay in (0.9, 0.95)
        assert row.lr == 1e-4
        assert 0.2 <= row.drop_path <= 0.5 or (small and row.drop_path == 0.1)
        assert row.init.endswith(".fcmae")
    elif row.method in ("upernet", "sem_seg_fpn"):
        assert row.layer_decay in (0.8, 0.9)
        assert row.lr in (1e-4, 2e-4, 3e-4)
        assert 0.1 <= row.drop_path <= 0.4
        assert ".fcmae_ft" in row.init


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_a_row_is_complete(row):
    assert RECIPES[row.name] is row
    weights = CATALOGUE[row.init]
    assert weights.variant == row.variant
    assert row.name.endswith("_22k") == ("in22k" in row.init)
    assert row.method in METHODS
    protocol = PROTOCOLS[row.protocol]
    assert row.name.startswith(f"{protocol.dataset}_{row.method}_")
    assert protocol.batch % protocol.gpus == 0
    assert row.status in ("published", "reproduced", "untested")
    assert row.source
    assert bool(row.measured) == (row.status == "reproduced")
    if row.status != "untested":
        assert row.box_ap or row.miou
    assert (row.name in COUNTED) == ("openmmlab" in METHODS[row.method].hosts)


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_config_reads_is_plain(name):
    read = recipe_of(name)
    json.dumps(read)  # numbers, texts and lists only: a config can be written down again
    assert read["name"] == name
    assert read["images_per_gpu"] * read["gpus"] == read["batch"]
    assert len(read["dims"]) == 4


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'coco_mask_rcnn_convnextv2_t'"):
        get_recipe("coco_mask_rcnn_convnextv2_tiny")
    with pytest.raises(ValueError, match="there is no protocol 'coco_4x'"):
        protocol_of("coco_4x")


def test_the_schedules_have_the_published_lengths():
    """117266 pictures with objects, 118287 in all, 20210 of ADE20K."""
    assert iterations_per_epoch(PROTOCOLS["coco_3x"]) == 7330
    assert iterations(PROTOCOLS["coco_3x"]) == 36 * 7330
    assert iterations(PROTOCOLS["coco_lsj_3x"]) == 36 * 3665
    assert iterations(PROTOCOLS["coco_dino_12e"]) == 12 * 7393
    assert iterations(PROTOCOLS["coco_rtmdet_100e"]) == 100 * 917
    assert iterations(PROTOCOLS["ade20k_160k"]) == 160_000


def test_the_learning_rate_at_the_published_points():
    coco, ade = RECIPES["coco_mask_rcnn_convnext_t"], RECIPES["ade20k_upernet_convnext_t"]
    points = {
        (coco, 0): 1e-7, (coco, 999): 1e-4, (coco, 27 * 7330 - 1): 1e-4, (coco, 27 * 7330): 1e-5,
        (coco, 33 * 7330 - 1): 1e-5, (coco, 33 * 7330): 1e-6, (coco, 36 * 7330 - 1): 1e-6,
        (ade, 0): 1e-10, (ade, 1500): 1e-4, (ade, 159_999): 0.0,
    }  # fmt: skip
    for (recipe, iteration), rate in points.items():
        assert learning_rate(recipe, iteration) == pytest.approx(rate), (recipe.name, iteration)
    assert learning_rate(ade, (1500 + 159_999) // 2) == pytest.approx(0.5e-4, rel=1e-4)
    rtmdet = RECIPES["coco_rtmdet_convnext_b_22k"]
    assert learning_rate(rtmdet, 50 * 917) == pytest.approx(1e-3)
    assert learning_rate(rtmdet, 75 * 917) == pytest.approx((1e-3 + 5e-5) / 2)
    assert learning_rate(rtmdet, 100 * 917 - 1, scale=0.1) == pytest.approx(5e-5, rel=1e-3)


def test_the_published_layer_scales():
    scales = layer_scales(RECIPES["ade20k_upernet_convnext_t"])
    assert [(name, round(scale, 3)) for name, scale in scales] == [
        ("stem", 0.478), ("stage1", 0.531), ("stage2", 0.59), ("stage3", 0.656), ("stage4", 0.729),
        ("heads", 1.0),
    ]  # fmt: skip
    scales = dict(layer_scales(RECIPES["coco_dino_convnext_t_22k"]))
    assert scales == {"stem": 0.1, "stage1": 0.1, "stage2": 0.1, "stage3": 0.1, "stage4": 0.1, "heads": 1.0}  # fmt: skip
