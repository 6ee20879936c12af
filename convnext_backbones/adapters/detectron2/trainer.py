"""Detectron2's own trainer and the recipes of YAML configs: follow them, or refuse.

DefaultTrainer, which Detectron2's train_net.py derives its trainer from, knows none of the recipes' keys:
it would train with SGD, without layer decay and DETR's crop, and say nothing.
"""

import functools

from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer

from ...errors import UserError
from . import data, optimizer


class RecipeTrainer(DefaultTrainer):
    """DefaultTrainer that follows the keys of yaml_keys.py: `class Trainer(RecipeTrainer)`."""

    @classmethod
    def build_optimizer(cls, cfg, model):
        return optimizer.build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer_):
        return optimizer.build_lr_scheduler(cfg, optimizer_)

    @classmethod
    def build_train_loader(cls, cfg):
        return data.build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return data.build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg, dataset_name):
        return data.build_evaluator(dataset_name, cfg.OUTPUT_DIR)


def refusing(init):
    """A trainer's __init__ that first refuses a recipe that the trainer would not follow."""

    @functools.wraps(init)
    def refusing_init(self, cfg, *args, **kwargs):
        check_recipe(type(self), cfg)
        init(self, cfg, *args, **kwargs)

    return refusing_init


def check_recipe(trainer: type[DefaultTrainer], cfg: CfgNode) -> None:
    """UserError where a recipe needs what the trainer leaves to DefaultTrainer."""
    if "CONVNEXT" not in cfg.MODEL:
        return
    stock = vars(DefaultTrainer)
    left = {
        method: keys
        for method, keys in needed(cfg).items()
        if keys and getattr(trainer, method).__func__ is stock[method].__func__
    }
    if left:
        asked = "; ".join(f"{', '.join(keys)} ({method})" for method, keys in left.items())
        raise UserError(
            f"Detectron2's DefaultTrainer, from which {trainer.__name__} takes over "
            f"{' and '.join(left)}, does not follow this config: {asked}. Train with "
            "tools/train_detectron2.py CONFIG or `convnext-backbones train CONFIG`; or derive your "
            "trainer from convnext_backbones.adapters.detectron2.RecipeTrainer in its place"
        )


def needed(cfg: CfgNode) -> dict[str, list[str]]:
    """What of a config each method of DefaultTrainer passes over, by its keys."""
    solver, pictures = cfg.SOLVER, cfg.INPUT
    crop = pictures.CROP
    train = {
        "INPUT.DETR_CROP": pictures.DETR_CROP.ENABLED,
        "INPUT.LARGE_SCALE_JITTER": pictures.LARGE_SCALE_JITTER.ENABLED,
        "INPUT.COLOR_AUG_SSD": pictures.COLOR_AUG_SSD,
        "INPUT.CROP.SINGLE_CATEGORY_MAX_AREA": crop.ENABLED and crop.SINGLE_CATEGORY_MAX_AREA < 1,
        "DATASETS.TRAIN": any(data.ignored_label(name) == 0 for name in cfg.DATASETS.TRAIN),
    }
    optimizing = {
        f"SOLVER.OPTIMIZER={solver.OPTIMIZER}": solver.OPTIMIZER != "SGD",
        "SOLVER.LAYER_DECAY_RATE": solver.LAYER_DECAY_RATE != 1,
    }
    schedule = {"SOLVER.LR_SCHEDULER_NAME": solver.LR_SCHEDULER_NAME == "WarmupPolyLR"}
    methods = dict(
        build_optimizer=optimizing, build_train_loader=train, build_lr_scheduler=schedule
    )
    return {method: [k for k, on in keys.items() if on] for method, keys in methods.items()}
