"""Fine-tuning's figures, against the arguments of the official commands (TRAINING.md of both repositories)."""

import re

import pytest
from pages import text_of

from convnext_backbones import VARIANTS
from convnext_backbones.recipes.finetuning import (
    FEW,
    PUBLISHED,
    RAND_AUGMENT,
    SMALL,
    fine_tuning_recipe,
)
from convnext_backbones.recipes.layer_decay import DECAY_TYPES

# --blr (V1: --lr), batch, --epochs, --warmup_epochs, --layer_decay, its type, --weight_decay, --drop_path, --mixup,
# --cutmix, --smoothing, EMA. A type that is not given, as in V1's code, is "group".
COMMANDS = {
    (2, "atto"): (2e-4 * 4, 1024, 600, 0, 0.9, "single", 0.3, 0.1, 0, 0, 0.2, True),
    (2, "tiny"): (8e-4 * 4, 1024, 300, 40, 0.9, "single", 0.05, 0.2, 0.8, 1.0, 0.1, True),
    (2, "base"): (6.25e-4 * 4, 1024, 100, 20, 0.6, "group", 0.05, 0.1, 0.8, 1.0, 0.1, True),
    (1, "base"): (5e-5, 512, 30, 0, 0.8, "group", 1e-8, 0.2, 0, 0, 0.1, False),
    (1, "large"): (5e-5, 512, 30, 0, 0.8, "group", 1e-8, 0.3, 0, 0, 0.1, False),
    (1, "xlarge"): (5e-5, 512, 30, 0, 0.8, "group", 1e-8, 0.4, 0, 0, 0.1, True),
    (1, "base", "in1k"): (5e-5, 512, 30, 0, 0.7, "group", 1e-8, 0.8, 0, 0, 0.1, False),
    (1, "large", "in1k"): (5e-5, 512, 30, 0, 0.7, "group", 1e-8, 0.95, 0, 0, 0.1, False),
}
TYPES = {"single": "block_wise", "group": "layer_wise"}


@pytest.mark.parametrize("key", PUBLISHED, ids=str)
def test_a_published_recipe_is_the_official_commands(key):
    recipe, command = PUBLISHED[key], COMMANDS[key]
    (
        lr,
        batch,
        epochs,
        warmup,
        decay,
        kind,
        weight_decay,
        drop_path,
        mixup,
        cutmix,
        smoothing,
        ema,
    ) = command
    assert recipe.lr == pytest.approx(lr)
    assert recipe.rate(batch // 4) == pytest.approx(lr / 4)  # absolute lr = blr * batch / 256
    assert (recipe.batch, recipe.epochs, recipe.warmup) == (batch, epochs, warmup)
    assert (recipe.layer_decay, recipe.decay_type) == (decay, TYPES[kind])
    assert (recipe.weight_decay, recipe.drop_path) == (weight_decay, drop_path)
    assert (recipe.mixup, recipe.cutmix, recipe.smoothing) == (mixup, cutmix, smoothing)
    assert recipe.ema == (0.9999 if ema else 0)
    # defaults of both main_finetune.py and main.py
    assert (recipe.erasing, recipe.rand_augment, recipe.min_lr) == (0.25, RAND_AUGMENT, 1e-6)
    assert (recipe.head_init_scale, recipe.betas) == (0.001, (0.9, 0.999))


@pytest.mark.parametrize("name", VARIANTS)
def test_every_network_has_a_recipe_and_is_told_whose(name):
    variant = VARIANTS[name]
    chosen = fine_tuning_recipe(variant.version, variant.size, FEW)
    own = (variant.version, variant.size) in PUBLISHED
    assert chosen.name == "published"
    assert (chosen.nearest is None) == own
    assert chosen.recipe.decay_type in DECAY_TYPES
    if not own:
        assert chosen.recipe == PUBLISHED[variant.version, chosen.nearest]


def test_few_pictures_take_the_small_recipe_unless_one_is_named():
    assert fine_tuning_recipe(2, "base", FEW - 1).recipe == SMALL
    assert fine_tuning_recipe(2, "base", 10, "published").recipe == PUBLISHED[2, "base"]
    assert fine_tuning_recipe(2, "base", FEW, "small").name == "small"
    assert "not published" in SMALL.source
    assert SMALL.rate(256) == pytest.approx(2 * SMALL.rate(64))
    in1k = fine_tuning_recipe(1, "base", FEW, pretrained_on="in1k")
    assert in1k.recipe.drop_path == 0.8
    assert fine_tuning_recipe(2, "base", FEW, pretrained_on="in1k").recipe == PUBLISHED[2, "base"]


def test_the_pages_table_is_the_recipes():
    rows = re.findall(r"(?m)^\| ([a-zA-Z, -]+) \| (.*) \|$", text_of("finetuning.md"))
    table = {name: cells.split(" | ") for name, cells in rows}
    recipes = [
        PUBLISHED[key]
        for key in ((2, "atto"), (2, "tiny"), (2, "base"), (1, "base"), (1, "base", "in1k"))
    ]
    recipes.append(SMALL)

    def numbers(name):
        return [tuple(map(float, cell.split(", "))) for cell in table[name]]

    assert numbers("learning rate, batch") == [pytest.approx((r.lr, r.batch)) for r in recipes]
    assert numbers("epochs, warm-up") == [(r.epochs, r.warmup) for r in recipes]
    assert table["layer decay"] == [f"{r.layer_decay} `{r.decay_type}`" for r in recipes]
    assert numbers("weight decay") == [(r.weight_decay,) for r in recipes]
    assert numbers("drop path") == [(r.drop_path,) for r in recipes]
    assert numbers("mixup, cutmix") == [(r.mixup, r.cutmix) for r in recipes]
    assert numbers("label smoothing") == [(r.smoothing,) for r in recipes]
    assert numbers("random erasing") == [(r.erasing,) for r in recipes]
    assert [cell != "none" for cell in table["RandAugment"]] == [
        bool(r.rand_augment) for r in recipes
    ]
    assert table["EMA"] == [str(r.ema) if r.ema else "none" for r in recipes]
