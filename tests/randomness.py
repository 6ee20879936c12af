"""Random weights under which every parameter matters.

The models' own initial values hide faults: layer scale is 1e-6, GRN and all biases are zero. These
draws are cheap (one draw, tiled), so that models of 660 million parameters can be filled too.
"""

import torch
from torch import Tensor, nn

DRAW_LENGTH = 1_000_003  # a prime, so that the rows of a tiled matrix differ


def random_state(model: nn.Module, dtype: torch.dtype = torch.float32, seed: int = 0):
    """Name to random tensor for all parameters of a model, which may be on the meta device."""
    generator = torch.Generator().manual_seed(seed)
    draw = torch.randn(DRAW_LENGTH, generator=generator, dtype=torch.float64).to(dtype)
    norms = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.LayerNorm)}
    state, offset = {}, 0
    for name, parameter in model.named_parameters():
        values = _tiled(draw, offset, parameter.numel()).reshape(parameter.shape)
        offset = (offset + parameter.numel() + 1) % DRAW_LENGTH
        if name in norms:
            state[name] = 1 + 0.2 * values
        elif parameter.numel() == max(parameter.shape):  # biases, layer scale, GRN
            state[name] = 0.3 * values
        else:
            state[name] = values.mul_(parameter[0].numel() ** -0.5)
    return state


def randomised(model: nn.Module, dtype: torch.dtype = torch.float32, seed: int = 0):
    """The model itself, with all parameters drawn by random_state, in evaluation mode."""
    state = random_state(model, dtype, seed)
    for name, parameter in model.named_parameters():
        parameter.data = state[name]
    return model.eval()


def random_images(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 1) -> Tensor:
    """Images of this shape, of mean 0 and deviation 1."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def relative_difference(ours: Tensor, reference: Tensor) -> float:
    """The greatest difference, relative to the greatest value of the reference."""
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    if reference.numel() == 0:
        return 0.0
    greatest = reference.double().abs().max().clamp_min(1e-30)
    return ((ours.double() - reference.double()).abs().max() / greatest).item()


def _tiled(draw: Tensor, offset: int, length: int) -> Tensor:
    values, filled = draw.new_empty(length), 0
    while filled < length:
        piece = draw[offset : offset + length - filled]
        values[filled : filled + len(piece)] = piece
        filled, offset = filled + len(piece), 0
    return values
