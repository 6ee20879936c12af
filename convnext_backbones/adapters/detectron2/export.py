"""Trained models of Detectron2, ready for export: their own modules, batched.

Detectron2's own way, tracing a model with its TracingAdapter, gives a file of one picture at a time and
of the branches that the traced picture took. Here lists have fixed sizes (export/detection.py), and what the
model says by itself is the reference that each file is compared with.
"""

from collections.abc import Iterator

import torch
from detectron2.data import transforms as T
from detectron2.layers import ROIAlign
from detectron2.modeling import GeneralizedRCNN, SemanticSegmentor
from detectron2.modeling.poolers import ROIPooler, assign_boxes_to_levels
from detectron2.modeling.proposal_generator import RPN
from detectron2.modeling.roi_heads import CascadeROIHeads, StandardROIHeads
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from ...errors import UserError
from ...export.detection import NONE, TwoStage, padded
from ...export.exportable import INSTANCES, LABEL_MAP, Exportable
from ...export.operators import pooled_rois

LOW = ("backbone", "proposal_generator.rpn_head", "roi_heads.box_head")
KNOWN = (SemanticSegmentor, GeneralizedRCNN)


def exportable(run, model: nn.Module) -> Exportable:
    """What `load_model` gives, ready for export.

    Raises:
        UserError: a kind of model, or of a part, that is not known here; names it.
    """
    if type(model) is SemanticSegmentor:
        return _segmentor(model)
    if type(model) is GeneralizedRCNN:
        return _rcnn(model)
    raise UserError(
        f"{type(model).__name__} cannot be exported: its results are no graph's. Those of "
        f"{', '.join(kind.__name__ for kind in KNOWN)} are; its backbone alone is exported by the name of its "
        "network, with --features"
    )


def _pixels(model: nn.Module) -> dict:
    """How pictures come into a model, by its config."""
    mean, std = (tuple(t.flatten().tolist()) for t in (model.pixel_mean, model.pixel_std))
    if model.test_mapper.image_format == "BGR":
        return dict(mean=mean[::-1], std=std[::-1], bgr=True)
    return dict(mean=mean, std=std)


def _about(model: nn.Module, kind: str, **more) -> dict:
    """Metadata: classes, colours and how large a picture comes."""
    meta = model.dataset_meta
    about = {
        "classes": list(meta.get(f"{kind}_classes") or ()),
        "palette": [list(colour) for colour in meta.get(f"{kind}_colors") or ()],
        "resize": _resize(model),
    }
    return {**about, **more}


def _resize(model: nn.Module) -> dict | None:
    """The ResizeShortestEdge of the mapper of the test data."""
    for step in model.test_mapper.augmentations.augs:
        if (
            isinstance(step, T.ResizeShortestEdge) and max(step.short_edge_length) > 0
        ):  # 0: as it is
            return {"long": step.max_size, "short": max(step.short_edge_length), "by": "pillow"}
    return None


def _sizes(model: nn.Module) -> dict:
    multiple = model.backbone.size_divisibility or 1
    return dict(multiple=multiple, least=max(64, multiple))


# ---- segmentation --------------------------------------------------------------------------------
class Segmentor(nn.Module):
    """A SemanticSegmentor: (N, 3, H, W) to logits (N, K, H, W)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model.sem_seg_head(self.model.backbone(images))[0]


def _segmentor(model: nn.Module) -> Exportable:
    about = _about(model, "stuff")
    return Exportable(
        Segmentor(model), ("logits",), LABEL_MAP, about=about, **_sizes(model), **_pixels(model)
    )


# ---- detection -----------------------------------------------------------------------------------
class RCNN(TwoStage):
    """Faster, Mask, Cascade and Cascade Mask R-CNN."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        rpn, heads = model.proposal_generator, model.roi_heads
        _check(rpn, "proposal_generator", RPN)
        _check(heads, "roi_heads", StandardROIHeads, CascadeROIHeads)
        if heads.keypoint_on:
            raise UserError("roi_heads finds keypoints, which are not exported; leave it at boxes")
        self.candidates, self.proposals = rpn.pre_nms_topk[False], rpn.post_nms_topk[False]
        self.proposal_iou, self.least_side = rpn.nms_thresh, rpn.min_box_size
        cascade = isinstance(heads, CascadeROIHeads)
        self._heads = list(heads.box_head) if cascade else [heads.box_head]
        self._predictors = list(heads.box_predictor) if cascade else [heads.box_predictor]
        last = self._predictors[-1]
        self.iou, self.score = last.test_nms_thresh, last.test_score_thresh
        self.most = last.test_topk_per_image
        self.box_stages, self.mask_stages = len(self._heads), int(heads.mask_on)
        poolers = [heads.box_pooler, *([heads.mask_pooler] if heads.mask_on else [])]
        for pooler in poolers:
            for layer in pooler.level_poolers:
                _check(layer, "a level of an ROIPooler", ROIAlign)

    def maps(self, images: Tensor) -> dict[str, Tensor]:
        return self.model.backbone(images)

    def first_stage(self, maps) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        rpn = self.model.proposal_generator
        levels = [maps[name] for name in rpn.in_features]
        logits, deltas = rpn.rpn_head(levels)
        for score, delta, anchors in zip(logits, deltas, rpn.anchor_generator(levels), strict=True):
            delta = delta.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2)  # (N, A * 4, H, W)
            delta = delta.reshape(delta.shape[0], -1, 4)
            yield score.permute(0, 2, 3, 1).flatten(1), delta, anchors.tensor

    def first_boxes(self, anchors: Tensor, deltas: Tensor) -> Tensor:
        return self.model.proposal_generator.box2box_transform.apply_deltas(deltas, anchors)

    def box_stage(self, stage: int, maps, rois: Tensor) -> tuple[Tensor, Tensor]:
        heads = self.model.roi_heads
        levels = [maps[name] for name in heads.box_in_features]
        return self._predictors[stage](self._heads[stage](_pooled(heads.box_pooler, levels, rois)))

    def boxes(self, stage: int, boxes: Tensor, deltas: Tensor) -> Tensor:
        return self._predictors[stage].box2box_transform.apply_deltas(deltas, boxes)

    def probabilities(self, logits: list[Tensor]) -> Tensor:
        return (sum(x.softmax(-1) for x in logits) / len(logits))[:, :-1]

    def mask_stage(self, stage: int, maps, rois: Tensor) -> Tensor:
        heads = self.model.roi_heads
        levels = [maps[name] for name in heads.mask_in_features]
        return heads.mask_head.layers(_pooled(heads.mask_pooler, levels, rois))

    def reference(self, images: Tensor) -> tuple[Tensor, ...]:
        """By the model's own parts, but masks as they are before they are pasted."""
        model = self.model
        maps = model.backbone(images)
        listed = ImageList(images, [tuple(images.shape[2:])] * len(images))
        proposals, _ = model.proposal_generator(listed, maps, None)
        found, _ = model.roi_heads(listed, maps, proposals, None)
        lists = (
            padded([one.pred_boxes.tensor for one in found], self.most),
            padded([one.scores for one in found], self.most, NONE),
            padded([one.pred_classes for one in found], self.most),
        )
        if not self.mask_stages:
            return lists
        return (*lists, padded([one.pred_masks[:, 0] for one in found], self.most))

    def masks_in(self, images: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """By the model's own parts, in given regions."""
        size, model = tuple(images.shape[2:]), self.model
        given = [
            Instances(size, pred_boxes=Boxes(one), pred_classes=kinds)
            for one, kinds in zip(boxes, labels, strict=True)
        ]
        found = model.roi_heads.forward_with_given_boxes(model.backbone(images), given)
        return torch.stack([one.pred_masks[:, 0] for one in found])


def _check(part: nn.Module, name: str, *kinds: type) -> None:
    if type(part) not in kinds:
        raise UserError(
            f"{name} is a {type(part).__name__}; a graph is known of {', '.join(k.__name__ for k in kinds)}: it "
            "cannot be exported as it is"
        )


def _pooled(pooler: ROIPooler, maps: list[Tensor], rois: Tensor) -> Tensor:
    """As the pooler's forward, with its levels' options."""
    layers, layer = pooler.level_poolers, pooler.level_poolers[0]
    levels = assign_boxes_to_levels(
        [Boxes(rois[:, 1:])], pooler.min_level, pooler.max_level, pooler.canonical_box_size,
        pooler.canonical_level,
    )  # fmt: skip
    height, width = pooler.output_size
    return pooled_rois(
        [x.contiguous() for x in maps], rois, levels, [one.spatial_scale for one in layers], height,
        width, layer.sampling_ratio, layer.aligned,
    )  # fmt: skip


def _rcnn(model: nn.Module) -> Exportable:
    network = RCNN(model)
    outputs = ("boxes", "scores", "labels", *(["masks"] if network.mask_stages else []))
    about = _about(model, "thing", score=network.score, mask_threshold=0.5, clip=True)
    return Exportable(
        network, outputs, INSTANCES, network.reference, about=about,
        masks=network.masks_in if network.mask_stages else None,
        low=tuple(f"model.{name}" for name in LOW), **_sizes(model), **_pixels(model),
    )  # fmt: skip
