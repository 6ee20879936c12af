"""Feature maps of a picture, and class-activation maps (the library grad-cam makes them).

A map comes out as (h, w) in 0..1 over the picture without its padding.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import UserError
from ..network.convnext import Trunk
from ..network.selection import feature_names
from ..network.variants import nearest

# A method's class of grad-cam.
METHODS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "eigengradcam": "EigenGradCAM",
    "eigencam": "EigenCAM",
    "ablationcam": "AblationCAM",
    "scorecam": "ScoreCAM",
}
BY_GRADIENT = tuple(METHODS)[:6]
AT_ONCE = 4  # pictures of a batch that a method makes


class Channel(NamedTuple):
    """One channel of a feature map: its number, and the map."""

    number: int
    map: np.ndarray


# ---- the network ---------------------------------------------------------------------------------
def trunk_of(model: nn.Module) -> Trunk:
    """The first of this package's networks in a model.

    Raises:
        UserError: there is none.
    """
    found = next((module for module in model.modules() if isinstance(module, Trunk)), None)
    if found is None:
        raise UserError(
            f"{type(model).__name__} holds no ConvNeXt of this package, into whose stages visualize looks"
        )
    return found


def layers_of(trunk: Trunk) -> dict[str, nn.Module]:
    """The module whose output a feature is, by the feature's name; only of stages that are built."""
    names = feature_names(len(trunk.depths))
    return dict(zip(names, [trunk.downsample_layers[0], *trunk.stages], strict=False))


def chosen_features(trunk: Trunk, names: Sequence[str] | None) -> list[str]:
    """Names in network order; all for None.

    Raises:
        UserError: one is none of the network's.
    """
    known = list(layers_of(trunk))
    for name in names or ():
        if name not in known:
            raise UserError(f"this network has no feature {name!r}; {nearest(name, known)}")
    return [name for name in known if names is None or name in names]


# ---- feature maps --------------------------------------------------------------------------------
def feature_maps(
    trunk: Trunk, names: Sequence[str], forward: Callable[[], Any], part: tuple[float, float]
) -> dict[str, Tensor]:
    """(C, h, w) of each feature, of the first picture that `forward` runs through the network.

    part: of the height and the width that are picture, not padding.
    """
    found: dict[str, Tensor] = {}

    def keep(name: str, layer: nn.Module, given: tuple, x: Tensor) -> None:
        found.setdefault(name, x[0].detach().float().cpu())

    handles = [
        layer.register_forward_hook(functools.partial(keep, name))
        for name, layer in layers_of(trunk).items()
        if name in names
    ]
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    return {name: _cut(found[name], part) for name in names}


def _cut(x: Tensor, part: tuple[float, float]) -> Tensor:
    height, width = (max(1, round(side * p)) for side, p in zip(x.shape[-2:], part, strict=True))
    return x[..., :height, :width]


def departure(x: Tensor) -> np.ndarray:
    """Of a (C, h, w) map: how far each position is from the mean of all positions, over all channels, each
    measured by its own standard deviation (a few channels of ConvNeXt are a hundred times as large as the
    others, everywhere alike)."""
    return _in_range(_standardised(x).square().mean(dim=0).sqrt())


def strongest_channels(x: Tensor, count: int) -> list[Channel]:
    """The channels that differ most over the picture."""
    spread = x.flatten(1).std(dim=1, correction=0)
    numbers = spread.topk(min(count, len(x))).indices.tolist()
    return [Channel(number, _in_range(x[number])) for number in numbers]


def _standardised(x: Tensor) -> Tensor:
    mean = x.mean(dim=(1, 2), keepdim=True)
    return (x - mean) / (x.flatten(1).std(dim=1, correction=0)[:, None, None] + 1e-6)


def _in_range(x: Tensor) -> np.ndarray:
    x = x - x.min()
    return (x / x.max().clamp_min(1e-12)).numpy()


# ---- class-activation maps -----------------------------------------------------------------------
class _Outputs(nn.Module):
    """`forward` as a module, which grad-cam asks for; `model` holds the layers."""

    def __init__(self, model: nn.Module, outputs: Callable[[Tensor], Any]):
        super().__init__()
        self.model, self.outputs = model, outputs

    def forward(self, pixels: Tensor):
        return self.outputs(pixels)


def class_activation_map(
    model: nn.Module,
    layer: nn.Module,
    pixels: Tensor,
    outputs: Callable[[Tensor], Any],
    target: Callable[[Any], Tensor],
    method: str,
    part: tuple[float, float],
) -> np.ndarray:
    """Where the output of a layer speaks for `target`, by a method of METHODS.

    Args:
        model: holds the layer.
        pixels: (1, 3, h, w).
        outputs: pixels to an output a picture, whose `target` is a number.
        part: of the height and the width that are picture, not padding.

    Raises:
        UserError: grad-cam is not installed, or a method by gradients and the model gives none.
    """
    cam_class = getattr(library(), METHODS[method])
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        for parameter in trained:  # gradients of activations alone, which frozen stages have, too
            parameter.requires_grad_(False)
        with cam_class(_Outputs(model, outputs).eval(), [layer]) as cam:
            cam.compute_input_gradient = method in BY_GRADIENT
            cam.batch_size = AT_ONCE
            with torch.set_grad_enabled(method in BY_GRADIENT):
                found = cam(pixels, [target])
    except RuntimeError as error:
        if method in BY_GRADIENT and "does not require grad" in str(error):
            raise UserError(
                f"--method {method} needs gradients, and this model gives none (it computes without them, or "
                "nothing of the target follows from the picture); take one without, --method eigencam"
            ) from error
        raise
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return np.nan_to_num(_cut(torch.from_numpy(found[0]), part).numpy())


def library():
    """The module of grad-cam.

    Raises:
        UserError: it is not installed.
    """
    try:
        import pytorch_grad_cam
    except ImportError as error:
        raise UserError(
            f"class-activation maps are made by the library grad-cam ({error}): pip install "
            "'convnext_backbones[looking]', or take --method none for feature maps alone"
        ) from error
    return pytorch_grad_cam
