"""Instances of a file beside PyTorch's: order, boxes, and masks in the file's own regions."""

import numpy as np
import pytest
import torch
from torch import nn

from convnext_backbones.errors import UserError
from convnext_backbones.export.checking import Expected, compare
from convnext_backbones.export.exportable import INSTANCES, Exportable
from convnext_backbones.export.opened import Opened

IMAGES = torch.zeros(1, 3, 64, 64)
BOXES = torch.tensor([[[4.0, 4, 20, 24], [30, 8, 60, 40], [0, 0, 0, 0]]])
SCORES, LABELS = torch.tensor([[0.9, 0.5, -1]]), torch.tensor([[1, 0, 0]])
NAMES = ("boxes", "scores", "labels", "masks")
CELLS = torch.linspace(-3, 3, 8)


def masks_in(boxes, labels):
    """An edge whose place in the region hangs on the box, as a mask head's does."""
    place = (boxes.sum(-1) % 1 * 6 - 3)[..., None, None]
    return torch.sigmoid(5 * (CELLS + place) + labels[..., None, None]).expand(*labels.shape, 8, 8)


def rows(boxes, masks, order=(0, 1, 2)):
    wanted = Expected("one", IMAGES, (BOXES, SCORES, LABELS, masks_in(BOXES, LABELS)), masks_in)
    found = dict(zip(NAMES, (x[:, list(order)].numpy() for x in (boxes, SCORES, LABELS, masks)), strict=True))  # fmt: skip
    model = Exportable(nn.Identity(), NAMES, INSTANCES)
    found = compare(Opened(lambda images: found, {}), [wanted], model, "fp16", 0.02)
    return {row.output: row.relative for row in found}


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2)])
def test_masks_are_compared_in_the_files_own_regions(order):
    moved = BOXES + 0.01
    masks = masks_in(moved, LABELS)
    assert (masks - masks_in(BOXES, LABELS)).abs().max() > 0.1
    assert rows(moved, masks, order) == {
        "boxes": pytest.approx(0.01 / 64, rel=1e-3), "scores": 0, "masks": 0,
    }  # fmt: skip


def test_a_mask_that_is_another_in_its_region_is_refused():
    masks = masks_in(BOXES, LABELS)
    masks = torch.where(torch.arange(8) == 4, masks - 0.03, masks)
    with pytest.raises(UserError, match="masks"):
        rows(BOXES, masks)


def test_what_is_not_there_is_not_compared():
    masks = masks_in(BOXES, LABELS).clone()
    masks[:, 2] = np.pi
    assert rows(BOXES, masks)["masks"] == 0
