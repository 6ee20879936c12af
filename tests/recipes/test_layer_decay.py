"""Layer decay, compared parameter by parameter with MMDetection's and MMSegmentation's constructors."""

import importlib

import pytest
import torch
from torch import nn

from convnext_backbones import VARIANTS, create_backbone
from convnext_backbones.network.convnext import ConvNeXt, ConvNeXtV2
from convnext_backbones.recipes.layer_decay import (
    layer_id,
    learning_rate_scale,
    num_layers,
    parameter_groups,
    unwrapped,
)

LR, WEIGHT_DECAY = 1e-4, 0.05
ATTO = (2, 2, 6, 2)


def detector(backbone: nn.Module) -> nn.Module:
    """A model with a backbone, and heads with a norm of their own."""
    model = nn.Module()
    model.backbone = backbone
    model.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8))
    return model


def ours(model: nn.Module, depths, rate: float, decay_type: str) -> dict[str, dict]:
    """Parameter name -> its group, without the parameters."""
    groups = parameter_groups(
        model.named_parameters(), depths, lr=LR, weight_decay=WEIGHT_DECAY, decay_rate=rate,
        decay_type=decay_type,
    )  # fmt: skip
    return by_name(groups)


def by_name(groups: list[dict]) -> dict[str, dict]:
    keys = ("group_name", "lr", "lr_scale", "weight_decay")
    return {name: {key: group[key] for key in keys} for group in groups for name in group["param_names"]}  # fmt: skip


def theirs(host: str, model: nn.Module, layers: int, rate: float, decay_type: str) -> dict:
    """The same of the installed framework's own constructor."""
    pytest.importorskip(host)
    name = f"{host}.engine.optimizers.layer_decay_optimizer_constructor"
    constructor = importlib.import_module(name).LearningRateDecayOptimizerConstructor(
        dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=LR, weight_decay=WEIGHT_DECAY)),
        dict(decay_rate=rate, decay_type=decay_type, num_layers=layers),
    )
    return by_name(constructor(model).optimizer.param_groups)


@pytest.mark.parametrize("decay_type", ["layer_wise", "stage_wise"])
@pytest.mark.parametrize("host", ["mmdet", "mmseg"])
@pytest.mark.parametrize("name", VARIANTS)
def test_groups_are_those_of_the_hosts_own_constructor(name, host, decay_type):
    """With num_layers counted from the depths, which the published recipes do as well."""
    depths = VARIANTS[name].depths
    with torch.device("meta"):
        model = detector(create_backbone(name, out_features=("stem", "stage2", "stage4")))
    expected = theirs(host, model, num_layers(depths), 0.8, decay_type)
    assert ours(model, depths, 0.8, decay_type) == expected
    assert len(expected) == len(list(model.parameters()))


@pytest.mark.parametrize(
    ("depths", "layers"),
    [((3, 3, 9, 3), 6), ((3, 3, 27, 3), 12), ((2, 2, 8, 2), 6), (ATTO, 5), ((1, 4), 3)],
)
def test_the_layers_are_counted_from_the_depths(depths, layers):
    assert num_layers(depths) == layers


@pytest.mark.parametrize("version", [ConvNeXt, ConvNeXtV2])
@pytest.mark.parametrize("depths", [ATTO, (3, 3, 9, 3), (1, 7, 2), (4,), (2, 2, 6, 2, 3)])
def test_layer_wise_leaves_no_layer_without_parameters(version, depths):
    with torch.device("meta"):
        model = detector(version(dict(depths=depths, dims=[8] * len(depths))))
    layers = {layer_id(name, depths) for name, _ in model.named_parameters()}
    assert layers == set(range(num_layers(depths) + 2))


def test_departure_their_usual_num_layers_leaves_a_gap_for_six_blocks():
    """Published configs set num_layers=6; with six blocks in stage 3, nothing is in layer 5 and all
    of the trunk trains one step slower than the rule means."""
    with torch.device("meta"):
        model = detector(create_backbone("convnextv2_atto"))
    layers = {group["group_name"].split("_")[1] for group in theirs("mmdet", model, 6, 0.9, "layer_wise").values()}  # fmt: skip
    assert layers == set("0123467")
    own = {group["group_name"].split("_")[1] for group in ours(model, ATTO, 0.9, "layer_wise").values()}  # fmt: skip
    assert own == set("0123456")


def test_departure_they_know_neither_a_fifth_stage_nor_a_prefix():
    depths = (2, 2, 6, 2, 1)
    with torch.device("meta"):
        model = detector(ConvNeXtV2(dict(depths=depths, dims=[8] * 5)))
        below = detector(nn.ModuleDict({"bottom_up": create_backbone("convnextv2_atto")}))
    with pytest.raises(UnboundLocalError):
        theirs("mmdet", model, num_layers(depths), 0.9, "layer_wise")
    assert ours(model, depths, 0.9, "layer_wise")["backbone.stages.4.0.pwconv1.weight"]["lr_scale"] == pytest.approx(0.9)  # fmt: skip
    below.backbone.__class__ = type("ConvNeXtFPN", (nn.ModuleDict,), {})
    assert {g["lr_scale"] for g in theirs("mmdet", below, 5, 0.9, "layer_wise").values()} == {1.0}
    assert len({g["lr_scale"] for g in ours(below, ATTO, 0.9, "layer_wise").values()}) == 7


@pytest.mark.parametrize(
    "wrapped",
    [
        "backbone.stages.2.3.pwconv1.weight",
        "backbone.bottom_up.stages.2.3.pwconv1.weight",
        "module.backbone.stages.2.3.pwconv1.weight",
        "_orig_mod.module.backbone.stages.2.3.pwconv1.weight",
        "backbone._fsdp_wrapped_module.stages.2._fsdp_wrapped_module.3.pwconv1.weight",
        "backbone.stages.2.3._checkpoint_wrapped_module.pwconv1.weight",
        "stages.2.3.pwconv1.weight",
    ],
)
def test_prefixes_and_wrappers_change_nothing(wrapped):
    assert layer_id(wrapped, (3, 3, 9, 3)) == 4
    assert unwrapped(wrapped).endswith("stages.2.3.pwconv1.weight")


def test_names_that_only_look_like_the_trunk_are_heads():
    for name in ("neck.stages.0.conv.weight", "decoder.stages.0.1.attention.weight", "gamma"):
        assert layer_id(name, ATTO) == 6


def test_published_scales():
    """The recipes of ADE20K (stage_wise, 0.9) and of COCO Mask R-CNN (layer_wise, 0.95), both tiny."""
    depths = (3, 3, 9, 3)

    def scales(names, rate, decay_type):
        return [round(learning_rate_scale(name, depths, rate, decay_type), 3) for name in names]

    stages = [f"backbone.stages.{i}.0.dwconv.weight" for i in range(4)]
    downsampling = [f"backbone.downsample_layers.{i}.1.weight" for i in range(4)]
    head = ["head.weight"]
    assert scales(downsampling, 0.9, "stage_wise") == [0.478] * 4
    assert scales(stages + head, 0.9, "stage_wise") == [0.531, 0.59, 0.656, 0.729, 1.0]
    assert scales(downsampling, 0.95, "layer_wise") == [0.698, 0.774, 0.815, 0.95]
    assert scales(stages + head, 0.95, "layer_wise") == [0.735, 0.774, 0.815, 0.95, 1.0]


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_norms_biases_layer_scale_and_grn_do_not_decay(name):
    model = detector(create_backbone(name, layer_scale_init_value=1.0))
    exempt = {n for n, group in ours(model, ATTO, 0.9, "layer_wise").items() if not group["weight_decay"]}  # fmt: skip
    wanted = {
        f"{path}.{parameter}"
        for path, module in model.named_modules()
        for parameter, _ in module.named_parameters(recurse=False)
        if "Norm" in type(module).__name__ or parameter in ("bias", "gamma", "beta")
    }
    assert exempt == wanted


def test_every_parameter_that_trains_is_in_one_group():
    model = detector(create_backbone("convnextv2_atto", out_indices=(3,), frozen_stages=2))
    groups = parameter_groups(
        model.named_parameters(), ATTO, lr=LR, weight_decay=WEIGHT_DECAY, decay_rate=0.9
    )
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    rates = [group["lr"] for group in groups]
    assert rates == sorted(rates)
    torch.optim.AdamW(groups, lr=LR)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match=r"stages\.3\.5.*depths \(2, 2, 6, 2\)"):
        layer_id("backbone.stages.3.5.dwconv.weight", ATTO)
    with pytest.raises(ValueError, match="got 'layerwise'"):
        layer_id("head.weight", ATTO, "layerwise")


@pytest.mark.parametrize("depths", [ATTO, (3, 3, 9, 3)])
def test_block_wise_is_v2s_single(depths):
    """facebookresearch/ConvNeXt-V2: a layer for each block, from 1, a downsampling in that of the block after."""
    model = ConvNeXtV2({"depths": depths, "dims": (8, 8, 8, 8)})

    def single(name):
        place, *rest = name.split(".")
        if place == "downsample_layers":
            return sum(depths[: int(rest[0])]) + 1
        return (
            sum(depths[: int(rest[0])]) + int(rest[1]) + 1 if place == "stages" else sum(depths) + 1
        )

    names = [name for name, _ in model.named_parameters()] + ["head.weight"]
    assert {layer_id(name, depths, "block_wise") for name in names} == set(
        range(1, sum(depths) + 2)
    )
    for name in names:
        assert layer_id(name, depths, "block_wise") == single(name)
        scale = learning_rate_scale(name, depths, 0.9, "block_wise")
        assert scale == pytest.approx(0.9 ** (sum(depths) + 1 - single(name)))


def test_layer_wise_of_base_is_v2s_group():
    """facebookresearch/ConvNeXt-V2's twelve layers, which it counts for depths (3, 3, 27, 3) alone."""
    depths = (3, 3, 27, 3)
    expected = {
        "downsample_layers.0.0.weight": 0, "stages.0.2.gamma": 1, "downsample_layers.2.1.weight": 3,
        "stages.2.0.pwconv1.weight": 3, "stages.2.26.pwconv1.weight": 11, "downsample_layers.3.0.bias": 12,
        "stages.3.0.dwconv.bias": 12, "head.bias": 13,
    }  # fmt: skip
    assert {name: layer_id(name, depths, "layer_wise") for name in expected} == expected
