"""State dicts of torchvision's classifiers from ours; the other way is checkpoints.with_our_names."""

from torch import Tensor, nn

from ...checkpoints.layouts import to_layout
from ...errors import UserError
from ...network.classifier import ConvNeXtClassifier


def torchvision_state_dict(classifier: ConvNeXtClassifier) -> dict[str, Tensor]:
    """The parameters of one of our classifiers as torchvision's of the same size has them, bit for bit.

    torchvision.models.convnext_tiny(num_classes=10).load_state_dict(torchvision_state_dict(classifier))

    Raises:
        UserError: a network that torchvision has not: ConvNeXt V2, a backbone, another patch size.
    """
    whole = isinstance(classifier, ConvNeXtClassifier) and isinstance(classifier.head, nn.Linear)
    if not whole or classifier.version != 1:
        kind = "a ConvNeXt V2" if whole else f"a {type(classifier).__name__} without a head"
        raise UserError(
            f"torchvision has only classifiers of ConvNeXt V1, and this is {kind}; timm has V2: "
            "convnext_backbones.adapters.timm.timm_state_dict"
        )
    state, _ = to_layout(classifier.state_dict(), "torchvision", version=1)
    return state
