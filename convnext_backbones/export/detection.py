"""What detectors do after their layers, for a whole batch and in fixed sizes, as graphs need it.

Frameworks do it picture by picture, in lists as long as what was found. Here every list has its greatest
length; what is not there has a score below 0.
"""

import torch
from torch import Tensor

from .operators import kept

NONE = -1.0  # the score of what is not there


def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(N, M) to the (N, min(count, M)) greatest and their positions."""
    return scores.topk(torch.sym_min(count, scores.shape[1]), dim=1)


def at(x: Tensor, positions: Tensor) -> Tensor:
    """(N, M, ...) at (N, k): (N, k, ...)."""
    shape = (*positions.shape, *x.shape[2:])
    return x.gather(1, positions.reshape(*positions.shape, *[1] * (x.dim() - 2)).expand(shape))


def clipped(boxes: Tensor, height: int, width: int) -> Tensor:
    """(..., 4) left, top, right, bottom inside the image."""
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack((x[..., 0], y[..., 0], x[..., 1], y[..., 1]), dim=-1)


def suppressed(
    boxes: Tensor, scores: Tensor, groups: Tensor, *, iou: float, score: float, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Non-maximum suppression within each group: (N, M, 4), (N, M) and (N, M) to the best `most` boxes,
    their scores and their positions among the M, best first; NONE, boxes of 0 and position 0 below.

    Groups are told apart by shifting their boxes, as the frameworks do it.
    """
    n = scores.shape[0]
    # so that there are `most` of them
    scores = torch.cat((scores, scores.new_full((n, most), NONE)), dim=1)
    boxes = torch.cat((boxes, boxes.new_zeros(n, most, 4)), dim=1)
    groups = torch.cat((groups, groups.new_zeros(n, most)), dim=1)
    shift = groups.to(boxes.dtype) * (boxes.amax(dim=(1, 2)) + 1)[:, None]
    keep = kept(boxes + shift[..., None], scores, iou, score, most)
    scores, positions = torch.where(keep, scores, NONE).topk(most, dim=1)
    there = scores > NONE
    positions = torch.where(there, positions, 0)
    return at(boxes, positions) * there[..., None].to(boxes.dtype), scores, positions


def regions(boxes: Tensor) -> Tensor:
    """(N, P, 4) boxes to (N * P, 5): the number of the image before each."""
    n, count = boxes.shape[:2]
    image = torch.arange(n, device=boxes.device, dtype=boxes.dtype)
    image = image[:, None, None].expand(n, count, 1)
    return torch.cat((image, boxes), dim=2).flatten(0, 1)


def padded(values: list[Tensor], most: int, fill: float = 0.0) -> Tensor:
    """A framework's lists, (k_i, ...) each, as (N, most, ...)."""
    rows = []
    for value in values:
        value = value[:most]
        rest = value.new_full((most - len(value), *value.shape[1:]), fill)
        rows.append(torch.cat((value, rest)))
    return torch.stack(rows)
