"""Write configs/detectron2 from the table of recipes: a LazyConfig and a YAML file a recipe.

    python tools/make_detectron2_configs.py            # write
    python tools/make_detectron2_configs.py --check    # name the files that differ, status 1

A LazyConfig reads its figures from convnext_backbones/recipes.py; a YAML file cannot and shows them.
configs/detectron2/_base_ is written by hand.
"""

import argparse
from pathlib import Path

from ..checkpoints.catalogue import CATALOGUE
from ..network.variants import VARIANTS
from ..recipes.table import METHODS, PROTOCOLS, RECIPES, Recipe
from .make_configs import (
    DATASETS,
    PAPERS,
    hardware_text,
    header_lines,
    number,
    recipe_text,
    scales_comment,
    schedule_text,
    scores_text,
)

CONFIGS = Path(__file__).parents[2] / "configs" / "detectron2"
# Where Detectron2's networks are not those whose scores the table has.
DIFFERENCES = {
    "mask_rcnn": "Detectron2's heads, of the same size",
    "cascade_mask_rcnn": "Detectron2's heads: one mask head where the published network has three, "
    "class-agnostic boxes, gradients averaged over the stages",
    "sem_seg_fpn": "Detectron2's own segmentor; tested on whole pictures",
}
# (model, recipe) files of _base_
LAZY_BASES = {
    "mask_rcnn": "mask_rcnn_fpn",
    "cascade_mask_rcnn": "cascade_mask_rcnn_fpn",
    "sem_seg_fpn": "ade20k_sem_seg_fpn",
}
LAZY_PROTOCOLS = {"coco_3x": "coco", "coco_lsj_3x": "coco_lsj", "ade20k_160k": "ade20k_sem_seg_fpn"}
YAML_PROTOCOLS = {"coco_3x": "coco", "coco_lsj_3x": "coco_lsj", "ade20k_160k": "ade20k"}


def header(recipe: Recipe, path: str) -> str:
    variant, protocol = VARIANTS[recipe.variant], PROTOCOLS[recipe.protocol]
    network = f"ConvNeXt{' V2' if variant.version == 2 else ''}-{variant.size.capitalize()}"
    differs = DIFFERENCES[recipe.method]
    if recipe.protocol == "coco_lsj_3x":
        differs += "; no soft-NMS, which Detectron2 does not have"
    scores = scores_text(recipe)
    expected = f"{scores} with the published heads" if scores else "no score is published"
    rows = [
        ("Paper", PAPERS[variant.version]),
        ("Command", f"python tools/train_detectron2.py {path} --num-gpus {protocol.gpus}"),
        ("Hardware", hardware_text(protocol)),
        ("Recipe", recipe_text(recipe)),
        ("Data", protocol.text.removesuffix("; soft-NMS")),
        ("Schedule", schedule_text(protocol)),
        ("Weights", f"{recipe.init}, {CATALOGUE[recipe.init].licence}"),
        ("Expected", f"{expected}. Here {differs}"),
        ("Status", f"the recipe is {recipe.status}: {recipe.source}. Not trained here in Detectron2"),
    ]  # fmt: skip
    title = f"# {network} + {METHODS[recipe.method].title} on {DATASETS[protocol.dataset]}"
    return "\n".join([title, *header_lines(rows)])


def lazy_config(recipe: Recipe) -> str:
    """The text of configs/detectron2/<name>.py."""
    variant = VARIANTS[recipe.variant]
    kind = "ConvNeXtV2" if variant.version == 2 else "ConvNeXt"
    model, data = LAZY_BASES[recipe.method], LAZY_PROTOCOLS[recipe.protocol]
    imports = sorted(
        [
            f"from ._base_.{data} import dataloader, lr_multiplier, optimizer, train",
            f"from ._base_.{model} import model",
        ]
    )
    if model == data:
        imports = [f"from ._base_.{data} import dataloader, lr_multiplier, model, optimizer, train"]
    layer_scale = "    layer_scale_init_value=1.0,\n" if variant.version == 1 else ""
    return f"""{header(recipe, f"configs/detectron2/{recipe.name}.py")}
from detectron2.config import LazyCall as L

from convnext_backbones.adapters.detectron2 import {kind}
from convnext_backbones.recipes import recipe_of

{chr(10).join(imports)}

recipe = recipe_of("{recipe.name}")

model.backbone.bottom_up = L({kind})(
    arch="{variant.size}",
    out_features=["stage1", "stage2", "stage3", "stage4"],
    drop_path_rate=recipe["drop_path"],
{layer_scale})
train.init_checkpoint = recipe["init"]
train.amp.enabled = recipe["amp"]

{scales_comment(recipe)}
optimizer.lr = recipe["lr"]
optimizer.params.decay_rate = recipe["layer_decay"]
optimizer.params.decay_type = recipe["decay_type"]
del recipe  # a LazyConfig is what remains
"""


def yaml_number(value: float) -> str:
    """YAML takes 1e-4 for a string, 1.0e-4 for a number."""
    text = number(value)
    return text if "e" not in text or "." in text else text.replace("e", ".0e")


def yaml_config(recipe: Recipe) -> str:
    """The text of configs/detectron2/<name>.yaml."""
    variant = VARIANTS[recipe.variant]
    base = f"{YAML_PROTOCOLS[recipe.protocol]}_{recipe.method}.yaml"
    layer_scale = "    LAYER_SCALE_INIT_VALUE: 1.0\n" if variant.version == 1 else ""
    return f"""{header(recipe, f"configs/detectron2/{recipe.name}.yaml")}
_BASE_: _base_/{base}
MODEL:
  WEIGHTS: {recipe.init}
  CONVNEXT:
    VERSION: {variant.version}
    ARCH: {variant.size}
    DROP_PATH_RATE: {recipe.drop_path}
{layer_scale}SOLVER:
  {scales_comment(recipe)}
  BASE_LR: {yaml_number(recipe.lr)}
  LAYER_DECAY_RATE: {recipe.layer_decay}
  LAYER_DECAY_TYPE: {recipe.decay_type}
  AMP:
    ENABLED: {recipe.amp}
"""


def config_files() -> dict[Path, str]:
    """Every file that the table determines, and its text."""
    files = {}
    for recipe in RECIPES.values():
        if "detectron2" in METHODS[recipe.method].hosts:
            files[CONFIGS / f"{recipe.name}.py"] = lazy_config(recipe)
            files[CONFIGS / f"{recipe.name}.yaml"] = yaml_config(recipe)
    return files


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    differing = {
        path: text
        for path, text in config_files().items()
        if not path.exists() or path.read_text() != text
    }
    for path, text in differing.items():
        print(f"{path.relative_to(CONFIGS.parent.parent)}: {'differs' if check else 'written'}")
        if not check:
            path.write_text(text)
    return 1 if check and differing else 0
