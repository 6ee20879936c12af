"""Hugging Face's ConvNeXt configurations (config.json) read into equal models.

    backbone = backbone_from_config("facebook--convnext-tiny-224/config.json")
    classifier = classifier_from_config(json.load(file))

The JSON is read with the standard library: transformers need not be installed. A value that would
make another network is refused with the reason. Hugging Face counts the stem as index 0, we count
stages from 0; the translation is here.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from ...network.classifier import ConvNeXtClassifier
from ...network.convnext import ConvNeXt, ConvNeXtV2
from ...network.selection import feature_names, select_features
from ...network.variants import nearest

# Each field of ConvNextConfig and ConvNextV2Config, and what it is here.
FIELDS = {
    "model_type": "convnext: ConvNeXt; convnextv2: ConvNeXtV2; others are refused",
    "num_channels": "in_channels",
    "patch_size": "patch_size; a pair must be of equal numbers, since patches are square here",
    "num_stages": "the length of arch's depths; another number is refused",
    "hidden_sizes": "arch=dict(dims=...)",
    "depths": "arch=dict(depths=...)",
    "hidden_act": "must be gelu, the papers' activation and the only one here",
    "initializer_range": "must be 0.02, the papers' deviation of initial weights (truncated here)",
    "layer_norm_eps": "norm_eps of the classifier; Hugging Face's backbone does not use it either",
    "layer_scale_init_value": "layer_scale_init_value; V2 has none",
    "drop_path_rate": "drop_path_rate",
    "image_size": "none: the networks take any size; preprocessing.EvaluationTransform has one",
    "out_features": "out_features of the backbone; a classifier has no selection",
    "out_indices": "out_indices of the backbone, less one: Hugging Face counts the stem as 0",
    "stage_names": "must be stem, stage1, ..., which follow from depths",
    "id2label": "num_classes, by its length; none given is two, as Hugging Face has it",
    "num_labels": "num_classes",
    "problem_type": "the labels' type decides the loss; a type that contradicts it is refused",
}

# Fields of every Hugging Face configuration that do not change the network, and why.
WITHOUT_EFFECT = {
    "architectures": "the function called here decides: backbone or classifier",
    "dtype": "the model is built in torch's default type; use model.to(dtype)",
    "torch_dtype": "the model is built in torch's default type; use model.to(dtype)",
    "label2id": "the inverse of id2label",
    "transformers_version": "a record",
    "_name_or_path": "a record",
    "_commit_hash": "a record",
    "return_dict": "outputs are tuples with names",
    "use_return_dict": "outputs are tuples with names",
    "output_hidden_states": "forward_features returns them",
    "output_attentions": "there is no attention",
    "chunk_size_feed_forward": "not used by ConvNeXt",
    "is_encoder_decoder": "not used by ConvNeXt",
    "tie_word_embeddings": "not used by ConvNeXt",
    "torchscript": "both models can be traced as they are",
    "finetuning_task": "a record",
}

_DEFAULTS = {
    "num_channels": 3,
    "patch_size": 4,
    "hidden_sizes": (96, 192, 384, 768),
    "depths": (3, 3, 9, 3),
    "hidden_act": "gelu",
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "layer_scale_init_value": 1e-6,
    "drop_path_rate": 0.0,
}


def read_config(source: str | Path | Mapping) -> dict:
    """A config.json, a folder that holds one, or its content, as a checked dict with defaults.

    Raises:
        ValueError: no JSON object, a field that is not known, or a value without a counterpart.
    """
    given = dict(source) if isinstance(source, Mapping) else _read_json(Path(source))
    for field in given:
        if field not in FIELDS and field not in WITHOUT_EFFECT:
            raise ValueError(
                f"the Hugging Face field {field!r}={given[field]!r} is not known and might change the "
                f"network; leave it out if it does not. {nearest(field, FIELDS)}"
            )
    values = {**_DEFAULTS, **{k: v for k, v in given.items() if k in FIELDS and v is not None}}
    _require(values, "model_type", given.get("model_type") in ("convnext", "convnextv2"))
    patch_size = values["patch_size"]
    if isinstance(patch_size, (list, tuple)):
        _require(values, "patch_size", len(patch_size) == 2 and patch_size[0] == patch_size[1])
        values["patch_size"] = patch_size[0]
    for field in ("depths", "hidden_sizes"):
        _require(values, field, isinstance(values[field], (list, tuple)))
    stages = len(values["depths"])
    _require(values, "num_stages", values.get("num_stages", stages) == stages)
    _require(values, "hidden_act", values["hidden_act"] == "gelu")
    _require(values, "initializer_range", values["initializer_range"] == 0.02)
    names = list(feature_names(stages))
    _require(values, "stage_names", list(values.get("stage_names", names)) == names)
    values["num_labels"] = _num_labels(values)
    _require(values, "problem_type", _loss_follows_from_labels(values))
    return values


def backbone_from_config(source: str | Path | Mapping, **options) -> ConvNeXt:
    """The backbone equal to Hugging Face's ConvNextBackbone or ConvNextV2Backbone.

    Options are ConvNeXt's own, such as frozen_stages or with_cp, and win over the config's.
    """
    values = read_config(source)
    model = ConvNeXtV2 if values["model_type"] == "convnextv2" else ConvNeXt
    selection = {"out_features": _selected_names(values)}
    if "out_features" in options or "out_indices" in options:
        selection = {}
    return model(**{**_network(values), **selection, **options})


def classifier_from_config(source: str | Path | Mapping, **options) -> ConvNeXtClassifier:
    """The classifier equal to ConvNextForImageClassification or ConvNextV2ForImageClassification.

    With num_classes=0, its forward_features equal ConvNextModel's outputs.
    """
    values = read_config(source)
    own = {
        "version": 2 if values["model_type"] == "convnextv2" else 1,
        "num_classes": values["num_labels"],
        "norm_eps": values["layer_norm_eps"],
    }
    return ConvNeXtClassifier(**{**_network(values), **own, **options})


def _network(values: dict) -> dict:
    return {
        "arch": {"depths": values["depths"], "dims": values["hidden_sizes"]},
        "in_channels": values["num_channels"],
        "patch_size": values["patch_size"],
        "drop_path_rate": values["drop_path_rate"],
        "layer_scale_init_value": max(values["layer_scale_init_value"], 0),
    }


def _selected_names(values: dict) -> tuple[str, ...]:
    """The selection by Hugging Face's indices, in which the stem is 0 and -1 the last stage."""
    names = feature_names(len(values["depths"]))
    out_features, indices = values.get("out_features"), values.get("out_indices")
    if indices is None:
        return select_features(len(names) - 1, out_features)
    valid = range(-len(names), len(names))
    if not isinstance(indices, (list, tuple)) or not all(i in valid for i in indices):
        raise ValueError(
            f"the Hugging Face out_indices={indices!r} must be a list of whole numbers from "
            f"{-len(names)} to {len(names) - 1}, where 0 is the stem"
        )
    by_index = select_features(len(names) - 1, [names[i] for i in indices])
    if out_features is not None and tuple(out_features) != by_index:
        raise ValueError(
            f"the Hugging Face out_features={out_features!r} and out_indices={indices!r} disagree: "
            f"the indices are {by_index} (0 is the stem). Give one of the two"
        )
    return by_index


def _num_labels(values: dict) -> int:
    by_names = len(values["id2label"]) if "id2label" in values else None
    given = values.get("num_labels")
    if given is None:
        return 2 if by_names is None else by_names
    if by_names not in (None, given):
        raise ValueError(
            f"the Hugging Face num_labels={given!r} and the {by_names} names of id2label disagree: "
            "give one of the two"
        )
    return given


def _loss_follows_from_labels(values: dict) -> bool:
    problem, labels = values.get("problem_type"), values["num_labels"]
    if problem == "regression":
        return labels == 1
    several = ("single_label_classification", "multi_label_classification")
    return problem is None or (problem in several and labels != 1)


def _require(values: dict, field: str, fits: bool) -> None:
    if not fits:
        raise ValueError(
            f"the Hugging Face config has {field}={values.get(field)!r}, which has no counterpart "
            f"here: {FIELDS[field]}"
        )


def _read_json(path: Path) -> dict:
    path = path / "config.json" if path.is_dir() else path
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no {path}; give a config.json or the folder it is in") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path} is not JSON ({error}); give a Hugging Face config.json"
        ) from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object; give a Hugging Face config.json")
    return values
