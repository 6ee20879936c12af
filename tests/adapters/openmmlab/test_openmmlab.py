"""The OpenMMLab adapter, against the installed MMDetection and MMSegmentation of either lane."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

from convnext_backbones import create_classifier
from convnext_backbones.adapters.openmmlab import backbone as openmmlab
from convnext_backbones.adapters.openmmlab import run as run
from convnext_backbones.checkpoints import CheckpointError

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
