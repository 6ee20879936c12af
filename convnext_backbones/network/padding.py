"""Which positions of a padded batch are image, and how a framework tells the images' sizes.

GRN pools over the whole map, so that V2's features depend on how far an image was padded to stand
in its batch. With the images' sizes known, GRN pools over the image alone and the depthwise
convolutions see zeros beyond it, as they do beyond the border of a map.

An image of h x w pixels has h // s x w // s positions at stride s: those of the image without
padding, since each stride's window of pixels then lies inside the image. So they come out as the
unpadded image's own map, everywhere and for every size. The positions that padding adds are kept,
for a border of less than s pixels may be image: they see it through the strided convolutions, but
enter neither GRN nor a position of the image. Hence no part of a map depends on the extent of the
padding.
"""

import threading
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Proxy
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import UserError

try:  # what torch.compiler.disable does, but it imports the compiler (1.5 s) when first called
    from torch._compile import _disable_dynamo as _not_compiled
except ImportError:
    _not_compiled = torch.compiler.disable

Sizes = Sequence[tuple[int, int]] | Tensor  # a height and a width in pixels for each image


def inside_masks(
    images: Tensor, image_sizes: Sizes | None, strides: Sequence[int]
) -> list[Tensor | None]:
    """For each stride, an (N, H // stride, W // stride) mask, True on the image; or None.

    None where no sizes are given: nothing is padding. An image of less than one position keeps one.

    Raises:
        ValueError: sizes that are not (N, 2) whole numbers from 1 to the height and width of images.
    """
    if image_sizes is None:
        return [None] * len(strides)
    sizes = image_sizes
    if not isinstance(sizes, Tensor):
        sizes = torch.tensor(sizes) if len(sizes) else torch.empty(0, 2, dtype=torch.int64)
    if not (torch.compiler.is_compiling() or torch.jit.is_tracing()):  # sizes are symbols there
        _check_sizes(sizes, images)
        if not _padded(images, sizes):
            return [None] * len(strides)
    sizes = sizes.to(images.device)
    masks = []
    for stride in strides:
        counts = (sizes // stride).clamp_min(1)
        rows = torch.arange(images.shape[2] // stride, device=images.device) < counts[:, :1]
        columns = torch.arange(images.shape[3] // stride, device=images.device) < counts[:, 1:]
        masks.append(rows[:, :, None] & columns[:, None, :])
    return masks


def _check_sizes(sizes: Tensor, images: Tensor) -> None:
    count, _, height, width = images.shape
    if sizes.shape != (count, 2) or sizes.is_floating_point() or sizes.dtype == torch.bool:
        raise ValueError(
            "image_sizes must be whole numbers of shape (N, 2), the height and width in pixels of "
            f"each of the {count} images, got {sizes.dtype} of shape {tuple(sizes.shape)}"
        )
    for h, w in sizes.tolist():
        if not (1 <= h <= height and 1 <= w <= width):
            raise ValueError(
                f"image_sizes holds {h}x{w}, but the padded images are {height}x{width}; give the "
                "height and width of each image before padding"
            )


# The frameworks hand nothing but the batch to a backbone. What pads the batch notes the sizes here,
# for that very tensor, so that the sizes of another batch can never be taken for its own. Several threads
# may do so: a server's, or those that feed several models.
_NOTED = WeakTensorKeyDictionary()
_LOCK = threading.RLock()


def note_image_sizes(images: Tensor, image_sizes: Sizes) -> None:
    """Remember the sizes for as long as the batch `images` lives."""
    with _LOCK:
        _NOTED[images] = image_sizes


@_not_compiled
def noted_image_sizes(images: Tensor) -> Sizes | None:
    """The sizes noted for this batch; None if nothing in it is padding.

    A crop of a batch without padding, as sliding windows take it, has no padding either.

    Raises:
        UserError: nothing was noted for it, or it is a crop of a padded batch.
    """
    if isinstance(images, Proxy):
        raise UserError(
            "ignore_padding=True needs the sizes of the images before padding, which torch.fx cannot "
            "trace: build the backbone with ignore_padding=False, or use torch.jit.trace"
        )
    with _LOCK:
        own, noted = _NOTED.get(images), _all_noted()
    if own is not None:
        return own if _padded(images, own) else None
    memory = images.untyped_storage().data_ptr()
    for batch, image_sizes in noted:
        if batch.untyped_storage().data_ptr() == memory and not _padded(batch, image_sizes):
            return None
    raise UserError(
        "ignore_padding=True needs the sizes of the images before padding, which are not known for "
        f"this batch of shape {tuple(images.shape)}: it did not come from the framework's own "
        "padding, or was cropped or copied since. Call the backbone with image_sizes, or build it "
        "with ignore_padding=False"
    )


def _all_noted() -> list[tuple[Tensor, Sizes]]:
    """The batches that live, with their sizes."""
    while True:
        try:
            return list(_NOTED.items())
        except RuntimeError:  # in another thread a batch died, which takes no lock
            continue


def _padded(batch: Tensor, image_sizes: Sizes) -> bool:
    if torch.jit.is_tracing():
        return True  # this batch may have no padding where another has
    return any((int(h), int(w)) != tuple(batch.shape[2:]) for h, w in image_sizes)
