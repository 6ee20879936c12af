"""ConvNeXtLayerDecay, compared with the optimizers that MMDetection and MMSegmentation build."""

import copy
import importlib
import re
from pathlib import Path

import pytest
import torch
from torch import nn

pytest.importorskip("mmengine")

from mmengine.optim import build_optim_wrapper

from convnext_backbones import VARIANTS, create_backbone
from convnext_backbones.adapters.openmmlab import backbone as openmmlab  # noqa: F401  (registers the constructor)
from convnext_backbones.errors import UserError
from convnext_backbones.recipes.layer_decay import num_layers

LR, WEIGHT_DECAY = 1e-4, 0.05


def detector(backbone: nn.Module) -> nn.Module:
    """A model with a backbone, a neck and heads that have names of a transformer's."""
    model = nn.Module()
    model.backbone = backbone
    model.neck = nn.Sequential(nn.Conv2d(8, 8, 1), nn.GroupNorm(2, 8))
    model.head = nn.Module()
    model.head.query_embed = nn.Embedding(3, 8)
    model.head.fc = nn.Linear(8, 2)
    return model


def atto() -> nn.Module:
    return detector(create_backbone("convnextv2_atto", out_indices=(1, 3)))


def built(model: nn.Module, constructor: str = "ConvNeXtLayerDecay", **paramwise):
    """The groups of the optimizer that MMEngine builds from a config."""
    config = dict(
        type="OptimWrapper",
        optimizer=dict(type="AdamW", lr=LR, weight_decay=WEIGHT_DECAY),
        constructor=constructor,
        paramwise_cfg=paramwise,
    )
    return build_optim_wrapper(model, copy.deepcopy(config)).optimizer.param_groups


def by_name(groups: list[dict], keys=("lr", "weight_decay", "group_name")) -> dict[str, tuple]:
    return {name: tuple(group[key] for key in keys) for group in groups for name in group["param_names"]}  # fmt: skip


@pytest.mark.parametrize("decay_type", ["layer_wise", "stage_wise"])
@pytest.mark.parametrize("host", ["mmdet", "mmseg"])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_built_optimizer_has_the_groups_of_the_hosts_own(name, host, decay_type):
    pytest.importorskip(host)
    theirs = importlib.import_module(f"{host}.engine.optimizers.layer_decay_optimizer_constructor")
    with torch.device("meta"):
        model = detector(create_backbone(name, out_features=("stem", "stage2", "stage4")))
    options = dict(decay_rate=0.8, decay_type=decay_type)
    config = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=LR, weight_decay=WEIGHT_DECAY))  # fmt: skip
    layers = num_layers(VARIANTS[name].depths)
    expected = by_name(
        theirs.LearningRateDecayOptimizerConstructor(config, dict(options, num_layers=layers))(model)
        .optimizer.param_groups
    )  # fmt: skip
    assert by_name(built(model, **options)) == expected
    assert len(expected) == len(list(model.parameters()))


def test_a_parameter_moves_by_its_layers_share_of_the_learning_rate():
    model = atto()
    config = dict(
        type="OptimWrapper", optimizer=dict(type="SGD", lr=1.0, weight_decay=0.0),
        constructor="ConvNeXtLayerDecay", paramwise_cfg=dict(decay_rate=0.5),
    )  # fmt: skip
    wrapper = build_optim_wrapper(model, config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    wrapper.step()
    moved = {name: (before[name] - p.detach()).mean().item() for name, p in model.named_parameters()}  # fmt: skip
    for name, layer in (
        ("backbone.downsample_layers.0.0.weight", 0),
        ("backbone.stages.0.1.grn.gamma", 1),
        ("backbone.stages.2.2.dwconv.weight", 3),
        ("backbone.stages.2.3.dwconv.weight", 4),
        ("backbone.stages.3.1.pwconv2.bias", 5),
        ("head.fc.weight", 6),
    ):
        assert moved[name] == pytest.approx(0.5 ** (6 - layer), rel=1e-4), name


def checkpointed(model: nn.Module) -> nn.Module:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import (
        apply_activation_checkpointing,
    )

    from convnext_backbones.network.convnext import Block

    apply_activation_checkpointing(model, check_fn=lambda module: isinstance(module, Block))
    return model


def distributed(model: nn.Module) -> nn.Module:
    from mmengine.model import MMDistributedDataParallel

    return MMDistributedDataParallel(model, broadcast_buffers=False)


def fully_sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    return FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=True)


@pytest.fixture
def process_group(tmp_path):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("wrap", [torch.compile, checkpointed, distributed, fully_sharded])
def test_a_wrapped_model_gets_the_same_groups(wrap):
    def shape(groups):
        keys = ("group_name", "lr", "weight_decay")
        return [(*(group[key] for key in keys), len(group["params"])) for group in groups]

    plain = shape(built(atto(), decay_rate=0.9))
    assert len(plain) == 2 * 7
    assert shape(built(wrap(atto()), decay_rate=0.9)) == plain


@pytest.mark.usefixtures("process_group")
def test_flattened_parameters_are_refused():
    from torch.distributed.fsdp import FullyShardedDataParallel

    flat = FullyShardedDataParallel(atto(), device_id=torch.device("cpu"))
    with pytest.raises(ValueError, match="use_orig_params=True"):
        built(flat, decay_rate=0.9)


def test_custom_keys_multiply_what_layer_decay_gives_and_the_longest_counts():
    keys = {
        "backbone": dict(lr_mult=0.1),
        "backbone.stages.3": dict(lr_mult=0.5, decay_mult=2.0),
        "query_embed": dict(decay_mult=0.0),
    }
    plain = by_name(built(atto(), decay_rate=0.9), ("lr", "weight_decay"))
    custom = by_name(built(atto(), decay_rate=0.9, custom_keys=keys), ("lr", "weight_decay"))
    assert plain.keys() == custom.keys()
    for name, (lr, decay) in plain.items():
        lr_mult = 0.5 if "stages.3" in name else 0.1 if "backbone" in name else 1.0
        decay_mult = 2.0 if "stages.3" in name else 0.0 if "query_embed" in name else 1.0
        assert custom[name] == pytest.approx((lr * lr_mult, decay * decay_mult)), name
    assert plain["head.query_embed.weight"][1] == WEIGHT_DECAY
    assert custom["backbone.stages.3.0.grn.gamma"][1] == 0.0


def test_without_options_the_learning_rate_is_one_and_norms_do_not_decay():
    groups = built(atto())
    assert {group["lr"] for group in groups} == {LR}
    assert {group["weight_decay"] for group in groups} == {0.0, WEIGHT_DECAY}


def test_frozen_stages_are_in_no_group():
    model = detector(create_backbone("convnextv2_atto", out_indices=(3,), frozen_stages=2))
    names = by_name(built(model, decay_rate=0.9))
    assert set(names) == {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(num_layers=6), "counts num_layers from the backbone's depths; leave it out"),
        (dict(decay_ratee=0.9), "did you mean 'decay_rate'"),
        (dict(decay_type="layerwise"), "decay_type is one of"),
        (dict(custom_keys={"backbone": dict(lr_multt=0.1)}), "did you mean 'lr_mult'"),
    ],
)
def test_a_wrong_option_is_named(options, words):
    with pytest.raises(ValueError, match=words):
        built(atto(), **options)


def test_all_wrong_options_are_named_at_once_those_of_mmengines_constructor_too():
    inherited = dict(norm_decay_mult=0.0, bypass_duplicate=True, num_layers=6)
    with pytest.raises(UserError, match=r"add _delete_=True to paramwise_cfg") as e:
        built(atto(), **inherited, custom_keys={"backbone": dict(lr_multt=0.1)})
    assert [name for name in [*inherited, "lr_multt"] if repr(name) not in str(e.value)] == []
    assert re.findall("did you mean '(.*?)'", str(e.value)) == ["lr_mult"]


def test_a_model_without_a_convnext_is_refused():
    with pytest.raises(ValueError, match="this one has 0"):
        built(detector(nn.Conv2d(3, 8, 1)), decay_rate=0.9)


def semi_supervised(freeze_teacher: bool) -> nn.Module:
    """Student and teacher, as MMDetection's SemiBaseDetector has them; the teacher is the deeper."""
    model = nn.Module()
    model.student = atto()
    model.teacher = detector(create_backbone("convnextv2_nano", out_indices=(1, 3)))
    model.teacher.eval().requires_grad_(not freeze_teacher)
    return model


@pytest.mark.parametrize("decay_type", ["layer_wise", "stage_wise"])
def test_a_frozen_teacher_beside_the_student_changes_nothing(decay_type):
    options = dict(decay_rate=0.9, decay_type=decay_type)
    alone = by_name(built(atto(), **options))
    both = by_name(built(semi_supervised(freeze_teacher=True), **options))
    assert both == {f"student.{name}": group for name, group in alone.items()}


def test_two_networks_that_are_trained_are_refused():
    with pytest.raises(ValueError, match="this one has 2 that are trained; freeze all but one"):
        built(semi_supervised(freeze_teacher=False))


def test_soft_teacher_of_mmdetection_is_trained_with_layer_decay():
    mmdet = pytest.importorskip("mmdet")
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    root = next(
        Path(mmdet.__file__).parent.rglob("soft-teacher_faster-rcnn_r50*fpn_180k_semi-0.1*.py")
    )
    model = Config.fromfile(root).model
    model.detector.backbone = dict(type="ConvNeXtV2", arch="atto", out_indices=(0, 1, 2, 3))
    model.detector.neck.in_channels = [40, 80, 160, 320]
    init_default_scope("mmdet")
    names = set(by_name(built(MODELS.build(model), decay_rate=0.9)))
    assert "student.backbone.stages.3.1.pwconv2.weight" in names
    assert not any(name.startswith("teacher") for name in names)


def test_heads_over_a_frozen_network_train_at_the_full_rate():
    model = atto()
    model.backbone.requires_grad_(False)
    groups = built(model, decay_rate=0.5)
    assert {group["lr"] for group in groups} == {LR}
    assert not any(name.startswith("backbone") for name in by_name(groups))


def test_a_model_with_nothing_to_train_is_refused():
    with pytest.raises(ValueError, match=r"no parameter to train.*freeze less"):
        built(atto().requires_grad_(False))


def test_an_optimizer_without_weight_decay_is_refused():
    config = dict(optimizer=dict(type="AdamW", lr=LR), constructor="ConvNeXtLayerDecay")
    with pytest.raises(ValueError, match="needs weight_decay in optim_wrapper"):
        build_optim_wrapper(atto(), config)
