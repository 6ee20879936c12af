"""Which feature maps a backbone returns: out_features and out_indices to ordered names.

Features are named "stem", "stage1".."stageN". An index counts stages from 0, as in MMDetection,
MMSegmentation, MMPretrain and timm: out_indices=(0, 1, 2, 3) is stage1..stage4. The stem has a name
and no index. (Hugging Face counts the stem as 0; only adapters/huggingface/ translates.)
"""

import difflib
from collections.abc import Sequence


def feature_names(num_stages: int) -> tuple[str, ...]:
    """All names of a network with `num_stages` stages, in network order."""
    return ("stem", *(f"stage{i + 1}" for i in range(num_stages)))


def select_features(
    num_stages: int,
    out_features: Sequence[str] | None = None,
    out_indices: Sequence[int] | None = None,
) -> tuple[str, ...]:
    """The selected feature names, in network order.

    Neither given: the last stage. Both given: they must name the same features. Names and indices
    must be valid, distinct and in network order. The caller's sequences are not changed.

    Raises:
        TypeError: not a list or tuple, or an entry of the wrong type.
        ValueError: an unknown, repeated or unordered entry, an empty or contradictory selection.
    """
    names = feature_names(num_stages)
    if out_features is None and out_indices is None:
        return names[-1:]
    by_name = None if out_features is None else _checked_names(out_features, names)
    if out_indices is None:
        return by_name
    by_index = _checked_indices(out_indices, names)
    if by_name is not None and by_name != by_index:
        raise ValueError(
            f"out_features={tuple(out_features)} and out_indices={tuple(out_indices)} disagree: "
            f"the indices are {by_index} (an index counts stages from 0, the stem has none). "
            "Give one of the two"
        )
    return by_index


def _checked_names(out_features, names) -> tuple[str, ...]:
    if not isinstance(out_features, (list, tuple)):
        raise TypeError(
            f"out_features must be a list or tuple of names, got {out_features!r}; "
            f"for one feature write out_features=({out_features!r},)"
        )
    for name in out_features:
        if not isinstance(name, str):
            raise TypeError(f"out_features holds {name!r}, which is no name; valid: {names}")
        if name not in names:
            close = difflib.get_close_matches(name.lower(), names, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ValueError(f"out_features holds {name!r}; {hint}valid: {names}")
    return _checked_order("out_features", out_features, tuple(out_features), names)


def _checked_indices(out_indices, names) -> tuple[str, ...]:
    if not isinstance(out_indices, (list, tuple)):
        raise TypeError(
            f"out_indices must be a list or tuple of whole numbers, got {out_indices!r}; "
            f"for one stage write out_indices=({out_indices!r},)"
        )
    stages = names[1:]
    for index in out_indices:
        if isinstance(index, bool) or not isinstance(index, int):
            raise TypeError(
                f"out_indices holds {index!r}, which is no whole number; "
                f"valid: {-len(stages)}..{len(stages) - 1}"
            )
        if not -len(stages) <= index < len(stages):
            raise ValueError(
                f"out_indices holds {index}; valid: {-len(stages)}..{len(stages) - 1} "
                f"(0 is stage1, -1 is stage{len(stages)}; the stem is chosen by out_features)"
            )
    return _checked_order("out_indices", out_indices, tuple(stages[i] for i in out_indices), names)


def _checked_order(option, given, selected, names) -> tuple[str, ...]:
    if not selected:
        raise ValueError(f"{option} is empty; choose at least one of {names}")
    if len(set(selected)) != len(selected):
        raise ValueError(f"{option}={tuple(given)} names a feature twice; name it once")
    ordered = tuple(name for name in names if name in selected)
    if selected != ordered:
        raise ValueError(
            f"{option}={tuple(given)} is not in network order; the same features in order: {ordered}"
        )
    return ordered
