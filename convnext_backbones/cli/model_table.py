"""Published figures beside counted ones: parameters and multiply-accumulates of every network.

    python tools/model_table.py             # classifiers, backbones, detectors, segmentors
    python tools/model_table.py classifiers backbones
    python tools/model_table.py transformers                  # minutes: DINO, Mask2Former

Parameters are counted on the model itself, multiply-accumulates by torch.utils.flop_counter
(convolutions and matrix products; it counts two operations for each) on the meta device, so that
nothing is computed. DINO and Mask2Former depend on values: they run on random images. The column
"extra" holds what the publishers counted besides:

    classifiers  nothing; convnextv2_tiny's 4.47 has fvcore's 5 operations per LayerNorm element
    backbones    the classifier's head, since the papers give classifiers
    others       what MMCV 1's counter adds: 2 operations per BatchNorm element, 1 per ReLU element,
                 1 per element that a convolution adds its bias to

The configs' published figures are those of convnext_backbones/recipes.py. Exit status 1, and a mark,
where counted and extra do not round to the published figure.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .. import VARIANTS, create_backbone, create_classifier
from ..recipes import METHODS, PROTOCOLS, RECIPES, Recipe

CONFIGS = Path(__file__).parents[2] / "configs"
PROPOSALS, MASKS = 1000, 100  # per image, as MMDetection counts
LAYER_NORM = {nn.LayerNorm: 5}
MMCV_1 = {nn.modules.batchnorm._BatchNorm: 2, nn.ReLU: 1, nn.modules.conv._ConvNd: 1}
TRANSFORMERS = ("dino", "mask2former")


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


def classifier_rows():
    for variant in VARIANTS.values():
        operations = LAYER_NORM if variant.name == "convnextv2_tiny" else {}
        with torch.device("meta"), Count(operations) as count:
            model = create_classifier(variant.name).eval()
            model(torch.empty(1, 3, 224, 224))
        yield Row(
            variant.name,
            variant.classifier_params / 1e6,
            millions(model),
            variant.published_gflops_224,
            count.gmacs,
            count.extra,
        )


def backbone_rows():
    """With all four output norms."""
    for variant in VARIANTS.values():
        operations = LAYER_NORM if variant.name == "convnextv2_tiny" else {}
        with torch.device("meta"), Count(operations) as count:
            model = create_backbone(variant.name, out_indices=(0, 1, 2, 3)).eval()
            model(torch.empty(1, 3, 224, 224))
        head = variant.dims[-1] * 1000 / 1e9
        yield Row(
            variant.name,
            None,
            millions(model),
            variant.published_gflops_224,
            count.gmacs,
            count.extra + head,
        )


def built(recipe: Recipe, device: str = "meta") -> nn.Module:
    """The full-size model of a recipe's OpenMMLab config, with no weights read."""
    from ..adapters.openmmlab.run import build_model, load_config

    return build_model(load_config(str(CONFIGS / f"{recipe.name}.py")), device)


def run_detector(model: nn.Module, images: torch.Tensor) -> None:
    """Backbone, neck and heads. RoIAlign and post-processing have no multiply-accumulates."""
    maps = model.neck(model.backbone(images))
    model.rpn_head(maps)
    for head in _all(model.roi_head.bbox_head):
        head(torch.empty(PROPOSALS, 256, 7, 7))
    for head in _all(model.roi_head.mask_head):
        head(torch.empty(MASKS, 256, 14, 14))


def run_transformer(model: nn.Module, images: torch.Tensor) -> None:
    """DINO, or Mask2Former of either framework, on a picture of the images' size."""
    size = tuple(images.shape[2:])
    meta = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size, scale_factor=(1, 1))  # fmt: skip
    if hasattr(model, "decode_head"):
        model.decode_head.predict(model.backbone(images), [meta], model.test_cfg)
        return
    from mmdet.structures import DetDataSample

    model.predict(images, [DetDataSample(metainfo=meta)], rescale=False)


def count(recipe: Recipe) -> tuple[nn.Module, Count]:
    """The model of a recipe, and what one picture of the protocol's flops_size costs it."""
    device = "cpu" if recipe.method in TRANSFORMERS else "meta"
    model = built(recipe, device)
    run = model  # what inference computes: without an auxiliary head
    if recipe.method in TRANSFORMERS:
        run = lambda images: run_transformer(model, images)  # noqa: E731
    elif hasattr(model, "roi_head"):
        run = lambda images: run_detector(model, images)  # noqa: E731
    with torch.no_grad(), torch.device(device), Count(MMCV_1) as counter:
        run(torch.rand(1, 3, *PROTOCOLS[recipe.protocol].flops_size))
    return model, counter


def recipe_rows(dataset: str | None, transformers: bool):
    for recipe in RECIPES.values():
        if (
            "openmmlab" in METHODS[recipe.method].hosts
            and dataset in (None, PROTOCOLS[recipe.protocol].dataset)
            and transformers == (recipe.method in TRANSFORMERS)
        ):
            model, counter = count(recipe)
            yield Row(
                recipe.name,
                recipe.params,
                millions(model),
                recipe.gflops,
                counter.gmacs,
                counter.extra,
            )


def _all(head) -> list:
    return list(head) if isinstance(head, nn.ModuleList) else [head]


ROWS = {
    "classifiers": classifier_rows,
    "backbones": backbone_rows,
    "detectors": lambda: recipe_rows("coco", transformers=False),
    "segmentors": lambda: recipe_rows("ade20k", transformers=False),
    "transformers": lambda: recipe_rows(None, transformers=True),
}
DEFAULT_SECTIONS = ("classifiers", "backbones", "detectors", "segmentors")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sections", nargs="*", help=f"which of {', '.join(ROWS)}; default all but the last"
    )
    sections = parser.parse_args().sections or DEFAULT_SECTIONS
    for section in sections:
        if section not in ROWS:
            parser.error(f"unknown section {section!r}; choose from {', '.join(ROWS)}")
    print(HEADER)
    differing = 0
    for section in sections:
        print(section)
        for row in ROWS[section]():
            print(row, flush=True)
            differing += not row.as_published()
    return 1 if differing else 0
