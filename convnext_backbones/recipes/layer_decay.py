"""Layer decay: parameter name -> layer -> learning-rate scale -> parameter groups.

Early layers, whose pretrained features are general, train slower than late ones. Every optimizer of
this package and of the frameworks it serves takes its groups from here.

    layer_wise   0 is the stem. Each stage then counts one layer per three blocks, its downsampling
                 among the first: depths (3, 3, 9, 3) give layers 1 | 2 | 3 4 5 | 6.
    stage_wise   0 is the stem and all downsampling, i + 1 is stage i.
    block_wise   a layer for each block, from 1; the stem and a stage's downsampling are in the layer of
                 the block after them.

All: what follows the trunk (output norms, neck, heads) is layer L + 1, where L is the last layer that
layer_wise counts (block_wise: the number of blocks), and a layer's scale is decay_rate ** (L + 1 - layer).

Source: of block_wise facebookresearch/ConvNeXt-V2, optim_factory.py, where it is called single and layer_wise
group; of the others facebookresearch/ConvNeXt, object_detection/mmcv_custom and semantic_segmentation/mmcv_custom,
and their copies, MMDetection's and MMSegmentation's LearningRateDecayOptimizerConstructor. For the
published depths and num_layers (6 for 9 blocks in stage 3, 12 for 27) the groups are theirs. They
depart where that code assumes what it does not know:
    - L comes from the depths. With num_layers=6 for depths (2, 2, 6, 2) theirs leaves layer 5 empty.
    - Any number of stages, any stage of more than three blocks; theirs splits the third stage only.
    - Any prefix of the names; theirs knows "backbone." and takes all else, a wrapped backbone too,
      for heads.
"""

import re
from collections.abc import Iterable, Sequence

from ..errors import UserError
from ..network.wrappers import unwrapped

DECAY_TYPES = ("layer_wise", "stage_wise", "block_wise")
BLOCKS_PER_LAYER = 3

_BLOCK = re.compile(
    r"(?:^|\.)stages\.(\d+)\.(\d+)\.(?:(?:dwconv|norm|pwconv1|grn|pwconv2)\.\w+|gamma)$"
)
_DOWNSAMPLE = re.compile(r"(?:^|\.)downsample_layers\.(\d+)\.\d+\.\w+$")


def num_layers(depths: Sequence[int], decay_type: str = "layer_wise") -> int:
    """L, the last layer before the heads: 6 for (3, 3, 9, 3), 12 for (3, 3, 27, 3); block_wise 18 and 36."""
    if decay_type == "block_wise":
        return sum(depths)
    return sum(_layers_of_stage(depth) for depth in depths)


def layer_id(name: str, depths: Sequence[int], decay_type: str = "layer_wise") -> int:
    """The layer, 0 to num_layers(depths, decay_type) + 1, of a parameter of the backbone or of a model with it.

    Raises:
        ValueError: an unknown decay_type, or a stage or block that the depths do not have.
    """
    if decay_type not in DECAY_TYPES:
        raise ValueError(f"decay_type is one of {DECAY_TYPES}, got {decay_type!r}")
    plain = unwrapped(name)
    block, downsample = _BLOCK.search(plain), _DOWNSAMPLE.search(plain)
    if not block and not downsample:
        return num_layers(depths, decay_type) + 1
    stage = int((block or downsample)[1])
    number = int(block[2]) if block else 0
    if stage >= len(depths) or number >= depths[stage]:
        raise ValueError(f"{name} is no parameter of a network with depths {tuple(depths)}")
    if decay_type == "stage_wise":
        return stage + 1 if block else 0
    if decay_type == "block_wise":
        return sum(depths[:stage]) + number + 1
    if downsample and stage == 0:  # the stem
        return 0
    return 1 + num_layers(depths[:stage]) + number // BLOCKS_PER_LAYER


def learning_rate_scale(
    name: str, depths: Sequence[int], decay_rate: float, decay_type: str = "layer_wise"
) -> float:
    """What the base learning rate is multiplied by for this parameter; 1 for the heads."""
    return decay_rate ** (num_layers(depths, decay_type) + 1 - layer_id(name, depths, decay_type))


def trained_depths(networks: Sequence) -> tuple[int, ...]:
    """The depths of the one network that is trained, of all ConvNeXts (Trunk) in a model.

    Others may stand beside it if they are frozen: the teacher of a semi-supervised detector. If all are,
    none of their layers is in a group, and any's depths serve.

    Raises:
        UserError: there is none, or several are trained.
    """
    trained = [
        network for network in networks if any(p.requires_grad for p in network.parameters())
    ]
    if not networks or len(trained) > 1:
        found = f"{len(trained)} that are trained; freeze all but one, or" if trained else "0;"
        raise UserError(
            f"layer decay needs a model with one ConvNeXt backbone, this one has {found} take another "
            "optimizer"
        )
    return (trained or networks)[0].depths


def parameter_groups(
    named_parameters: Iterable[tuple],
    depths: Sequence[int],
    *,
    lr: float,
    weight_decay: float,
    decay_rate: float,
    decay_type: str = "layer_wise",
) -> list[dict]:
    """Groups for a torch optimizer, from the stem to the heads; frozen parameters are left out.

    Biases and 1-D parameters (norms, layer scale, GRN) get no weight decay. A group has the keys
    params, lr, weight_decay, and for show param_names, group_name ("layer_3_no_decay"), lr_scale.

    Raises:
        UserError: every parameter is frozen.
        ValueError: as layer_id.
    """
    groups: dict[tuple[int, bool], dict] = {}
    for name, parameter in named_parameters:
        if not parameter.requires_grad:
            continue
        layer = layer_id(name, depths, decay_type)
        decays = parameter.ndim > 1 and not name.endswith(".bias")
        scale = learning_rate_scale(name, depths, decay_rate, decay_type)
        group = groups.setdefault(
            (layer, decays),
            {
                "group_name": f"layer_{layer}_{'decay' if decays else 'no_decay'}",
                "lr_scale": scale,
                "lr": lr * scale,
                "weight_decay": weight_decay if decays else 0.0,
                "params": [],
                "param_names": [],
            },
        )
        group["params"].append(parameter)
        group["param_names"].append(name)
    if not groups:
        raise UserError(
            "the model has no parameter to train, as none has requires_grad; freeze less of it "
            "(frozen_stages, freeze_at, requires_grad_)"
        )
    return [groups[key] for key in sorted(groups)]


def _layers_of_stage(depth: int) -> int:
    return -(-depth // BLOCKS_PER_LAYER)
