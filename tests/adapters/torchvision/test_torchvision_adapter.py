"""Our backbones below torchvision's detectors and segmentors."""

import pytest
import torch
import torchvision
from names import share_random_weights
from randomness import random_images, randomised, relative_difference
from torchvision.models.convnext import CNBlockConfig, ConvNeXt_Tiny_Weights
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names
from torchvision.models.segmentation import FCN, DeepLabV3
from torchvision.models.segmentation.deeplabv3 import DeepLabHead
from torchvision.models.segmentation.fcn import FCNHead
from torchvision.ops import FeaturePyramidNetwork, MultiScaleRoIAlign, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from convnext_backbones import ConvNeXtClassifier, create_backbone, create_classifier
from convnext_backbones.adapters.torchvision import (
    anchor_generator,
    check_levels,
    convnext_fpn_backbone,
    convnext_segmentation_backbone,
    torchvision_state_dict,
)
from convnext_backbones.checkpoints import CheckpointError, sources, with_our_names

NAMES = ["convnext_atto", "convnextv2_atto"]
BOTH = pytest.mark.parametrize("name", NAMES)
LATER = ("stage2", "stage3", "stage4")
SMALL = dict(num_classes=3, min_size=64, max_size=64)


def one_stage(name, out_channels=256):
    extra = LastLevelP6P7(320, out_channels)
    return convnext_fpn_backbone(
        name, out_features=LATER, out_channels=out_channels, extra_blocks=extra
    )


def batch():
    box, mask = torch.tensor([[10.0, 10, 50, 50]]), torch.ones(1, 64, 64, dtype=torch.uint8)
    target = dict(boxes=box, labels=torch.tensor([1]), masks=mask)
    return list(random_images(2, 3, 64, 64)), [target, target]


# ---- the pyramid
@BOTH
def test_a_pyramid_is_torchvisions_on_our_maps(name):
    backbone = randomised(convnext_fpn_backbone(name, out_channels=32))
    images = random_images(1, 3, 64, 96)
    fpn = FeaturePyramidNetwork([40, 80, 160, 320], 32, extra_blocks=backbone.fpn.extra_blocks)
    fpn.load_state_dict(backbone.fpn.state_dict())
    with torch.no_grad():
        levels = backbone(images)
        expected = fpn({str(k): x for k, x in enumerate(backbone.body(images))})
    assert list(levels) == list(expected) == list(backbone.levels) == ["0", "1", "2", "3", "pool"]
    for level, x in levels.items():
        assert torch.equal(x, expected[level])
        assert x.shape[1] == backbone.out_channels == 32
    for level in ("0", "1", "2", "3"):
        assert levels[level].shape[-1] == 96 // backbone.levels[level]


@pytest.mark.parametrize(
    ("options", "strides"),
    [
        ({}, {"0": 4, "1": 8, "2": 16, "3": 32, "pool": 64}),
        (dict(out_features=LATER), {"0": 8, "1": 16, "2": 32, "pool": 64}),
        (dict(out_indices=(0, 2)), {"0": 4, "1": 16, "pool": 32}),
        (dict(out_features=("stem", "stage2")), {"0": 4, "1": 8, "pool": 16}),
        (dict(out_features=("stage4",)), {"0": 32, "pool": 64}),
        (dict(output_stride=16, out_indices=(0, 1, 2)), {"0": 4, "1": 8, "2": 16, "pool": 32}),
    ],
)
def test_levels_are_those_of_the_selection(options, strides):
    backbone = convnext_fpn_backbone("convnext_atto", **options)
    assert backbone.levels == strides
    assert list(backbone(torch.zeros(1, 3, 64, 64))) == list(strides)


def test_norms_of_the_pyramid_are_those_that_are_asked_for():
    backbone = convnext_fpn_backbone("convnext_atto", norm_layer=torch.nn.BatchNorm2d)
    assert sum(isinstance(m, torch.nn.BatchNorm2d) for m in backbone.fpn.modules()) == 8


@pytest.mark.parametrize("trainable", [None, 0, 1, 3, 4])
def test_only_the_last_stages_train(trainable):
    backbone = convnext_fpn_backbone("convnext_atto", trainable_stages=trainable)
    stages = [all(p.requires_grad for p in stage.parameters()) for stage in backbone.body.stages]
    count = 4 if trainable is None else trainable
    assert stages == [k >= 4 - count for k in range(4)]
    stem = backbone.body.downsample_layers[0]
    assert all(p.requires_grad == (count == 4) for p in stem.parameters())
    assert all(p.requires_grad for p in backbone.fpn.parameters())


# ---- detectors and segmentors
DETECTORS = {
    "faster": lambda name: FasterRCNN(convnext_fpn_backbone(name, out_channels=16), **SMALL),
    "mask": lambda name: MaskRCNN(convnext_fpn_backbone(name, out_channels=16), **SMALL),
    "three levels": lambda name: FasterRCNN(
        backbone := convnext_fpn_backbone(name, out_features=LATER, out_channels=16),
        rpn_anchor_generator=anchor_generator(backbone), **SMALL,
    ),
    "retinanet": lambda name: RetinaNet(one_stage(name, out_channels=32), **SMALL),
    "fcos": lambda name: FCOS(one_stage(name, out_channels=32), **SMALL),
}  # fmt: skip


@pytest.mark.parametrize("detector", DETECTORS)
@BOTH
def test_a_detector_trains_a_step_in_which_every_parameter_has_a_gradient(name, detector):
    torch.manual_seed(0)
    model = check_levels(DETECTORS[detector](name)).train()
    before = {n: p.detach().clone() for n, p in model.backbone.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    sum(model(*batch()).values()).backward()
    assert [n for n, p in model.backbone.named_parameters() if p.grad is None] == []
    optimizer.step()
    after = dict(model.backbone.named_parameters())
    body = {n: p for n, p in before.items() if n.startswith("body.")}
    assert not [n for n, p in body.items() if torch.equal(p, after[n])]
    with torch.no_grad():
        (found, _) = model.eval()(batch()[0])
    assert {"boxes", "labels", "scores"} <= set(found)


@pytest.mark.parametrize("aux", [False, True])
@pytest.mark.parametrize("segmentor", ["deeplab", "fcn"])
@BOTH
def test_a_segmentor_trains_a_step(name, segmentor, aux):
    backbone = convnext_segmentation_backbone(name, aux=aux)
    assert backbone.strides == {"aux": 8, "out": 8} if aux else {"out": 8}
    make, head = {"deeplab": (DeepLabV3, DeepLabHead), "fcn": (FCN, FCNHead)}[segmentor]
    heads = [head(backbone.channels["out"], 5)]
    heads += [FCNHead(backbone.channels["aux"], 5)] if aux else []
    model = make(backbone, *heads).train()
    maps = model(random_images(2, 3, 64, 64))
    assert {k: tuple(x.shape) for k, x in maps.items()} == dict.fromkeys(
        backbone.names[::-1], (2, 5, 64, 64)
    )
    sum(x.square().mean() for x in maps.values()).backward()
    assert all(p.grad is not None for p in backbone.parameters())


def test_regions_are_pooled_from_our_maps_as_from_contiguous_ones():
    backbone = randomised(convnext_fpn_backbone("convnextv2_atto"))
    with torch.no_grad():
        level = backbone(random_images(1, 3, 64, 64))["0"]
        boxes = [torch.tensor([[2.0, 2, 40, 50]])]
        pooled = [roi_align(x, boxes, 7, 0.25, 2) for x in (level, level.contiguous())]
    assert torch.equal(*pooled)


@pytest.mark.parametrize(
    ("backbone", "options", "default"),
    [
        (convnext_fpn_backbone, {}, lambda b: FasterRCNN(b, **SMALL).rpn.anchor_generator),
        (one_stage, dict(scales=(4, 4 * 2 ** (1 / 3), 4 * 2 ** (2 / 3))),
         lambda b: RetinaNet(b, **SMALL).anchor_generator),
        (one_stage, dict(scales=(1,), aspect_ratios=(1.0,)),
         lambda b: FCOS(b, **SMALL).anchor_generator),
    ],
    ids=["faster", "retinanet", "fcos"],
)  # fmt: skip
def test_anchors_are_torchvisions_where_it_has_defaults(backbone, options, default):
    backbone = backbone("convnext_atto")
    own, expected = anchor_generator(backbone, **options), default(backbone)
    assert own.sizes == expected.sizes
    assert own.aspect_ratios == expected.aspect_ratios


# ---- graphs
@BOTH
def test_selected_features_are_nodes_of_a_feature_extractor(name):
    backbone = randomised(create_backbone(name, out_features=("stage1", "stage4")))
    nodes = get_graph_node_names(backbone)[1]
    assert {"downsample_layers.0.1.permute_1", "norm0.permute_1", "norm3.permute_1"} <= set(nodes)
    extractor = create_feature_extractor(backbone, {"norm0": "a", "norm3": "b", "stages.1": "c"})
    images = random_images(2, 3, 64, 64)
    with torch.no_grad():
        found, expected = extractor(images), backbone(images)
        assert relative_difference(found["a"], expected[0]) <= 2e-5
        assert relative_difference(found["b"], expected[1]) <= 2e-5
        assert relative_difference(found["c"], backbone.stage_maps(images)[2]) <= 2e-5


@pytest.mark.parametrize(
    "make",
    [convnext_fpn_backbone, convnext_segmentation_backbone],
    ids=["pyramid", "named maps"],
)
def test_a_graph_of_torch_fx_gives_the_same_maps(make):
    backbone = randomised(make("convnextv2_atto"))
    images = random_images(1, 3, 64, 64)
    with torch.no_grad():
        graph = torch.fx.symbolic_trace(backbone)
        for level, x in backbone(images).items():
            assert relative_difference(graph(images)[level], x) <= 2e-5, level


# ---- weights
def test_weights_go_to_torchvisions_classifier_and_back():
    arch = {"depths": (1, 2, 3, 1), "dims": (8, 16, 24, 32)}
    own = randomised(ConvNeXtClassifier(arch, version=1, num_classes=5), torch.float64)
    following = [*arch["dims"][1:], None]
    settings = [
        CNBlockConfig(*row) for row in zip(arch["dims"], following, arch["depths"], strict=True)
    ]
    peer = torchvision.models.ConvNeXt(settings, num_classes=5).double().eval()
    peer.load_state_dict(torchvision_state_dict(own))
    again = ConvNeXtClassifier(arch, version=1, num_classes=5).double().eval()
    again.load_state_dict(with_our_names(peer.state_dict(), into=""))
    images = random_images(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert relative_difference(peer(images), own(images)) <= 1e-9
        assert torch.equal(again(images), own(images))


def test_a_published_size_of_torchvision_has_our_parameters():
    with torch.device("meta"):
        own, peer = create_classifier("convnext_tiny"), torchvision.models.convnext_tiny()
    share_random_weights(own, peer, torch.float32)
    theirs, state = torchvision_state_dict(own), peer.state_dict()
    assert theirs.keys() == state.keys()
    assert all(torch.equal(theirs[n], state[n]) for n in state)


def test_torchvisions_enumeration_of_weights_names_a_file(monkeypatch):
    def refuse(url, **_):
        raise CheckpointError(url)

    monkeypatch.setattr(sources, "download", refuse)
    with pytest.raises(CheckpointError, match="convnext_tiny-983f1562"):
        convnext_fpn_backbone("convnext_tiny", pretrained=ConvNeXt_Tiny_Weights.IMAGENET1K_V1)


def test_a_file_of_torchvisions_names_loads_into_a_pyramids_body(tmp_path):
    published = randomised(create_classifier("convnext_atto"))
    torch.save(torchvision_state_dict(published), tmp_path / "atto.pth")
    backbone = convnext_fpn_backbone("convnext_atto", pretrained=tmp_path / "atto.pth").eval()
    images = random_images(1, 3, 64, 64)
    with torch.no_grad():
        maps = published.forward_features(images).hidden_states
        for own, expected in zip(backbone.body.stage_maps(images), maps, strict=True):
            assert torch.equal(own, expected)


# ---- mistakes
def pyramid(**options):
    return convnext_fpn_backbone("convnextv2_atto", **options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: convnext_fpn_backbone("convnextv2_tinny"), "did you mean 'convnextv2_tiny'"),
        (lambda: pyramid(out_features=("stage5",)), "did you mean"),
        (lambda: pyramid(out_indices=(4,)), "valid: -4..3"),
        (lambda: pyramid(out_features=("stem", "stage1")), r"have the strides \(4, 4\)"),
        (lambda: pyramid(output_stride=16), r"\(4, 8, 16, 16\).* or output_stride"),
        (lambda: pyramid(out_channels=0), "out_channels must be a positive whole number"),
        (lambda: pyramid(extra_blocks="pool"), r"such as LastLevelMaxPool\(\)"),
        (lambda: pyramid(extra_blocks=LastLevelP6P7(2048, 256)), r"write LastLevelP6P7\(320, 256\)"),
        (lambda: pyramid(trainable_stages=5), r"0 \(freeze all\) to 4"),
        (lambda: pyramid(frozen_stages=1), "write trainable_stages"),
        (lambda: pyramid(returned_layers=[1]), "no option 'returned_layers'"),
        (lambda: pyramid(pretrained="no.pth"), "there is no such file"),
        (lambda: convnext_segmentation_backbone("convnext_atto", out_indices=(3,)), "leave it out"),
        (lambda: anchor_generator(pyramid(), scales=8), "positive numbers"),
        (lambda: check_levels(FasterRCNN(pyramid(out_features=LATER), **SMALL)),
         r"for 5 levels, the pyramid has 4 \(0, 1, 2, pool\): give rpn_anchor_generator="),
        (lambda: check_levels(RetinaNet(pyramid(out_features=LATER), **SMALL)),
         r"for 5 levels, the pyramid has 4 .* give anchor_generator="),
        (lambda: check_levels(FasterRCNN(
            pyramid(), box_roi_pool=MultiScaleRoIAlign(["p2", "p3"], 7, 2), **SMALL)),
         "takes the levels p2, p3, of which the pyramid has none"),
        (lambda: check_levels(torch.nn.Linear(2, 2)), "the backbone of this Linear"),
        (lambda: torchvision_state_dict(create_classifier("convnextv2_atto")), "only .* V1"),
        (lambda: torchvision_state_dict(create_backbone("convnext_atto")), "without a head"),
    ],
)  # fmt: skip
def test_a_mistake_gets_a_sentence(make, words):
    with pytest.raises(ValueError, match=words):
        make()
