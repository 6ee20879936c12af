"""How detectors and segmentors are trained: THE table, what follows from it, and what is written from
it (writers/)."""

from .counted import COUNTED, COUNTED_DETECTRON2
from .schedule import (
    get_recipe,
    iterations,
    iterations_per_epoch,
    layer_scales,
    learning_rate,
    protocol_of,
    recipe_of,
)
from .schema import SHORT_SIZES, DetrCrop, Method, Protocol, Recipe
from .table import BETAS, LAYER_SCALE, METHODS, PIXEL_MEAN, PIXEL_STD, PROTOCOLS, RECIPES

__all__ = [
    "BETAS",
    "COUNTED",
    "COUNTED_DETECTRON2",
    "LAYER_SCALE",
    "METHODS",
    "PIXEL_MEAN",
    "PIXEL_STD",
    "PROTOCOLS",
    "RECIPES",
    "SHORT_SIZES",
    "DetrCrop",
    "Method",
    "Protocol",
    "Recipe",
    "get_recipe",
    "iterations",
    "iterations_per_epoch",
    "layer_scales",
    "learning_rate",
    "protocol_of",
    "recipe_of",
]
