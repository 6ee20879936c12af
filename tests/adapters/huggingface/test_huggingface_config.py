"""ConvNeXtConfig: the fields, defaults and selections of transformers' configurations, checked."""

import copy
import json

import pytest
import transformers

from convnext_backbones import VARIANTS
from convnext_backbones.adapters.huggingface import ConvNeXtBackboneConfig, ConvNeXtConfig

THEIRS = {1: transformers.ConvNextConfig, 2: transformers.ConvNextV2Config}
BOTH = pytest.mark.parametrize("version", [1, 2])
RECORDS = {"model_type", "version", "architectures", "transformers_version"}


@BOTH
def test_fields_and_defaults_are_those_of_transformers(version):
    ours, theirs = ConvNeXtConfig(version=version).to_dict(), THEIRS[version]().to_dict()
    assert theirs.keys() <= ours.keys()
    assert {k: v for k, v in ours.items() if k in theirs and k not in RECORDS} == {
        k: v for k, v in theirs.items() if k not in RECORDS
    }
    own = {"version", "output_stride", "weights"} | (
        {"layer_scale_init_value"} if version == 2 else set()
    )
    assert ours.keys() - theirs.keys() == own


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"out_features": None, "out_indices": None},
        {"out_features": ["stem", "stage1"], "out_indices": [0, 1]},
        {"out_features": ["stage1", "stage3"]},
        {"out_indices": [0, 2]},
        {"out_indices": (1, 4)},
        {"out_indices": [-1]},
        {"out_indices": [1, -2]},
        {"depths": [1, 1], "hidden_sizes": [8, 8], "num_stages": 2},
    ],
    ids=str,
)
@BOTH
def test_a_selection_is_that_of_transformers(version, fields):
    ours, theirs = ConvNeXtConfig(version=version, **fields), THEIRS[version](**fields)
    assert ours.stage_names == theirs.stage_names
    assert ours.out_features == theirs.out_features
    assert ours.out_indices == [i % len(theirs.stage_names) for i in theirs.out_indices]
    assert ours.num_hidden_layers == ours.num_stages == len(ours.depths)


def test_a_selection_can_be_changed_as_in_transformers():
    config = ConvNeXtConfig(out_features=["stage1"])
    other = copy.deepcopy(config)
    other.out_indices = [0, 3]
    assert other.out_features == ["stem", "stage3"]
    other.out_features = None
    assert (other.out_features, other.out_indices) == (["stage4"], [4])
    assert config.out_features == ["stage1"]
    with pytest.raises(ValueError, match="out_features holds 'stage9'"):
        other.out_features = ["stage9"]


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_its_version_and_sizes(name):
    config, variant = ConvNeXtConfig(variant=name), VARIANTS[name]
    assert (config.version, config.depths, config.hidden_sizes) == (
        variant.version,
        list(variant.depths),
        list(variant.dims),
    )


@BOTH
def test_it_is_saved_and_read_again(tmp_path, version):
    config = ConvNeXtConfig(
        version=version, depths=[1, 2], hidden_sizes=[8, 16], out_indices=[1], drop_path_rate=0.1,
        id2label={0: "newt", 1: "toad", 2: "frog"}, output_stride=8, weights="convnext_tiny.fb_in1k",
        problem_type="multi_label_classification", output_hidden_states=True,
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    for again in (
        ConvNeXtConfig.from_pretrained(tmp_path),
        transformers.AutoConfig.from_pretrained(tmp_path),
        ConvNeXtConfig.from_json_file(tmp_path / "config.json"),
        ConvNeXtConfig.from_dict(config.to_dict()),
        ConvNeXtConfig(**json.loads((tmp_path / "config.json").read_text())),
    ):
        assert type(again) is ConvNeXtConfig
        assert {k: v for k, v in again.to_dict().items() if k != "_name_or_path"} == {
            k: v for k, v in config.to_dict().items() if k != "_name_or_path"
        }
        assert again.num_labels == 3


@BOTH
def test_a_configuration_of_transformers_is_read(tmp_path, version):
    theirs = THEIRS[version](depths=[1, 2, 1, 1], num_labels=4, layer_norm_eps=1e-5)
    theirs.save_pretrained(tmp_path)
    for ours in (
        ConvNeXtConfig.from_pretrained(tmp_path),
        ConvNeXtConfig.from_dict(theirs.to_dict()),
    ):
        assert (ours.version, ours.depths, ours.num_labels) == (version, [1, 2, 1, 1], 4)
        assert (ours.layer_norm_eps, ours.model_type) == (1e-5, "convnext_backbones")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"num_labels": 3}, ["LABEL_0", "LABEL_1", "LABEL_2"]),
        ({"id2label": {0: "a", 1: "b", 2: "c"}}, ["a", "b", "c"]),
        ({"num_labels": 3, "id2label": {0: "a", 1: "b", 2: "c"}}, ["a", "b", "c"]),
        ({"num_labels": 2}, ["newt", "toad"]),
    ],
)
def test_classes_given_at_the_call_take_the_place_of_those_saved(tmp_path, given, names):
    ConvNeXtConfig(
        id2label={0: "newt", 1: "toad"}, label2id={"newt": 0, "toad": 1}
    ).save_pretrained(tmp_path)
    config = ConvNeXtConfig.from_pretrained(tmp_path, **given)
    assert list(config.id2label.values()) == names
    assert "newt" in names or "newt" not in (config.label2id or {})


def test_it_is_a_detectors_backbone_config_as_an_object_or_as_a_dict():
    fields = {"variant": "convnext_atto", "out_indices": [2, 3, 4]}
    for given in (ConvNeXtBackboneConfig(**fields), {"model_type": "convnext_backbones", **fields}):
        config = transformers.RTDetrConfig(backbone_config=given)
        again = transformers.RTDetrConfig.from_dict(config.to_dict())
        for one in (config, again):
            assert isinstance(one.backbone_config, ConvNeXtConfig)
            assert one.backbone_config.hidden_sizes == [40, 80, 160, 320]
            assert one.backbone_config.out_features == ["stage2", "stage3", "stage4"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 3}, r"version must be 1 \(ConvNeXt\) or 2"),
        ({"variant": "convnextv2_tini"}, "did you mean 'convnextv2_tiny'"),
        ({"variant": "convnext_tiny", "depths": [1, 1, 1, 1]}, "give one of the two"),
        ({"hiden_sizes": [8]}, "field 'hiden_sizes'.*did you mean 'hidden_sizes'"),
        ({"kernel_size": 5}, "'kernel_size'=5 is not known"),
        ({"depths": [1, 2]}, "one per stage"),
        ({"depths": 3}, "depths=3"),
        ({"num_stages": 3}, "num_stages=3"),
        ({"hidden_act": "gelou"}, "hidden_act='gelou'"),
        ({"drop_path_rate": "0.1"}, "drop_path_rate='0.1'"),
        ({"out_indices": [5]}, r"out_indices=\[5\] must be .* from -5 to 4, where 0 is the stem"),
        ({"out_indices": [-6]}, r"out_indices=\[-6\] must be"),
        ({"out_indices": [2, 1]}, "not in network order"),
        ({"out_features": ["stage5"]}, "holds 'stage5'"),
        ({"out_features": ["stage1"], "out_indices": [0]}, "disagree"),
        ({"num_labels": 3, "id2label": {0: "a"}}, "num_labels=3 and the 1 names of id2label"),
        ({"model_type": "resnet"}, "model_type='resnet'"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
    ],
    ids=str,
)
def test_what_is_no_configuration_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ConvNeXtConfig(**fields)
