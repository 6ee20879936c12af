"""Pictures as an exported file takes them: resized as its metadata say, padded, and back again."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from ..data.pictures import read_picture
from ..errors import UserError

OPENCV, PILLOW = "opencv", "pillow"  # who resizes: a framework's own way, to the last bit


class Prepared(NamedTuple):
    """pixels: (1, 3, H, W) float32 RGB in 0..255. height, width: of the picture in them, without padding."""

    pixels: torch.Tensor
    height: int
    width: int


def prepared(image: np.ndarray, about: dict) -> Prepared:
    """An (H, W, 3) uint8 RGB picture, resized as about["resize"] says and padded right and below: as
    about["pad"] says, then with the mean colour to multiples or to the file's one size.

    Raises:
        UserError: it is larger than the file's one size.
    """
    image = _resized(image, about.get("resize"), about.get("size"))
    height, width = image.shape[:2]
    if pad := about.get("pad"):
        image = _padded(image, [max(a, b) for a, b in zip(pad["size"], image.shape, strict=False)], pad["value"])  # fmt: skip
    if about.get("size"):
        full = tuple(about["size"])
    else:
        step, least = about.get("multiple", 1), about.get("least", 1)
        full = tuple(max(least, -(-side // step) * step) for side in image.shape[:2])
    if image.shape[0] > full[0] or image.shape[1] > full[1]:
        raise UserError(
            f"a picture of {image.shape[0]}x{image.shape[1]} does not fit into {full[0]}x{full[1]}, the one size of the file: "
            "export with --dynamic hw, or a larger --fixed"
        )
    pixels = _padded(image, full, about.get("mean") or 0.0)
    return Prepared(torch.from_numpy(pixels).permute(2, 0, 1)[None].contiguous(), height, width)


def _padded(image: np.ndarray, size, value) -> np.ndarray:
    """Right and below, (H, W, 3) float32."""
    canvas = np.empty((*size, 3), np.float32)
    canvas[:] = value
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas


def as_input(pixels: torch.Tensor, about: dict) -> np.ndarray:
    """Pixels as the file takes them: normalised where its graph does not do it."""
    if about["input"].startswith("RGB"):
        return pixels.numpy()
    mean, std = (torch.tensor(about[name]).view(1, -1, 1, 1) for name in ("mean", "std"))
    images = (pixels - mean) / std
    return (images.flip(1) if about["bgr"] else images).contiguous().numpy()


def _resized(image: np.ndarray, resize: dict | None, size) -> np.ndarray:
    height, width = image.shape[:2]
    if resize is None:
        if size and (height > size[0] or width > size[1]):
            resize = {"long": max(size), "short": min(size), "by": PILLOW}
        else:
            return image
    factor = min(resize["long"] / max(height, width), resize["short"] / min(height, width))
    if size:
        factor = min(factor, size[0] / height, size[1] / width)
    new = int(width * factor + 0.5), int(height * factor + 0.5)
    if resize["by"] == OPENCV:
        import cv2

        return cv2.resize(image, new, interpolation=cv2.INTER_LINEAR)
    return np.asarray(Image.fromarray(image).resize(new, Image.Resampling.BILINEAR))


def read_prepared(files: list[Path], about: dict) -> list[torch.Tensor]:
    """The pixels of picture files, one each."""
    return [prepared(read_picture(file), about).pixels for file in files]
