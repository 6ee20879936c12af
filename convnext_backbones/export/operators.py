"""Two operators of detectors whose inside depends on the data, as one step each of a graph.

Their results have fixed sizes, so that a graph of any batch and any size holds them. In PyTorch they are
torchvision's nms and roi_align, in ONNX NonMaxSuppression and RoiAlign. A program of torch that holds them
needs `import convnext_backbones.export.operators` before it is loaded.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import nms, roi_align


@torch.library.custom_op("convnext_backbones::kept", mutates_args=())
def kept(boxes: Tensor, scores: Tensor, iou: float, score: float, most: int) -> Tensor:
    """(N, M, 4) boxes and (N, M) scores to (N, M), whether non-maximum suppression keeps a box: of those
    with more than `score`, the best `most` that overlap no better one by more than `iou`."""
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for k in range(len(boxes)):
        candidates = (scores[k] > score).nonzero().squeeze(1)
        best = nms(boxes[k, candidates], scores[k, candidates], iou)[:most]
        keep[k, candidates[best]] = True
    return keep


@kept.register_fake
def _(boxes, scores, iou, score, most):
    return torch.empty_like(scores, dtype=torch.bool)


@torch.library.custom_op("convnext_backbones::pooled_rois", mutates_args=())
def pooled_rois(
    maps: Sequence[Tensor],
    rois: Tensor,
    levels: Tensor,
    scales: Sequence[float],
    height: int,
    width: int,
    sampling: int,
    aligned: bool,
) -> Tensor:
    """RoIAlign of (R, 5) regions, each in the map of its level, (R,): (R, C, height, width).

    scales: of each map, its pixels by the image's. sampling: points a bin and side, 0 for as many as
    the bin has pixels.
    """
    pooled = rois.new_zeros(len(rois), maps[0].shape[1], height, width)
    for level, (x, scale) in enumerate(zip(maps, scales, strict=True)):
        here = (levels == level).nonzero().squeeze(1)
        if len(here):
            pooled[here] = roi_align(x, rois[here], (height, width), scale, sampling, aligned)
    return pooled


@pooled_rois.register_fake
def _(maps, rois, levels, scales, height, width, sampling, aligned):
    return rois.new_empty(rois.shape[0], maps[0].shape[1], height, width)


# ---- in ONNX -------------------------------------------------------------------------------------
def translations() -> dict:
    """The operators in ONNX, as torch.onnx.export's custom_translation_table has them."""
    from onnxscript import opset18 as op

    def onnx_kept(boxes, scores, iou: float, score: float, most: int):
        found = op.NonMaxSuppression(
            boxes,
            op.Unsqueeze(scores, op.Constant(value_ints=[1])),
            op.Constant(value_ints=[most]),
            op.Constant(value_floats=[iou]),
            op.Constant(value_floats=[score]),
        )  # (K, 3): image, class, box
        where = op.Gather(found, op.Constant(value_ints=[0, 2]), axis=1)
        none = op.Expand(op.Constant(value_floats=[0.0]), op.Shape(scores))
        ones = op.Expand(op.Constant(value_floats=[1.0]), op.Shape(found, start=0, end=1))
        return op.Greater(op.ScatterND(none, where, ones), op.Constant(value_float=0.0))

    def onnx_pooled_rois(
        maps,
        rois,
        levels,
        scales: Sequence[float],
        height: int,
        width: int,
        sampling: int,
        aligned: bool,
    ):
        zero, minus = op.Constant(value_ints=[0]), op.Constant(value_ints=[-1])
        channels = op.Shape(maps[0], start=1, end=2)
        shape = op.Concat(
            op.Shape(rois, start=0, end=1),
            channels,
            op.Constant(value_ints=[height, width]),
            axis=0,
        )
        pooled = op.Expand(op.Constant(value_floats=[0.0]), shape)
        image = op.Cast(op.Squeeze(op.Slice(rois, zero, op.Constant(value_ints=[1]), op.Constant(value_ints=[1])), op.Constant(value_ints=[1])), to=7)  # fmt: skip
        boxes = op.Slice(rois, op.Constant(value_ints=[1]), op.Constant(value_ints=[5]), op.Constant(value_ints=[1]))  # fmt: skip
        for level, scale in enumerate(scales):
            number = op.CastLike(op.Constant(value_int=level), levels)
            here = op.Squeeze(op.NonZero(op.Equal(levels, number)), zero)
            part = op.RoiAlign(
                maps[level], op.Gather(boxes, here, axis=0), op.Gather(image, here, axis=0),
                coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
                output_height=height, output_width=width, sampling_ratio=sampling, spatial_scale=scale,
            )  # fmt: skip
            pooled = op.ScatterND(pooled, op.Unsqueeze(here, minus), part)
        return pooled

    ops = torch.ops.convnext_backbones
    return {ops.kept.default: onnx_kept, ops.pooled_rois.default: onnx_pooled_rois}
