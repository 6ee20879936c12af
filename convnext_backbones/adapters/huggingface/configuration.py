"""ConvNeXtConfig: what transformers knows of our networks."""

from pathlib import Path
from typing import Any

from transformers import ConvNextConfig, ConvNextV2Config, PreTrainedConfig
from transformers.backbone_utils import BackboneConfigMixin

from ...checkpoints.catalogue import Weights, find_weights
from ...checkpoints.huggingface_config import FIELDS, backbone_options, read_config
from ...checkpoints.inspection import Network
from ...errors import UserError
from ...network.selection import feature_names
from ...network.variants import get_variant, resolve_arch

FAMILIES = {1: ConvNextConfig.model_type, 2: ConvNextV2Config.model_type}
OFFICIAL_EPS = 1e-6  # of the final norm, in the networks of the catalogue

# Fields that other classes of transformers know, and those whose meaning does not depend on the network.
_NOT_CHECKED = {"id2label", "num_labels", "problem_type", "stage_names", "image_size"}
_LABELS = ("num_labels", "id2label", "label2id")
_NETWORK = FIELDS.keys() - _NOT_CHECKED - {"model_type", "out_features", "out_indices"}


class ConvNeXtConfig(BackboneConfigMixin, PreTrainedConfig):
    """A ConvNeXt of either version: the backbone, the model and the classifier.

    The fields are those of transformers' ConvNextConfig and ConvNextV2Config, with their defaults, and

    Args:
        version: 1 or 2.
        variant: a key of VARIANTS, e.g. "convnextv2_tiny", for version, depths and hidden_sizes.
        out_features, out_indices: of the backbone, as transformers counts them: 0 is the stem, 1 is stage1.
        output_stride: 8, 16 or 32: dilate the later stages instead of going below, same weights.
        weights: the catalogue's name of the weights that a model began with; set by from_pretrained.

    Raises:
        ValueError: a field that is not known, or a value of which no network can be made.
    """

    model_type = "convnext_backbones"
    attribute_map = {"num_hidden_layers": "num_stages"}  # noqa: RUF012

    version: int = 1
    num_channels: int = 3
    patch_size: int | list[int] | tuple[int, int] = 4
    num_stages: int | None = None
    hidden_sizes: list[int] | tuple[int, ...] | None = None
    depths: list[int] | tuple[int, ...] | None = None
    hidden_act: str = "gelu"
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    layer_scale_init_value: float = 1e-6
    drop_path_rate: float = 0.0
    image_size: int | list[int] | tuple[int, int] = 224
    output_stride: int | None = None
    weights: str | None = None
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    def __post_init__(self, **kwargs):
        _check_kind(kwargs.pop("model_type", self.model_type))
        self._take_variant(kwargs.pop("variant", None))
        selection = {key: kwargs.pop(key, None) for key in ("out_features", "out_indices")}
        stage_names = kwargs.pop("stage_names", None)
        labels = {key: kwargs.get(key) for key in ("num_labels",)} | {"id2label": self.id2label}
        self.network_values(stage_names=stage_names, **labels, **_unknown_to_transformers(kwargs))
        resolve_arch({"depths": self.depths, "dims": self.hidden_sizes}, self.version)
        self.stage_names = list(feature_names(len(self.depths)))
        self.set_output_features_output_indices(**selection)
        super().__post_init__(**kwargs)

    def _take_variant(self, name: str | None) -> None:
        """The sizes of a variant; of tiny, as in transformers, where neither name nor sizes are given."""
        given = {"depths": self.depths, "hidden_sizes": self.hidden_sizes}
        if name is not None:
            variant = get_variant(name)
            of_variant = {"depths": list(variant.depths), "hidden_sizes": list(variant.dims)}
            for field, value in given.items():
                if value is not None and list(value) != of_variant[field]:
                    raise UserError(
                        f"variant={name!r} has {field}={of_variant[field]}, and {field}={value!r} was given "
                        "too; give one of the two"
                    )
            self.version = variant.version
        else:
            if self.version not in FAMILIES:
                raise UserError(
                    f"version must be 1 (ConvNeXt) or 2 (ConvNeXt V2), got {self.version!r}"
                )
            tiny = get_variant("convnext_tiny")
            of_variant = {"depths": list(tiny.depths), "hidden_sizes": list(tiny.dims)}
        for field, value in given.items():
            setattr(self, field, of_variant[field] if value is None else value)
        if isinstance(self.depths, (list, tuple)) and self.num_stages is None:
            self.num_stages = len(self.depths)

    def network_values(self, **more) -> dict:
        """The configuration as checkpoints.huggingface_config reads one: checked."""
        fields = {field: getattr(self, field) for field in _NETWORK}
        return read_config({"model_type": FAMILIES[self.version], **fields, **more})

    def set_output_features_output_indices(self, out_features, out_indices) -> None:
        """By our own selection, which is the one of transformers and answers in sentences."""
        given = {"out_features": out_features, "out_indices": out_indices}
        names = backbone_options(self.network_values(**given))["out_features"]
        self._out_features = list(names)
        self._out_indices = [self.stage_names.index(name) for name in names]

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path, **kwargs) -> tuple[dict, dict]:
        """As PreTrainedConfig's, of a name of the catalogue too."""
        name = str(pretrained_model_name_or_path)
        weights = None if Path(name).exists() else find_weights(name)
        if weights and weights.variant and name in (weights.name, *weights.aliases):
            return _config_of_weights(weights), kwargs
        try:
            config, kwargs = super().get_config_dict(name, **kwargs)
        except OSError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{name}: no configuration is to be had of this name ({reason}). Give a folder with a "
                "config.json, or a name of checkpoints.CATALOGUE such as 'convnextv2_tiny.fcmae_ft_in1k'"
            ) from error
        return as_ours(config), kwargs

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        config_dict = as_ours(config_dict)
        given = {key: kwargs.pop(key) for key in _LABELS if kwargs.get(key) is not None}
        own = len(config_dict.get("id2label") or ())
        if "id2label" in given or given.get("num_labels", own) != own:
            config_dict = {k: v for k, v in config_dict.items() if k not in _LABELS}
        config_dict |= given
        return super().from_dict(config_dict, **kwargs)


def _unknown_to_transformers(kwargs: dict) -> dict:
    """What PreTrainedConfig would keep as an attribute that nothing reads."""
    own = ("name_or_path", "attn_implementation", "experts_implementation", "output_attentions",
           "per_layer_config", "num_labels", "_commit_hash", "torch_dtype")  # fmt: skip
    return {key: value for key, value in kwargs.items() if key not in own}


def _check_kind(kind, *others: str) -> None:
    valid = (*others, ConvNeXtConfig.model_type)
    if kind not in valid:
        raise UserError(
            f"the configuration is of model_type={kind!r}, and a ConvNeXt's is {' or '.join(valid)}; "
            "load it with transformers' Auto classes"
        )


def as_ours(config: dict) -> dict:
    """The content of a config.json of ours, or of transformers' ConvNeXt, as one of ours.

    Raises:
        UserError: it is of another model.
    """
    kind = config.get("model_type", ConvNeXtConfig.model_type)
    versions = {family: version for version, family in FAMILIES.items()}
    _check_kind(kind, *versions)
    if kind not in versions:
        return dict(config)
    ours = {
        key: value for key, value in config.items() if key not in ("model_type", "architectures")
    }
    return {**ours, "model_type": ConvNeXtConfig.model_type, "version": versions[kind]}


def own_config(config) -> ConvNeXtConfig:
    """The configuration itself, or ours of a ConvNextConfig or ConvNextV2Config.

    Raises:
        UserError: it is of another model.
    """
    if isinstance(config, ConvNeXtConfig):
        return config
    if not isinstance(config, PreTrainedConfig):
        raise UserError(
            f"a configuration is given as a ConvNeXtConfig, ConvNextConfig or ConvNextV2Config, got a "
            f"{type(config).__name__}; from a name or a folder there is from_pretrained"
        )
    return ConvNeXtConfig.from_dict(config.to_dict())


def config_of_network(network: Network, weights: Weights | None, class_names=None) -> dict:
    """The content of a config.json for weights that came without one.

    Args:
        network: read off the weights.
        weights: their row of the catalogue.
        class_names: of the head, where they are known.
    """
    preprocessing = (weights and weights.preprocessing) or {}
    config = {
        "model_type": ConvNeXtConfig.model_type,
        "version": network.version,
        "depths": list(network.depths),
        "hidden_sizes": list(network.dims),
        "num_channels": network.in_channels,
        "patch_size": network.patch_size,
        "layer_norm_eps": OFFICIAL_EPS,
        "image_size": preprocessing.get("image_size", 224),
    }
    if class_names:
        numbers = {name: number for number, name in enumerate(class_names)}
        return {**config, "id2label": dict(enumerate(class_names)), "label2id": numbers}
    return config if network.num_classes is None else {**config, "num_labels": network.num_classes}


def _config_of_weights(weights: Weights) -> dict:
    """The content of a config.json for weights of the catalogue, before they are fetched."""
    variant = get_variant(weights.variant)
    classes = weights.num_classes or None
    network = Network(variant.version, variant.depths, variant.dims, 3, 4, classes)
    return {**config_of_network(network, weights), "weights": weights.name}
