"""MMEngine's FSDPStrategy, whose runs can go on, and whose checkpoints any other run of the model can take.

MMEngine gives torch the arguments in the order of before 2.1, so that no run with FSDP resumes; it leaves out
of the optimizer's state what it keeps beside the groups (the scale of mixed precision, the base learning
rate); and it knows no state that a run without FSDP has saved.
"""

import functools

from mmengine._strategy.fsdp import FSDPStrategy
from mmengine.device import get_device
from torch.distributed.fsdp import FullyShardedDataParallel

from ...errors import UserError
from ...network.wrappers import name_in_state_dict
from ...runs.patching import Patches, patched_attribute

OF_OPTIMIZERS = {"state", "param_groups"}


def check_state_dicts(strategy: FSDPStrategy) -> None:
    """UserError where a run's checkpoints could be read by nobody; on a CPU, leave out the move to it, with
    which torch frees what it is about to save."""
    if not strategy._is_full_state_dict():
        raise UserError(
            "FSDPStrategy would save the pieces of each process, which no other number of processes and no "
            "other tool can read, and this package neither; set strategy.state_dict_cfg='full'"
        )
    if get_device() == "cpu":
        strategy.state_dict_config.offload_to_cpu = False
        strategy.optim_state_dict_config.offload_to_cpu = False


def _with_what_is_beside(plain):
    @functools.wraps(plain)
    def optim_state_dict(self) -> dict:
        state = plain(self)
        beside = self.optim_wrapper.state_dict()
        return state and {**{k: v for k, v in beside.items() if k not in OF_OPTIMIZERS}, **state}

    return optim_state_dict


def _in_torchs_order(plain):
    @functools.wraps(plain)
    def load_optim_state_dict(self, state_dict: dict) -> None:
        optimizer = self.optim_wrapper.optimizer
        saved = _by_name({k: state_dict[k] for k in OF_OPTIMIZERS}, self.model, optimizer)
        converted = FullyShardedDataParallel.optim_state_dict_to_load(self.model, optimizer, saved)
        beside = {k: v for k, v in state_dict.items() if k not in OF_OPTIMIZERS}
        self.optim_wrapper.load_state_dict({**beside, **converted})

    return load_optim_state_dict


def _by_name(saved: dict, model, optimizer) -> dict:
    """An optimizer's state as FSDP's, by the parameters' names; a run without FSDP counts them."""
    names = {id(p): name_in_state_dict(name) for name, p in model.named_parameters()}
    groups, state = [], {}
    for theirs, ours in zip(saved["param_groups"], optimizer.param_groups, strict=True):
        called = [names[id(p)] for p in ours["params"]]
        groups.append({**theirs, "params": called})
        for number, name in zip(theirs["params"], called, strict=True):
            if number in saved["state"]:
                state[name] = saved["state"][number]
    return {"state": state, "param_groups": groups}


SHARDED = Patches(
    [
        patched_attribute(FSDPStrategy, "optim_state_dict", _with_what_is_beside),
        patched_attribute(FSDPStrategy, "load_optim_state_dict", _in_torchs_order),
    ]
)
