"""Our parameter names in the peers' words, one table per peer, and the loading of their weights."""

import re

import torch
from randomness import random_state
from torch import nn

TIMM = (
    (r"^downsample_layers\.0\.", r"stem."),
    (r"^downsample_layers\.(\d+)\.", r"stages.\1.downsample."),
    (r"^stages\.(\d+)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.dwconv\.", r".conv_dw."),
    (r"\.pwconv(\d)\.", r".mlp.fc\1."),
    (r"\.grn\.gamma$", r".mlp.grn.weight"),
    (r"\.grn\.beta$", r".mlp.grn.bias"),
    (r"^head\.", r"head.fc."),
    (r"^norm\.", r"head.norm."),
)

TRANSFORMERS_BACKBONE = (
    (r"^downsample_layers\.0\.0\.", r"embeddings.patch_embeddings."),
    (r"^downsample_layers\.0\.1\.", r"embeddings.layernorm."),
    (r"^downsample_layers\.(\d+)\.", r"encoder.stages.\1.downsampling_layer."),
    (r"^stages\.(\d+)\.(\d+)\.", r"encoder.stages.\1.layers.\2."),
    (r"\.norm\.", r".layernorm."),
    (r"\.grn\.gamma$", r".grn.weight"),
    (r"\.grn\.beta$", r".grn.bias"),
    (r"\.gamma$", r".layer_scale_parameter"),
    (r"^norm_stem\.", r"hidden_states_norms.stem."),
    (r"^norm0\.", r"hidden_states_norms.stage1."),
    (r"^norm1\.", r"hidden_states_norms.stage2."),
    (r"^norm2\.", r"hidden_states_norms.stage3."),
    (r"^norm3\.", r"hidden_states_norms.stage4."),
)

TRANSFORMERS_V1_CLASSIFIER = (
    (r"^head\.", r"classifier."),
    *TRANSFORMERS_BACKBONE,
    (r"^norm\.", r"layernorm."),
    (r"^(?!classifier)", r"convnext."),
)

TRANSFORMERS_V2_CLASSIFIER = (
    *TRANSFORMERS_V1_CLASSIFIER[:-1],
    (r"^(?!classifier)", r"convnextv2."),
)

TORCHVISION = (
    (r"^downsample_layers\.0\.", r"features.0."),
    (r"^downsample_layers\.1\.", r"features.2."),
    (r"^downsample_layers\.2\.", r"features.4."),
    (r"^downsample_layers\.3\.", r"features.6."),
    (r"^stages\.0\.", r"features.1."),
    (r"^stages\.1\.", r"features.3."),
    (r"^stages\.2\.", r"features.5."),
    (r"^stages\.3\.", r"features.7."),
    (r"\.dwconv\.", r".block.0."),
    (r"\.norm\.", r".block.2."),
    (r"\.pwconv1\.", r".block.3."),
    (r"\.pwconv2\.", r".block.5."),
    (r"\.gamma$", r".layer_scale"),
    (r"^norm\.", r"classifier.0."),
    (r"^head\.", r"classifier.2."),
)


def peer_name(name: str, table) -> str:
    """The peer's name of our parameter."""
    for pattern, replacement in table:
        name = re.sub(pattern, replacement, name)
    return name


def share_random_weights(ours: nn.Module, peer: nn.Module, table, dtype: torch.dtype) -> None:
    """Give both models (the meta device will do) the same random weights in the same memory.

    Every name of the peer must be used, every one of ours be given. Shapes differ in ones only
    (GRN as (1, 1, 1, 4C), pointwise convolutions), so that a view does.
    """
    state = random_state(peer, dtype)
    names = {name: peer_name(name, table) for name in ours.state_dict()}
    assert set(names.values()) == set(state)
    shapes = {name: parameter.shape for name, parameter in ours.named_parameters()}
    for name, shape in shapes.items():
        assert [n for n in shape if n > 1] == [n for n in state[names[name]].shape if n > 1], name
    ours.load_state_dict({n: state[names[n]].reshape(s) for n, s in shapes.items()}, assign=True)
    peer.load_state_dict(state, assign=True)
    ours.eval()
    peer.eval()
