"""A shipped model on random pictures, to be timed: its losses, and what it finds."""

from collections.abc import Callable

import numpy as np
import torch
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from .configs import load_config
from .run import build_model

OBJECTS = 12  # of each picture
PARTS = (
    "backbone.bottom_up", "proposal_generator", "proposal_generator.rpn_head", "roi_heads",
    "roi_heads.box_pooler", "roi_heads.box_head", "roi_heads.box_predictor", "roi_heads.mask_pooler",
    "roi_heads.mask_head", "backbone",
)  # fmt: skip


def timed_model(
    config: str, size: tuple[int, int], pictures: int, *, shrink: bool = False
) -> tuple[
    nn.Module, Callable[[nn.Module], dict[str, Tensor]], Callable[[nn.Module], float], list[str]
]:
    """The Mask R-CNN of a shipped config, its losses and what inference finds in the first picture (both
    take the model or a copy of it), and the names of its parts.

    Drop path is off, so that two backbones draw the same random numbers. The class logits, all alike
    before training, are drawn wide enough that it finds objects, whose masks inference then computes.
    """
    height, width = size
    run = load_config(config, shrink=shrink)
    run.cfg.model.backbone.bottom_up.drop_path_rate = 0.0
    model = build_model(run, "cpu")
    predictor = model.roi_heads.box_predictor
    nn.init.normal_(predictor.cls_score.weight, std=1.0)
    generator = np.random.default_rng(0)
    inputs = [_picture(generator, height, width, predictor.num_classes) for _ in range(pictures)]

    def losses(model: nn.Module) -> dict[str, Tensor]:
        with EventStorage():  # its heads count into one
            return model(inputs)

    def found(model: nn.Module) -> float:
        return float(len(model(inputs[:1])[0]["instances"]))

    known = dict(model.named_modules())
    return model, losses, found, [name for name in PARTS if name in known]


def _picture(generator, height: int, width: int, classes: int) -> dict:
    corners = generator.uniform(0, 0.6, (OBJECTS, 2))
    ends = corners + generator.uniform(0.1, 0.4, (OBJECTS, 2))
    boxes = np.concatenate([corners, ends], 1) * [width, height, width, height]
    masks = np.zeros((OBJECTS, height, width), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = True
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.from_numpy(boxes).float())
    instances.gt_classes = torch.from_numpy(generator.integers(0, classes, OBJECTS))
    instances.gt_masks = BitMasks(torch.from_numpy(masks))
    image = torch.from_numpy(generator.integers(0, 256, (3, height, width), dtype=np.uint8))
    return {"image": image, "height": height, "width": width, "instances": instances}
