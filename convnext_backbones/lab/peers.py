"""The same network in timm, transformers or torchvision, holding the same weights.

Their own classes run and load the weights strictly: equal outputs then say that the weights mean
there what they mean here. timm renames official weights by its own code; for the others our name
tables do, checkpoints/layouts.py.

MMPretrain and the official code are read from a folder that an environment variable names:
CONVNEXT_MMPRETRAIN, where the package was unpacked, and CONVNEXT_OFFICIAL, which holds the clones
ConvNeXt and ConvNeXt-V2.
"""

import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoints.inspection import Network, describe
from ..checkpoints.layouts import to_layout
from ..errors import UserError
from ..network.classifier import ConvNeXtClassifier
from ..network.convnext import EPS

TOLERANCE = 1e-4  # of the greatest output; float32 sums in another order differ by about 1e-5


class Peer(NamedTuple):
    """Another implementation: its name and version, its model, the call that gives what our
    classifier gives, and the eps of its final norm."""

    name: str
    model: nn.Module
    output: Callable[[Tensor], Tensor]
    norm_eps: float = EPS


class MissingPeerError(UserError):
    """A peer that is not installed."""


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
        name: a key of PEERS or MORE_PEERS.
        ours: with a head, or with num_classes=0: the peer then gives pooled features too.

    Raises:
        MissingPeerError: it is not installed.
        UserError: it has no such network.
    """
    builders = PEERS | MORE_PEERS
    if name not in builders:
        raise UserError(f"there is no peer {name!r}; choose out of {', '.join(builders)}")
    state = ours.state_dict()
    try:
        with torch.device("meta"):
            peer, renamed = builders[name](describe(state), state)
    except ImportError as error:
        package = name.split("_")[0]  # timm_conv_mlp is timm's
        raise MissingPeerError(
            f"{name} cannot be imported ({error}); pip install {package}, or choose another peer"
        ) from error
    peer.model.load_state_dict(renamed, strict=True, assign=True)
    for part in peer.model.modules():  # train() of MMPretrain's backbone returns None
        part.training = False
    return peer


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


def _timm(network: Network, state: dict[str, Tensor], **kind) -> tuple[Peer, dict[str, Tensor]]:
    import timm
    from timm.models.convnext import ConvNeXt, checkpoint_filter_fn

    if (len(network.depths), network.patch_size) != (4, 4):
        raise UserError(
            "timm's ConvNeXt has four stages and 4x4 patches; this one has "
            f"{len(network.depths)} stages and {network.patch_size}x{network.patch_size} patches"
        )
    options = {"in_chans": network.in_channels, "num_classes": network.num_classes or 0} | kind
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
    name = "timm conv_mlp" if kind else "timm"
    return Peer(f"{name} {timm.__version__}", model, model), checkpoint_filter_fn(state, model)


def _timm_conv_mlp(network: Network, state: dict[str, Tensor]) -> tuple[Peer, dict[str, Tensor]]:
    """1x1 convolutions for the pointwise layers: timm's choice for its smaller models."""
    return _timm(network, state, conv_mlp=True)


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
    peer_name = f"transformers {transformers.__version__}"
    peer = Peer(peer_name, model, lambda x: getattr(model(x), output), config.layer_norm_eps)
    return peer, renamed


def _torchvision(network: Network, state: dict[str, Tensor]) -> tuple[Peer, dict[str, Tensor]]:
    import torchvision
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
    return Peer(f"torchvision {torchvision.__version__}", model, model), renamed


def _mmpretrain(network: Network, state: dict[str, Tensor]) -> tuple[Peer, dict[str, Tensor]]:
    """Its backbone, and a linear head named head.fc."""
    folder = _named_folder("CONVNEXT_MMPRETRAIN", "mmpretrain")
    convnext = _mmpretrain_class(folder)
    version = {}
    exec(Path(folder, "mmpretrain", "version.py").read_text(), version)
    options = {"in_channels": network.in_channels, "stem_patch_size": network.patch_size}
    if not _layer_scale(state):
        options["layer_scale_init_value"] = 0.0
    with torch.device("cpu"):  # it reads drop path rates off a tensor
        backbone = convnext(
            {"depths": list(network.depths), "channels": list(network.dims)},
            use_grn=network.version == 2,
            **options,
        )
    model = _WithHead(backbone, network.dims[-1], network.num_classes)
    renamed, _ = to_layout(state, "mmpretrain", version=network.version)
    return Peer(f"mmpretrain {version['__version__']}", model, model), renamed


@cache
def _mmpretrain_class(folder: str) -> type[nn.Module]:
    """Its packages' __init__ files, which import every model and fail beside transformers 5, are
    passed over; what stands for them stays, since MMEngine's registry imports mmpretrain by name."""
    names = ["mmpretrain", *(f"mmpretrain.models{n}" for n in ("", ".utils", ".backbones"))]
    for name in names:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = [str(Path(folder, *name.split(".")))]
    norm = importlib.import_module("mmpretrain.models.utils.norm")
    vars(sys.modules["mmpretrain.models.utils"]).update(
        GRN=norm.GRN, build_norm_layer=norm.build_norm_layer
    )
    return importlib.import_module("mmpretrain.models.backbones.convnext").ConvNeXt


class _WithHead(nn.Module):
    """MMPretrain's ImageClassifier in two lines."""

    def __init__(self, backbone: nn.Module, width: int, num_classes: int | None):
        super().__init__()
        self.backbone, self.head = backbone, nn.Module()
        self.head.fc = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.head.fc(self.backbone(images)[-1])


def _official(network: Network, state: dict[str, Tensor]) -> tuple[Peer, dict[str, Tensor]]:
    """The authors' classes. What their files import and dense models do not use is left empty."""
    import timm.layers

    folder = _named_folder("CONVNEXT_OFFICIAL", "ConvNeXt", "ConvNeXt-V2")
    if (len(network.depths), network.patch_size, bool(network.num_classes)) != (4, 4, True):
        raise UserError("the official ConvNeXt has four stages, 4x4 patches and a head")
    stand_ins = {
        "timm.models.layers": vars(timm.layers),
        "timm.models.registry": {"register_model": lambda function: function},
        "MinkowskiEngine": {"SparseTensor": None},
    }
    modules = {}
    for name, content in stand_ins.items():
        modules[name] = types.ModuleType(name)
        vars(modules[name]).update(content)
    modules["official_v2"] = types.ModuleType("official_v2")
    modules["official_v2"].__path__ = [str(Path(folder, "ConvNeXt-V2", "models"))]
    options = {"in_chans": network.in_channels, "num_classes": network.num_classes}
    with _modules(modules), torch.device("cpu"):  # it reads drop path rates off a tensor
        if network.version == 1:
            path = Path(folder, "ConvNeXt", "models", "convnext.py")
            spec = importlib.util.spec_from_file_location("official_v1", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            options["layer_scale_init_value"] = 1e-6 if _layer_scale(state) else 0.0
            model = module.ConvNeXt(depths=network.depths, dims=network.dims, **options)
        else:
            module = importlib.import_module("official_v2.convnextv2")
            model = module.ConvNeXtV2(depths=network.depths, dims=network.dims, **options)
    renamed, _ = to_layout(state, "official", version=network.version)
    return Peer("official code", model, model), renamed


def _named_folder(variable: str, *contents: str) -> str:
    folder = os.environ.get(variable)
    if folder is None or not all(Path(folder, name).is_dir() for name in contents):
        found = "is not set" if folder is None else f"is {folder}, where they are not"
        raise MissingPeerError(
            f"the environment variable {variable} {found}: set it to the folder that holds "
            f"{' and '.join(contents)}, or choose another peer"
        )
    return folder


@contextmanager
def _modules(modules: dict[str, types.ModuleType]):
    """These in sys.modules for as long as the context lasts."""
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def _layer_scale(state: dict[str, Tensor]) -> bool:
    return "stages.0.0.gamma" in state


PEERS = {"timm": _timm, "transformers": _transformers, "torchvision": _torchvision}
# More of them, for timing: a variant of timm's, and code that is read from a folder.
MORE_PEERS = {"timm_conv_mlp": _timm_conv_mlp, "mmpretrain": _mmpretrain, "official": _official}
