"""The table of recipes: what is published, what follows from it, and how it is read."""

import json

import pytest
import torch

from convnext_backbones.checkpoints.catalogue import CATALOGUE
from convnext_backbones.network.preprocessing import IMAGENET_MEAN, IMAGENET_STD
from convnext_backbones.network.variants import VARIANTS
from convnext_backbones.recipes import (
    COUNTED,
    METHODS,
    PROTOCOLS,
    RECIPES,
    Protocol,
    get_recipe,
    iterations,
    iterations_per_epoch,
    layer_scales,
    learning_rate,
    protocol_of,
    recipe_of,
    table,
)
from convnext_backbones.recipes.layer_decay import num_layers

ROWS = list(RECIPES.values())

# Every row, as its sources have it: the READMEs and configs of facebookresearch/ConvNeXt, MMDetection,
# MMSegmentation and detrex; the rest as reasoned in each row's `source`.
# name, initial weights, protocol, lr, layer decay, kind of layer decay, drop path
EXPECTED = (
    ("coco_mask_rcnn_convnext_t", "convnext_tiny.fb_in1k_no_ema", "coco_3x", 1e-4, 0.95, "layer_wise", 0.4),
    ("coco_cascade_mask_rcnn_convnext_t", "convnext_tiny.fb_in1k_no_ema", "coco_3x", 2e-4, 0.7, "layer_wise", 0.4),
    ("coco_cascade_mask_rcnn_convnext_s", "convnext_small.fb_in1k_no_ema", "coco_3x", 2e-4, 0.7, "layer_wise", 0.6),
    ("coco_cascade_mask_rcnn_convnext_b", "convnext_base.fb_in1k_no_ema", "coco_3x", 2e-4, 0.8, "layer_wise", 0.7),
    ("coco_cascade_mask_rcnn_convnext_b_22k", "convnext_base.fb_in22k", "coco_3x", 1e-4, 0.8, "layer_wise", 0.6),
    ("coco_cascade_mask_rcnn_convnext_l_22k", "convnext_large.fb_in22k", "coco_3x", 1e-4, 0.7, "layer_wise", 0.7),
    ("coco_cascade_mask_rcnn_convnext_xl_22k", "convnext_xlarge.fb_in22k", "coco_3x", 1e-4, 0.7, "layer_wise", 0.8),
    ("ade20k_upernet_convnext_t", "convnext_tiny.fb_in1k_no_ema", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("ade20k_upernet_convnext_s", "convnext_small.fb_in1k_no_ema", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.3),
    ("ade20k_upernet_convnext_b", "convnext_base.fb_in1k_no_ema", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("ade20k_upernet_convnext_b_22k", "convnext_base.fb_in22k", "ade20k_640_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("ade20k_upernet_convnext_l_22k", "convnext_large.fb_in22k", "ade20k_640_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("ade20k_upernet_convnext_xl_22k", "convnext_xlarge.fb_in22k", "ade20k_640_160k", 8e-5, 0.9, "stage_wise", 0.4),
    ("coco_mask_rcnn_convnextv2_atto", "convnextv2_atto.fcmae", "coco_3x", 1e-4, 0.95, "layer_wise", 0.1),
    ("coco_mask_rcnn_convnextv2_femto", "convnextv2_femto.fcmae", "coco_3x", 1e-4, 0.95, "layer_wise", 0.1),
    ("coco_mask_rcnn_convnextv2_pico", "convnextv2_pico.fcmae", "coco_3x", 1e-4, 0.95, "layer_wise", 0.1),
    ("coco_mask_rcnn_convnextv2_nano", "convnextv2_nano.fcmae", "coco_3x", 1e-4, 0.95, "layer_wise", 0.2),
    ("coco_mask_rcnn_convnextv2_t", "convnextv2_tiny.fcmae", "coco_3x", 1e-4, 0.95, "layer_wise", 0.4),
    ("coco_mask_rcnn_convnextv2_b", "convnextv2_base.fcmae", "coco_lsj_3x", 1e-4, 0.95, "layer_wise", 0.4),
    ("coco_mask_rcnn_convnextv2_l", "convnextv2_large.fcmae", "coco_lsj_3x", 1e-4, 0.95, "layer_wise", 0.5),
    ("coco_mask_rcnn_convnextv2_h", "convnextv2_huge.fcmae", "coco_lsj_3x", 1e-4, 0.95, "layer_wise", 0.5),
    ("coco_cascade_mask_rcnn_convnextv2_atto", "convnextv2_atto.fcmae", "coco_3x", 1e-4, 0.9, "layer_wise", 0.1),
    ("coco_cascade_mask_rcnn_convnextv2_femto", "convnextv2_femto.fcmae", "coco_3x", 1e-4, 0.9, "layer_wise", 0.1),
    ("coco_cascade_mask_rcnn_convnextv2_pico", "convnextv2_pico.fcmae", "coco_3x", 1e-4, 0.9, "layer_wise", 0.1),
    ("coco_cascade_mask_rcnn_convnextv2_nano", "convnextv2_nano.fcmae", "coco_3x", 1e-4, 0.9, "layer_wise", 0.2),
    ("coco_cascade_mask_rcnn_convnextv2_t", "convnextv2_tiny.fcmae", "coco_3x", 1e-4, 0.9, "layer_wise", 0.4),
    ("coco_cascade_mask_rcnn_convnextv2_b", "convnextv2_base.fcmae", "coco_3x", 1e-4, 0.9, "layer_wise", 0.4),
    ("coco_cascade_mask_rcnn_convnextv2_l", "convnextv2_large.fcmae", "coco_3x", 1e-4, 0.9, "layer_wise", 0.5),
    ("coco_cascade_mask_rcnn_convnextv2_h", "convnextv2_huge.fcmae", "coco_3x", 1e-4, 0.9, "layer_wise", 0.5),
    ("coco_faster_rcnn_convnext_t", "convnext_tiny.fb_in1k_no_ema", "coco_boxes_3x", 1e-4, 0.95, "layer_wise", 0.4),
    ("coco_faster_rcnn_convnextv2_atto", "convnextv2_atto.fcmae", "coco_boxes_3x", 1e-4, 0.95, "layer_wise", 0.1),
    ("coco_faster_rcnn_convnextv2_femto", "convnextv2_femto.fcmae", "coco_boxes_3x", 1e-4, 0.95, "layer_wise", 0.1),
    ("coco_faster_rcnn_convnextv2_pico", "convnextv2_pico.fcmae", "coco_boxes_3x", 1e-4, 0.95, "layer_wise", 0.1),
    ("coco_faster_rcnn_convnextv2_nano", "convnextv2_nano.fcmae", "coco_boxes_3x", 1e-4, 0.95, "layer_wise", 0.2),
    ("coco_faster_rcnn_convnextv2_t", "convnextv2_tiny.fcmae", "coco_boxes_3x", 1e-4, 0.95, "layer_wise", 0.4),
    ("coco_cascade_rcnn_convnext_t", "convnext_tiny.fb_in1k_no_ema", "coco_boxes_3x", 2e-4, 0.7, "layer_wise", 0.4),
    ("coco_cascade_rcnn_convnext_b", "convnext_base.fb_in1k_no_ema", "coco_boxes_3x", 2e-4, 0.8, "layer_wise", 0.7),
    ("coco_cascade_rcnn_convnextv2_atto", "convnextv2_atto.fcmae", "coco_boxes_3x", 1e-4, 0.9, "layer_wise", 0.1),
    ("coco_cascade_rcnn_convnextv2_t", "convnextv2_tiny.fcmae", "coco_boxes_3x", 1e-4, 0.9, "layer_wise", 0.4),
    ("coco_cascade_rcnn_convnextv2_b", "convnextv2_base.fcmae", "coco_boxes_3x", 1e-4, 0.9, "layer_wise", 0.4),
    ("ade20k_upernet_convnextv2_atto", "convnextv2_atto.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.1),
    ("ade20k_upernet_convnextv2_femto", "convnextv2_femto.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.1),
    ("ade20k_upernet_convnextv2_pico", "convnextv2_pico.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.1),
    ("ade20k_upernet_convnextv2_nano", "convnextv2_nano.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.2),
    ("ade20k_upernet_convnextv2_t", "convnextv2_tiny.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("ade20k_upernet_convnextv2_b", "convnextv2_base.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("ade20k_upernet_convnextv2_l", "convnextv2_large.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("ade20k_upernet_convnextv2_h", "convnextv2_huge.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("ade20k_upernet_convnextv2_h_22k", "convnextv2_huge.fcmae_ft_in22k_in1k_384", "ade20k_640_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("coco_dino_convnext_t_22k", "convnext_tiny.fb_in22k_ft_in1k_384", "coco_dino_12e", 1e-4, 1.0, "layer_wise", 0.0),
    ("coco_dino_convnext_s_22k", "convnext_small.fb_in22k_ft_in1k_384", "coco_dino_12e", 1e-4, 1.0, "layer_wise", 0.0),
    ("coco_dino_convnext_b_22k", "convnext_base.fb_in22k_ft_in1k_384", "coco_dino_12e", 1e-4, 1.0, "layer_wise", 0.0),
    ("coco_dino_convnext_l_22k", "convnext_large.fb_in22k_ft_in1k_384", "coco_dino_12e", 1e-4, 1.0, "layer_wise", 0.0),
    ("coco_dino_convnextv2_t_22k", "convnextv2_tiny.fcmae_ft_in22k_in1k_384", "coco_dino_12e", 1e-4, 1.0, "layer_wise", 0.0),
    ("coco_dino_convnextv2_b_22k", "convnextv2_base.fcmae_ft_in22k_in1k_384", "coco_dino_12e", 1e-4, 1.0, "layer_wise", 0.0),
    ("coco_mask2former_convnext_t", "convnext_tiny.fb_in1k_no_ema", "coco_mask2former_50e", 1e-4, 1.0, "layer_wise", 0.3),
    ("coco_mask2former_convnextv2_t", "convnextv2_tiny.fcmae_ft_in1k", "coco_mask2former_50e", 1e-4, 1.0, "layer_wise", 0.3),
    ("coco_mask2former_convnextv2_b_22k", "convnextv2_base.fcmae_ft_in22k_in1k_384", "coco_mask2former_50e", 1e-4, 1.0, "layer_wise", 0.4),
    ("ade20k_mask2former_convnext_t", "convnext_tiny.fb_in1k_no_ema", "ade20k_mask2former_160k", 1e-4, 1.0, "layer_wise", 0.3),
    ("ade20k_mask2former_convnextv2_t", "convnextv2_tiny.fcmae_ft_in1k", "ade20k_mask2former_160k", 1e-4, 1.0, "layer_wise", 0.3),
    ("ade20k_mask2former_convnextv2_b_22k", "convnextv2_base.fcmae_ft_in22k_in1k_384", "ade20k_mask2former_160k", 1e-4, 1.0, "layer_wise", 0.4),
    ("coco_rtmdet_convnext_b_22k", "convnext_base.fb_in22k_ft_in1k_384", "coco_rtmdet_100e", 1e-3, 0.8, "layer_wise", 0.7),
    ("coco_rtmdet_convnext_t", "convnext_tiny.fb_in1k_no_ema", "coco_rtmdet_100e", 1e-3, 0.8, "layer_wise", 0.4),
    ("coco_rtmdet_convnextv2_atto", "convnextv2_atto.fcmae_ft_in1k", "coco_rtmdet_100e", 1e-3, 0.8, "layer_wise", 0.0),
    ("coco_rtmdet_convnextv2_femto", "convnextv2_femto.fcmae_ft_in1k", "coco_rtmdet_100e", 1e-3, 0.8, "layer_wise", 0.0),
    ("coco_rtmdet_convnextv2_nano", "convnextv2_nano.fcmae_ft_in1k", "coco_rtmdet_100e", 1e-3, 0.8, "layer_wise", 0.0),
    ("coco_rtmdet_convnextv2_pico", "convnextv2_pico.fcmae_ft_in1k", "coco_rtmdet_100e", 1e-3, 0.8, "layer_wise", 0.0),
    ("coco_rtmdet_convnextv2_t", "convnextv2_tiny.fcmae_ft_in1k", "coco_rtmdet_100e", 1e-3, 0.8, "layer_wise", 0.4),
    ("ade20k_sem_seg_fpn_convnext_t", "convnext_tiny.fb_in1k_no_ema", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("ade20k_sem_seg_fpn_convnext_s", "convnext_small.fb_in1k_no_ema", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.3),
    ("ade20k_sem_seg_fpn_convnext_b", "convnext_base.fb_in1k_no_ema", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("ade20k_sem_seg_fpn_convnextv2_atto", "convnextv2_atto.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.1),
    ("ade20k_sem_seg_fpn_convnextv2_femto", "convnextv2_femto.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.1),
    ("ade20k_sem_seg_fpn_convnextv2_pico", "convnextv2_pico.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.1),
    ("ade20k_sem_seg_fpn_convnextv2_nano", "convnextv2_nano.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.2),
    ("ade20k_sem_seg_fpn_convnextv2_t", "convnextv2_tiny.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("ade20k_sem_seg_fpn_convnextv2_b", "convnextv2_base.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("ade20k_sem_seg_fpn_convnextv2_l", "convnextv2_large.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.4),
    ("ade20k_sem_seg_fpn_convnextv2_h", "convnextv2_huge.fcmae_ft_in1k", "ade20k_160k", 1e-4, 0.9, "stage_wise", 0.4),
)  # fmt: skip
METHODS_OF_NAMES = {  # the longer names first
    "coco_cascade_mask_rcnn": "cascade_mask_rcnn",
    "coco_cascade_rcnn": "cascade_rcnn",
    "coco_faster_rcnn": "faster_rcnn",
    "coco_mask_rcnn": "mask_rcnn",
    "coco_mask2former": "mask2former",
    "coco_dino": "dino",
    "coco_rtmdet": "rtmdet",
    "ade20k_mask2former": "mask2former",
    "ade20k_upernet": "upernet",
    "ade20k_sem_seg_fpn": "sem_seg_fpn",
}
# box and mask AP, or mIoU and that of multi-scale testing; None: not published
SCORES = {
    "coco_mask_rcnn_convnext_t": (46.2, 41.7),
    "coco_cascade_mask_rcnn_convnext_t": (50.4, 43.7),
    "coco_cascade_mask_rcnn_convnext_s": (51.9, 45.0),
    "coco_cascade_mask_rcnn_convnext_b": (52.7, 45.6),
    "coco_cascade_mask_rcnn_convnext_b_22k": (54.0, 46.9),
    "coco_cascade_mask_rcnn_convnext_l_22k": (54.8, 47.6),
    "coco_cascade_mask_rcnn_convnext_xl_22k": (55.2, 47.7),
    "ade20k_upernet_convnext_t": (46.0, 46.7),
    "ade20k_upernet_convnext_s": (48.7, 49.6),
    "ade20k_upernet_convnext_b": (49.1, 49.9),
    "ade20k_upernet_convnext_b_22k": (52.6, 53.1),
    "ade20k_upernet_convnext_l_22k": (53.2, 53.7),
    "ade20k_upernet_convnext_xl_22k": (53.6, 54.0),
    "coco_mask_rcnn_convnextv2_b": (52.9, 46.4),
    "coco_mask_rcnn_convnextv2_l": (54.4, 47.7),
    "coco_mask_rcnn_convnextv2_h": (55.7, 48.9),
    "ade20k_upernet_convnextv2_b": (None, 52.1),
    "ade20k_upernet_convnextv2_l": (None, 53.7),
    "ade20k_upernet_convnextv2_h": (None, 55.0),
    "ade20k_upernet_convnextv2_h_22k": (None, 57.0),
    "coco_dino_convnext_t_22k": (52.4, None),
    "coco_dino_convnext_s_22k": (54.2, None),
    "coco_dino_convnext_b_22k": (55.1, None),
    "coco_dino_convnext_l_22k": (55.5, None),
    "coco_rtmdet_convnext_b_22k": (53.1, None),
}
# million parameters and GFLOPs as published
SIZES = {
    "coco_mask_rcnn_convnext_t": (48, 262),
    "coco_cascade_mask_rcnn_convnext_t": (86, 741),
    "coco_cascade_mask_rcnn_convnext_s": (108, 827),
    "coco_cascade_mask_rcnn_convnext_b": (146, 964),
    "coco_cascade_mask_rcnn_convnext_b_22k": (146, 964),
    "coco_cascade_mask_rcnn_convnext_l_22k": (255, 1354),
    "coco_cascade_mask_rcnn_convnext_xl_22k": (407, 1898),
    "ade20k_upernet_convnext_t": (60, 939),
    "ade20k_upernet_convnext_s": (82, 1027),
    "ade20k_upernet_convnext_b": (122, 1170),
    "ade20k_upernet_convnext_b_22k": (122, 1828),
    "ade20k_upernet_convnext_l_22k": (235, 2458),
    "ade20k_upernet_convnext_xl_22k": (391, 3335),
    "coco_mask_rcnn_convnextv2_b": (None, 486),
    "coco_mask_rcnn_convnextv2_l": (None, 875),
    "coco_mask_rcnn_convnextv2_h": (None, 2525),
    "ade20k_upernet_convnextv2_b": (122, 1170),
    "ade20k_upernet_convnextv2_l": (235, 1573),
    "ade20k_upernet_convnextv2_h": (707, 3272),
    "ade20k_upernet_convnextv2_h_22k": (707, 5113),
}
# GB a GPU, of MMDetection's and MMSegmentation's runs
MEMORY = {
    "coco_mask_rcnn_convnext_t": 7.3,
    "coco_cascade_mask_rcnn_convnext_t": 9.0,
    "coco_cascade_mask_rcnn_convnext_s": 12.3,
    "coco_mask_rcnn_convnextv2_b": 22.5,
    "ade20k_upernet_convnext_t": 4.23,
    "ade20k_upernet_convnext_s": 5.16,
    "ade20k_upernet_convnext_b": 6.33,
    "ade20k_upernet_convnext_b_22k": 8.53,
    "ade20k_upernet_convnext_l_22k": 12.08,
    "ade20k_upernet_convnext_xl_22k": 26.16,
}
# what MMDetection and MMSegmentation got from the official recipes
RERUNS = {
    "coco_mask_rcnn_convnext_t": "MMDetection got box AP 46.2, mask AP 41.7",
    "coco_cascade_mask_rcnn_convnext_t": "MMDetection got box AP 50.3, mask AP 43.6",
    "coco_cascade_mask_rcnn_convnext_s": "MMDetection got box AP 51.8, mask AP 44.8",
    "ade20k_upernet_convnext_t": "MMSegmentation got mIoU 46.11, multi-scale 46.62",
    "ade20k_upernet_convnext_s": "MMSegmentation got mIoU 48.56, multi-scale 49.02",
    "ade20k_upernet_convnext_b": "MMSegmentation got mIoU 48.71, multi-scale 49.54",
    "ade20k_upernet_convnext_b_22k": "MMSegmentation got mIoU 52.13, multi-scale 52.66",
    "ade20k_upernet_convnext_l_22k": "MMSegmentation, in mixed precision, got mIoU 53.16, multi-scale 53.38",
    "ade20k_upernet_convnext_xl_22k": "MMSegmentation, in mixed precision, got mIoU 53.58, multi-scale 54.11",
}
# Whose source prints figures and scores; the others are untested.
PUBLISHED = {
    *(name for name in SCORES if "convnext_" in name),
    "coco_mask_rcnn_convnextv2_b",
}
IN_FLOAT32 = {
    "coco_cascade_mask_rcnn_convnext_l_22k",
    "coco_cascade_mask_rcnn_convnext_xl_22k",
    "ade20k_upernet_convnext_l_22k",
    "ade20k_upernet_convnext_xl_22k",
    *(row[0] for row in EXPECTED if any(m in row[0] for m in ("dino", "mask2former", "rtmdet"))),
}


@pytest.mark.parametrize("row", EXPECTED, ids=lambda row: row[0])
def test_a_row_is_as_its_sources_have_it(row):
    name, init, protocol, lr, layer_decay, decay_type, drop_path = row
    recipe = RECIPES[name]
    assert (recipe.name, recipe.init, recipe.protocol) == (name, init, protocol)
    assert (recipe.lr, recipe.layer_decay, recipe.drop_path) == (lr, layer_decay, drop_path)
    assert recipe.decay_type == decay_type
    assert recipe.variant == init.split(".")[0]
    method = next(m for start, m in METHODS_OF_NAMES.items() if name.startswith(start))
    assert recipe.method == method
    assert recipe.backbone_lr == (0.1 if method in ("dino", "mask2former") else 1.0)
    assert recipe.amp == (name not in IN_FLOAT32)
    small = ("atto", "femto", "pico", "nano")
    assert recipe.small_head == (method == "rtmdet" and name.endswith(small))
    assert recipe.checkpointing == (name == "coco_rtmdet_convnext_b_22k")
    assert recipe.status == ("published" if name in PUBLISHED else "untested")
    coco, scores = name.startswith("coco"), SCORES.get(name, (None, None))
    assert (recipe.box_ap, recipe.mask_ap) == (scores if coco else (None, None))
    assert (recipe.miou, recipe.miou_multiscale) == ((None, None) if coco else scores)
    assert (recipe.params, recipe.gflops) == SIZES.get(name, (None, None))
    assert recipe.memory_gb == MEMORY.get(name)
    assert recipe.reruns == RERUNS.get(name, "")
    assert recipe.measured == ""  # nothing was trained at full size yet


def test_no_row_is_without_its_sources():
    assert sorted(RECIPES) == sorted(row[0] for row in EXPECTED)
    assert SCORES.keys() | SIZES.keys() | MEMORY.keys() | RERUNS.keys() <= RECIPES.keys()


MULTI_SCALE = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
COCO = {"dataset": "coco", "scale": (1333, 800), "flops_size": (800, 1280), "weight_decay": 0.05}
STEPS_3X = {"epochs": 36, "milestones": (27, 33), "validate_every": 1, "warmup_iterations": 1000,
            "warmup_factor": 0.001}  # fmt: skip
JITTER = {"ratio_range": (0.1, 2.0), "crop_size": (1024, 1024)}
ADE20K = {"dataset": "ade20k", "train_images": 20210, "batch": 16, "gpus": 8, "iterations": 160000,
          "weight_decay": 0.05, "one_class_at_most": 0.75,
          "multi_scale": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)}  # fmt: skip
POLYNOMIAL = {"warmup_iterations": 1500, "warmup_factor": 1e-6, "power": 1.0, "validate_every": 16000,
              "ratio_range": (0.5, 2.0)}  # fmt: skip
# What each says beside the defaults.
EXPECTED_PROTOCOLS = {
    "coco_3x": COCO | STEPS_3X | {
        "train_images": 117266, "batch": 16, "gpus": 8, "masks": True, "short_sides": MULTI_SCALE,
        "detr_crop": (0.5, (400, 500, 600), 1333, (384, 600)),
    },
    "coco_boxes_3x": COCO | STEPS_3X | {  # as coco_3x
        "train_images": 117266, "batch": 16, "gpus": 8, "short_sides": MULTI_SCALE,
        "detr_crop": (0.5, (400, 500, 600), 1333, (384, 600)),
    },
    "coco_lsj_3x": COCO | STEPS_3X | JITTER | {
        "train_images": 117266, "batch": 32, "gpus": 8, "masks": True, "soft_nms": True,
    },
    "coco_dino_12e": COCO | {
        "train_images": 118287, "batch": 16, "gpus": 8, "epochs": 12, "milestones": (11,),
        "validate_every": 1, "weight_decay": 1e-4, "clip_norm": 0.1, "short_sides": MULTI_SCALE,
        "detr_crop": (0.5, (400, 500, 600), 4200, (384, 600)),
    },
    "coco_mask2former_50e": COCO | JITTER | {
        "train_images": 117266, "batch": 16, "gpus": 8, "masks": True, "iterations": 368750,
        "milestones": (327778, 355092), "validate_every": 5000, "clip_norm": 0.01,
    },
    "coco_rtmdet_100e": COCO | {
        "train_images": 117266, "batch": 128, "gpus": 4, "epochs": 100, "validate_every": 10,
        "warmup_iterations": 1000, "warmup_factor": 1e-5, "cosine_from": 50, "final_lr": 5e-5,
        "scale": (640, 640), "flops_size": (640, 640), "ratio_range": (0.1, 2.0),
        "crop_size": (640, 640), "mosaic": True, "plain_epochs": 10, "average_momentum": 0.0002,
    },
    "ade20k_160k": ADE20K | POLYNOMIAL | {
        "scale": (2048, 512), "crop_size": (512, 512), "slide_stride": (341, 341),
        "flops_size": (512, 2048),
    },
    "ade20k_640_160k": ADE20K | POLYNOMIAL | {
        "scale": (2560, 640), "crop_size": (640, 640), "slide_stride": (426, 426),
        "flops_size": (640, 2560),
    },
    "ade20k_mask2former_160k": ADE20K | {
        "scale": (2048, 512), "crop_size": (512, 512), "flops_size": (512, 2048), "power": 0.9,
        "validate_every": 5000, "clip_norm": 0.01,
        "short_sides": (256, 307, 358, 409, 460, 512, 563, 614, 665, 716, 768, 819, 870, 921, 972, 1024),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED_PROTOCOLS)
def test_a_protocol_is_as_its_sources_have_it(name):
    assert PROTOCOLS.keys() == EXPECTED_PROTOCOLS.keys()
    assert PROTOCOLS[name]._asdict() == {
        **Protocol._field_defaults, **EXPECTED_PROTOCOLS[name], "name": name,
    }  # fmt: skip


def test_what_all_recipes_share_is_the_sources():
    """The official configs; the data sets' classes."""
    assert table.BETAS == (0.9, 0.999)
    assert (
        torch.optim.AdamW([torch.zeros(1)]).defaults["betas"] == table.BETAS
    )  # Detectron2's configs
    assert table.LAYER_SCALE == 1.0
    assert pytest.approx([255 * mean for mean in IMAGENET_MEAN]) == table.PIXEL_MEAN
    assert pytest.approx([255 * std for std in IMAGENET_STD]) == table.PIXEL_STD
    assert (table.FLIP, table.MILESTONE_FACTOR) == (0.5, 0.1)
    assert {name: data.classes for name, data in table.DATASETS.items()} == {
        "coco": 80,
        "ade20k": 150,
    }


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


@pytest.mark.parametrize("row", [r for r in ROWS if r.method in ("faster_rcnn", "cascade_rcnn")], ids=lambda r: r.name)  # fmt: skip
def test_boxes_alone_are_trained_as_with_masks(row):
    """What a row without masks says is the row with masks, but for what was published with them."""
    name = row.name.replace("cascade_rcnn", "cascade_mask_rcnn").replace("faster", "mask")
    with_masks = RECIPES[name]._asdict()
    own = ("name", "method", "protocol", "status", "source", "reruns")
    scores = ("box_ap", "mask_ap", "params", "gflops", "memory_gb")
    for field, figure in row._asdict().items():
        if field not in own:
            assert figure == (None if field in scores else with_masks[field]), field
    assert name in row.source
    protocols = [PROTOCOLS[n]._asdict() | {"name": "", "masks": False} for n in ("coco_3x", row.protocol)]  # fmt: skip
    assert protocols[0] == protocols[1]


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


SWEPT = ("mask_rcnn", "cascade_mask_rcnn", "faster_rcnn", "cascade_rcnn", "upernet", "sem_seg_fpn")


@pytest.mark.parametrize(
    "row", [r for r in ROWS if "v2" in r.variant and r.method in SWEPT], ids=lambda r: r.name
)
def test_version_2s_figures_lie_in_the_papers_sweeps(row):
    """COCO's sweep begins at drop path 0.2, for Base and larger; smaller networks get less."""
    small = row.variant.split("_")[1] in ("atto", "femto", "pico", "nano")
    if row.method.endswith("rcnn"):
        assert row.layer_decay in (0.9, 0.95)
        assert row.lr == 1e-4
        assert 0.2 <= row.drop_path <= 0.5 or (small and row.drop_path == 0.1)
        assert row.init.endswith(".fcmae")
    else:
        assert row.layer_decay in (0.8, 0.9)
        assert row.lr in (1e-4, 2e-4, 3e-4)
        assert 0.1 <= row.drop_path <= 0.4
        assert ".fcmae_ft" in row.init


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
def test_a_row_is_complete(row):
    assert RECIPES[row.name] is row
    weights = CATALOGUE[row.init]
    assert weights.variant == row.variant
    assert row.method in METHODS
    protocol = PROTOCOLS[row.protocol]
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
