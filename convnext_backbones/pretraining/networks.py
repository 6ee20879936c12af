"""A classifier like the network of a checkpoint."""

from ..checkpoints.huggingface_config import OF_TRANSFORMERS, activation_beside
from ..checkpoints.inspection import Inspected
from ..console import counted
from ..errors import UserError

RGB = 3


def options_of(file: Inspected) -> dict:
    """The options of ConvNeXtClassifier that build the network of a checkpoint, but its head; plain data.

    Raises:
        UserError: it takes other than three channels, as pictures have.
    """
    network = file.network
    if network.in_channels != RGB:
        raise UserError(
            f"{file.source} takes images of {counted(network.in_channels, 'channel')}, and pictures have "
            f"{RGB}: give weights of a network for RGB"
        )
    activation = activation_beside(file.located.path) if file.layout in OF_TRANSFORMERS else None
    return dict(
        arch=dict(depths=list(network.depths), dims=list(network.dims)),
        version=network.version,
        patch_size=network.patch_size,
        layer_scale_init_value=1e-6 if "stages.0.0.gamma" in file.state else None,
        activation=activation or "gelu",
    )
