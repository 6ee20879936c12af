"""What a class-activation map is of: a class of a classifier, the pixels of one in a segmentation, the
scores of found objects."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..network.variants import near_word
from ..runs.host import Classes
from ..runs.visualize import class_name
from .maps import library


def _targets():
    return library().utils.model_targets


class Aim(NamedTuple):
    """A target of grad-cam, words for it, and the boxes that it is of, where it is of boxes: (n, 4), labels
    and scores."""

    target: Callable[[Any], Tensor]
    words: str
    boxes: np.ndarray | None = None
    labels: np.ndarray | None = None
    scores: np.ndarray | None = None


def class_number(wanted: str, names: Sequence[str], count: int) -> int:
    """The number of a class by its name or number, in upper or lower case.

    Raises:
        UserError: there is no such class.
    """
    if wanted in names:
        return list(names).index(wanted)
    lower = [name.lower() for name in names]
    if wanted.lower() in lower:
        return lower.index(wanted.lower())
    if wanted.isdecimal() and int(wanted) < count:
        return int(wanted)
    near = near_word(wanted, names) if names else None
    hint = f"did you mean {near!r}? " if near else ""
    some = ", ".join(map(str, names[:8])) + (", .." if len(names) > 8 else "")
    raise UserError(
        f"--class {wanted}: there is no such class; {hint}Valid: 0 to {count - 1}{f' and {some}' if names else ''}"
    )


def of_classifier(logits: Tensor, names: Sequence[str], wanted: str | None) -> Aim:
    """A class, or the first guess. logits: (classes,)."""
    number = int(logits.argmax()) if wanted is None else class_number(wanted, names, len(logits))
    share = logits.softmax(dim=0)[number].item()
    return Aim(
        _targets().ClassifierOutputTarget(number), f"{class_name(names, number)} {share:.2f}"
    )


def of_segmentation(scores: Tensor, classes: Classes, wanted: str | None) -> Aim:
    """The pixels that are seen as a class, or as the most frequent one. scores: (classes, h, w).

    Raises:
        UserError: no pixel is.
    """
    one = len(scores) == 1  # a score of yes or no
    labels = (scores[0] <= 0).long() if one else scores.argmax(dim=0)
    amounts = torch.bincount(labels.flatten(), minlength=len(scores))[: len(scores)]
    if wanted is None:
        number = int(amounts.argmax())
    else:
        number = class_number(wanted, classes.names, len(scores))
    if not amounts[number]:
        seen = [class_name(classes.names, k) for k in amounts.nonzero().flatten().tolist()]
        raise UserError(
            f"no pixel is seen as {class_name(classes.names, number)}; seen are: {', '.join(seen) or 'none'}"
        )
    inside = (labels == number).float().cpu().numpy()
    words = f"{class_name(classes.names, number)}, {100 * inside.mean():.0f} % of the pixels"
    return Aim(_targets().SemanticSegmentationTarget(number, inside), words)


def of_instances(found: dict, classes: Classes, wanted: str | None, score: float) -> Aim:
    """The scores of the objects of a class, or of the best one's class, that have at least that score.

    Raises:
        UserError: nothing is found.
    """
    names = classes.names
    boxes, labels, scores = (
        found[key].detach().cpu().numpy() for key in ("boxes", "labels", "scores")
    )
    sized = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)  # an empty mask has a box without area
    good = (scores >= score) & sized
    number = None
    if wanted is not None:
        number = class_number(wanted, names, len(names) or int(labels.max(initial=-1)) + 1)
    elif good.any():
        number = int(labels[np.where(good, scores, -1).argmax()])
    chosen = good if number is None else good & (labels == number)
    if not chosen.any():
        what = "nothing" if number is None else class_name(names, number)
        best = {class_name(names, k): scores[labels == k].max() for k in np.unique(labels)}
        best = sorted(best.items(), key=lambda pair: -pair[1])[:5]
        seen = ", ".join(f"{name} {value:.2f}" for name, value in best)
        raise UserError(
            f"{what} is found with a score of {score:g} or more; the best are: {seen or 'none'}; take a lower "
            "--score, or --method eigencam, which is of no class"
        )
    aim = _scores_of_class(
        number, _targets().FasterRCNNBoxScoreTarget(labels[chosen], boxes[chosen])
    )
    words = f"{class_name(names, number)}: the scores of {int(chosen.sum())}"
    return Aim(aim, words, boxes[chosen], labels[chosen], scores[chosen])


def _scores_of_class(number: int, target: Callable[[dict], Tensor]) -> Callable[[dict], Tensor]:
    """The target among the objects of a class: it takes the box that overlaps most, of whatever class."""

    def of_class(found: dict) -> Tensor:
        same = found["labels"] == number
        return target({key: found[key][same] for key in ("boxes", "labels", "scores")})

    return of_class


def of_nothing(words: str) -> Aim:
    """For methods that ask for no class."""
    return Aim(lambda output: output, words)
