"""The sizes of the images in Detectron2's batches, for ignore_padding=True.

Its models give the backbone the padded batch alone. ImageList.from_tensors, which pads for all of
them, in training, inference and test-time augmentation alike, knows the sizes.
"""

import functools
import types

import torch
from detectron2.structures import ImageList

from ...network.padding import note_image_sizes

_plain = ImageList.from_tensors


def register_size_notes() -> None:
    """Make ImageList.from_tensors note the images' sizes for the batch it returns."""
    # TorchScript, which reads the source of the plain function (__wrapped__), looks its names up
    # in the globals of this one.
    names = {**_plain.__globals__, **_noting.__globals__}
    noting = functools.wraps(_plain)(types.FunctionType(_noting.__code__, names))
    ImageList.from_tensors = staticmethod(noting)


def _noting(*args, **kwargs):
    images = _plain(*args, **kwargs)
    sizes = images.image_sizes
    # Under torch.jit.trace they are tensors, which follow the images.
    note_image_sizes(images.tensor, torch.stack(sizes) if torch.jit.is_tracing() else sizes)
    return images
