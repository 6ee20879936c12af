"""The sizes of the images in Detectron2's batches, for ignore_padding=True.

Its models give the backbone the padded batch alone. ImageList.from_tensors, which pads for all of
them, in training, inference and test-time augmentation alike, knows the sizes.
"""

import functools

import torch

from ...network.padding import note_image_sizes


def noting_sizes(from_tensors):
    """An ImageList.from_tensors that also notes the images' sizes for the batch it returns."""

    @functools.wraps(from_tensors)
    def noting(*args, **kwargs):
        images = from_tensors(*args, **kwargs)
        sizes = images.image_sizes
        # Under torch.jit.trace they are tensors, which follow the images.
        note_image_sizes(images.tensor, torch.stack(sizes) if torch.jit.is_tracing() else sizes)
        return images

    # A scripted program cannot note anything: TorchScript compiles the plain function in its place.
    noting.__prepare_scriptable__ = lambda: from_tensors
    return noting
