"""The sizes of the images in Detectron2's batches, for ignore_padding=True.

Its models give the backbone the padded batch alone. ImageList.from_tensors, which pads for all of
them, in training, inference and test-time augmentation alike, knows the sizes.
"""

import functools

from detectron2.structures import ImageList

from ..padding import note_image_sizes


def register_size_notes() -> None:
    """Make ImageList.from_tensors note the images' sizes for the batch it returns."""
    plain = ImageList.from_tensors
    if hasattr(plain, "notes_sizes"):
        return

    @functools.wraps(plain)  # TorchScript, too, then reads the plain function
    def from_tensors(*args, **kwargs):
        images = plain(*args, **kwargs)
        note_image_sizes(images.tensor, images.image_sizes)
        return images

    from_tensors.notes_sizes = True
    ImageList.from_tensors = staticmethod(from_tensors)
