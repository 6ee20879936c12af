"""The OpenMMLab configs' networks, counted at full size."""

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from ..adapters.openmmlab.run import build_model, load_config
from ..lab.counting import MMCV_1, Count, Row, millions
from ..recipes import METHODS, PROTOCOLS, RECIPES, Recipe

PACKAGE = Path(__file__).parents[1]
CONFIGS = next(  # in the wheel, or in a clone
    folder / "configs" for folder in (PACKAGE, PACKAGE.parent) if (folder / "configs").is_dir()
)
PROPOSALS, MASKS = 1000, 100  # per image, as MMDetection counts
TRANSFORMERS = ("dino", "mask2former")


def built(recipe: Recipe, device: str = "meta") -> nn.Module:
    """The full-size model of a recipe's OpenMMLab config, with no weights read."""
    return build_model(load_config(str(CONFIGS / f"{recipe.name}.py")), device)


def run_detector(model: nn.Module, images: torch.Tensor) -> None:
    """Backbone, neck and heads. RoIAlign and post-processing have no multiply-accumulates."""
    maps = model.neck(model.backbone(images))
    model.rpn_head(maps)
    for head in _all(model.roi_head.bbox_head):
        head(torch.empty(PROPOSALS, 256, 7, 7))
    for head in _all(model.roi_head.mask_head) if model.roi_head.with_mask else ():
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


def recipe_rows(dataset: str | None, transformers: bool) -> Iterator[Row]:
    """Of a data set, or of both (None): the transformers among the methods, or the others."""
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
