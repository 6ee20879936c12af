"""FCMAE: a ConvNeXt learns from pictures without labels to complete what is removed from them.

    "Co-designing and Scaling ConvNets with Masked Autoencoders", arXiv:2301.00808, section 3

Units of 32x32 pixels are removed, 60 % of them. The encoder computes the visible positions alone: its
convolutions see zeros in the place of the others, and its GRN pools over what is visible. A decoder of one block
predicts each removed unit's pixels. The official code runs on sparse tensors of MinkowskiEngine; here it is
the same Trunk and the same kernels as everywhere, which take a mask (Block.forward).

Departures from facebookresearch/ConvNeXt-V2, models/fcmae.py, whose parameter names these are:

- GRN pools over an image. The official sparse GRN pools over the visible positions of the whole batch, so that
  an image's features depend on which others stand beside it. The paper's formula and the dense models that
  the weights go to pool over an image.
- Weights start with a standard deviation of 0.02, as the classifiers' do; most of the official ones with 1.
- Targets are normalised by unit as default, as the paper has it; the official code's default is pixels.
- Images of any height and width that are multiples of 32.
"""

import functools
import logging
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from ..kernels.steps import Inside, mask_of
from ..network.convnext import INIT_STD, Block, ConvNeXt, ConvNeXtV2, init_weights
from ..network.refusals import check_images
from . import masks

DECODER_DIM = 512  # channels
MASK_RATIO = 0.6

LOGGER = logging.getLogger("convnext_backbones")


class Reconstruction(NamedTuple):
    """What an FCMAE gives for N images of so many units.

    loss: a scalar, the mean squared error over the removed units' values. prediction: (N, units, unit * unit
    * C), of every unit, its values by row, column, channel; of normalised pixels, as the target.
    mask: (N, units), 1 where a unit was removed.
    """

    loss: Tensor
    prediction: Tensor
    mask: Tensor


class _OfVisible:
    """A backbone that computes visible positions alone; called, so that FSDP and hooks see it."""

    def forward(self, images: Tensor, visible: list[Inside]) -> Tensor:
        """(N, C, H, W) and for each stage what of it is visible, to the last stage's map."""
        return self._maps(images, visible)[-1] * mask_of(visible[-1])[:, None]


class _EncoderV1(_OfVisible, ConvNeXt):
    pass


class _EncoderV2(_OfVisible, ConvNeXtV2):
    pass


class FCMAE(nn.Module):
    """A fully convolutional masked autoencoder: images to a loss, a prediction and the mask.

    Args:
        arch: a size, "atto" to "huge", or dict(depths=..., dims=...), as for ConvNeXtV2.
        version: 2; 1 trains a ConvNeXt, which works and which the paper found to gain little.
        in_channels: channels of the images.
        mask_ratio: the share of an image's units that is removed.
        decoder_depth, decoder_dim: blocks of the decoder, and their channels.
        normalise_targets: predict each unit's pixels less their mean, over their standard deviation.
        with_cp: recompute each block in the backward pass instead of keeping its activations.

    Attributes:
        encoder: a backbone without output norms, whose weights are what is learned for; called with masks.
        unit: height and width of a unit in pixels, the stride of the last stage.
    """

    def __init__(
        self,
        arch: str | dict = "atto",
        *,
        version: int = 2,
        in_channels: int = 3,
        mask_ratio: float = MASK_RATIO,
        decoder_depth: int = 1,
        decoder_dim: int = DECODER_DIM,
        normalise_targets: bool = True,
        with_cp: bool = False,
    ):
        super().__init__()
        masks.check_ratio(mask_ratio)
        if version not in (1, 2):
            raise UserError(f"version must be 1 or 2, got {version!r}")
        for name, value in (("decoder_depth", decoder_depth), ("decoder_dim", decoder_dim)):
            if type(value) is not int or value < 1:
                raise UserError(f"{name} must be a positive whole number, got {value!r}")
        if version == 1:
            _tell_of_version_1()
        encoder = _EncoderV2 if version == 2 else _EncoderV1
        self.encoder = encoder(arch, in_channels=in_channels, output_norm=False, with_cp=with_cp)
        self.unit = self.encoder.strides[-1]
        self.in_channels, self.mask_ratio = in_channels, mask_ratio
        self.normalise_targets = normalise_targets
        self.proj = nn.Conv2d(self.encoder.channels[-1], decoder_dim, kernel_size=1)
        self.mask_token = nn.Parameter(torch.empty(1, decoder_dim, 1, 1))
        self.decoder = nn.Sequential(*(Block(decoder_dim, version=2) for _ in range(decoder_depth)))
        self.pred = nn.Conv2d(decoder_dim, self.unit**2 * in_channels, kernel_size=1)
        for part in (self.proj, self.decoder, self.pred):
            part.apply(functools.partial(init_weights, std=INIT_STD))
        nn.init.normal_(self.mask_token, std=INIT_STD)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Reconstruction:
        """(N, C, H, W) normalised images and an (N, units) mask, 1 where a unit is removed, to the loss.

        Without a mask a share of mask_ratio is drawn for each image.

        Raises:
            UserError: sides that are no multiples of the unit, a mask of another shape or that removes nothing.
        """
        stem = self.encoder.downsample_layers[0][0]
        check_images(images, self.in_channels, stem.weight.dtype, smallest=1)
        grid = masks.grid_of(*images.shape[2:], self.unit)
        if mask is None:
            units = grid[0] * grid[1]
            mask = masks.random_mask(len(images), units, self.mask_ratio, device=images.device)
        else:
            mask = self._checked(mask, images, grid)
        x = self.encode(images, mask)
        prediction = self.decode(x, mask)
        return Reconstruction(self.loss(images, prediction, mask), prediction, mask)

    def encode(self, images: Tensor, mask: Tensor) -> Tensor:
        """(N, C, H, W) to the last stage's (N, dim, H / unit, W / unit) map, 0 where the (N, units) mask is 1.

        No value of it depends on a removed pixel.
        """
        grid = images.shape[2] // self.unit, images.shape[3] // self.unit
        visible = masks.visible_maps(mask, grid, self.unit, self.encoder.feature_strides[1:])
        return self.encoder(images, visible)

    def decode(self, x: Tensor, mask: Tensor) -> Tensor:
        """The encoder's map to the (N, units, unit * unit * C) prediction of every unit."""
        x = self.proj(x)
        removed = mask.view(len(x), 1, *x.shape[2:]).to(x.dtype)
        x = x * (1 - removed) + self.mask_token * removed
        x = self.decoder(x)
        return self.pred(x).flatten(2).transpose(1, 2)

    def loss(self, images: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        """The mean squared error of the prediction over the removed units, in float32 at least."""
        prediction = prediction.to(torch.promote_types(images.dtype, torch.float32))
        error = F.mse_loss(prediction, self.target(images), reduction="none").mean(dim=-1)
        return (error * mask).sum() / mask.sum()

    def target(self, images: Tensor) -> Tensor:
        """What a prediction should be: (N, units, unit * unit * C), in float32 at least."""
        images = images.to(torch.promote_types(images.dtype, torch.float32))
        values = masks.units_of(images, self.unit)
        if not self.normalise_targets:
            return values
        mean, std = _mean_and_std(values)
        return (values - mean) / std

    @torch.no_grad()
    def completed(self, images: Tensor, reconstruction: Reconstruction) -> Tensor:
        """The (N, C, H, W) images with the prediction in the place of what was removed.

        A normalised prediction has neither brightness nor contrast: it gets those of the unit that was removed.
        """
        values = masks.units_of(images, self.unit)
        guess = reconstruction.prediction.to(values.dtype)
        if self.normalise_targets:
            mean, std = _mean_and_std(values)
            guess = guess * std + mean
        removed = reconstruction.mask[..., None] == 1
        grid = images.shape[2] // self.unit, images.shape[3] // self.unit
        return masks.images_of(torch.where(removed, guess, values), grid, self.unit)

    def _checked(self, mask: Tensor, images: Tensor, grid: tuple[int, int]) -> Tensor:
        shape = (len(images), grid[0] * grid[1])
        if not isinstance(mask, Tensor) or mask.shape != shape:
            came = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise UserError(
                f"mask must be a tensor of shape {shape}, a value for each of the {grid[0]}x{grid[1]} units of "
                f"an image, 1 where it is removed and else 0, got {came}"
            )
        mask = mask.to(images.device, torch.promote_types(images.dtype, torch.float32))
        if not ((mask == 0) | (mask == 1)).all() or not mask.any():
            raise UserError(
                "mask must hold 1 for each unit that is removed and 0 for the others, and remove one at least"
            )
        return mask


def _mean_and_std(values: Tensor) -> tuple[Tensor, Tensor]:
    """(N, units, 1) each, of the values of a unit."""
    variance, mean = torch.var_mean(values, dim=-1, keepdim=True)  # of a sample, as officially
    return mean, (variance + 1e-6).sqrt()


@functools.cache
def _tell_of_version_1() -> None:
    LOGGER.warning(
        "FCMAE of a ConvNeXt V1 is not the paper's: without GRN it found features that collapse and no gain over "
        "training with labels (arXiv:2301.00808, section 3.2); ConvNeXt V2 is made for it"
    )
