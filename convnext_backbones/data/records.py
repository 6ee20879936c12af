"""Pictures and labels as a framework's data set hands them to its pipeline, in no framework's words.

A framework's adapter makes them (runs.host.Host.records); checks.py judges them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

VOID = 255  # the label of pixels that count for no class, in most frameworks


class Record(NamedTuple):
    """A picture with its labels.

    picture, label_map: paths. size: width and height in pixels, as an annotation file has it.
    boxes: left, top, right, bottom in pixels; labels: a class number for each; masks: a polygon list or
    an RLE for each, None where there is none; crowd: whether a box stands for a group.
    """

    picture: str
    size: tuple[int, int] | None = None
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    labels: tuple[int, ...] = ()
    masks: tuple[Any, ...] = ()
    crowd: tuple[bool, ...] = ()
    label_map: str | None = None


class Evaluation(NamedTuple):
    """An evaluator of a config.

    kind: its name. annotations: the annotation file that it reads, if it reads one. masks: it measures
    masks.
    """

    kind: str
    annotations: str | None = None
    masks: bool = False


@dataclass
class Records:
    """One split of a config's data, and what the config asks of it.

    Args:
        split: "train", "val" or "test".
        task: "boxes" or "label maps".
        classes: in the order of the class numbers.
        records: what the data set holds; empty where `error` says why it cannot be made.
        annotations: the COCO JSON that it reads, if it does; `images`: the folder of its pictures.
        renumber: a label map's value to its class number or a void label, for the values that the
            framework changes; others stay.
        voids: the label that counts for no class, by the place of the config that says it.
        values: how many values of a label map the framework tells apart; higher ones wrap.
        needs_masks: the model or the pipeline takes a mask of every object.
        gives_masks: the model predicts them.
        resized: a picture's (width, height) to the size that the config resizes it to, of several the
            middle one.
        least: the least side that the network takes, in pixels.
        evaluations: the evaluators of this split.
        unread: bytes of an annotation file that was not read for its size; nothing else is known then.
        setting: the lines that put this split on other files: {split}, {annotations}, {images},
            {labels}.
    """

    split: str
    task: str
    classes: tuple[str, ...]
    records: list[Record] = field(default_factory=list)
    palette: tuple[tuple[int, int, int], ...] | None = None
    annotations: str | None = None
    images: str | None = None
    error: str | None = None
    renumber: Mapping[int, int] = field(default_factory=dict)
    voids: Mapping[str, int] = field(default_factory=dict)
    values: int = 256
    needs_masks: bool = False
    gives_masks: bool = False
    resized: Callable[[int, int], tuple[float, float]] | None = None
    least: int = 32
    evaluations: tuple[Evaluation, ...] = ()
    unread: int = 0
    setting: str = ""
