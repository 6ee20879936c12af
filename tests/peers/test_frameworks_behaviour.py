"""What the suites of MMDetection, MMSegmentation and Detectron2 ask of any backbone, beside their ResNet."""

import pytest
import timm
import torch
from randomness import random_images, randomised
from torch import nn

pytest.importorskip("mmdet", reason="mmdet is not installed (docs/install.md says how)")
pytest.importorskip("mmseg", reason="mmseg is not installed (docs/install.md says how)")
pytest.importorskip("detectron2", reason="detectron2 is not installed (docs/install.md says how)")

from detectron2.layers import FrozenBatchNorm2d
from fvcore.nn import FlopCountAnalysis
from mmdet.models.backbones import ResNet
from mmdet.models.necks import FPN
from mmengine.model import ExponentialMovingAverage, revert_sync_batchnorm
from mmseg.models.decode_heads import UPerHead

from convnext_backbones import create_classifier
from convnext_backbones.adapters.openmmlab import ConvNeXt, ConvNeXtV2

ARCH = {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}
EVERY = (0, 1, 2, 3)
BOTH = pytest.mark.parametrize("backbone", [ConvNeXt, ConvNeXtV2])


def build(backbone, **options):
    return randomised(backbone(ARCH, out_indices=EVERY, **options))


def shapes(maps):
    return [tuple(x.shape) for x in maps]


@BOTH
def test_maps_have_the_sizes_of_a_resnets_where_32_divides_the_image(backbone):
    """Elsewhere patches floor where the ResNet's padded convolutions round up."""
    ours, resnet = build(backbone), ResNet(18, base_channels=8)
    resnet.eval()
    for size, shortened in (((64, 96), 0), ((70, 93), 1)):
        images = random_images(2, 3, *size)
        with torch.no_grad():
            own = [shape[2:] for shape in shapes(ours(images))]
            theirs = [shape[2:] for shape in shapes(resnet(images))]
        assert own == [(h - shortened, w - shortened) for h, w in theirs]


@BOTH
def test_a_neck_and_a_head_are_built_from_what_the_backbone_tells(backbone):
    ours = build(backbone)
    neck = FPN(list(ours.channels), out_channels=8, num_outs=5)
    head = UPerHead(
        in_channels=list(ours.channels),
        in_index=list(EVERY),
        channels=8,
        num_classes=4,
        norm_cfg=dict(type="GN", num_groups=2),
    )
    images = random_images(2, 3, 70, 93)
    with torch.no_grad():
        maps = ours(images)
        assert isinstance(maps, tuple)
        assert shapes(maps) == [
            (2, c, 70 // s, 93 // s) for c, s in zip(ours.channels, ours.strides, strict=True)
        ]
        assert shapes(neck(maps))[:4] == [(2, 8, *x.shape[2:]) for x in maps]
        assert head(maps).shape == (2, 4, *maps[0].shape[2:])


@pytest.mark.parametrize("frozen_stages", [1, 2, 3, 4])
@BOTH
def test_frozen_stages_are_the_stem_and_as_many_stages_as_in_a_resnet(backbone, frozen_stages):
    ours = build(backbone, frozen_stages=frozen_stages)
    resnet = ResNet(18, base_channels=8, frozen_stages=frozen_stages)
    for mode in (True, False, True):
        assert ours.train(mode) is ours
        resnet.train(mode)
        for i in EVERY:
            theirs = getattr(resnet, f"layer{i + 1}")
            for own in (ours.downsample_layers[i], ours.stages[i]):
                assert own.training == theirs.training
                assert {p.requires_grad for p in own.parameters()} == {
                    p.requires_grad for p in theirs.parameters()
                }
        assert not any(p.requires_grad for p in ours.downsample_layers[0].parameters())
        assert not any(p.requires_grad for p in resnet.conv1.parameters())


@BOTH
def test_frozen_stages_of_0_freeze_nothing_where_a_resnet_freezes_its_stem(backbone):
    resnet = ResNet(18, base_channels=8, frozen_stages=0)
    assert not any(p.requires_grad for p in resnet.conv1.parameters())
    assert all(p.requires_grad for p in build(backbone, frozen_stages=0).train().parameters())


@pytest.mark.parametrize(
    "convert",
    [
        nn.SyncBatchNorm.convert_sync_batchnorm,
        revert_sync_batchnorm,
        FrozenBatchNorm2d.convert_frozen_batchnorm,
    ],
    ids=lambda convert: convert.__name__,
)
@BOTH
def test_what_converts_batch_norms_leaves_the_network_as_it_is(backbone, convert):
    ours, images = build(backbone), random_images(2, 3, 64, 64)
    with torch.no_grad():
        expected, names = ours(images), list(ours.state_dict())
        converted = convert(ours)
        assert list(converted.state_dict()) == names
        for x, y in zip(converted(images), expected, strict=True):
            assert torch.equal(x, y)


@BOTH
def test_mmengines_moving_average_of_weights_is_the_average(backbone):
    ours = build(backbone)
    average = ExponentialMovingAverage(ours, momentum=0.25)
    first = {n: p.clone() for n, p in ours.named_parameters()}
    with torch.no_grad():
        average.update_parameters(ours)  # the first update copies
        for parameter in ours.parameters():
            parameter.mul_(3)
        average.update_parameters(ours)
        for name, parameter in average.module.named_parameters():
            assert torch.allclose(parameter, 1.5 * first[name])
        images = random_images(1, 3, 64, 64)
        assert not torch.allclose(average(images)[0], ours(images)[0])


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_fvcore_counts_as_many_multiplications_as_in_timm(name):
    """Of convolutions and linear layers; timm's smallest sizes have 1x1 convolutions for the latter."""
    images = torch.zeros(1, 3, 224, 224)
    counts = []
    for model in (create_classifier(name), timm.create_model(name)):
        count = FlopCountAnalysis(model.eval(), images).unsupported_ops_warnings(False)
        counts.append(count.by_operator()["conv"] + count.by_operator()["linear"])
    assert counts[0] == counts[1] > 5e8
