"""Hugging Face's config.json of a ConvNeXt: its fields to our options, and a network to its fields.

    values = read_config("facebook--convnext-tiny-224/config.json")
    ConvNeXt(**backbone_options(values))

The JSON is read with the standard library: transformers need not be installed. A value that would
make another network is refused with the reason. Hugging Face counts the stem as index 0, we count
stages from 0; the translation is here.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import UserError
from ..network.activations import ACTIVATIONS
from ..network.selection import feature_names, select_features
from ..network.variants import nearest

EPS = 1e-6  # of the official networks; Hugging Face's default is another


class Field(NamedTuple):
    """What a field is here, and its value where it is left out; None where that follows from others."""

    meaning: str
    default: Any = None


# Each field of ConvNextConfig and ConvNextV2Config.
FIELDS = {
    "model_type": Field("convnext: ConvNeXt; convnextv2: ConvNeXtV2; others are refused"),
    "num_channels": Field("in_channels", 3),
    "patch_size": Field(
        "patch_size; a pair must be of equal numbers: patches are square here, as a detector's stride is "
        "one number for height and width",
        4,
    ),
    "num_stages": Field("the length of arch's depths; another number is refused"),
    "hidden_sizes": Field("arch=dict(dims=...)", (96, 192, 384, 768)),
    "depths": Field("arch=dict(depths=...)", (3, 3, 9, 3)),
    "hidden_act": Field(
        "activation, of the blocks; xielu is none here, as no layout of weights has the constants beside "
        f"its weights. Valid: {', '.join(ACTIVATIONS)}",
        "gelu",
    ),
    "initializer_range": Field("init_std, a number above 0; truncated here", 0.02),
    "layer_norm_eps": Field(
        "norm_eps of the classifier; Hugging Face's backbone does not use it either", 1e-12
    ),
    "layer_scale_init_value": Field("layer_scale_init_value; V2 has none", 1e-6),
    "drop_path_rate": Field("drop_path_rate", 0.0),
    "image_size": Field(
        "none: the networks take any size; preprocessing.EvaluationTransform has one"
    ),
    "out_features": Field("out_features of the backbone; a classifier has no selection"),
    "out_indices": Field(
        "out_indices of the backbone, less one: Hugging Face counts the stem as 0"
    ),
    "stage_names": Field("must be stem, stage1, ..., which follow from depths"),
    "id2label": Field("num_classes, by its length; none given is two, as Hugging Face has it"),
    "num_labels": Field("num_classes"),
    "problem_type": Field(
        "the labels' type decides the loss; a type that contradicts it is refused"
    ),
}

_DTYPE = "the model is built in torch's default type; use model.to(dtype)"
_OUTPUTS = "outputs are tuples with names"
_GENERATION = "of generating text"
_TOKENS = "of text"
# Fields of every Hugging Face configuration that do not change the network, and why.
WITHOUT_EFFECT = {
    "architectures": "the function called here decides: backbone or classifier",
    "dtype": _DTYPE,
    "torch_dtype": _DTYPE,
    "use_bfloat16": _DTYPE,
    "label2id": "the inverse of id2label",
    "transformers_version": "a record",
    "_name_or_path": "a record",
    "_commit_hash": "a record",
    "finetuning_task": "a record",
    "return_dict": _OUTPUTS,
    "use_return_dict": _OUTPUTS,
    "output_hidden_states": "forward_features returns them",
    "output_attentions": "there is no attention",
    "attn_implementation": "there is no attention",
    "_attn_implementation_autoset": "there is no attention",
    "chunk_size_feed_forward": "not used by ConvNeXt",
    "is_encoder_decoder": "not used by ConvNeXt",
    "tie_word_embeddings": "not used by ConvNeXt",
    "tf_legacy_loss": "not used by ConvNeXt",
    "torchscript": "both models can be traced as they are",
    **dict.fromkeys(
        ("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups",
         "diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty",
         "length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids",
         "num_return_sequences", "output_scores", "return_dict_in_generate", "remove_invalid_values",
         "forced_bos_token_id", "forced_eos_token_id", "exponential_decay_length_penalty",
         "suppress_tokens", "begin_suppress_tokens", "use_cache"), _GENERATION),
    **dict.fromkeys(
        ("prefix", "bos_token_id", "pad_token_id", "eos_token_id", "sep_token_id",
         "decoder_start_token_id", "tokenizer_class", "task_specific_params"), _TOKENS),
}  # fmt: skip

# Fields that stand in configurations with the value of nothing asked for; another is refused.
ONLY_UNSET = {
    "is_decoder": False,
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "tie_encoder_decoder": False,
    "pruned_heads": {},
    "backbone": None,
    "backbone_config": None,
    "backbone_kwargs": None,
    "use_pretrained_backbone": False,
    "use_timm_backbone": False,
    "quantization_config": None,
    "auto_map": None,
}

OURS = "convnext_backbones"  # the model type of adapters/huggingface, which has further fields
OF_TRANSFORMERS = ("huggingface", OURS)  # the layouts of weights that a config.json lies beside
_ONLY_OURS = ("version", "variant", "weights", "output_stride")


def read_config(source: str | Path | Mapping) -> dict:
    """A config.json, a folder that holds one, or its content, as a checked dict with defaults.

    Raises:
        UserError: no JSON object, a field that is not known, or a value without a counterpart.
    """
    given = dict(source) if isinstance(source, Mapping) else read_json(_file_of(Path(source)))
    for field, value in given.items():
        _check_known(field, value)
    values = {field: entry.default for field, entry in FIELDS.items() if entry.default is not None}
    values |= {k: v for k, v in given.items() if k in FIELDS and v is not None}
    _require(values, "model_type", given.get("model_type") in ("convnext", "convnextv2"))
    patch_size = values["patch_size"]
    if isinstance(patch_size, (list, tuple)):
        _require(values, "patch_size", len(patch_size) == 2 and patch_size[0] == patch_size[1])
        values["patch_size"] = patch_size[0]
    for field in ("depths", "hidden_sizes"):
        _require(values, field, isinstance(values[field], (list, tuple)))
    for field in ("layer_norm_eps", "layer_scale_init_value", "drop_path_rate"):
        _require(values, field, type(values[field]) in (int, float))
    stages = len(values["depths"])
    _require(values, "num_stages", values.get("num_stages", stages) == stages)
    _require(values, "hidden_act", values["hidden_act"] in tuple(ACTIVATIONS))
    std = values["initializer_range"]
    _require(values, "initializer_range", type(std) in (int, float) and 0 < std < math.inf)
    names = list(feature_names(stages))
    _require(values, "stage_names", values.get("stage_names", names) in (names, tuple(names)))
    _require(values, "id2label", isinstance(values.get("id2label", {}), Mapping))
    values["num_labels"] = _num_labels(values)
    _require(values, "num_labels", type(values["num_labels"]) is int)
    _require(values, "problem_type", _loss_follows_from_labels(values))
    return values


def backbone_options(values: dict) -> dict:
    """The options of ConvNeXt or ConvNeXtV2 that make ConvNextBackbone; of what read_config gives."""
    return {**_network(values), "out_features": _selected_names(values)}


def classifier_options(values: dict) -> dict:
    """The options of ConvNeXtClassifier that make ConvNextForImageClassification."""
    return {
        **_network(values),
        "version": version_of(values),
        "num_classes": values["num_labels"],
        "norm_eps": values["layer_norm_eps"],
    }


def version_of(values: dict) -> int:
    """1 or 2."""
    return 2 if values["model_type"] == "convnextv2" else 1


def config_of(
    network, *, selected: list[str], dtype: str, image_size: int, has_layer_scale: bool,
    source: Mapping | None = None, class_names: Sequence[str] | None = None,
) -> dict:  # fmt: skip
    """The content of a config.json, as from_pretrained of transformers reads it.

    Args:
        network: an inspection.Network.
        selected: the features that have output norms, in order.
        dtype: of the weights, e.g. "float32".
        image_size: of the evaluation, pixels.
        has_layer_scale: of the weights.
        source: the configuration that the weights came with; what the weights do not tell is kept.
        class_names: of the head, where the source names none.
    """
    family = "ConvNextV2" if network.version == 2 else "ConvNext"
    headless = "Backbone" if selected else "Model"
    kind = "ForImageClassification" if network.num_classes else headless
    given = {} if source is None or source["model_type"] != family.lower() else dict(source)
    config = {
        "hidden_act": "gelu",
        "layer_norm_eps": EPS,
        "drop_path_rate": 0.0,
        "initializer_range": 0.02,
        "image_size": image_size,
        **{field: value for field, value in given.items() if field != "torch_dtype"},
        "architectures": [family + kind],
        "model_type": family.lower(),
        "depths": list(network.depths),
        "hidden_sizes": list(network.dims),
        "num_stages": len(network.depths),
        "num_channels": network.in_channels,
        "dtype": dtype,
    }
    if config.get("patch_size") != [network.patch_size] * 2:
        config["patch_size"] = network.patch_size
    if network.version == 1 and has_layer_scale != (config.get("layer_scale_init_value", 0) > 0):
        config["layer_scale_init_value"] = 1e-6
    if network.version == 1 and not has_layer_scale:
        config["layer_scale_init_value"] = 0.0
    names = list(feature_names(len(network.depths)))
    if config.get("stage_names") not in (None, names):
        del config["stage_names"]
    if selected and (not given or list(_selected_names(read_config(given))) != selected):
        config.pop("out_indices", None)
        config["out_features"] = selected
    if network.num_classes:
        config.update(_labels(network.num_classes, given, class_names))
    return config


def _labels(count: int, given: Mapping, class_names: Sequence[str] | None) -> dict:
    """id2label, label2id and, where it was given, num_labels."""
    numbers = [str(k) for k in range(count)]
    names = {str(k): label for k, label in (given.get("id2label") or {}).items()}
    own = {"num_labels": count} if "num_labels" in given else {}
    if names.keys() == set(numbers):
        inverse = given.get("label2id") or {label: int(k) for k, label in names.items()}
        return {**own, "id2label": names, "label2id": inverse}
    if given and not names and not own and count == 2 and class_names is None:
        return {}  # two without names is what transformers has for none given, and writes none
    labels = class_names or [f"LABEL_{k}" for k in numbers]
    names = dict(zip(numbers, labels, strict=True))
    return {
        **own,
        "id2label": names,
        "label2id": {label: int(k) for k, label in names.items()},
    }


def config_beside(path: Path) -> dict | None:
    """The ConvNeXt's config.json in the folder of a checkpoint, or None: checked, with the fields of
    transformers' own classes.

    Raises:
        UserError: it is a ConvNeXt's, and has a value without a counterpart here.
    """
    given = _found_beside(path)
    if given is not None:
        read_config(given)
    return given


def activation_beside(path: Path) -> str | None:
    """The activation that the config.json in the folder of a checkpoint names, or None."""
    given = _found_beside(path)
    return None if given is None else given.get("hidden_act") or "gelu"


def options_beside(path: Path) -> tuple[str, ...]:
    """What a config.json in the folder of a checkpoint says of the network and no file of weights tells:
    the options to build it with."""
    given, options = _found_beside(path) or {}, []
    act = given.get("hidden_act") or "gelu"
    if ACTIVATIONS.get(act) is not ACTIVATIONS["gelu"]:
        options.append(f"activation={act!r}")
    eps = given.get("layer_norm_eps")
    if given.get("id2label") and eps not in (None, EPS):
        options.append(f"norm_eps={eps!r} of the classifier")
    return tuple(options)


def labels_beside(path: Path, count: int) -> tuple[str, ...] | None:
    """The names of id2label in the config.json in the folder of a checkpoint, where there are `count` and
    they are more than LABEL_0, LABEL_1, ...; else None."""
    labels = (_found_beside(path) or {}).get("id2label")
    if not isinstance(labels, Mapping):
        return None
    by_number = {str(k): str(label) for k, label in labels.items()}
    numbers = [str(k) for k in range(count)]
    if by_number.keys() != set(numbers) or all(by_number[k] == f"LABEL_{k}" for k in numbers):
        return None
    return tuple(by_number[k] for k in numbers)


def _found_beside(path: Path) -> dict | None:
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return None
    try:
        given = read_json(file)
    except UserError:
        return None  # of something else
    if given.get("model_type") == OURS:
        given = _as_of_transformers(given, file)
    return given if given.get("model_type") in ("convnext", "convnextv2") else None


def _as_of_transformers(given: dict, file: Path) -> dict:
    if given.get("output_stride") is not None:
        raise UserError(
            f"{file} has output_stride={given['output_stride']!r}, which no config of transformers can say; "
            "leave it out there, and set it where the weights are used"
        )
    version_2 = given.get("version") == 2
    others = (*_ONLY_OURS, "layer_scale_init_value") if version_2 else _ONLY_OURS
    fields = {field: value for field, value in given.items() if field not in others}
    return {**fields, "model_type": "convnextv2" if version_2 else "convnext"}


def read_json(path: Path) -> dict:
    """The JSON object in a file.

    Raises:
        UserError: there is no such file, or no JSON object in it.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"there is no {path}; give a {path.name} or the folder it is in") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({error}); give a Hugging Face {path.name}") from error
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object; give a Hugging Face {path.name}")
    return values


def _file_of(path: Path) -> Path:
    return path / "config.json" if path.is_dir() else path


def _check_known(field: str, value) -> None:
    if field in FIELDS or field in WITHOUT_EFFECT:
        return
    if field in ONLY_UNSET:
        if value is not None and value != ONLY_UNSET[field]:
            raise UserError(
                f"the Hugging Face config has {field}={value!r}, which no ConvNeXt here has; leave it "
                f"out, or at {ONLY_UNSET[field]!r}"
            )
        return
    raise UserError(
        f"the Hugging Face field {field!r}={value!r} is not known and might change the "
        f"network; leave it out if it does not. {nearest(str(field), FIELDS)}"
    )


def _network(values: dict) -> dict:
    return {
        "arch": {"depths": values["depths"], "dims": values["hidden_sizes"]},
        "in_channels": values["num_channels"],
        "patch_size": values["patch_size"],
        "drop_path_rate": values["drop_path_rate"],
        "layer_scale_init_value": max(values["layer_scale_init_value"], 0),
        "activation": values["hidden_act"],
        "init_std": values["initializer_range"],
    }


def _selected_names(values: dict) -> tuple[str, ...]:
    """The selection by Hugging Face's indices, in which the stem is 0 and -1 the last stage."""
    names = feature_names(len(values["depths"]))
    out_features, indices = values.get("out_features"), values.get("out_indices")
    if indices is None:
        return select_features(len(names) - 1, out_features)
    valid = range(-len(names), len(names))
    whole = isinstance(indices, (list, tuple)) and all(type(i) is int for i in indices)
    if not whole or not all(i in valid for i in indices):
        raise UserError(
            f"the Hugging Face out_indices={indices!r} must be a list of whole numbers from "
            f"{-len(names)} to {len(names) - 1}, where 0 is the stem"
        )
    by_index = select_features(len(names) - 1, [names[i] for i in indices])
    if out_features is not None and select_features(len(names) - 1, out_features) != by_index:
        raise UserError(
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
        raise UserError(
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
        raise UserError(
            f"the Hugging Face config has {field}={values.get(field)!r}, which has no counterpart "
            f"here: {FIELDS[field].meaning}"
        )
