"""Parameters and multiply-accumulates of networks, as published and as counted.

Parameters are counted on the model itself, multiply-accumulates by torch.utils.flop_counter
(convolutions and matrix products; it counts two operations for each) on the meta device, so that
nothing is computed.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..create import create_backbone, create_classifier
from ..network.variants import VARIANTS, Variant

LAYER_NORM = {nn.LayerNorm: 5}  # operations per element, as fvcore counts
MMCV_1 = {nn.modules.batchnorm._BatchNorm: 2, nn.ReLU: 1, nn.modules.conv._ConvNd: 1}


class Row(NamedTuple):
    """One network: millions of parameters and 1e9 multiply-accumulates; None: not published."""

    name: str
    published_parameters: float | None
    parameters: float
    published_gmacs: float | None
    gmacs: float
    extra: float

    def as_published(self) -> bool:
        """Whether the counted figures, rounded as the published ones are, equal them."""
        return _rounds_to(self.parameters, self.published_parameters) and _rounds_to(
            self.gmacs + self.extra, self.published_gmacs
        )

    def __str__(self) -> str:
        columns = (
            f"{self.name:42}"
            f"{_published(self.published_parameters)}{self.parameters:12.6f}"
            f"{_difference(self.parameters, self.published_parameters)}"
            f"{_published(self.published_gmacs)}{self.gmacs:13.6f}{self.extra:10.6f}"
            f"{_difference(self.gmacs + self.extra, self.published_gmacs)}"
        )
        return columns if self.as_published() else f"{columns}  <- differs"


HEADER = (
    f"{'':42}{'parameters, 1e6':^34}{'multiply-accumulates, 1e9':^45}\n{'':42}"
    f"{'published':>12}{'counted':>12}{'diff':>10}"
    f"{'published':>12}{'counted':>13}{'extra':>10}{'diff':>10}"
)


def _published(figure: float | None) -> str:
    return f"{'-' if figure is None else f'{figure:.10g}':>12}"


def _difference(counted: float, published: float | None) -> str:
    return f"{'' if published is None else f'{counted - published:+.4f}':>10}"


def _rounds_to(counted: float, published: float | None) -> bool:
    if published is None:
        return True
    decimals = len(f"{published:.10g}".partition(".")[2])
    return round(counted, decimals) == published


def millions(model: nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


class Count(FlopCounterMode):
    """Counts multiply-accumulates, and `operations` per element of the output of some modules; of
    convolutions, those with a bias."""

    def __init__(self, operations: dict[type, int]):
        super().__init__(display=False)
        self.operations, self.extra = operations, 0.0

    def __enter__(self):
        self.hook = nn.modules.module.register_module_forward_hook(self._add)
        return super().__enter__()

    def __exit__(self, *error):
        self.hook.remove()
        return super().__exit__(*error)

    def _add(self, module, inputs, output):
        if isinstance(module, nn.modules.conv._ConvNd) and module.bias is None:
            return
        for kind, operations in self.operations.items():
            if isinstance(module, kind):
                self.extra += operations * output.numel() / 1e9

    @property
    def gmacs(self) -> float:
        return self.get_total_flops() / 2e9


def classifier_rows() -> Iterator[Row]:
    for variant in VARIANTS.values():
        with torch.device("meta"):
            model = create_classifier(variant.name).eval()
        count = _count(model, variant)
        yield Row(
            variant.name,
            variant.classifier_params / 1e6,
            millions(model),
            variant.published_gflops_224,
            count.gmacs,
            count.extra,
        )


def backbone_rows() -> Iterator[Row]:
    """With all four output norms. Papers give classifiers: the head's operations are in `extra`."""
    for variant in VARIANTS.values():
        with torch.device("meta"):
            model = create_backbone(variant.name, out_indices=(0, 1, 2, 3)).eval()
        count = _count(model, variant)
        head = variant.dims[-1] * 1000 / 1e9
        yield Row(
            variant.name,
            None,
            millions(model),
            variant.published_gflops_224,
            count.gmacs,
            count.extra + head,
        )


def _count(model: nn.Module, variant: Variant) -> Count:
    """What a picture of 224x224 costs; 4.47 of convnextv2_tiny has fvcore's operations of LayerNorms."""
    with Count(LAYER_NORM if variant.name == "convnextv2_tiny" else {}) as count:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    return count
