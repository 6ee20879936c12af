"""Trained models of MMDetection and MMSegmentation, ready for export: their own modules, batched.

What the frameworks do picture by picture, in lists as long as what was found, is done in fixed sizes
(export/detection.py); what the models say by themselves is the reference that each file is compared with.
"""

from collections.abc import Callable, Iterator

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_cxcywh_to_xyxy
from mmengine.config import Config
from torch import Tensor, nn

from ...errors import UserError
from ...export.detection import (
    NONE,
    TwoStage,
    at,
    best,
    clipped,
    of_class,
    padded,
    regions,
    suppressed,
)
from ...export.exportable import BATCH, INSTANCES, LABEL_MAP, SIZE, Exportable
from ...export.operators import pooled_rois
from .known_sizes import known_sizes

BOXES = ("boxes", "scores", "labels")
LOW = ("backbone", "neck", "rpn_head", "bbox_head", "roi_head.bbox_head", "roi_head.mask_head")
TRANSFORMER = (
    "counts with the sizes of its maps (multi-scale deformable attention), which a graph of any size cannot: "
    "it is written for one height and width"
)


def exportable(cfg: Config, model: nn.Module) -> Exportable:
    """What `load_model` gives, ready for export.

    Raises:
        UserError: a kind of model, or of a part, that is not known here; names it.
    """
    kind = type(model).__name__
    if kind not in KINDS:
        raise UserError(
            f"{kind} cannot be exported: its results are no graph's. Those of {', '.join(KINDS)} are; its "
            "backbone alone is exported by the name of its network, with --features"
        )
    return KINDS[kind](model)


def _pixels(model: nn.Module) -> dict:
    """How pictures come into a model, by its config."""
    preprocessor = model.data_preprocessor
    mean, std = (tuple(getattr(preprocessor, name).flatten().tolist()) for name in ("mean", "std"))
    of_mmdet = getattr(preprocessor, "_channel_conversion", False)
    if getattr(preprocessor, "channel_conversion", of_mmdet):  # pictures are read as BGR
        return dict(mean=mean, std=std)
    return dict(mean=mean[::-1], std=std[::-1], bgr=True)


def _about(model: nn.Module, **more) -> dict:
    """Metadata: classes, colours and how large a picture comes."""
    meta = model.dataset_meta
    about = {
        "classes": list(meta.get("classes") or ()),
        "palette": [list(colour) for colour in meta.get("palette") or ()],
        "resize": _resize(model),
        "pad": _pad(model),
    }
    return {**about, **more}


def _resize(model: nn.Module) -> dict | None:
    """The Resize of the config's test data."""
    for transform in model.test_pipeline.transforms:
        if type(transform).__name__ == "Resize" and transform.scale is not None:
            if not transform.keep_ratio:
                raise UserError(
                    "the test pipeline's Resize warps pictures (keep_ratio=False), which predict --model does "
                    "not; set keep_ratio=True"
                )
            return {"long": max(transform.scale), "short": min(transform.scale), "by": "opencv"}
    return None


def _pad(model: nn.Module) -> dict | None:
    """The Pad of the config's test data: the height and width it pads to, and the RGB value."""
    for transform in model.test_pipeline.transforms:
        if type(transform).__name__ == "Pad" and transform.size is not None:
            value = (
                transform.pad_val["img"]
                if isinstance(transform.pad_val, dict)
                else transform.pad_val
            )
            value = list(value) if isinstance(value, (tuple, list)) else [value] * 3
            return {
                "size": list(transform.size[::-1]),
                "value": value[::-1],
            }  # pictures are BGR there
    return None


# ---- segmentation --------------------------------------------------------------------------------
class Segmentor(nn.Module):
    """An EncoderDecoder: (N, 3, H, W) to logits (N, K, H, W)."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        size = tuple(images.shape[2:])
        metas = [dict(img_shape=size, ori_shape=size, pad_shape=size)]
        return self.model.encode_decode(images, metas)


def _segmentor(model: nn.Module) -> Exportable:
    about, test = {}, model.test_cfg
    if test.get("mode", "whole") == "slide":
        about["windows"] = {"size": list(test.crop_size), "stride": list(test.stride)}
    options = {}
    if type(model.decode_head).__name__ == "Mask2FormerHead":
        options = dict(
            fixed={SIZE: f"decode_head.pixel_decoder (MSDeformAttnPixelDecoder) {TRANSFORMER}"},
            tracing=known_sizes, low=("model.backbone",),
        )  # fmt: skip
    return Exportable(
        Segmentor(model), ("logits",), LABEL_MAP,
        multiple=(model.data_preprocessor.test_cfg or {}).get("size_divisor") or 1,
        least=64,  # two positions in the last map: exporters take one for a constant
        about=_about(model, **about), **options, **_pixels(model),
    )  # fmt: skip


# ---- detection -----------------------------------------------------------------------------------
class Detector(nn.Module):
    """A detector: (N, 3, H, W) to boxes (N, k, 4), scores (N, k) and labels (N, k), best first."""

    most: int

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def reference(self, images: Tensor) -> tuple[Tensor, ...]:
        """The same by the model's own predict."""
        samples = _samples(images)
        found = [sample.pred_instances for sample in self.model.predict(images, samples, False)]
        return _lists(found, self.most)


def _samples(images: Tensor) -> list[DetDataSample]:
    size = tuple(images.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1.0, 1.0))  # fmt: skip
    return [DetDataSample(metainfo=meta) for _ in range(images.shape[0])]


def _lists(found, most: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        padded([one.bboxes for one in found], most),
        padded([one.scores for one in found], most, NONE),
        padded([one.labels for one in found], most),
    )


def _detector(network: Detector, outputs=BOXES, **options) -> Exportable:
    model = network.model
    test = model.test_cfg.get("rcnn", model.test_cfg)
    divisor = getattr(model.data_preprocessor, "pad_size_divisor", 1)
    low = tuple(f"model.{name}" for name in LOW if _has(model, name))
    options = {"low": low, "about": _about(model, score=test.get("score_thr", 0.0)), **options}
    return Exportable(
        network, outputs, INSTANCES, network.reference, multiple=max(32, divisor),
        least=max(64, divisor), **options, **_pixels(model),
    )  # fmt: skip


def _has(model: nn.Module, name: str) -> bool:
    return any(known == name for known, _ in model.named_modules())


def _check_nms(nms: dict, where: str) -> None:
    """UserError for a suppression other than the plain one."""
    kind = str(nms.get("type", "nms"))
    other = set(nms) - {"type", "iou_threshold", "split_thr"}
    if kind != "nms" or other:
        raise UserError(
            f"{where} is {dict(nms)}; ONNX has the plain one alone, dict(type='nms', iou_threshold=..): it "
            "cannot be exported as it is"
        )


class OneStage(Detector):
    """RTMDet: scores and distances of every position."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        _check_nms(model.bbox_head.test_cfg.nms, "model.test_cfg.nms")
        self.most = model.bbox_head.test_cfg.max_per_img

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        head, test = self.model.bbox_head, self.model.bbox_head.test_cfg
        height, width = images.shape[2:]
        maps = head(self.model.extract_feat(images))
        priors = head.prior_generator.grid_priors(
            [x.shape[2:] for x in maps[0]], dtype=maps[0][0].dtype, device=images.device
        )
        boxes, scores, labels = [], [], []
        for score, box, prior in zip(*maps, priors, strict=True):
            n, classes = score.shape[0], head.cls_out_channels
            score = score.permute(0, 2, 3, 1).reshape(n, -1).sigmoid()
            box = box.permute(0, 2, 3, 1).reshape(n, -1, 4)
            score, position = best(score, test.nms_pre)
            place = position // classes
            prior = at(prior[None].expand(n, -1, -1), place)
            boxes.append(head.bbox_coder.decode(prior, at(box, place)))
            scores.append(score)
            labels.append(position % classes)
        boxes, labels = clipped(torch.cat(boxes, 1), height, width), torch.cat(labels, 1)
        sides = boxes[..., 2:] - boxes[..., :2]
        scores = torch.where((sides > test.min_bbox_size).all(-1), torch.cat(scores, 1), NONE)
        boxes, scores, position = suppressed(
            boxes, scores, labels, iou=test.nms.iou_threshold, score=test.score_thr, most=self.most
        )
        return boxes, scores, at(labels, position)


class RCNN(TwoStage, Detector):
    """Faster, Mask, Cascade and Cascade Mask R-CNN."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        first, last, head = model.rpn_head.test_cfg, model.roi_head.test_cfg, model.roi_head
        _check_nms(first.nms, "model.test_cfg.rpn.nms")
        _check_nms(last.nms, "model.test_cfg.rcnn.nms")
        self.candidates, self.proposals = first.nms_pre, first.max_per_img
        self.proposal_iou, self.least_side = first.nms.iou_threshold, first.min_bbox_size
        self.iou, self.score, self.most = last.nms.iou_threshold, last.score_thr, last.max_per_img
        self._box, self._mask = _stages(head, "bbox"), []
        if head.with_mask:
            self._mask = _stages(head, "mask")
        self.box_stages, self.mask_stages = len(self._box), len(self._mask)

    def maps(self, images: Tensor):
        return self.model.extract_feat(images)

    def first_stage(self, maps) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        rpn = self.model.rpn_head
        found = rpn(maps)
        anchors = rpn.prior_generator.grid_priors(
            [x.shape[2:] for x in found[0]], dtype=found[0][0].dtype, device=maps[0].device
        )
        for score, delta, anchor in zip(*found, anchors, strict=True):
            score, delta = (x.permute(0, 2, 3, 1) for x in (score, delta))
            yield score.flatten(1), delta.reshape(delta.shape[0], -1, 4), anchor

    def first_boxes(self, anchors: Tensor, deltas: Tensor) -> Tensor:
        return self.model.rpn_head.bbox_coder.decode(anchors, deltas)

    def box_stage(self, stage: int, maps, rois: Tensor) -> tuple[Tensor, Tensor]:
        extractor, head = self._box[stage]
        return head(_pooled(extractor, maps, rois))

    def boxes(self, stage: int, boxes: Tensor, deltas: Tensor) -> Tensor:
        return self._box[stage][1].bbox_coder.decode(boxes, deltas)

    def probabilities(self, logits: list[Tensor]) -> Tensor:
        return (sum(logits) / len(logits)).softmax(-1)[:, :-1]

    def mask_stage(self, stage: int, maps, rois: Tensor) -> Tensor:
        extractor, head = self._mask[stage]
        return head(_pooled(extractor, maps, rois))

    def reference(self, images: Tensor) -> tuple[Tensor, ...]:
        """By the model's own heads, but masks as they are before they are pasted."""
        model, samples = self.model, _samples(images)
        maps = model.extract_feat(images)
        proposals = model.rpn_head.predict(maps, samples, rescale=False)
        metas = [sample.metainfo for sample in samples]
        head = model.roi_head
        found = head.predict_bbox(maps, metas, proposals, head.test_cfg, rescale=False)
        lists = _lists(found, self.most)
        if not self.mask_stages:
            return lists
        return (*lists, self._masks_by_the_model(maps, lists[0], lists[2]))

    def masks_in(self, images: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
        """By the model's own heads, in given regions."""
        return self._masks_by_the_model(self.model.extract_feat(images), boxes, labels)

    def _masks_by_the_model(self, maps, boxes: Tensor, labels: Tensor) -> Tensor:
        head, rois = self.model.roi_head, regions(boxes)
        stages = [(k,) for k in range(self.mask_stages)] if self.box_stages > 1 else [()]
        masks = [head._mask_forward(*k, maps, rois)["mask_preds"].sigmoid() for k in stages]
        masks = of_class(sum(masks) / len(masks), labels.flatten())
        return masks.unflatten(0, labels.shape)


def _stages(head: nn.Module, kind: str) -> list[tuple[nn.Module, nn.Module]]:
    """The pairs of RoI extractor and head; one, or those of a cascade."""
    found = getattr(head, f"{kind}_roi_extractor"), getattr(head, f"{kind}_head")
    pairs = list(zip(*found, strict=True)) if isinstance(found[0], nn.ModuleList) else [found]
    for extractor, _ in pairs:
        layers = getattr(extractor, "roi_layers", ())
        if type(extractor) is not SingleRoIExtractor or any(
            type(layer).__name__ != "RoIAlign" or layer.pool_mode != "avg" for layer in layers
        ):
            raise UserError(
                f"roi_head.{kind}_roi_extractor is {extractor}; ONNX has RoIAlign with the mean, from one level "
                "each (SingleRoIExtractor): it cannot be exported as it is"
            )
    return pairs


def _pooled(extractor: SingleRoIExtractor, maps, rois: Tensor) -> Tensor:
    """As the extractor's forward, with its layers' options."""
    layers = extractor.roi_layers
    levels = extractor.map_roi_levels(rois, len(layers))
    layer = layers[0]
    height, width = layer.output_size
    return pooled_rois(
        [x.contiguous() for x in maps[: len(layers)]], rois, levels,
        [layer.spatial_scale for layer in layers], height, width, layer.sampling_ratio, layer.aligned,
    )  # fmt: skip


class Queries(Detector):
    """DINO: the best of its queries, without suppression."""

    def __init__(self, model: nn.Module):
        super().__init__(model)
        self.most = min(
            model.bbox_head.test_cfg.get("max_per_img", model.num_queries),
            model.num_queries * model.bbox_head.cls_out_channels,
        )

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        head = self.model.bbox_head
        height, width = images.shape[2:]
        maps = self.model.extract_feat(images)
        logits, boxes = head(**self.model.forward_transformer(maps, _samples(images[:1])))
        scores = logits[-1].flatten(1).sigmoid()
        scores, position = scores.topk(self.most, dim=1)
        boxes = bbox_cxcywh_to_xyxy(at(boxes[-1], position // head.cls_out_channels))
        boxes = boxes * boxes.new_tensor([width, height, width, height])
        return clipped(boxes, height, width), scores, position % head.cls_out_channels


def _queries(model: nn.Module) -> Exportable:
    fixed = {
        SIZE: f"encoder ({type(model.encoder).__name__}) {TRANSFORMER}",
        BATCH: "DINO.forward_decoder counts the pictures",
    }
    return _detector(
        Queries(model), fixed=fixed, tracing=known_sizes, low=("model.backbone", "model.neck")
    )


def _two_stage(model: nn.Module) -> Exportable:
    network = RCNN(model)
    if not network.mask_stages:
        return _detector(network)
    threshold = float(model.roi_head.test_cfg.mask_thr_binary)
    about = _about(model, score=network.score, mask_threshold=threshold)
    return _detector(network, (*BOXES, "masks"), masks=network.masks_in, about=about)


KINDS: dict[str, Callable[[nn.Module], Exportable]] = {
    "EncoderDecoder": _segmentor,
    "RTMDet": lambda model: _detector(OneStage(model)),
    "FasterRCNN": _two_stage,
    "MaskRCNN": _two_stage,
    "CascadeRCNN": _two_stage,
    "DINO": _queries,
}
