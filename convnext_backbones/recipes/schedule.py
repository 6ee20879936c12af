"""Reading the table: rows by name, and what follows from their schedules."""

import math

from ..network.variants import VARIANTS, nearest
from .layer_decay import learning_rate_scale
from .schema import Protocol, Recipe
from .table import MILESTONE_FACTOR, PROTOCOLS, RECIPES


def get_recipe(name: str) -> Recipe:
    """The row of a name; ValueError names the nearest."""
    if name not in RECIPES:
        raise ValueError(f"there is no recipe {name!r}; {nearest(str(name), RECIPES)}")
    return RECIPES[name]


def protocol_of(name: str) -> dict:
    """A row of PROTOCOLS as plain values, with images_per_gpu and, counted out, iterations."""
    if name not in PROTOCOLS:
        raise ValueError(f"there is no protocol {name!r}; {nearest(str(name), PROTOCOLS)}")
    protocol = PROTOCOLS[name]
    return {
        **protocol._asdict(),
        "iterations": iterations(protocol),
        "images_per_gpu": images_per_gpu(protocol),
    }


def recipe_of(name: str) -> dict:
    """A whole recipe as plain values: its row, its protocol's (under "protocol" the name), the
    variant's dims, and iterations, images_per_gpu."""
    recipe = get_recipe(name)
    return {
        **protocol_of(recipe.protocol),
        **recipe._asdict(),
        "dims": list(VARIANTS[recipe.variant].dims),
    }


def images_per_gpu(protocol: Protocol) -> int:
    return protocol.batch // protocol.gpus


def iterations(protocol: Protocol) -> int:
    """Length of the schedule in steps; the last batch of an epoch may be smaller."""
    return protocol.iterations or protocol.epochs * iterations_per_epoch(protocol)


def iterations_per_epoch(protocol: Protocol) -> int:
    return math.ceil(protocol.train_images / protocol.batch)


def unit(protocol: Protocol) -> int:
    """Steps of what epochs or iterations, milestones and validate_every count."""
    return 1 if protocol.epochs is None else iterations_per_epoch(protocol)


def learning_rate(recipe: Recipe, iteration: int, scale: float = 1.0) -> float:
    """The rate in the step of this number, from 0, of a layer with this scale (see layer_scales).

    As MMEngine's schedulers count: the last step of the warm-up is at the full rate.
    """
    protocol = PROTOCOLS[recipe.protocol]
    steps, end = unit(protocol), iterations(protocol)
    full = rate = recipe.lr * scale
    last = protocol.warmup_iterations - 1
    if iteration < last:
        rate *= protocol.warmup_factor + (1 - protocol.warmup_factor) * iteration / last
    rate *= MILESTONE_FACTOR ** sum(iteration >= m * steps for m in protocol.milestones)
    if protocol.power is not None and iteration >= protocol.warmup_iterations:
        first = protocol.warmup_iterations
        rate *= (1 - (iteration - first) / (end - 1 - first)) ** protocol.power
    if protocol.cosine_from is not None and iteration >= protocol.cosine_from * steps:
        first, low = protocol.cosine_from * steps, protocol.final_lr
        progress = (iteration - first) / (end - first)
        rate = low + (full - low) * (1 + math.cos(math.pi * progress)) / 2
    return rate


def layer_scales(recipe: Recipe) -> list[tuple[str, float]]:
    """Where in the network, and what lr is multiplied by there: the stem, each stage, the heads.

    A stage of several layers gives its first and its last.
    """
    depths = VARIANTS[recipe.variant].depths

    def scale(name):
        decayed = learning_rate_scale(name, depths, recipe.layer_decay, recipe.decay_type)
        return decayed * (1.0 if name == "head" else recipe.backbone_lr)

    rows = [("stem", scale("downsample_layers.0.0.weight"))]
    for stage, depth in enumerate(depths):
        for block in sorted({0, depth - 1}):
            row = (f"stage{stage + 1}", scale(f"stages.{stage}.{block}.dwconv.weight"))
            if row not in rows:
                rows.append(row)
    return [*rows, ("heads", scale("head"))]
