"""What TensorBoard shows of a folder."""

import importlib.util
from pathlib import Path
from typing import NamedTuple

import pytest

# tensorboard is installed beside Detectron2
TRACKER = ("--tracker", "tensorboard") if importlib.util.find_spec("tensorboard") else ()


class Shown(NamedTuple):
    """The steps of each series of numbers and of each series of pictures, and the texts."""

    scalars: dict[str, list[int]]
    pictures: dict[str, list[int]]
    texts: dict[str, str]


def shown(folder: Path) -> Shown:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), dict(scalars=0, images=0, tensors=0)).Reload()
    tags = events.Tags()
    texts = {
        tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in tags["tensors"]
    }
    return Shown(
        {tag: [event.step for event in events.Scalars(tag)] for tag in tags["scalars"]},
        {tag: [event.step for event in events.Images(tag)] for tag in tags["images"]},
        texts,
    )
