"""Pictures to the classifier's input: the ImageNet evaluation transform of the official models.

Below 384 pixels the shortest edge is resized to image_size / crop_pct and the centre cut out; from
384 on the whole picture is warped to a square. Pixels come out as Hugging Face's
ConvNextImageProcessor gives them with the same options. (Its own default mean and std are 0.5; the
official checkpoints, and the defaults here, have ImageNet's.)
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from .variants import nearest

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
WARP_FROM = 384  # pixels
CROP_PCT = 224 / 256
BY_TORCH = {  # for tensors on every device; the others are Pillow's
    InterpolationMode.NEAREST,
    InterpolationMode.NEAREST_EXACT,
    InterpolationMode.BILINEAR,
    InterpolationMode.BICUBIC,
}


class EvaluationTransform(nn.Module):
    """A PIL image or a tensor to normalised float32 pixels, (3, image_size, image_size).

    A PIL image of any mode is taken as RGB. A tensor is (3, H, W) or (N, 3, H, W): uint8 in 0..255,
    or floating point in 0..1, which is not divided by 255 again.

    Args:
        image_size: height and width of the output, in pixels.
        crop_pct: the part of the resized shortest edge that is kept, where nothing is warped.
        warp: resize the whole picture to a square; None: from 384 pixels on.
        mean, std: of each channel, for pixels in 0..1.
        interpolation: of the resizing, with antialiasing.
    """

    def __init__(
        self,
        image_size: int = 224,
        *,
        crop_pct: float = CROP_PCT,
        warp: bool | None = None,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        interpolation: InterpolationMode | str = "bicubic",
    ):
        super().__init__()
        if not isinstance(image_size, int) or isinstance(image_size, bool) or image_size < 1:
            raise ValueError(f"image_size must be a positive whole number, got {image_size!r}")
        if not isinstance(crop_pct, (int, float)) or not 0 < crop_pct <= 1:
            raise ValueError(f"crop_pct must be above 0 and at most 1, got {crop_pct!r}")
        if len(mean) != len(std) or not all(s > 0 for s in std):
            raise ValueError(
                "mean and std must have one number per channel, std above 0, "
                f"got mean={mean!r}, std={std!r}"
            )
        if warp not in (None, True, False):
            raise ValueError(f"warp must be True, False or None, got {warp!r}")
        self.image_size, self.crop_pct = image_size, crop_pct
        self.warp = image_size >= WARP_FROM if warp is None else warp
        self.mean, self.std = list(mean), list(std)
        modes = [mode.value for mode in InterpolationMode]
        if interpolation not in [*InterpolationMode, *modes]:
            raise ValueError(
                f"unknown interpolation {interpolation!r}; {nearest(str(interpolation), modes)}"
            )
        self.interpolation = InterpolationMode(interpolation)

    @torch.no_grad()
    def forward(self, image) -> Tensor:
        image = image if isinstance(image, Tensor) else _tensor_of_pil(image)
        self._check(image)
        if image.is_floating_point():
            image = image.float()
        image = resize_and_crop(
            image, self.image_size, crop_pct=self.crop_pct, warp=self.warp, mode=self.interpolation
        )
        image = F.to_dtype(image, torch.float32, scale=True)  # leaves floating-point pixels alone
        return F.normalize(image, self.mean, self.std)

    def _check(self, image: Tensor) -> None:
        channels = len(self.mean)
        shape = tuple(image.shape)
        if image.dim() not in (3, 4) or shape[-3] != channels:
            raise ValueError(
                f"a tensor must be ({channels}, H, W) or (N, {channels}, H, W), got {shape}; "
                "for (H, W, C) use image.permute(2, 0, 1)"
            )
        if min(shape[-2:]) == 0:
            raise ValueError(f"the image is {shape[-2]}x{shape[-1]}; give one with pixels")
        if image.is_floating_point():
            if image.numel() and image.max() > 1.5:
                raise ValueError(
                    f"floating-point pixels must be in 0..1, found {image.max().item():.5g}; "
                    "divide by 255, or give uint8"
                )
        elif image.dtype != torch.uint8:
            raise ValueError(
                f"pixels must be uint8 in 0..255 or floating point in 0..1, got {image.dtype}; "
                "use image.to(torch.uint8)"
            )


@torch.no_grad()
def processed(
    image: Tensor,
    *,
    size: int | tuple[int, int] | None,
    crop_pct: float = CROP_PCT,
    warp: bool | None = None,
    interpolation: InterpolationMode = InterpolationMode.BICUBIC,
    crop_size: tuple[int, int] | None = None,
    rescale_factor: float | None = 1 / 255,
    mean: float | Sequence[float] | None = IMAGENET_MEAN,
    std: float | Sequence[float] | None = IMAGENET_STD,
) -> Tensor:
    """The steps of Hugging Face's ConvNextImageProcessor, each left out where its option is None.

    Args:
        image: (C, H, W), uint8 or floating point.
        size, crop_pct, warp: the edge of a square, as EvaluationTransform's; or the height and width to warp to.
        crop_size: height and width of a crop of the centre after that, padded with zeros where it is larger.
        rescale_factor: what pixels are multiplied by.
        mean, std: of the rescaled pixels, one for each channel or for all.

    Returns:
        (C, height, width) in float32; where pixels are neither rescaled nor normalised, in the image's dtype.
    """
    if isinstance(size, int):
        warp = size >= WARP_FROM if warp is None else warp
        image = resize_and_crop(image, size, crop_pct=crop_pct, warp=warp, mode=interpolation)
    elif size is not None:
        image = resize(image, list(size), interpolation)
    if crop_size is not None:
        image = crop_centre(image, *crop_size)
    if mean is not None:
        image = image.float()
        scale = 1 if rescale_factor is None else 1 / rescale_factor
        mean, std = (image.new_tensor(x) * scale for x in (mean, std))  # instead of every pixel
        return F.normalize(image, mean, std)
    if rescale_factor is None:
        return image
    return image * float(rescale_factor)  # a whole number of bytes would be bytes


def resize_and_crop(
    image: Tensor, edge: int, *, crop_pct: float, warp: bool, mode: InterpolationMode
) -> Tensor:
    """(..., C, H, W) to (..., C, edge, edge): warped, or the centre of the resized picture."""
    if warp:
        return resize(image, [edge, edge], mode)
    return crop_centre(resize(image, [int(edge / crop_pct)], mode), edge, edge)


def crop_centre(image: Tensor, height: int, width: int) -> Tensor:
    """(..., H, W) to (..., height, width); where that is larger, in the midst of zeros.

    torchvision's center_crop rounds half pixels to even; here they are rounded down, as in transformers.
    """
    above, left = (max(n - m, 0) for n, m in zip((height, width), image.shape[-2:], strict=True))
    if above or left:
        pad = [left // 2, above // 2, left - left // 2, above - above // 2]
        image = F.pad(image, pad, fill=0)
    top, left = ((m - n) // 2 for n, m in zip((height, width), image.shape[-2:], strict=True))
    return F.crop(image, top, left, height, width)


def resize(image: Tensor, size: list[int], mode: InterpolationMode) -> Tensor:
    """(..., C, H, W) to a [height, width], or to a [shortest edge], with antialiasing.

    By torch, or each channel by Pillow; see BY_TORCH.
    """
    if mode in BY_TORCH:
        return F.resize(image, size, mode)
    pixels = image if image.dtype == torch.uint8 else image.float()
    kind = "L" if image.dtype == torch.uint8 else "F"
    planes = [
        F.pil_to_tensor(F.resize(F.to_pil_image(plane[None], kind), size, mode))
        for plane in pixels.flatten(0, -3).cpu()
    ]
    planes = torch.cat(planes).to(image.device)
    return planes.unflatten(0, image.shape[:-2])


def _tensor_of_pil(image) -> Tensor:
    try:
        return F.pil_to_tensor(image.convert("RGB"))
    except (AttributeError, TypeError) as error:
        raise TypeError(
            f"image must be a PIL image or a tensor, got a {type(image).__name__}; for an (H, W, 3) "
            "array use torch.from_numpy(array).permute(2, 0, 1)"
        ) from error
