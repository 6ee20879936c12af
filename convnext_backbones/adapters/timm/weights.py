"""State dicts of timm and ours, both ways."""

from collections.abc import Mapping

from torch import Tensor

from ...checkpoints import with_our_names
from ...checkpoints.conversion import TIMM_CONV_MLP
from ...checkpoints.inspection import describe
from ...checkpoints.layouts import find_layouts, root_of, to_layout
from ...network.convnext import Trunk


def timm_state_dict(model: Trunk) -> dict[str, Tensor]:
    """The parameters of one of our networks as timm's own model of its size has them, bit for bit.

    timm.create_model("convnextv2_tiny", num_classes=10).load_state_dict(timm_state_dict(model)). Output
    norms, which timm's has not, are left out.
    """
    network = describe(model.state_dict())._replace(depths=model.depths, dims=model.dims)
    small = network.variant is not None and network.variant.split("_")[1] in TIMM_CONV_MLP
    layout = "timm_conv_mlp" if small else "timm"
    state, _ = to_layout(model.state_dict(), layout, version=model.version)
    return state


def named_as_ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with our names, where it holds one ConvNeXt in names that are known; else as it is.

    Raises:
        CheckpointError: names beside it that belong to no ConvNeXt, such as another stem's.
    """
    found = find_layouts(state)
    if len(found) == 1 and root_of(found[0]) == "":
        state = with_our_names(state, "the state dict", into="")
        if (head := state.get("head.weight")) is not None:
            state["head.weight"] = head.flatten(
                1
            )  # timm's is a 1x1 convolution where nothing is pooled
    return dict(state)
