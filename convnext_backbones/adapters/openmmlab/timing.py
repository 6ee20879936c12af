"""A shipped model on random pictures, to be timed: its losses, and what it finds."""

from collections.abc import Callable

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.mask import BitmapMasks
from mmengine.logging import MMLogger
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn

from .run import build_model, load_config

OBJECTS = 12  # of each picture
PARTS = (
    "data_preprocessor",
    "backbone",
    "neck",
    "decode_head",
    "auxiliary_head",
    "rpn_head",
    "bbox_head",
)
PARTS_OF_ROIS = ("bbox_roi_extractor", "bbox_head", "mask_roi_extractor", "mask_head")


def timed_model(
    config: str, size: tuple[int, int], pictures: int, *, shrink: bool = False
) -> tuple[
    nn.Module, Callable[[nn.Module], dict[str, Tensor]], Callable[[nn.Module], float], list[str]
]:
    """The model of a shipped config, its losses and what inference finds in the first picture (both take
    the model or a copy of it), and the names of its parts.

    Drop path is off, so that two backbones draw the same random numbers, and SyncBN is BN, as in a run of
    one process. The class logits of an R-CNN, all alike before training, are drawn wide enough that it finds
    objects, whose masks inference then computes.
    """
    height, width = size
    cfg = load_config(config, shrink=shrink)
    cfg.model.backbone.drop_path_rate = 0.0
    segments = cfg.default_scope == "mmseg"
    if segments:
        cfg.model.data_preprocessor.size = size
        cfg.model.test_cfg = dict(mode="whole")
    model = build_model(cfg, "cpu")
    log = MMLogger.get_current_instance()  # which would tell of every weight
    level = log.level
    log.setLevel("WARNING")
    model.init_weights()
    log.setLevel(level)
    if hasattr(model, "roi_head"):
        nn.init.normal_(model.roi_head.bbox_head.fc_cls.weight, std=1.0)
    generator = np.random.default_rng(0)
    classes = (model.decode_head if segments else _class_head(model)).num_classes
    make = _label_map if segments else _objects
    samples = [make(generator, height, width, classes) for _ in range(pictures)]
    if not segments and not hasattr(model, "roi_head"):  # trained by boxes alone
        for sample in samples:
            del sample.gt_instances.masks
    images = [
        torch.from_numpy(generator.integers(0, 256, (3, height, width), dtype=np.uint8))
        for _ in range(pictures)
    ]

    def losses(model: nn.Module) -> dict[str, Tensor]:
        data = model.data_preprocessor({"inputs": images, "data_samples": samples}, True)
        found = model.loss(data["inputs"], data["data_samples"])
        return {
            name: sum(x.mean() for x in (value if isinstance(value, list) else [value]))
            for name, value in found.items()
            if "loss" in name
        }

    def found(model: nn.Module) -> float:
        (sample,) = model.test_step({"inputs": images[:1], "data_samples": samples[:1]})
        if segments:
            return float(sample.pred_sem_seg.data.unique().numel())
        return float(len(sample.pred_instances))

    names = [name for name in PARTS if getattr(model, name, None) is not None]
    rois = getattr(model, "roi_head", None)
    names += [f"roi_head.{n}" for n in PARTS_OF_ROIS if getattr(rois, n, None) is not None]
    names += ["roi_head"] if rois is not None else []
    return model, losses, found, names


def _class_head(model: nn.Module) -> nn.Module:
    return model.roi_head.bbox_head if hasattr(model, "roi_head") else model.bbox_head


def _label_map(generator, height: int, width: int, classes: int) -> SegDataSample:
    labels = (
        generator.integers(0, classes, (1, height // 32, width // 32)).repeat(32, 1).repeat(32, 2)
    )
    sample = SegDataSample(metainfo=_meta(height, width))
    sample.gt_sem_seg = PixelData(data=torch.from_numpy(labels))
    return sample


def _objects(generator, height: int, width: int, classes: int) -> DetDataSample:
    corners = generator.uniform(0, 0.6, (OBJECTS, 2))
    ends = corners + generator.uniform(0.1, 0.4, (OBJECTS, 2))
    boxes = np.concatenate([corners, ends], 1) * [width, height, width, height]
    masks = np.zeros((OBJECTS, height, width), np.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = 1
    sample = DetDataSample(metainfo=_meta(height, width))
    sample.gt_instances = InstanceData(
        bboxes=torch.from_numpy(boxes).float(),
        labels=torch.from_numpy(generator.integers(0, classes, OBJECTS)),
        masks=BitmapMasks(masks, height, width),
    )
    return sample


def _meta(height: int, width: int) -> dict:
    size = (height, width)
    return dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0))
