"""The Detectron2 adapter, against the installed Detectron2; its own ResNet sets the behaviour."""

import logging
import math
import pickle
import re

import numpy
import pytest
import torch

pytest.importorskip("detectron2", reason="detectron2 is not installed (docs/install.md says how)")

import detectron2.export  # noqa: F401  (makes Detectron2's own FPN scriptable)
from detectron2 import model_zoo
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall, LazyConfig, get_cfg, instantiate
from detectron2.engine import DefaultPredictor, SimpleTrainer
from detectron2.export import TracingAdapter, scripting_with_instances
from detectron2.layers import ROIAlign, ShapeSpec
from detectron2.modeling import FPN, Backbone, build_backbone, build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.projects.point_rend import add_pointrend_config
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from detectron2.utils.testing import convert_scripted_instances, reload_script_model
from omegaconf import OmegaConf
from randomness import random_images, randomised

from convnext_backbones import create_classifier
from convnext_backbones.adapters.detectron2 import (
    ConvNeXt,
    ConvNeXtV2,
    add_convnext_config,
)
from convnext_backbones.adapters.detectron2 import backbone as adapter
from convnext_backbones.checkpoints import CheckpointError
from convnext_backbones.errors import UserError
from convnext_backbones.network import convnext

STAGES = ["stage1", "stage2", "stage3", "stage4"]
SEMANTIC = "Misc/semantic_R_50_FPN_1x.yaml"
MASK_RCNN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml"
BACKBONES = pytest.mark.parametrize("backbone", ["ConvNeXt", "ConvNeXtV2"])
VERSIONS = pytest.mark.parametrize("version", [1, 2])


def backbone_class(version: int):
    return {1: ConvNeXt, 2: ConvNeXtV2}[version]


def convnext_config(
    builder="build_convnext_fpn_backbone", version=2, in_features=STAGES, file=None
):
    """A config of the zoo (or Detectron2's defaults) with a small ConvNeXt in it."""
    cfg = get_cfg()
    add_convnext_config(cfg)
    add_pointrend_config(cfg)
    if file:
        cfg.merge_from_file(model_zoo.get_config_file(file))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = builder
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.CONVNEXT.VERSION = version
    cfg.MODEL.CONVNEXT.ARCH = "atto"
    cfg.MODEL.FPN.IN_FEATURES = list(in_features)
    return cfg


# ---- the contract of a backbone


@VERSIONS
@pytest.mark.parametrize(
    "out_features", [("stem", "stage1", "stage4"), ("stage2", "stage3"), ("stem",), None]
)
def test_output_shape_tells_the_channels_and_strides_of_the_maps(version, out_features):
    backbone = backbone_class(version)("atto", out_features=out_features).eval()
    assert isinstance(backbone, Backbone)
    shapes = backbone.output_shape()
    maps = backbone(torch.randn(2, 3, 64, 96))
    assert list(maps) == list(shapes) == list(out_features or ("stage4",))
    for name, x in maps.items():
        shape = shapes[name]
        assert x.shape == (2, shape.channels, 64 // shape.stride, 96 // shape.stride)


@pytest.mark.parametrize("options", [{}, dict(output_stride=16), dict(out_features=("stage2",))])
def test_images_padded_as_asked_give_maps_of_exactly_their_size_over_the_stride(options):
    backbone = ConvNeXt("atto", **options).eval()
    (shape,) = backbone.output_shape().values()
    side = backbone.size_divisibility
    assert backbone.padding_constraints == {"size_divisibility": side}
    (x,) = backbone(torch.randn(1, 3, side, 3 * side)).values()
    assert (x.shape[2] * shape.stride, x.shape[3] * shape.stride) == (side, 3 * side)


@VERSIONS
def test_the_parameter_names_are_the_official_ones_below_the_model(version):
    core = (convnext.ConvNeXtV2 if version == 2 else convnext.ConvNeXt)("atto", out_features=STAGES)
    model = build_model(convnext_config(version=version, file=SEMANTIC))
    prefix = "backbone.bottom_up."
    below = [name for name, _ in model.named_parameters() if name.startswith(prefix)]
    assert below == [prefix + name for name, _ in core.named_parameters()]


@VERSIONS
def test_the_maps_are_the_core_models(version):
    backbone = randomised(backbone_class(version)("atto", out_features=("stem", *STAGES)))
    core = convnext.ConvNeXtV2 if version == 2 else convnext.ConvNeXt
    reference = core("atto", out_features=("stem", *STAGES)).eval()
    reference.load_state_dict(backbone.state_dict())
    images = random_images(1, 3, 70, 90)
    with torch.no_grad():
        for x, expected in zip(backbone(images).values(), reference(images), strict=True):
            assert torch.equal(x, expected)


@VERSIONS
def test_roi_align_reads_the_maps_as_they_lie_in_memory(version):
    backbone = randomised(backbone_class(version)("atto", out_features=STAGES))
    boxes = torch.tensor([[0, 3.0, 5.0, 60.0, 50.0], [1, 20.0, 1.0, 90.0, 63.0]])
    images = random_images(2, 3, 64, 96)
    with torch.no_grad():
        for name, x in backbone(images).items():
            align = ROIAlign(7, 1 / backbone.output_shape()[name].stride, 2)
            assert torch.equal(align(x, boxes), align(x.contiguous(), boxes))


# ---- LazyConfig


@VERSIONS
def test_a_lazy_node_builds_what_the_constructor_builds(version, tmp_path):
    node = LazyCall(backbone_class(version))(
        arch=dict(depths=[1, 2], dims=(8, 16)), out_features=("stem", "stage2"), drop_path_rate=0.1
    )
    LazyConfig.save(OmegaConf.create(dict(backbone=node)), str(tmp_path / "config.yaml"))
    for config in (node, LazyConfig.load(str(tmp_path / "config.yaml")).backbone):
        backbone = instantiate(config)
        assert type(backbone) is backbone_class(version)
        assert (backbone.depths, backbone.dims) == ((1, 2), (8, 16))
        assert backbone.output_shape() == {
            "stem": ShapeSpec(channels=8, stride=4),
            "stage2": ShapeSpec(channels=16, stride=8),
        }


def test_a_model_of_the_zoo_takes_the_backbone_in_one_line():
    model = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py").model
    model.backbone.bottom_up = LazyCall(ConvNeXtV2)(arch="atto", out_features=tuple(STAGES))
    backbone = instantiate(model.backbone)
    assert isinstance(backbone, FPN)
    assert [shape.stride for shape in backbone.output_shape().values()] == [4, 8, 16, 32, 64]


# ---- the YAML builders


def test_each_builder_gives_its_levels():
    levels = {
        "build_convnext_backbone": {"stage4": (320, 32)},
        "build_convnext_fpn_backbone": {f"p{i}": (256, 2**i) for i in range(3, 7)},
        "build_retinanet_convnext_fpn_backbone": {f"p{i}": (256, 2**i) for i in range(3, 8)},
    }
    for builder, expected in levels.items():
        backbone = build_backbone(convnext_config(builder, in_features=STAGES[1:])).eval()
        shapes = {n: (s.channels, s.stride) for n, s in backbone.output_shape().items()}
        assert shapes == expected
        maps = backbone(torch.randn(1, 3, 128, 128))
        assert {n: (x.shape[1], 128 // x.shape[2]) for n, x in maps.items()} == expected


def test_the_top_level_follows_the_last_stage_that_the_fpn_takes():
    backbone = build_backbone(convnext_config(in_features=["stage1", "stage2"]))
    assert list(backbone(torch.randn(1, 3, 64, 64))) == ["p2", "p3", "p4"]
    assert len(backbone.bottom_up.stages) == 2


def test_every_key_reaches_the_backbone():
    cfg = convnext_config("build_convnext_backbone", version=1)
    node = cfg.MODEL.CONVNEXT
    node.ARCH, node.DEPTHS, node.DIMS = "custom", [1, 1, 2], [8, 16, 24]
    node.PATCH_SIZE, node.OUTPUT_STRIDE = 2, 4
    node.OUT_FEATURES = ["stem", "stage3"]
    node.DROP_PATH_RATE, node.LAYER_SCALE_INIT_VALUE = 0.3, 0.5
    node.OUTPUT_NORM, node.WITH_CP, node.IGNORE_PADDING = False, True, True
    cfg.MODEL.PIXEL_MEAN = [0.0] * 5
    cfg.MODEL.BACKBONE.FREEZE_AT = 2
    backbone = build_backbone(cfg)
    assert (backbone.depths, backbone.dims) == ((1, 1, 2), (8, 16, 24))
    assert backbone.output_shape() == {
        "stem": ShapeSpec(channels=8, stride=2),
        "stage3": ShapeSpec(channels=24, stride=4),
    }
    assert backbone.downsample_layers[0][0].in_channels == 5
    assert backbone.stages[2][1].drop_path.rate == pytest.approx(0.3)
    assert (backbone.stages[0][0].gamma == 0.5).all()
    assert not backbone.output_norm
    assert backbone.with_cp
    assert backbone.ignore_padding
    assert backbone.frozen_stages == 1


def test_the_keys_of_the_fpn_reach_it():
    cfg = convnext_config()
    cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM, cfg.MODEL.FPN.FUSE_TYPE = 64, "GN", "avg"
    fpn = build_backbone(cfg)
    assert fpn.output_shape()["p2"].channels == 64
    assert isinstance(fpn.fpn_output2.norm, torch.nn.GroupNorm)
    assert fpn._fuse_type == "avg"


def refused(cfg, match: str) -> None:
    with pytest.raises(UserError, match=match):
        build_backbone(cfg)


def test_stem_and_stage1_in_one_fpn_are_refused_with_the_reason():
    in_features = ["stem", "stage1", "stage2"]
    refused(
        convnext_config(in_features=in_features), r"strides \[4, 4, 8\].*twice.*stem and stage1"
    )
    bottom_up = ConvNeXt("atto", out_features=in_features)
    with pytest.raises(AssertionError, match="Strides 4 4 are not log2 contiguous"):
        FPN(bottom_up, in_features, 8)  # Detectron2's own words, in a LazyConfig
    assert build_backbone(convnext_config(in_features=["stem", "stage2"])).size_divisibility == 8


def test_contradictions_in_a_config_are_refused():
    cfg = convnext_config()
    cfg.MODEL.CONVNEXT.OUT_FEATURES = STAGES[2:]
    refused(cfg, "OUT_FEATURES=.* and MODEL.FPN.IN_FEATURES=.* disagree")
    cfg = convnext_config()
    cfg.MODEL.CONVNEXT.DEPTHS = [1, 1]
    refused(cfg, "ARCH='atto' has its own DEPTHS and DIMS; .* 'custom'")
    cfg = convnext_config(version=3)
    refused(cfg, "VERSION must be 1 or 2, got 3")
    refused(convnext_config(in_features=[]), "IN_FEATURES is empty")


def test_unknown_keys_and_names_are_refused_with_the_valid_ones():
    cfg = convnext_config()
    cfg.MODEL.CONVNEXT.DROP_PATH = 0.1
    refused(cfg, r"no key 'DROP_PATH'; did you mean 'DROP_PATH_RATE'\? Valid: .*'DROP_PATH_RATE'")
    with pytest.raises(ValueError, match=r"'res2'; .*valid: .*'stage1'"):
        build_backbone(convnext_config(in_features=["res2", "res3"]))
    cfg = get_cfg()
    cfg.MODEL.BACKBONE.NAME = "build_convnext_backbone"
    refused(cfg, r"call .*add_convnext_config\(cfg\)")
    with pytest.raises(TypeError, match="write freeze_at=k"):
        ConvNeXt("atto", frozen_stages=1)


def test_all_unknown_keys_and_options_are_refused_at_once():
    cfg = convnext_config()
    cfg.MODEL.CONVNEXT.DEPTH = cfg.MODEL.CONVNEXT.NORM = 1
    refused(cfg, "no key 'DEPTH', 'NORM';")
    with pytest.raises(
        UserError,
        match=r"no option 'num_heads': where a LazyConfig inherits .* replace that backbone.*"
        r"'in_chans': write in_channels; 'use_checkpoint': write with_cp; "
        r"'frozen_stages': write freeze_at=k \+ 1 .* 0 to freeze nothing",
    ) as e:
        ConvNeXt("atto", in_chans=3, num_heads=4, use_checkpoint=True, frozen_stages=-1)
    assert "'freeze_at'" in str(e.value)
    assert "'frozen_stages'," not in str(e.value)


# ---- freezing


def frozen_parts(parts) -> list[bool]:
    frozen = [[not p.requires_grad for p in part.parameters()] for part in parts]
    assert all(len(set(part)) == 1 for part in frozen)  # a part is frozen as a whole
    return [part[0] for part in frozen]


@VERSIONS
@pytest.mark.parametrize("freeze_at", range(6))
def test_freeze_at_freezes_the_stem_and_stages_that_it_freezes_in_a_resnet(version, freeze_at):
    cfg = convnext_config("build_convnext_backbone", version)
    cfg.MODEL.BACKBONE.FREEZE_AT = freeze_at
    cfg.MODEL.CONVNEXT.OUT_FEATURES = ["stem", *STAGES]
    ours = build_backbone(cfg)
    cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res5"]
    cfg.MODEL.RESNETS.NORM = "BN"
    resnet = build_backbone(cfg)
    expected = frozen_parts([resnet.stem, resnet.res2, resnet.res3, resnet.res4, resnet.res5])
    assert frozen_parts([ours.downsample_layers[0], *ours.stages]) == expected
    assert (
        frozen_parts([ours.norm_stem, ours.norm0, ours.norm1, ours.norm2, ours.norm3]) == expected
    )
    assert frozen_parts(ours.downsample_layers) == expected[:1] + expected[2:]
    ours.train()
    assert [ours.downsample_layers[0].training, *(s.training for s in ours.stages)] == [
        not frozen for frozen in expected
    ]


@pytest.mark.parametrize("freeze_at", [-1, 6, True, 1.0])
def test_a_freeze_at_that_does_not_exist_is_refused(freeze_at):
    with pytest.raises(ValueError, match=r"freeze_at .* 1 the stem.*5 all stages"):
        ConvNeXt("atto", freeze_at=freeze_at)


# ---- weights


class Payload:
    """Pickles to a call that leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture
def official_file(tmp_path):
    """A V2-Atto classifier with random weights, saved as the official repository saves it."""
    state = randomised(create_classifier("convnextv2_atto")).state_dict()
    saved = {n: v.reshape(1, 1, 1, -1) if ".grn." in n else v for n, v in state.items()}
    path = tmp_path / "convnextv2_atto_1k_224_ema.pt"
    torch.save({"model": saved}, path)
    return path, state


@pytest.fixture
def log(caplog):
    """What Detectron2's loggers print."""
    caplog.set_level(logging.INFO, logger="detectron2")
    return caplog


def segmentor(version=2, in_features=STAGES, num_classes=54):
    cfg = convnext_config(version=version, in_features=in_features, file=SEMANTIC)
    cfg.MODEL.FPN.OUT_CHANNELS = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM = 32
    cfg.MODEL.SEM_SEG_HEAD.IN_FEATURES = [f"p{STAGES.index(name) + 2}" for name in in_features]
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = num_classes
    return build_model(cfg)


def test_model_weights_takes_an_official_file_with_a_verdict_in_three_lines(official_file, log):
    path, state = official_file
    model = segmentor()
    DetectionCheckpointer(model).load(str(path))
    for name, value in model.backbone.bottom_up.state_dict().items():
        if name in state:
            assert torch.equal(value, state[name]), name
        else:
            assert name.startswith("norm"), name
    (verdict,) = [r.getMessage() for r in log.records if "is convnextv2_atto" in r.getMessage()]
    assert len(verdict.splitlines()) == 3
    assert "norm0" in verdict


def test_pretrained_weights_on_detectron2s_default_pixels_are_warned_of(official_file, log):
    path, _ = official_file
    DetectionCheckpointer(segmentor()).load(str(path))
    assert "PIXEL_STD to [58.395, 57.12, 57.375]" in log.text
    log.clear()
    cfg = convnext_config(file=SEMANTIC)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
    DetectionCheckpointer(build_model(cfg)).load(str(path))
    assert "PIXEL_STD" not in log.text


def test_weights_of_another_network_stop_the_run_and_leave_the_model(official_file):
    path, _ = official_file
    model = segmentor(version=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"this is convnextv2_atto.*the model is convnext_atto"
    ):
        DetectionCheckpointer(model).load(str(path))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["weights.pth", "weights.pkl"])
def test_a_file_that_wants_to_run_code_is_refused_and_does_not(tmp_path, name):
    path, trace = tmp_path / name, tmp_path / "it_ran"
    content = {"model": {"x": torch.ones(2)}, "__author__": Payload(trace)}
    if name.endswith(".pkl"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=name):
        DetectionCheckpointer(segmentor()).load(str(path))
    assert not trace.exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere\.pth"):
        DetectionCheckpointer(segmentor()).load(str(tmp_path / "nowhere.pth"))


def training(model, folder, pictures):
    """A trainer and its checkpointer, as lazyconfig_train_net.py puts them together."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    trainer = SimpleTrainer(model, pictures, optimizer)
    return trainer, DetectionCheckpointer(model, str(folder), trainer=trainer)


def test_detectron2s_own_training_checkpoint_resumes_to_the_same_weights(tmp_path, log):
    pictures = [[picture(64, 64)] for _ in range(4)]
    whole = segmentor(num_classes=CLASSES)
    trainer, checkpointer = training(whole, tmp_path, pictures)
    trainer.train(0, 2)
    checkpointer.save("model_0000001", iteration=1)
    trainer.train(2, 4)

    resumed = segmentor(num_classes=CLASSES)
    trainer, checkpointer = training(resumed, tmp_path, pictures[2:])
    extra = checkpointer.resume_or_load("", resume=True)
    assert extra["iteration"] == 1
    assert "checkpoint of this whole model" in log.text
    trainer.train(extra["iteration"] + 1, 4)
    for name, value in resumed.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name


def test_a_whole_models_checkpoint_fits_all_of_it_or_is_refused(tmp_path):
    path = tmp_path / "segmentor.pth"
    state = segmentor().state_dict()
    torch.save({"model": {**state, "more.weight": torch.ones(1)}}, path)
    with pytest.raises(CheckpointError, match=r"more\.weight has no place in the model.*\?prefix="):
        DetectionCheckpointer(segmentor()).load(str(path))
    for name in ("sem_seg_head.predictor.weight", "backbone.bottom_up.norm0.weight"):
        torch.save({"model": {n: v for n, v in state.items() if n != name}}, path)
        with pytest.raises(CheckpointError, match=f"{re.escape(name)} is missing"):
            DetectionCheckpointer(segmentor()).load(str(path))


def test_a_whole_models_checkpoint_with_another_backbone_is_refused(tmp_path):
    path, state = tmp_path / "segmentor.pth", segmentor().state_dict()
    state["backbone.bottom_up.downsample_layers.0.0.weight"] = torch.zeros(40, 4, 4, 4)
    torch.save({"model": state}, path)
    with pytest.raises(CheckpointError, match=r"is \(40, 4, 4, 4\), not \(40, 3, 4, 4\)"):
        DetectionCheckpointer(segmentor()).load(str(path))


def test_a_file_of_the_backbone_alone_under_the_models_names_is_pretraining_weights(tmp_path):
    path, model = tmp_path / "backbone.pth", segmentor()
    state = randomised(model.backbone.bottom_up).state_dict()
    torch.save({f"backbone.bottom_up.{name}": value for name, value in state.items()}, path)
    other = segmentor()
    DetectionCheckpointer(other).load(str(path))
    assert all(torch.equal(v, state[n]) for n, v in other.backbone.bottom_up.state_dict().items())


def test_detectron2s_predictor_takes_the_weights_of_the_config(tmp_path):
    path = tmp_path / "segmentor.pth"
    cfg = convnext_config(file=SEMANTIC)
    torch.save({"model": randomised(build_model(cfg)).state_dict()}, path)
    cfg.MODEL.WEIGHTS = str(path)
    predictor = DefaultPredictor(cfg)
    state = torch.load(path)["model"]
    assert all(torch.equal(v, state[n]) for n, v in predictor.model.state_dict().items())
    assert predictor(numpy.zeros((40, 50, 3), numpy.uint8))["sem_seg"].shape[1:] == (40, 50)


def test_a_head_of_another_size_stays_new_and_is_named(tmp_path, log):
    path, model = tmp_path / "segmentor.pth", segmentor(num_classes=54)
    state = randomised(model).state_dict()
    torch.save({"model": state}, path)
    other = segmentor(num_classes=3)
    DetectionCheckpointer(other).load(str(path))
    head = {"sem_seg_head.predictor.weight", "sem_seg_head.predictor.bias"}
    assert "new: sem_seg_head.predictor: 54 -> 3 classes" in log.text
    for name, value in other.state_dict().items():
        assert (name in head) != (
            value.shape == state[name].shape and torch.equal(value, state[name])
        )


def test_the_backbone_alone_is_taken_from_a_checkpoint_by_its_prefix(tmp_path):
    path, model = tmp_path / "segmentor.pth", segmentor()
    torch.save({"model": randomised(model).state_dict()}, path)
    other = build_backbone(convnext_config())
    DetectionCheckpointer(other).load(f"{path}?prefix=backbone.bottom_up")
    expected = model.backbone.bottom_up.state_dict()
    assert all(torch.equal(v, expected[n]) for n, v in other.bottom_up.state_dict().items())


def test_models_without_a_convnext_load_as_they_did(tmp_path):
    cfg = convnext_config("build_resnet_backbone")
    saved, model = build_backbone(cfg), build_backbone(cfg)
    path = tmp_path / "resnet.pkl"
    arrays = {name: value.numpy() for name, value in saved.state_dict().items()}
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "a test"}))
    DetectionCheckpointer(model).load(str(path))
    assert all(torch.equal(v, saved.state_dict()[n]) for n, v in model.state_dict().items())


# ---- the same network in both frameworks


@VERSIONS
def test_the_openmmlab_and_the_detectron2_backbone_are_the_same_network(version):
    pytest.importorskip("mmengine", reason="MMEngine is not installed")
    from convnext_backbones.adapters.openmmlab import backbone as openmmlab

    options = dict(arch="atto", out_features=("stem", *STAGES))
    ours = randomised(backbone_class(version)(**options), torch.float64)
    theirs = (openmmlab.ConvNeXtV2 if version == 2 else openmmlab.ConvNeXt)(**options).double()
    theirs.load_state_dict(ours.state_dict())
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    images = random_images(2, 3, 70, 90, dtype=torch.float64)
    maps = list(ours.train()(images).values())
    their_maps = theirs.train()(images)
    for x, y in zip(maps, their_maps, strict=True):
        assert torch.equal(x, y)
    for model, outputs in ((ours, maps), (theirs, their_maps)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.05)
        sum((x**3).mean() for x in outputs).backward()
        optimizer.step()
    after = theirs.state_dict()
    for name, value in ours.state_dict().items():
        assert not torch.equal(value, before[name]), name
        assert torch.allclose(value, after[name], rtol=0, atol=1e-9), name


# ---- Detectron2's models with this backbone

CLASSES = 4
RCNNS = {
    "faster_rcnn": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "mask_rcnn": MASK_RCNN,
    "cascade_mask_rcnn": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
    "panoptic_fpn": "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.yaml",
    "pointrend": MASK_RCNN,
}
SEGMENTORS = ["sem_seg_fpn", "sem_seg_without_fpn", "pointrend_sem_seg"]
MODELS = [*RCNNS, "retinanet", "fcos", *SEGMENTORS]


def model_with(backbone: str, name: str):
    """A model of Detectron2, narrow, with ConvNeXt, ConvNeXtV2 or, to compare, ResNet-18."""
    torch.manual_seed(0)
    network = "resnet" if backbone == "ResNet" else "convnext"
    features = [f"res{i}" for i in range(2, 6)] if backbone == "ResNet" else STAGES
    if name in ("retinanet", "fcos"):
        features = features[1:]
    if name == "fcos":
        return _fcos(backbone, features)
    builder, file = f"build_{network}_fpn_backbone", RCNNS.get(name, SEMANTIC)
    if name == "retinanet":
        builder = f"build_retinanet_{network}_fpn_backbone"
        file = "COCO-Detection/retinanet_R_50_FPN_1x.yaml"
    if name == "sem_seg_without_fpn":
        builder = f"build_{network}_backbone"
    cfg = convnext_config(builder, 1 if backbone == "ConvNeXt" else 2, features, file)
    m = cfg.MODEL
    m.RESNETS.DEPTH, m.RESNETS.RES2_OUT_CHANNELS, m.RESNETS.OUT_FEATURES = 18, 64, features
    m.FPN.OUT_CHANNELS = m.SEM_SEG_HEAD.CONVS_DIM = m.ROI_MASK_HEAD.CONV_DIM = 32
    m.ROI_BOX_HEAD.FC_DIM = m.ROI_MASK_HEAD.FC_DIM = m.POINT_HEAD.FC_DIM = 32
    m.ROI_HEADS.NUM_CLASSES = m.RETINANET.NUM_CLASSES = CLASSES
    m.SEM_SEG_HEAD.NUM_CLASSES = m.POINT_HEAD.NUM_CLASSES = CLASSES
    m.ROI_HEADS.SCORE_THRESH_TEST = m.RETINANET.SCORE_THRESH_TEST = 0.0
    m.RPN.POST_NMS_TOPK_TEST = cfg.TEST.DETECTIONS_PER_IMAGE = 20
    if name == "pointrend":
        m.ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES = m.ROI_MASK_HEAD.POINT_HEAD_ON = True
        m.ROI_MASK_HEAD.NAME, m.ROI_MASK_HEAD.POOLER_TYPE = "PointRendMaskHead", ""
    if name == "pointrend_sem_seg":
        m.SEM_SEG_HEAD.NAME, m.POINT_HEAD.COARSE_PRED_EACH_LAYER = "PointRendSemSegHead", False
    if name == "sem_seg_without_fpn":
        m.CONVNEXT.OUT_FEATURES = m.SEM_SEG_HEAD.IN_FEATURES = features
    return build_model(cfg)


def _fcos(backbone: str, features: list[str]):
    model = model_zoo.get_config("COCO-Detection/fcos_R_50_FPN_1x.py").model
    if backbone != "ResNet":
        model.backbone.bottom_up = LazyCall(getattr(adapter, backbone))(
            arch="atto", out_features=features
        )
        model.backbone.in_features = features
    model.head.conv_dims = [64]
    model.num_classes = CLASSES
    model.test_score_thresh = 0.0
    model.max_detections_per_image = 20
    return instantiate(model)


def picture(height=96, width=128, boxes=2, fill=None) -> dict:
    """A training sample with all that any of the models wants."""
    corners = torch.tensor([[5.0, 8.0, 45.0, 60.0], [30.0, 20.0, 60.0, 63.0]])[:boxes]
    masks = torch.zeros(boxes, height, width, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, corners.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(corners)
    instances.gt_classes = torch.arange(boxes)
    instances.gt_masks = BitMasks(masks)
    image = torch.rand(3, height, width) * 255
    return dict(
        image=image if fill is None else torch.full_like(image, fill),
        instances=instances,
        sem_seg=torch.randint(0, CLASSES, (height, width)),
    )


def train_step(model, pictures) -> dict[str, float]:
    model.train()
    model.zero_grad()
    with EventStorage():
        losses = model(pictures)
        sum(losses.values()).backward()
    return {name: loss.item() for name, loss in losses.items()}


@torch.no_grad()
def infer(model, pictures) -> list[dict]:
    return model.eval()(pictures)


@BACKBONES
@pytest.mark.parametrize("name", MODELS)
def test_every_model_trains_all_its_parameters_and_infers(name, backbone):
    model = model_with(backbone, name)
    losses = train_step(model, [picture(90, 110), picture(64, 100)])
    assert all(math.isfinite(loss) for loss in losses.values()), losses
    assert [n for n, p in model.named_parameters() if p.grad is None] == []
    assert all(p.grad.isfinite().all() for p in model.parameters())
    pictures = [picture(20, 30, boxes=0), picture(70, 64)]  # the first: less than the last stride
    results = infer(model, pictures)
    for sample, result in zip(pictures, results, strict=True):
        size = tuple(sample["image"].shape[1:])
        if name in SEGMENTORS or name == "panoptic_fpn":
            assert result["sem_seg"].shape == (CLASSES, *size)
        if name not in SEGMENTORS:
            assert result["instances"].image_size == size
    assert name in SEGMENTORS or any(len(result["instances"]) for result in results)


# What may be wrong with a batch, in training and in inference.
ODD_BATCHES = {
    "nothing": [dict()],
    "no boxes": [dict(boxes=0), dict(boxes=0)],
    "no boxes in one": [dict(boxes=0), dict()],
    "nan": [dict(fill=math.nan)],
    "inf": [dict(fill=math.inf)],
    "no pixels": [dict(height=0, width=0, boxes=0)],
    "no images": [],
}


def outcome(step, model, batch) -> str:
    """What a step comes to, in a word: an error, or which of its results are finite."""
    torch.manual_seed(1)
    try:
        results = step(model, [picture(**options) for options in batch])
    except Exception as error:
        return "FloatingPointError" if isinstance(error, FloatingPointError) else "an error"
    if step is train_step:
        return str({name: math.isfinite(loss) for name, loss in results.items()})
    return str([_finite(result) for result in results])


def _finite(result: dict) -> dict:
    found = {}
    if "instances" in result:
        found["instances"] = len(result["instances"]) > 0
        found["boxes"] = bool(result["instances"].pred_boxes.tensor.isfinite().all())
    if "sem_seg" in result:
        found["sem_seg"] = bool(result["sem_seg"].isfinite().all())
    return found


@pytest.mark.parametrize("name", MODELS)
def test_odd_batches_come_to_what_they_come_to_with_detectron2s_resnet(name):
    outcomes = {}
    for backbone in ("ResNet", "ConvNeXt", "ConvNeXtV2"):
        model = model_with(backbone, name)
        outcomes[backbone] = {
            (batch, step.__name__): outcome(step, model, options)
            for batch, options in ODD_BATCHES.items()
            for step in (train_step, infer)
        }
    assert all(
        outcomes["ResNet"]["nothing", step] != "an error" for step in ("train_step", "infer")
    )
    assert outcomes["ConvNeXt"] == outcomes["ResNet"]
    assert outcomes["ConvNeXtV2"] == outcomes["ResNet"]


# ---- TorchScript, as Detectron2's own export tests do it


def model_to_export(backbone: str, name: str):
    """A model whose detections have scores of their own, so that their order is no chance."""
    model = model_with(backbone, name).eval()
    for path, module in model.named_modules():
        if "cls_" in path and hasattr(module, "weight"):
            torch.nn.init.kaiming_normal_(module.weight)
    return model


def assert_same(found, expected) -> None:
    assert len(found) == len(expected) > 0
    assert len(set(expected.scores.tolist())) == len(expected)  # no ties, so their order is theirs
    assert torch.allclose(found.pred_boxes.tensor, expected.pred_boxes.tensor, atol=1e-3)
    assert torch.allclose(found.scores, expected.scores, atol=1e-5)
    assert torch.equal(found.pred_classes, expected.pred_classes)
    if expected.has("pred_masks"):
        assert torch.allclose(found.pred_masks, expected.pred_masks, atol=1e-4)


DETECTED = {"pred_boxes": Boxes, "scores": torch.Tensor, "pred_classes": torch.Tensor}


@BACKBONES
@torch.no_grad()
def test_a_scripted_mask_rcnn_finds_the_same_instances(backbone):
    model = model_to_export(backbone, "mask_rcnn")
    pictures = [dict(image=picture(*size)["image"]) for size in ((96, 128), (60, 70))]
    expected = model.inference(pictures, do_postprocess=False)
    proposed = {"proposal_boxes": Boxes, "objectness_logits": torch.Tensor}
    scripted = scripting_with_instances(model, {**proposed, **DETECTED, "pred_masks": torch.Tensor})
    found = reload_script_model(scripted).inference(pictures, do_postprocess=False)
    for ours, theirs in zip(found, expected, strict=True):
        assert_same(convert_scripted_instances(ours), theirs)


@BACKBONES
@torch.no_grad()
def test_a_scripted_retinanet_finds_the_same_instances(backbone):
    model = model_to_export(backbone, "retinanet")
    pictures = [dict(image=picture(*size)["image"]) for size in ((96, 128), (60, 70))]
    expected = model(pictures)
    found = scripting_with_instances(model, DETECTED)(pictures)
    for ours, theirs, sample in zip(found, expected, pictures, strict=True):
        ours = detector_postprocess(convert_scripted_instances(ours), *sample["image"].shape[1:])
        assert_same(ours, theirs["instances"])


def raw_instances(model, image):
    return model.inference([{"image": image}], do_postprocess=False)[0]


def finished_instances(model, image):
    sample = {"image": image, "height": image.shape[1], "width": image.shape[2]}
    return model([sample])[0]["instances"]


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # Detectron2's own asserts
@BACKBONES
@pytest.mark.parametrize(
    ("name", "inference"),
    [
        ("mask_rcnn", raw_instances),
        ("mask_rcnn", finished_instances),
        ("cascade_mask_rcnn", raw_instances),
        ("retinanet", finished_instances),
    ],
)
@torch.no_grad()
def test_a_traced_model_finds_the_same_instances_at_another_size(
    name, inference, backbone, tmp_path
):
    model = model_to_export(backbone, name)
    image = picture(128, 160)["image"]
    wrapper = TracingAdapter(model, image, inference).eval()
    torch.jit.save(torch.jit.trace(wrapper, (image[:, :70, :90],)), tmp_path / "model.jit")
    found = wrapper.outputs_schema(torch.jit.load(tmp_path / "model.jit")(image))
    assert_same(found, inference(model, image))


@VERSIONS
@torch.no_grad()
def test_a_scripted_bare_backbone_keeps_its_maps_and_its_divisibility(version):
    backbone = randomised(backbone_class(version)("atto", out_features=("stem", "stage3")))

    class Padding(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = backbone

        def forward(self, images: torch.Tensor) -> tuple[dict[str, torch.Tensor], int, int]:
            side = self.backbone.padding_constraints["size_divisibility"]
            return self.backbone(images), self.backbone.size_divisibility, side

    images = random_images(2, 3, 50, 70)
    expected = backbone(images)
    maps, *sides = torch.jit.script(Padding())(images)
    assert sides == [16, 16]
    assert list(maps) == ["stem", "stage3"]
    for name, x in maps.items():
        assert torch.allclose(x, expected[name], atol=1e-5), name
