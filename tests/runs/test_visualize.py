"""Overlays: drawn where the prediction is, and with empty predictions."""

import numpy as np
import pytest
from PIL import Image

from convnext_backbones.runs.visualize import (
    draw_instances,
    draw_label_map,
    enlarged,
    palette_of,
    save_grid,
)

GREY = np.full((40, 60, 3), 128, np.uint8)
PALETTE = [(255, 0, 0), (0, 255, 0)]


def test_a_label_map_is_drawn_in_its_classes_colours_over_a_legend():
    labels = np.zeros((40, 60), np.int64)
    labels[:, 30:] = 1
    drawn = draw_label_map(GREY, labels, ("left", "right"), PALETTE, np.full((40, 60), 0.9))
    factor = enlarged(GREY)[1]
    assert drawn.shape[0] > 40 * factor
    assert drawn[20, 20].argmax() == 0
    assert drawn[20, 50 * factor].argmax() == 1


def test_unlabelled_pixels_stay_as_they_are():
    drawn = draw_label_map(GREY, np.full((40, 60), 255), ("a", "b"), PALETTE)
    assert (drawn[:40] == 128).all()


@pytest.mark.parametrize("with_masks", [True, False])
def test_instances_are_drawn_inside_their_boxes(with_masks):
    mask = np.zeros((1, 40, 60), bool)
    mask[0, 10:30, 10:40] = True
    drawn = draw_instances(
        GREY, np.array([[10, 10, 40, 30.0]]), np.array([1]), ("a", "b"), PALETTE,
        np.array([0.5]), mask if with_masks else None,
    )  # fmt: skip
    factor = enlarged(GREY)[1]
    assert (drawn[35 * factor, 50 * factor] == 128).all()
    centre = drawn[25 * factor, 35 * factor]
    assert centre.argmax() == 1 if with_masks else (centre == 128).all()


def test_no_instances_leave_the_picture():
    drawn = draw_instances(GREY, np.zeros((0, 4)), np.zeros(0, int), ("a",), PALETTE)
    assert (drawn == 128).all()


def test_a_palette_has_distinct_colours():
    assert len(set(palette_of(40))) == 40


def test_the_grid_holds_every_row(tmp_path):
    small = np.full((20, 30, 3), 200, np.uint8)
    path = save_grid([[GREY, small], [small, GREY]], ("one", "two"), tmp_path / "grid.png")
    assert Image.open(path).size[1] >= 80
