"""AdamW with layer decay, and the schedule, for both of Detectron2's config systems.

layer_decay_groups                     the optimizer's parameter groups, as a LazyConfig names them
build_optimizer, build_lr_scheduler    what the YAML keys mean (yaml_keys.py)
"""

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier, LRScheduler, WarmupParamScheduler
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from detectron2.solver import build_optimizer as build_detectron2_optimizer
from detectron2.solver.build import maybe_add_gradient_clipping
from fvcore.common.param_scheduler import PolynomialDecayParamScheduler

from ...errors import UserError
from ...network.convnext import Trunk
from ...network.sharding import whole_parameters
from ...network.variants import nearest
from ...recipes.layer_decay import parameter_groups, trained_depths


def layer_decay_groups(
    model: torch.nn.Module,
    *,
    lr: float,
    weight_decay: float,
    decay_rate: float,
    decay_type: str = "layer_wise",
) -> list[dict]:
    """The parameter groups of a model with one ConvNeXt or ConvNeXtV2 to train; see layer_decay.py."""
    trunks = [module for module in model.modules() if isinstance(module, Trunk)]
    # what is 1-D has no weight decay, and a shard of FSDP's always is
    with whole_parameters(model):
        return parameter_groups(
            model.named_parameters(), trained_depths(trunks), lr=lr, weight_decay=weight_decay,
            decay_rate=decay_rate, decay_type=decay_type,
        )  # fmt: skip


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """SOLVER.OPTIMIZER: AdamW with layer decay, or Detectron2's SGD."""
    solver = cfg.SOLVER
    if solver.OPTIMIZER == "SGD":
        return build_detectron2_optimizer(cfg, model)
    if solver.OPTIMIZER != "ADAMW":
        raise UserError(
            f"SOLVER.OPTIMIZER={solver.OPTIMIZER!r}; {nearest(solver.OPTIMIZER, ['ADAMW', 'SGD'])}"
        )
    groups = layer_decay_groups(
        model, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY,
        decay_rate=solver.LAYER_DECAY_RATE, decay_type=solver.LAYER_DECAY_TYPE,
    )  # fmt: skip
    adamw = maybe_add_gradient_clipping(cfg, torch.optim.AdamW)
    return adamw(groups, lr=solver.BASE_LR, weight_decay=solver.WEIGHT_DECAY)


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRScheduler:
    """SOLVER.LR_SCHEDULER_NAME: WarmupPolyLR, or any of Detectron2's."""
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupPolyLR":
        return build_detectron2_lr_scheduler(cfg, optimizer)
    multiplier = WarmupParamScheduler(
        PolynomialDecayParamScheduler(1.0, solver.POLY_LR_POWER),
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_length=min(solver.WARMUP_ITERS, solver.MAX_ITER - 1) / solver.MAX_ITER,
        warmup_method=solver.WARMUP_METHOD,
        rescale_interval=solver.RESCALE_INTERVAL,
    )
    return LRMultiplier(optimizer, multiplier, max_iter=solver.MAX_ITER)
