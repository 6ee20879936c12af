"""The same network in timm, transformers or torchvision, holding the same weights.

Their own classes run and load the weights strictly: equal outputs then say that the weights mean
there what they mean here. timm renames official weights by its own code; for the others our name
tables do, checkpoints/layouts.py.
"""

import importlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .checkpoints.inspection import Network, describe
from .checkpoints.layouts import to_layout
from .classifier import ConvNeXtClassifier
from .convnext import EPS
from .errors import UserError

TOLERANCE = 1e-4  # of the greatest output; float32 sums in another order differ by about 1e-5


class Peer(NamedTuple):
    """Another implementation: its name and version, its model, the call that gives what our
    classifier gives, and the eps of its final norm."""

    name: str
    model: nn.Module
    output: Callable[[Tensor], Tensor]
    norm_eps: float = EPS


class Agreement(NamedTuple):
    """Outputs of both on the same pictures.

    difference: the greatest. greatest: the greatest absolute output of the peer. same_top1: pictures
    on which both have the greatest output at the same place.
    """

    pictures: int
    difference: float
    greatest: float
    same_top1: int

    @property
    def agrees(self) -> bool:
        return self.difference <= TOLERANCE * self.greatest  # False for NaN


def build_peer(name: str, ours: ConvNeXtClassifier) -> Peer:
    """The peer's network with our weights, whose memory it shares; in evaluation mode.

    Args:
        name: a key of PEERS.
        ours: with a head, or with num_classes=0: the peer then gives pooled features too.

    Raises:
        UserError: the peer is not installed, or has no such network.
    """
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"{name} cannot be imported ({error}); pip install {name}, or choose another peer"
        ) from error
    state = ours.state_dict()
    with torch.device("meta"):
        peer, renamed = PEERS[name](describe(state), state)
    peer.model.load_state_dict(renamed, strict=True, assign=True)
    peer.model.eval()
    return peer._replace(name=f"{name} {module.__version__}")


def compare(ours: ConvNeXtClassifier, peer: Peer, batches: Iterable[Tensor]) -> Agreement:
    """Logits, or pooled features, of both for batches (N, C, H, W) of the same pictures.

    Meanwhile our final norm has the peer's eps.
    """
    pictures, same = 0, 0
    difference = greatest = torch.zeros(())
    own_eps, ours.norm.eps = ours.norm.eps, peer.norm_eps
    try:
        for images in batches:
            with torch.inference_mode():
                own, theirs = ours(images).cpu(), peer.output(images).cpu()
            pictures += len(images)
            difference = torch.maximum(difference, (own - theirs).abs().max())  # keeps NaN
            greatest = torch.maximum(greatest, theirs.abs().max())
            same += (own.argmax(1) == theirs.argmax(1)).sum().item()
    finally:
        ours.norm.eps = own_eps
    return Agreement(pictures, difference.item(), greatest.item(), same)


def _timm(network: Network, state: dict[str, Tensor]) -> tuple[Peer, dict[str, Tensor]]:
    import timm
    from timm.models.convnext import ConvNeXt, checkpoint_filter_fn

    if (len(network.depths), network.patch_size) != (4, 4):
        raise UserError(
            "timm's ConvNeXt has four stages and 4x4 patches; this one has "
            f"{len(network.depths)} stages and {network.patch_size}x{network.patch_size} patches"
        )
    options = {"in_chans": network.in_channels, "num_classes": network.num_classes or 0}
    scaled = _layer_scale(state)
    if network.variant and scaled == (network.version == 1):
        model = timm.create_model(network.variant, **options)
    else:
        model = ConvNeXt(
            depths=network.depths,
            dims=network.dims,
            use_grn=network.version == 2,
            ls_init_value=1e-6 if scaled else None,
            **options,
        )
    return Peer("timm", model, model), checkpoint_filter_fn(state, model)


def _transformers(network: Network, state: dict[str, Tensor]) -> tuple[Peer, dict[str, Tensor]]:
    import transformers

    family = "ConvNext" if network.version == 1 else "ConvNextV2"
    options = {}
    if network.version == 1:
        options["layer_scale_init_value"] = 1e-6 if _layer_scale(state) else 0.0
    if network.num_classes:
        options["num_labels"] = network.num_classes
    config = getattr(transformers, f"{family}Config")(
        depths=list(network.depths),
        hidden_sizes=list(network.dims),
        num_stages=len(network.depths),
        num_channels=network.in_channels,
        patch_size=network.patch_size,
        **options,
    )
    kind = "ForImageClassification" if network.num_classes else "Model"
    model = getattr(transformers, family + kind)(config)
    output = "logits" if network.num_classes else "pooler_output"
    renamed, _ = to_layout(state, "huggingface", version=network.version)
    peer = Peer("transformers", model, lambda x: getattr(model(x), output), config.layer_norm_eps)
    return peer, renamed


def _torchvision(network: Network, state: dict[str, Tensor]) -> tuple[Peer, dict[str, Tensor]]:
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    if network.version == 2:
        raise UserError("torchvision has no ConvNeXt V2; compare with timm or transformers")
    if (network.in_channels, network.patch_size, _layer_scale(state)) != (3, 4, True):
        raise UserError(
            "torchvision's ConvNeXt takes 3 channels in 4x4 patches and has layer scale; this one takes "
            f"{network.in_channels} channels in {network.patch_size}x{network.patch_size} patches and "
            f"has {'' if _layer_scale(state) else 'no '}layer scale; compare with timm or transformers"
        )
    following = (*network.dims[1:], None)
    stages = zip(network.dims, following, network.depths, strict=True)
    model = ConvNeXt(
        [CNBlockConfig(*stage) for stage in stages], num_classes=network.num_classes or 1
    )
    if not network.num_classes:
        model.classifier[2] = nn.Identity()
    renamed, _ = to_layout(state, "torchvision", version=network.version)
    return Peer("torchvision", model, model), renamed


def _layer_scale(state: dict[str, Tensor]) -> bool:
    return "stages.0.0.gamma" in state


PEERS = {"timm": _timm, "transformers": _transformers, "torchvision": _torchvision}
