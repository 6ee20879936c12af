"""Random weights under which every parameter matters."""

import torch
from torch import nn


@torch.no_grad()
def fill_randomly(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model itself, its weights drawn anew, in evaluation mode.

    A model's own initial values hide what is wrong or slow: layer scale is 1e-6, GRN and all biases
    are 0.
    """
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            mean, std = 0.0, 0.3  # biases, layer scale, GRN's gamma and beta
            if parameter.dim() > 1:
                std = parameter[0].numel() ** -0.5
            elif isinstance(module, nn.LayerNorm) and parameter is module.weight:
                mean, std = 1.0, 0.2
            nn.init.normal_(parameter, mean, std, generator=generator)
    return model.eval()
