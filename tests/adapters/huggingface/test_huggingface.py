"""Reading Hugging Face configurations: the model built is the one transformers builds."""

import json
import subprocess
import sys

import pytest
import torch
import transformers
from names import share_random_weights
from randomness import random_images, relative_difference
from theirs import BACKBONES, CLASSIFIERS, CONFIGS, SMALL

from convnext_backbones import ConvNeXt, ConvNeXtV2
from convnext_backbones.adapters.huggingface import (
    FIELDS,
    WITHOUT_EFFECT,
    backbone_from_config,
    classifier_from_config,
    read_config,
)
from convnext_backbones.checkpoints.huggingface_config import ONLY_UNSET
from convnext_backbones.errors import UserError

NAMES = ["stem", "stage1", "stage2", "stage3", "stage4"]


def saved(tmp_path, version, **fields):
    """A config.json as transformers writes it, and the configuration."""
    config = CONFIGS[version](**{**SMALL, **fields})
    config.save_pretrained(tmp_path)
    return tmp_path / "config.json", config


def variations():
    return [
        {},
        {"num_channels": 1},
        {"patch_size": 2},
        {"patch_size": [2, 2]},
        {"depths": [1, 2], "hidden_sizes": [8, 16], "num_stages": 2},
        {"depths": [1, 1, 1, 2, 1], "hidden_sizes": [8, 8, 8, 12, 12], "num_stages": 5},
        {"layer_norm_eps": 1e-3},
        {"drop_path_rate": 0.3},
        {"num_labels": 0},
        {"num_labels": 1},
        {"num_labels": 7},
        {"image_size": 384},
        {"problem_type": "single_label_classification"},
        {"out_features": ["stem", "stage2"]},
    ]


@pytest.mark.parametrize("fields", variations(), ids=str)
@pytest.mark.parametrize("version", [1, 2])
def test_classifier_equals_the_one_transformers_builds(tmp_path, version, fields):
    path, config = saved(tmp_path, version, **fields)
    ours, peer = classifier_from_config(path), CLASSIFIERS[version](config)
    share_random_weights(ours, peer, torch.float64)
    images = random_images(2, config.num_channels, 66, 70, dtype=torch.float64)
    with torch.no_grad():
        expected = peer.base_model(images)
        features = ours.forward_features(images)
        assert relative_difference(features.last_hidden_state, expected[0]) <= 1e-9
        assert relative_difference(features.pooler_output, expected.pooler_output) <= 1e-9
        assert relative_difference(ours(images), peer(images).logits) <= 1e-9


def test_layer_scale_that_is_zero_is_left_out_as_in_transformers(tmp_path):
    path, config = saved(tmp_path, 1, layer_scale_init_value=0.0)
    assert "layer_scale" not in str(list(CLASSIFIERS[1](config).state_dict()))
    assert classifier_from_config(path).stages[0][0].gamma is None
    path, _ = saved(tmp_path, 1, layer_scale_init_value=0.5)
    assert (classifier_from_config(path).stages[0][0].gamma == 0.5).all()


@pytest.mark.parametrize("version", [1, 2])
def test_drop_path_rates_equal_transformers(tmp_path, version):
    path, config = saved(tmp_path, version, drop_path_rate=0.4)
    theirs = [
        getattr(layer.drop_path, "drop_prob", 0.0)
        for stage in CLASSIFIERS[version](config).base_model.encoder.stages
        for layer in stage.layers
    ]
    ours = [b.drop_path.rate for stage in classifier_from_config(path).stages for b in stage]
    assert ours == theirs


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"out_features": ["stem", "stage2", "stage4"]},
        {"out_features": ["stage1"]},
        {"out_indices": [0, 1, 4]},
        {"out_indices": [2]},
        {"out_indices": [-1]},
        {"out_indices": [0, -2]},
        {"out_features": ["stage1", "stage3"], "out_indices": [1, 3]},
    ],
    ids=str,
)
@pytest.mark.parametrize("version", [1, 2])
def test_backbone_selects_what_transformers_selects(tmp_path, version, fields):
    path, config = saved(tmp_path, version, **fields)
    peer = BACKBONES[version](config)
    for source in (path, tmp_path, {"model_type": config.model_type, **SMALL, **fields}):
        ours = backbone_from_config(source)
        assert type(ours) is (ConvNeXtV2 if version == 2 else ConvNeXt)
        assert list(ours.out_features) == list(peer.out_features)
        assert list(ours.channels) == list(peer.channels)


@pytest.mark.parametrize("version", [1, 2])
def test_backbone_maps_equal_those_of_transformers(tmp_path, version):
    path, config = saved(tmp_path, version, out_features=NAMES)
    ours, peer = backbone_from_config(path), BACKBONES[version](config)
    share_random_weights(ours, peer, torch.float64)
    images = random_images(2, 3, 66, 70, dtype=torch.float64)
    with torch.no_grad():
        for own, expected in zip(ours(images), peer(images).feature_maps, strict=True):
            assert relative_difference(own, expected) <= 1e-9


def test_default_config_is_tiny_with_two_classes_as_in_transformers(tmp_path):
    transformers.ConvNextConfig().save_pretrained(tmp_path)
    model = classifier_from_config(tmp_path)
    assert model.depths == (3, 3, 9, 3)
    assert model.dims == (96, 192, 384, 768)
    assert model.num_classes == transformers.ConvNextConfig().num_labels == 2
    assert model.norm.eps == 1e-12
    assert backbone_from_config(tmp_path).out_features == ("stage4",)


def test_options_of_the_caller_win():
    config = {"model_type": "convnextv2", **SMALL, "out_indices": [0]}
    model = backbone_from_config(config, out_indices=(2,), frozen_stages=1, with_cp=True)
    assert model.out_features == ("stage3",)
    assert model.frozen_stages == 1
    assert classifier_from_config(config, num_classes=9, norm_eps=1e-6).head.out_features == 9
    assert config == {"model_type": "convnextv2", **SMALL, "out_indices": [0]}


@pytest.mark.parametrize("version", [1, 2])
def test_every_field_of_transformers_has_a_counterpart_or_a_reason(version):
    fields = set(CONFIGS[version]().to_dict())
    assert fields <= set(FIELDS) | set(WITHOUT_EFFECT)
    assert not set(FIELDS) & set(WITHOUT_EFFECT)
    assert all(FIELDS.values())
    assert all(WITHOUT_EFFECT.values())
    read_config(CONFIGS[version]().to_dict())


# What transformers 4 writes into every config.json, at its defaults.
UNUSED = {
    "is_decoder": False, "use_pretrained_backbone": False, "use_timm_backbone": False, "backbone": None,
    "backbone_config": None, "backbone_kwargs": None, "add_cross_attention": False, "pruned_heads": {},
    "cross_attention_hidden_size": None, "tie_encoder_decoder": False, "is_encoder_decoder": False,
    "use_bfloat16": False, "tf_legacy_loss": False, "max_length": 20, "min_length": 0, "do_sample": False,
    "num_beams": 1, "num_beam_groups": 1, "diversity_penalty": 0.0, "temperature": 1.0, "top_k": 50,
    "top_p": 1.0, "typical_p": 1.0, "repetition_penalty": 1.0, "length_penalty": 1.0, "bad_words_ids": None,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "num_return_sequences": 1,
    "output_scores": False, "return_dict_in_generate": False, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "remove_invalid_values": False, "exponential_decay_length_penalty": None,
    "suppress_tokens": None, "begin_suppress_tokens": None, "early_stopping": False, "prefix": None,
    "bos_token_id": None, "pad_token_id": None, "eos_token_id": None, "sep_token_id": None,
    "decoder_start_token_id": None, "task_specific_params": None, "tokenizer_class": None,
    "torchscript": False, "_attn_implementation_autoset": False, "quantization_config": None,
}  # fmt: skip


@pytest.mark.parametrize("field", UNUSED)
def test_a_field_that_asks_for_nothing_has_no_effect(field):
    config = {"model_type": "convnext", **SMALL}
    plain = backbone_from_config(config)
    ours = backbone_from_config({**config, field: UNUSED[field]})
    assert (ours.depths, ours.dims, ours.out_features) == (
        plain.depths,
        plain.dims,
        plain.out_features,
    )


def test_a_field_has_one_meaning():
    assert not (FIELDS.keys() | WITHOUT_EFFECT.keys()) & ONLY_UNSET.keys()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("is_decoder", True),
        ("use_pretrained_backbone", True),
        ("use_timm_backbone", True),
        ("backbone", "resnet50"),
        ("pruned_heads", {"0": [1]}),
        ("quantization_config", {"bits": 4}),
    ],
)
def test_a_field_that_asks_for_something_else_is_refused(field, value):
    with pytest.raises(UserError, match=f"config has {field}=.*leave it out, or at "):
        read_config({"model_type": "convnext", field: value})


@pytest.mark.parametrize(
    "fields",
    [{"layer_norm_eps": "1e-6"}, {"drop_path_rate": [0.1]}, {"layer_scale_init_value": "a"},
     {"id2label": ["a", "b"]}, {"id2label": 3}, {"num_labels": "3"}, {"stage_names": 5},
     {"depths": ["a"] * 4}, {"hidden_sizes": [1.5] * 4}, {"num_channels": "3"}, {"patch_size": "4"},
     {"patch_size": []}, {"patch_size": [None, None]}, {"problem_type": ["a"]}, {"out_indices": ["a"]},
     {"out_features": 3}, {"out_features": 3, "out_indices": [1]}, {"model_type": ["convnext"]}, {"num_labels": -1}],
    ids=str,
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_a_sentence(fields):
    config = {"model_type": "convnext", **SMALL, **fields}
    with pytest.raises((ValueError, TypeError)) as error:  # noqa: PT012
        backbone_from_config(config)
        classifier_from_config(config)
    assert len(str(error.value).split()) > 6, error.value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "resnet"}, "model_type='resnet'.*convnext: ConvNeXt; convnextv2"),
        ({"model_type": "dinov3_convnext"}, "model_type='dinov3_convnext'"),
        ({"patch_size": [4, 2]}, r"patch_size=\[4, 2\].*patches are square"),
        ({"num_stages": 3}, "num_stages=3.*length of arch's depths"),
        ({"hidden_act": "xielu"}, "hidden_act='xielu'.*no layout of weights has the constants"),
        ({"hidden_act": "rely"}, "hidden_act='rely'.*Valid: gelu, .* relu"),
        ({"hidden_act": ["relu"]}, r"hidden_act=\['relu'\]"),
        ({"initializer_range": 0}, "initializer_range=0.*init_std, a number above 0"),
        ({"initializer_range": "0.02"}, "initializer_range='0.02'"),
        ({"stage_names": ["stem", "a", "b", "c", "d"]}, "stage_names=.*follow from depths"),
        (
            {"problem_type": "regression", "num_labels": 3},
            "problem_type='regression'.*labels' type",
        ),
        ({"num_labels": 3, "id2label": {"0": "a"}}, "num_labels=3 and the 1 names of id2label"),
        ({"depths": 3}, "depths=3"),
        ({"depths": [1, 2, 1]}, "one per stage"),
        ({"drop_path_rate": 2}, "drop_path_rate must be between 0 and 1"),
        ({"kernel_size": 5}, "field 'kernel_size'=5 is not known and might change the network"),
        ({"hidden_size": [1]}, "field 'hidden_size'.*did you mean 'hidden_sizes'"),
    ],
    ids=str,
)
def test_what_has_no_counterpart_is_refused_with_the_reason(fields, message):
    config = {"model_type": "convnext", **SMALL, **fields}
    with pytest.raises(ValueError, match=message):
        classifier_from_config(config)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"out_indices": [5]}, r"out_indices=\[5\] must be .* from -5 to 4, where 0 is the stem"),
        ({"out_indices": [-6]}, r"out_indices=\[-6\] must be .* from -5 to 4"),
        ({"out_indices": 3}, "out_indices=3 must be a list"),
        ({"out_indices": [1.0]}, r"out_indices=\[1.0\] must be a list of whole numbers"),
        ({"out_indices": [True]}, r"out_indices=\[True\] must be a list of whole numbers"),
        ({"out_indices": [1, 0]}, "not in network order"),
        ({"out_features": ["stage5"]}, "holds 'stage5'"),
        (
            {"out_features": ["stage1"], "out_indices": [0]},
            r"disagree: the indices are \('stem',\)",
        ),
    ],
    ids=str,
)
def test_a_wrong_selection_is_refused_in_the_indices_of_hugging_face(fields, message):
    with pytest.raises(ValueError, match=message):
        backbone_from_config({"model_type": "convnext", **SMALL, **fields})


def test_files_that_are_no_config_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no .*config.json; give a config.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("<html>")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        read_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps([1]))
    with pytest.raises(ValueError, match="holds no JSON object"):
        read_config(tmp_path)


def test_reading_needs_no_transformers():
    program = (
        "import sys; sys.modules['transformers'] = None\n"
        "from convnext_backbones.adapters.huggingface import backbone_from_config\n"
        "print(backbone_from_config({'model_type': 'convnext'}).out_features)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.strip() == "('stage4',)", result.stderr
