"""The OpenMMLab adapter, against the installed MMDetection and MMSegmentation of either lane."""

import copy
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

import mmdet
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from convnext_backbones import ConvNeXt, create_classifier
from convnext_backbones.adapters.openmmlab import backbone as openmmlab
from convnext_backbones.adapters.openmmlab import run as run
from convnext_backbones.checkpoints import CheckpointError
from convnext_backbones.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"


def config(name: str) -> Config:
    return run.load_config(str(CONFIGS / f"{name}.py"))


def built(cfg: Config):
    run.fit_to_device(cfg)
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


@pytest.mark.parametrize("scope", ["mmdet", "mmseg"])
@pytest.mark.parametrize("name", ["ConvNeXt", "ConvNeXtV2"])
def test_both_classes_are_found_from_both_frameworks(scope, name):
    registry = __import__(f"{scope}.registry", fromlist=["MODELS"]).MODELS
    backbone = registry.build(dict(type=name, arch="atto", out_indices=(0, 1, 2, 3)))
    assert isinstance(backbone, getattr(openmmlab, name))
    assert backbone.out_indices == (0, 1, 2, 3)


@pytest.mark.parametrize(
    "first", ["", "import convnext_backbones.registry\n"], ids=["none", "registry"]
)
def test_the_scope_imports_itself_and_needs_no_import_at_all(first):
    code = (
        f"from mmdet.registry import MODELS\n{first}"
        "print(type(MODELS.build(dict(type='convnext_backbones.ConvNeXtV2', arch='atto'))))"
    )
    printed = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert "convnext_backbones.adapters.openmmlab.backbone.ConvNeXtV2" in printed


def test_a_wrong_option_in_a_config_is_named():
    with pytest.raises(TypeError, match="drop_path_rate"):
        MODELS.build(dict(type="ConvNeXt", drop_path_ratee=0.1))


def options_of(backbone: type) -> list[str]:
    """All options of a host's backbone, its parents' too, without those that ours has."""
    constructors = [
        c.__init__ for c in backbone.__mro__ if c.__module__.startswith(("mmdet", "mmseg"))
    ]
    named = {
        p.name
        for init in constructors
        for p in inspect.signature(init).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    }
    ours = (
        inspect.signature(ConvNeXt.__init__).parameters.keys()
        | inspect.signature(openmmlab.ConvNeXt.__init__).parameters.keys()
    )
    return sorted(named - ours)


HOSTS_BACKBONES = [
    backbone
    for host in ("mmdet", "mmseg")
    for backbone in vars(importlib.import_module(f"{host}.models.backbones")).values()
    if inspect.isclass(backbone)
]


@pytest.mark.parametrize(
    "backbone", HOSTS_BACKBONES, ids=lambda c: f"{c.__module__.split('.')[0]}-{c.__name__}"
)
def test_every_inherited_option_is_named_at_once_with_delete(backbone):
    """Of each backbone that a base config may have, with all the options that it takes."""
    inherited = options_of(backbone)
    with pytest.raises(
        TypeError, match=r"inherits another backbone's options, add _delete_=True"
    ) as e:
        MODELS.build(dict(type="ConvNeXt", arch="atto", **dict.fromkeys(inherited)))
    assert [name for name in inherited if repr(name) not in str(e.value)] == []


def test_a_convnext_over_a_resnets_base_config_needs_delete(tmp_path):
    base = Config.fromfile(next(Path(mmdet.__file__).parent.rglob("mask-rcnn_r50_fpn.py")))
    base.dump(tmp_path / "base.py")
    path = tmp_path / "config.py"
    path.write_text(
        "_base_ = 'base.py'\nmodel = dict(backbone=dict(type='ConvNeXtV2', arch='atto'))"
    )
    with pytest.raises(UserError) as e:
        MODELS.build(Config.fromfile(path).model.backbone)
    assert "has no option 'depth', 'norm_eval', 'num_stages', 'style': where" in str(e.value)
    assert "'norm_cfg': leave it out: the norm is LayerNorm" in str(e.value)
    assert "did you mean" not in str(e.value)
    path.write_text(path.read_text().replace("type=", "_delete_=True, type="))
    assert MODELS.build(Config.fromfile(path).model.backbone).out_features == ("stage4",)


def test_options_of_the_adapter_are_among_the_valid_ones():
    with pytest.raises(TypeError, match=r"'pretrain': did you mean 'pretrained'\?.*'init_cfg'"):
        MODELS.build(dict(type="ConvNeXt", pretrain="a.pth"))


MMPRETRAIN = dict(  # the options of its ConvNeXt, all as a dense backbone of a detector has them
    arch=dict(depths=[1, 1, 2], channels=[8, 16, 24]),
    in_channels=4,
    stem_patch_size=2,
    norm_cfg=dict(type="LN2d", eps=1e-6),
    act_cfg=dict(type="GELU"),
    linear_pw_conv=True,
    drop_path_rate=0.2,
    frozen_stages=1,
    gap_before_final_norm=False,
    with_cp=True,
    init_cfg=[
        dict(type="TruncNormal", layer=["Conv2d", "Linear"], std=0.02, bias=0.0),
        dict(type="Constant", layer=["LayerNorm"], val=1.0, bias=0.0),
    ],
)


@pytest.mark.parametrize("index", [-1, 2])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ConvNeXt", dict(use_grn=False, layer_scale_init_value=1.0)),
        ("ConvNeXtV2", dict(use_grn=True, layer_scale_init_value=0.0, linear_pw_conv=False)),
    ],
)
def test_mmpretrains_options_are_taken_where_they_mean_what_the_network_has(name, options, index):
    config = {"type": name, **MMPRETRAIN, **options, "out_indices": index}
    model = MODELS.build(copy.deepcopy(config))
    model.init_weights()
    ours = MODELS.build(
        dict(
            type=name, arch=dict(depths=(1, 1, 2), dims=(8, 16, 24)), in_channels=4, patch_size=2,
            out_indices=(2,), drop_path_rate=0.2, frozen_stages=1, with_cp=True,
            layer_scale_init_value=options["layer_scale_init_value"],
        )
    )  # fmt: skip
    assert str(model) == str(ours)
    ours.load_state_dict(model.state_dict())
    images = torch.randn(1, 4, 32, 32)
    assert torch.equal(model.eval()(images)[0], ours.eval()(images)[0])
    trained = [[n for n, p in m.named_parameters() if p.requires_grad] for m in (model, ours)]
    assert trained[0] == trained[1]


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("ConvNeXt", dict(norm_cfg=dict(type="BN", eps=1e-6)), "LayerNorm with eps 1e-6"),
        ("ConvNeXt", dict(norm_cfg=dict(type="LN2d")), "LayerNorm with eps 1e-6"),  # 1e-5 there
        ("ConvNeXt", dict(norm_cfg=dict(type="LN2d", eps=1e-6, requires_grad=False)), "eps 1e-6"),
        ("ConvNeXt", dict(norm_cfg=None), "LayerNorm with eps 1e-6"),
        ("ConvNeXt", dict(act_cfg=dict(type="ReLU")), "the activation is GELU"),
        ("ConvNeXt", dict(act_cfg=dict(type="GELU", approximate="tanh")), "the activation is GELU"),
        ("ConvNeXt", dict(use_grn=True), "GRN is what ConvNeXtV2 has"),
        ("ConvNeXtV2", dict(use_grn=False), "GRN is what ConvNeXtV2 has"),
        ("ConvNeXt", dict(gap_before_final_norm=True), "a dense backbone returns maps"),
        ("ConvNeXt", dict(linear_pw_conv="no"), "pointwise layers are always linear"),
        ("ConvNeXt", dict(stem_patch_size=2, patch_size=4), "write patch_size"),
    ],
    ids=str,
)
def test_mmpretrains_options_that_ask_for_another_network_are_refused(name, option, words):
    (first, *_) = option
    with pytest.raises(TypeError, match=f"{name} has no option '{first}': .*{words}"):
        MODELS.build(dict(type=name, arch="atto", **option))


def test_all_that_mmpretrain_has_otherwise_is_refused_at_once():
    different = dict(
        norm_cfg=dict(type="BN"),
        act_cfg=dict(type="ReLU"),
        use_grn=True,
        gap_before_final_norm=True,
    )
    with pytest.raises(TypeError) as e:
        MODELS.build(dict(type="ConvNeXt", arch="atto", stem_patch_size=4, **different))
    assert re.findall(r"'(\w+)': leave it out", str(e.value)) == list(different)


@pytest.mark.parametrize("frozen_stages", [-1, 0, 1])
def test_frozen_stages_of_minus_one_and_zero_freeze_nothing(frozen_stages, monkeypatch):
    """-1 is what MMDetection and MMSegmentation write for it. 0 freezes the stem in their ResNet and
    Swin, and nothing in MMPretrain's ConvNeXt: it is said."""
    said = []
    monkeypatch.setattr(openmmlab, "print_log", lambda words, **options: said.append(words))
    model = MODELS.build(dict(type="ConvNeXt", arch="atto", frozen_stages=frozen_stages))
    frozen = [name for name, p in model.named_parameters() if not p.requires_grad]
    assert bool(frozen) == (frozen_stages == 1)
    assert model.frozen_stages == max(frozen_stages, 0)
    assert [bool(re.search("freezes nothing.*freezes the stem", words)) for words in said] == (
        [True] if frozen_stages == 0 else []
    )
    for wrong in (-2, 5, True, 1.0):
        with pytest.raises(ValueError, match="frozen_stages must be a whole number"):
            MODELS.build(dict(type="ConvNeXt", arch="atto", frozen_stages=wrong))


def groups_by_parameter(model, cfg) -> dict[str, tuple[float, float]]:
    """Parameter name -> (learning-rate scale, weight decay), as the built optimizer has them."""
    names = {id(p): name for name, p in model.named_parameters()}
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    lr = cfg.optim_wrapper.optimizer.lr
    return {
        names[id(p)]: (group["lr"] / lr, group["weight_decay"])
        for group in wrapper.optimizer.param_groups
        for p in group["params"]
    }


def test_stage_wise_decay_of_a_config_gives_the_published_scales():
    cfg = config("ade20k_upernet_convnextv2_t")
    model = built(cfg)
    groups = groups_by_parameter(model, cfg)
    assert set(groups) == {name for name, _ in model.named_parameters()}
    expected = {
        "backbone.downsample_layers.0.0.weight": 0.9**7,
        "backbone.downsample_layers.3.1.weight": 0.9**7,
        "backbone.stages.0.2.pwconv1.weight": 0.9**6,
        "backbone.stages.1.0.pwconv1.weight": 0.9**5,
        "backbone.stages.2.8.dwconv.weight": 0.9**4,
        "backbone.stages.3.0.pwconv2.weight": 0.9**3,
        "backbone.norm3.weight": 1.0,
        "decode_head.conv_seg.weight": 1.0,
    }
    for name, scale in expected.items():
        assert groups[name][0] == pytest.approx(scale), name


def test_layer_wise_decay_of_a_config_gives_the_published_scales():
    cfg = config("coco_mask_rcnn_convnext_t")
    model = built(cfg)
    groups = groups_by_parameter(model, cfg)
    layers = {
        "backbone.downsample_layers.0.0.weight": 0,
        "backbone.stages.0.0.pwconv1.weight": 1,
        "backbone.downsample_layers.1.1.weight": 2,
        "backbone.stages.1.2.pwconv1.weight": 2,
        "backbone.downsample_layers.2.1.weight": 3,
        "backbone.stages.2.2.pwconv1.weight": 3,
        "backbone.stages.2.3.pwconv1.weight": 4,
        "backbone.stages.2.8.pwconv1.weight": 5,
        "backbone.downsample_layers.3.1.weight": 6,
        "backbone.stages.3.2.pwconv1.weight": 6,
        "backbone.norm0.weight": 7,
        "neck.lateral_convs.0.conv.weight": 7,
    }
    for name, layer in layers.items():
        assert groups[name][0] == pytest.approx(0.95 ** (7 - layer)), name


@pytest.mark.parametrize("name", ["ade20k_upernet_convnextv2_atto", "coco_mask_rcnn_convnext_t"])
def test_norms_grn_layer_scale_and_biases_get_no_weight_decay(name):
    cfg = config(name)
    model = built(cfg)
    exempt = re.compile(
        r"backbone\..*(norm\w*\.weight|gamma|beta|bias|downsample_layers\.\d\.[01]\.bias)$"
    )
    for parameter, (_, decay) in groups_by_parameter(model, cfg).items():
        if exempt.match(parameter):
            assert decay == 0, parameter
        elif parameter.endswith(("dwconv.weight", "pwconv1.weight", "pwconv2.weight")):
            assert decay == 0.05, parameter


@pytest.fixture
def official_file(tmp_path):
    """A V2-Atto classifier with random weights, saved as the official repository saves it."""
    classifier = create_classifier("convnextv2_atto")
    state = {name: torch.randn_like(value) for name, value in classifier.state_dict().items()}
    saved = {n: v.reshape(1, 1, 1, -1) if ".grn." in n else v for n, v in state.items()}
    path = tmp_path / "convnextv2_atto_1k_224_ema.pt"
    torch.save({"model": saved}, path)
    return path, state


def test_init_cfg_pretrained_loads_an_official_file(official_file):
    path, state = official_file
    cfg = config("ade20k_upernet_convnextv2_atto")
    cfg.model.backbone.init_cfg.checkpoint = str(path)
    model = built(cfg)
    model.init_weights()
    for name, value in model.backbone.state_dict().items():
        if re.match(r"norm\d\.", name):
            assert torch.equal(value, torch.full_like(value, float("weight" in name))), name
        else:
            assert torch.equal(value, state[name]), name


def test_the_pretrained_weights_are_not_overwritten_by_a_second_init(official_file):
    path, _ = official_file
    backbone = MODELS.build(
        dict(type="ConvNeXtV2", arch="atto", init_cfg=dict(type="Pretrained", checkpoint=str(path)))
    )
    backbone.init_weights()
    with torch.no_grad():
        backbone.norm3.weight.fill_(5)
    backbone.init_weights()
    assert (backbone.norm3.weight == 5).all()


def test_init_cfg_refuses_weights_of_another_network(official_file):
    path, _ = official_file
    pretrained = dict(type="Pretrained", checkpoint=str(path))
    for options in (dict(type="ConvNeXtV2", arch="tiny"), dict(type="ConvNeXt", arch="atto")):
        with pytest.raises(
            CheckpointError, match=r"this is convnextv2_atto .*; the model is convnext"
        ):
            MODELS.build(dict(**options, init_cfg=pretrained)).init_weights()


def test_pretrained_is_short_for_init_cfg(official_file):
    path, state = official_file
    model = MODELS.build(dict(type="ConvNeXtV2", arch="atto", pretrained=str(path)))
    model.init_weights()
    assert torch.equal(model.stages[0][0].dwconv.weight, state["stages.0.0.dwconv.weight"])
    with pytest.raises(ValueError, match="give one of the two"):
        MODELS.build(dict(type="ConvNeXtV2", pretrained="a.pth", init_cfg=dict(type="Pretrained")))


def test_init_cfg_takes_a_prefix(official_file, tmp_path):
    path, state = official_file
    saved = torch.load(path)["model"]
    detector = tmp_path / "detector.pth"
    torch.save(
        {"state_dict": {**{f"backbone.{n}": v for n, v in saved.items()}, "neck.x": torch.ones(2)}},
        detector,
    )
    backbone = MODELS.build(
        dict(
            type="ConvNeXtV2",
            arch="atto",
            init_cfg=dict(type="Pretrained", checkpoint=str(detector), prefix="backbone."),
        )
    )
    backbone.init_weights()
    assert torch.equal(backbone.stages[0][0].grn.gamma, state["stages.0.0.grn.gamma"])


def test_every_parameter_of_the_segmentor_gets_a_gradient():
    cfg = config("ade20k_upernet_convnextv2_atto")
    cfg.model.decode_head.channels = cfg.model.auxiliary_head.channels = 16
    model = built(cfg)
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo=dict(img_shape=(64, 64), ori_shape=(64, 64)))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 150, (1, 64, 64)))
        samples.append(sample)
    losses = model.loss(torch.randn(2, 3, 64, 64), samples)
    model.parse_losses(losses)[0].backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize("name", ["ConvNeXt", "ConvNeXtV2"])
def test_mmcvs_roi_align_reads_the_maps_as_they_are(name):
    """It takes channels-last memory for NCHW and says nothing; torchvision's is the reference."""
    from mmcv.ops import RoIAlign
    from torchvision.ops import roi_align

    backbone = MODELS.build(dict(type=name, arch="atto", out_indices=(0, 1, 2, 3))).eval()
    boxes = torch.tensor([[0, 3.0, 5.0, 60.0, 50.0], [1, 20.0, 1.0, 90.0, 63.0]])
    with torch.no_grad():
        for x, stride in zip(backbone(torch.randn(2, 3, 64, 96)), backbone.strides, strict=True):
            ours = RoIAlign(7, 1 / stride, 2)(x, boxes)
            assert torch.equal(ours, roi_align(x, boxes, 7, 1 / stride, 2, aligned=True))


def test_a_run_that_amp_wraps_runs_in_float32_on_cpu(capsys):
    cfg = config("ade20k_upernet_convnext_t")
    assert "SyncBN" in cfg.pretty_text
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    run.fit_to_device(cfg)
    assert cfg.optim_wrapper.type == "OptimWrapper"
    assert "SyncBN" not in cfg.pretty_text
    printed = capsys.readouterr().out
    assert "SyncBN -> BN" in printed
    assert "float32" in printed
