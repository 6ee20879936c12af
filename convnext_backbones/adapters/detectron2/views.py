"""A picture as Detectron2's models see it, to look inside (looking/)."""

from pathlib import Path

import torch
from detectron2.structures import ImageList, Instances

from ...errors import UserError
from ...network.padding import note_image_sizes
from ...runs.host import View
from .prediction import classes_of


def view(model: torch.nn.Module, file: Path) -> View:
    """By the mapper of the test data.

    Raises:
        UserError: the model is none of GeneralizedRCNN, SemanticSegmentor, PanopticFPN and RetinaNet, or built
            as they are.
    """
    entry = model.test_mapper(dict(file_name=str(file), image_id=0))
    image = (entry["image"].to(model.device) - model.pixel_mean) / model.pixel_std
    images = ImageList.from_tensors(
        [image], model.backbone.size_divisibility,
        padding_constraints=model.backbone.padding_constraints,
    )  # fmt: skip
    size = tuple(int(side) for side in images.image_sizes[0])
    instances = hasattr(model, "roi_heads") or hasattr(model, "forward_inference")
    if not instances and not hasattr(model, "sem_seg_head"):
        raise UserError(
            "visualize knows GeneralizedRCNN, SemanticSegmentor, PanopticFPN and RetinaNet, not "
            f"{type(model).__name__}"
        )

    def forward(pixels: torch.Tensor) -> list:
        sizes = [size] * len(pixels)
        note_image_sizes(pixels, sizes)
        features = model.backbone(pixels)
        if not instances:
            return list(model.sem_seg_head(features, None)[0])
        found = _detected(model, ImageList(pixels, sizes), features)
        return [
            dict(boxes=f.pred_boxes.tensor.detach(), labels=f.pred_classes, scores=f.scores)
            for f in found
        ]

    kind = "thing" if instances else "stuff"
    return View(images.tensor, size, forward, instances, classes_of(model.dataset_meta, kind))


def _detected(model: torch.nn.Module, images: ImageList, features: dict) -> list[Instances]:
    if hasattr(model, "roi_heads"):
        proposals, _ = model.proposal_generator(images, features, None)
        return model.roi_heads.forward(images, features, proposals, None)[0]
    chosen = [features[name] for name in model.head_in_features]
    return model.forward_inference(images, chosen, model.head(chosen))
