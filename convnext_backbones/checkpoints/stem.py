"""The first layer's kernels for images of other than three channels, out of those for RGB.

What a file has learned stays: the layers after the stem see maps of the size that they were trained on.
"""

from torch import Tensor

from ..errors import CheckpointError, UserError

STEM = "downsample_layers.0.0"
RGB = 3
STEMS = {  # the values of stem=, and what they make of kernels (C, 3, H, W) for n channels
    "repeat": "red, green, blue, red, ... times 3/n, as timm's in_chans; for one channel their sum",
    "mean": "the mean of the three, times 3/n, for each channel",
    "first": "those of red, green and blue for the first three channels, 0 for the others",
}


def check_stem(stem: str | None) -> None:
    """UserError for what is no way to adapt a first layer."""
    if stem is not None and stem not in STEMS:
        raise UserError(f"stem={stem!r}: one of {', '.join(map(repr, STEMS))}, or leave it out")


def fit_stem(kernels: Tensor, wanted: Tensor, stem: str, source: str) -> tuple[Tensor, str | None]:
    """A file's kernels (C, 3, H, W) for the channels of the model's, and what was done in words.

    Kernels for as many channels, or of another size, stay as they are, without words.

    Args:
        wanted: the model's own kernels.
        stem: one of STEMS.
        source: what to call the file in messages.

    Raises:
        UserError: another stem.
        CheckpointError: the kernels are for other than three channels.
    """
    check_stem(stem)
    if kernels.dim() != 4 or kernels.shape[:1] + kernels.shape[2:] != (
        wanted.shape[:1] + wanted.shape[2:]
    ):
        return kernels, None
    channels = wanted.shape[1]
    if kernels.shape[1] == channels:
        return kernels, None
    if kernels.shape[1] != RGB:
        raise CheckpointError(
            f"{source}: stem={stem!r} adapts a first layer for {RGB} channels, and this file's takes "
            f"{kernels.shape[1]}, the model's {channels}. Nothing was loaded: build the model with "
            f"in_channels={kernels.shape[1]}, or give weights for RGB images"
        )
    done = f"{STEM}, RGB kernels for {channels} channel{'s' * (channels != 1)} by stem={stem!r}"
    return _adapted(kernels.float(), channels, stem).to(kernels.dtype), done


def _adapted(kernels: Tensor, channels: int, stem: str) -> Tensor:
    """See STEMS; "repeat" is timm.models._manipulate.adapt_input_conv."""
    if stem == "first":
        result = kernels.new_zeros(kernels.shape[0], channels, *kernels.shape[2:])
        result[:, :RGB] = kernels[:, :channels]
        return result
    if channels == 1:
        return kernels.sum(dim=1, keepdim=True)
    if stem == "mean":
        kernels = kernels.mean(dim=1, keepdim=True)
    times = -(-channels // kernels.shape[1])
    return kernels.repeat(1, times, 1, 1)[:, :channels] * (RGB / channels)
