"""Peers' parameters under our names, and the same random weights in two models."""

import torch
from randomness import random_state
from torch import Tensor, nn

from convnext_backbones.checkpoints.layouts import find_layouts, from_layout


def under_our_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A peer's parameters, or their gradients, in our names and shapes; every one is used."""
    (found,) = find_layouts(state)
    translated = from_layout(state, found)
    assert len(translated.state) == len(state)
    return translated.state


def share_random_weights(ours: nn.Module, peer: nn.Module, dtype: torch.dtype) -> None:
    """Give both models (the meta device will do) the same random weights in the same memory."""
    state = random_state(peer, dtype)
    ours.load_state_dict(under_our_names(state), assign=True)
    peer.load_state_dict(state, assign=True)
    ours.eval()
    peer.eval()
