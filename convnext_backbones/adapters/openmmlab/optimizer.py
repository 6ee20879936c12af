"""Layer decay as an MMEngine optimizer: MMDetection's, MMSegmentation's or any other model.

    optim_wrapper = dict(
        type="AmpOptimWrapper",
        optimizer=dict(type="AdamW", lr=1e-4, weight_decay=0.05),
        constructor="ConvNeXtLayerDecay",
        paramwise_cfg=dict(decay_rate=0.9, decay_type="stage_wise"),
    )

The groups are layer_decay.py's, counted from the depths of the model's own backbone: there is no
num_layers to get wrong. The frameworks' LearningRateDecayOptimizerConstructor gives the same groups
where its num_layers fits the depths, but takes a wrapped backbone for heads and ignores custom_keys.
"""

from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS, OPTIMIZERS
from torch import nn

from ...errors import UserError
from ...network.convnext import Trunk
from ...network.sharding import whole_parameters
from ...network.variants import nearest
from ...recipes.layer_decay import parameter_groups, trained_depths, unwrapped
from .registration import register

OPTIONS = ("decay_rate", "decay_type", "custom_keys")
MULTIPLIERS = ("lr_mult", "decay_mult")


class ConvNeXtLayerDecay:
    """Builds the optimizer wrapper of a model with one ConvNeXt or ConvNeXtV2 to train.

    Others may be in it, frozen: the teacher of a semi-supervised detector.

    paramwise_cfg, all optional:
        decay_rate: a layer's learning rate over that of the next; 1.0, the default, for no decay.
        decay_type: "layer_wise" (default), "stage_wise" or "block_wise".
        custom_keys: {part of a name: dict(lr_mult=..., decay_mult=...)}. They multiply what layer
            decay gives; the longest matching part counts, as in MMEngine's default constructor.
            Norms, biases, layer scale and GRN have no weight decay to multiply.

    Raises:
        UserError: options that do not exist, no lr or weight_decay in the optimizer, a model with none
            or several ConvNeXts to train, nothing to train, parameters that FSDP has flattened.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None):
        self.wrapper = dict(optim_wrapper_cfg)
        self.optimizer = dict(self.wrapper.pop("optimizer"))
        options = dict(paramwise_cfg or {})
        self.decay_rate = options.pop("decay_rate", 1.0)
        self.decay_type = options.pop("decay_type", "layer_wise")
        self.custom_keys = dict(options.pop("custom_keys", {}))
        wrong = [f"paramwise_cfg: {_advice(name, OPTIONS)}" for name in options]
        for key, settings in self.custom_keys.items():
            names = [name for name in settings if name not in MULTIPLIERS]
            wrong += [f"custom_keys[{key!r}]: {_advice(name, MULTIPLIERS)}" for name in names]
        if wrong:
            raise UserError(
                f"ConvNeXtLayerDecay cannot take {'; '.join(wrong)}. Where a config inherits them, add "
                "_delete_=True to paramwise_cfg=dict(...)"
            )
        missing = [name for name in ("lr", "weight_decay") if name not in self.optimizer]
        if missing:
            raise UserError(
                f"ConvNeXtLayerDecay needs {' and '.join(missing)} in optim_wrapper.optimizer"
            )

    def __call__(self, model: nn.Module) -> OptimWrapper:
        optimizer = OPTIMIZERS.build(dict(self.optimizer, params=self.groups(model)))
        wrapper = {"type": "OptimWrapper", **self.wrapper}
        return OPTIM_WRAPPERS.build(wrapper, default_args=dict(optimizer=optimizer))

    def groups(self, model: nn.Module) -> list[dict]:
        """The parameter groups; see layer_decay.parameter_groups for their keys."""
        trunks = [module for module in model.modules() if isinstance(module, Trunk)]
        depths = trained_depths(trunks)
        named = list(model.named_parameters())
        if any(name.endswith("_flat_param") for name, _ in named):
            raise UserError(
                "FSDP has flattened the parameters, so that none has a layer; wrap the model with "
                "use_orig_params=True"
            )
        with whole_parameters(model):  # what is 1-D has no weight decay, and a shard always is
            groups = parameter_groups(
                named, depths,
                lr=self.optimizer["lr"], weight_decay=self.optimizer["weight_decay"],
                decay_rate=self.decay_rate, decay_type=self.decay_type,
            )  # fmt: skip
        return [part for group in groups for part in self._split(group)]

    def _split(self, group: dict) -> list[dict]:
        """A group by the custom key that its parameters match."""
        parts: dict[str | None, dict] = {}
        for name, parameter in zip(group["param_names"], group["params"], strict=True):
            key = self._custom_key(name)
            if key not in parts:
                custom = self.custom_keys.get(key, {})
                lr_mult = custom.get("lr_mult", 1.0)
                parts[key] = {
                    **group,
                    "group_name": group["group_name"] + (f"_{key}" if key else ""),
                    "lr_scale": group["lr_scale"] * lr_mult,
                    "lr": group["lr"] * lr_mult,
                    "weight_decay": group["weight_decay"] * custom.get("decay_mult", 1.0),
                    "params": [],
                    "param_names": [],
                }
            parts[key]["params"].append(parameter)
            parts[key]["param_names"].append(name)
        return list(parts.values())

    def _custom_key(self, name: str) -> str | None:
        matching = sorted(key for key in self.custom_keys if key in unwrapped(name))
        return max(matching, key=len, default=None)


def _advice(name: str, valid: tuple[str, ...]) -> str:
    if name == "num_layers":
        return "'num_layers', as it counts num_layers from the backbone's depths; leave it out"
    return f"{name!r}, {nearest(name, valid)}"


register(OPTIM_WRAPPER_CONSTRUCTORS, ConvNeXtLayerDecay)
