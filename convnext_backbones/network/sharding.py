"""Models whose parameters FSDP shares out over processes: here each process has a flat piece of each.

FSDP2 (fully_shard) needs none of this: its parameters keep their shapes.
"""

import contextlib
import sys
import warnings
from collections.abc import Iterator

from torch import nn


def is_sharded(model: nn.Module) -> bool:
    """Is some of the model wrapped in FullyShardedDataParallel?"""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # whose import takes a while
    return fsdp is not None and any(
        isinstance(module, fsdp.FullyShardedDataParallel) for module in model.modules()
    )


@contextlib.contextmanager
def whole_parameters(model: nn.Module) -> Iterator[None]:
    """Inside, each parameter has its own shape and all its values; entered by all processes together."""
    if not is_sharded(model):
        yield
        return
    from torch.distributed.fsdp import FullyShardedDataParallel

    with FullyShardedDataParallel.summon_full_params(model, writeback=False):
        yield


@contextlib.contextmanager
def whole_state_dicts(model: nn.Module) -> Iterator[None]:
    """Inside, model.state_dict() is whole in every process, each of which has to call it."""
    if not is_sharded(model):
        yield
        return
    from torch.distributed.fsdp import (
        FullStateDictConfig,
        FullyShardedDataParallel,
        StateDictType,
    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # as MMEngine calls it, too
        kind = StateDictType.FULL_STATE_DICT, FullStateDictConfig(rank0_only=False)
        with FullyShardedDataParallel.state_dict_type(model, *kind):
            yield
