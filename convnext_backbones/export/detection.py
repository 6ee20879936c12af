"""What detectors do after their layers, for a whole batch and in fixed sizes, as graphs need it.

Frameworks do it picture by picture, in lists as long as what was found. Here every list has its greatest
length; what is not there has a score below 0.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

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


class TwoStage(nn.Module):
    """R-CNNs: (N, 3, H, W) to boxes (N, k, 4), scores (N, k), labels (N, k) and, with mask heads, masks
    (N, k, m, m). A framework's subclass says what its own modules are, and sets:

    candidates, proposals: of the first stage, before suppression a level and after it; proposal_iou,
    least_side of them. iou, score, most: of the results. box_stages, mask_stages: how many.
    """

    candidates: int
    proposals: int
    proposal_iou: float
    least_side: float
    iou: float
    score: float
    most: int
    box_stages: int
    mask_stages: int

    def maps(self, images: Tensor):
        """The levels of the pyramid, as the methods below take them."""
        raise NotImplementedError

    def first_stage(self, maps) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """Of each level logits (N, A), deltas (N, A, 4) and anchors (A, 4)."""
        raise NotImplementedError

    def first_boxes(self, anchors: Tensor, deltas: Tensor) -> Tensor:
        """(R, 4) and (R, 4) to (R, 4), not clipped."""
        raise NotImplementedError

    def box_stage(self, stage: int, maps, rois: Tensor) -> tuple[Tensor, Tensor]:
        """(R, 5) to logits (R, K + 1) and deltas (R, 4) or (R, 4 * K)."""
        raise NotImplementedError

    def boxes(self, stage: int, boxes: Tensor, deltas: Tensor) -> Tensor:
        """(R, 4) and deltas to boxes of the deltas' shape, not clipped."""
        raise NotImplementedError

    def probabilities(self, logits: list[Tensor]) -> Tensor:
        """All stages' logits to (R, K)."""
        raise NotImplementedError

    def mask_stage(self, stage: int, maps, rois: Tensor) -> Tensor:
        """(R, 5) to logits (R, K, m, m) or (R, 1, m, m)."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = self.maps(images)
        size = tuple(images.shape[2:])
        proposals, there = self._proposals(maps, size)
        n, count = there.shape
        rois, logits = regions(proposals), []
        for stage in range(self.box_stages):
            score, delta = self.box_stage(stage, maps, rois)
            logits.append(score)
            boxes = self.boxes(stage, rois[:, 1:], delta).unflatten(1, (-1, 4))
            boxes = clipped(boxes, *size)
            if stage < self.box_stages - 1:
                rois = torch.cat((rois[:, :1], _of_likeliest(boxes, score)), 1)
        score = self.probabilities(logits)
        classes = score.shape[1]
        boxes = boxes.expand(-1, classes, 4).reshape(n, -1, 4)
        score = torch.where(there[..., None], score.reshape(n, count, classes), NONE).reshape(n, -1)
        label = torch.arange(classes, device=images.device).expand(n, count, classes).reshape(n, -1)
        boxes, score, position = suppressed(
            boxes, score, label, iou=self.iou, score=self.score, most=self.most
        )
        label = at(label, position)
        return (boxes, score, label, *self._masks(maps, boxes, label))

    def _proposals(self, maps, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        boxes, scores, levels = [], [], []
        for level, (score, delta, anchor) in enumerate(self.first_stage(maps)):
            score, place = best(score.sigmoid(), self.candidates)
            anchor = at(anchor[None].expand(score.shape[0], -1, -1), place)
            box = self.first_boxes(anchor.flatten(0, 1), at(delta, place).flatten(0, 1))
            boxes.append(clipped(box, *size).reshape(score.shape[0], -1, 4))
            scores.append(score)
            levels.append(torch.full_like(place, level))
        boxes, scores = torch.cat(boxes, 1), torch.cat(scores, 1)
        sides = boxes[..., 2:] - boxes[..., :2]
        scores = torch.where((sides > self.least_side).all(-1), scores, NONE)
        boxes, scores, _ = suppressed(
            boxes,
            scores,
            torch.cat(levels, 1),
            iou=self.proposal_iou,
            score=NONE,
            most=self.proposals,
        )
        return boxes, scores > NONE

    def _masks(self, maps, boxes: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Probabilities of each instance's class, the mean over the stages."""
        if not self.mask_stages:
            return ()
        rois = regions(boxes)
        found = [self.mask_stage(k, maps, rois).sigmoid() for k in range(self.mask_stages)]
        masks = of_class(sum(found) / len(found), labels.flatten())
        return (masks.unflatten(0, labels.shape),)


def _of_likeliest(boxes: Tensor, logits: Tensor) -> Tensor:
    """(R, K or 1, 4) boxes to those of the class with the greatest logit, (R, 4); the last is background."""
    if boxes.shape[1] == 1:
        return boxes[:, 0]
    return at(boxes, logits[:, :-1].argmax(1, keepdim=True))[:, 0]


def of_class(masks: Tensor, labels: Tensor) -> Tensor:
    """(R, K, m, m) and (R,) to (R, m, m); of heads that do not tell classes apart the one mask."""
    if masks.shape[1] == 1:
        return masks[:, 0]
    index = labels[:, None, None, None].expand(-1, 1, *masks.shape[2:])
    return masks.gather(1, index)[:, 0]
