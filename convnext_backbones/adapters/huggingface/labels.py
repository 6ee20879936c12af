"""Which labels the loss of a classifier takes, told before the loss is computed."""

import torch
from torch import Tensor

from ...errors import UserError

LEFT_OUT = -100  # a class number that the cross-entropy leaves out
PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")


def check_labels(labels: Tensor, logits: Tensor, problem_type: str | None) -> None:
    """Refuse labels that do not fit the logits (N, num_labels) and the kind of problem.

    Where that is None, it follows from the number of labels and their type, by transformers' rule.

    Raises:
        UserError: what came, and what the kind of problem takes.
    """
    if problem_type not in (None, *PROBLEMS):
        raise UserError(
            f"config.problem_type={problem_type!r} names no loss; valid: None, by the labels, or "
            f"{', '.join(map(repr, PROBLEMS))}"
        )
    if not isinstance(labels, Tensor):
        raise UserError(
            f"labels must be a tensor, got a {type(labels).__name__}; write torch.tensor(labels)"
        )
    count, shape = logits.shape
    kind = problem_type or _kind(labels, shape)
    if kind == "single_label_classification":
        expected = f"{count} class numbers from 0 to {shape - 1}, of torch.int64"
        fits = labels.dtype == torch.long and labels.numel() == count
        if fits and labels.device.type == "cpu":  # a GPU would have to be waited for
            fits = bool(((labels == LEFT_OUT) | ((labels >= 0) & (labels < shape))).all())
    else:
        expected = f"floats of shape {(count, shape)}"
        of_one = kind == "regression" and shape == 1 and labels.numel() == count
        fits = labels.is_floating_point() and (of_one or labels.shape == logits.shape)
    if not fits:
        values = (
            f", from {labels.min().item():g} to {labels.max().item():g}" if labels.numel() else ""
        )
        raise UserError(
            f"the labels of a problem of {kind} are {expected}; got {labels.dtype} of shape "
            f"{tuple(labels.shape)}{values}. Change them, or config.problem_type={problem_type!r}"
        )


def _kind(labels: Tensor, num_labels: int) -> str:
    if num_labels == 1:
        return "regression"
    whole = labels.dtype in (torch.long, torch.int)
    return "single_label_classification" if whole else "multi_label_classification"
