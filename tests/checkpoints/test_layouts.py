"""The name tables: every layout both ways, recognised by names and shapes alone."""

import pytest
import timm
import torch
import torchvision
import transformers
from names import under_our_names
from randomness import random_images, random_state, randomised, relative_difference
from torchvision.models._utils import IntermediateLayerGetter

from convnext_backbones import VARIANTS, ConvNeXtClassifier, create_backbone, create_classifier
from convnext_backbones.checkpoints.layouts import (
    LAYOUTS,
    Found,
    find_layouts,
    from_layout,
    to_layout,
)
from convnext_backbones.network.wrappers import unwrapped

VERSIONS = ("convnext_atto", "convnextv2_atto")
HEADLESS = (
    "fcmae",
    "dinov3",
    "mmpretrain_backbone",
    "timm_features",
    "torchvision_features",
)  # what these tables have no names for


def there_and_back(state, layout, version):
    """Our parameters in a layout's names and shapes, and read again from those alone."""
    theirs, left = to_layout(state, layout, version=version)
    (found,) = find_layouts(theirs)
    again = from_layout(theirs, found)
    assert again.outside == again.dropped == again.unknown == ()
    return again.state, left


@pytest.mark.parametrize("name", VARIANTS)
def test_there_and_back_is_the_identity(name):
    version = VARIANTS[name].version
    with torch.device("meta"):
        model = create_classifier(name)
    state = random_state(model, torch.bfloat16)
    for layout in LAYOUTS:
        again, left = there_and_back(state, layout, version)
        assert set(left) <= {n for n in state if n.startswith(("head.", "norm.", "stages."))}
        if layout not in HEADLESS and (version == 1 or layout != "torchvision"):
            assert not left, layout
        assert again.keys() == state.keys() - set(left), layout
        assert all(torch.equal(value, state[n]) for n, value in again.items()), layout


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("layout", ["official", "huggingface", "mmpretrain_backbone"])
def test_output_norms_go_there_and_back(layout, version):
    name = f"convnext{'v2' if version == 2 else ''}_atto"
    state = random_state(create_backbone(name, out_indices=(0, 1, 2, 3)))
    again, left = there_and_back(state, layout, version)
    assert not left
    assert again.keys() == state.keys()
    assert all(torch.equal(value, state[n]) for n, value in again.items())


def peers():
    """Every variant in every installed peer that has it, on the meta device."""
    for name, variant in VARIANTS.items():
        yield "timm", name, lambda name=name: timm.create_model(name)
        kind = "ConvNextV2" if variant.version == 2 else "ConvNext"
        config = getattr(transformers, f"{kind}Config")(
            depths=list(variant.depths), hidden_sizes=list(variant.dims), num_labels=1000
        )
        model = getattr(transformers, f"{kind}ForImageClassification")
        yield "huggingface", name, lambda model=model, config=config: model(config)
        if variant.version == 1 and variant.size in ("tiny", "small", "base", "large"):
            yield "torchvision", name, lambda name=name: torchvision.models.get_model(name)


@pytest.mark.parametrize(
    ("layout", "name", "build"),
    list(peers()),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_writing_gives_the_peer_every_name_and_shape(layout, name, build):
    version = VARIANTS[name].version
    with torch.device("meta"):
        ours, peer = create_classifier(name).state_dict(), build().state_dict()
    small = name.split("_")[1] in ("atto", "femto", "pico", "nano")
    table = "timm_conv_mlp" if layout == "timm" and small else layout
    theirs, left = to_layout(ours, table, version=version)
    assert not left
    assert {n: v.shape for n, v in theirs.items()} == {n: v.shape for n, v in peer.items()}


def test_dinov3_of_transformers_is_read_whole():
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    peer = transformers.DINOv3ConvNextModel(config)
    ours = under_our_names(peer.state_dict())
    arch = dict(depths=(1, 1, 2, 1), dims=(8, 16, 24, 32))
    model = ConvNeXtClassifier(arch, version=1, num_classes=0)
    model.load_state_dict(ours)
    model.eval()
    peer.eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        features = model.forward_features(images)
        expected = peer(images)
    # DINOv3 puts the final norm over the pooled token and over every position.
    torch.testing.assert_close(features.pooler_output, expected.pooler_output, rtol=1e-4, atol=1e-5)


def test_old_hugging_face_grn_names_are_read():
    state = random_state(create_classifier("convnextv2_atto"))
    theirs, _ = to_layout(state, "huggingface", version=2)
    old = {n.replace("grn.weight", "grn.gamma").replace("grn.bias", "grn.beta"): v
           for n, v in theirs.items()}  # fmt: skip
    assert old.keys() != theirs.keys()
    again = under_our_names(old)
    assert again.keys() == state.keys()
    assert all(torch.equal(again[n], state[n]) for n in state)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "prefix",
    ["backbone.", "model.backbone.bottom_up.", "visual.trunk.", "encoder_q.0.", "model.model.model.",
     "backbone.conv_encoder.model.", "features.", "body.", "0.", "stages.0.", "encoder."],
)  # fmt: skip
def test_a_layout_is_found_below_any_prefix(layout, prefix):
    version, name = (2, "convnextv2_atto") if layout == "fcmae" else (1, "convnext_atto")
    state = random_state(create_backbone(name, output_norm=False))
    theirs, _ = to_layout(state, layout, version=version)
    theirs = {prefix + n: v for n, v in theirs.items()} | {"head.other": torch.ones(1)}
    (found,) = find_layouts(theirs)
    assert found.layout.name.split("_")[0] == layout.split("_")[0]
    read = from_layout(theirs, found)
    assert read.outside == ("head.other",)
    assert read.state.keys() == state.keys()


def test_every_layout_has_an_anchor_of_its_own():
    anchors = {name: layout.anchor for name, layout in LAYOUTS.items()}
    pairs = [(a, b) for a in anchors for b in anchors if a < b and anchors[a] == anchors[b]]
    assert pairs == [("timm", "timm_conv_mlp"), ("mmpretrain", "mmpretrain_backbone")]


@pytest.mark.parametrize("kind", ["list", "hook", "dict", "getter", "fx"])
@pytest.mark.parametrize("name", VERSIONS)
def test_timms_feature_extractors_are_read(name, kind):
    peer = randomised(timm.create_model(name, features_only=True, feature_cls=kind))
    model = create_backbone(name, out_indices=(0, 1, 2, 3), output_norm=False).eval()
    model.load_state_dict(under_our_names(peer.state_dict()))
    images = random_images(1, 3, 64, 64)
    with torch.no_grad():
        expected = peer.eval()(images)
        expected = list(expected.values()) if isinstance(expected, dict) else expected
        for got, wanted in zip(model(images), expected, strict=True):
            assert relative_difference(got, wanted) <= 2e-5


def test_the_body_of_torchvisions_detectors_is_read():
    whole = torchvision.models.convnext_tiny()
    body = IntermediateLayerGetter(whole.features, {"1": "0", "7": "3"})
    state = {f"backbone.body.{n}": v for n, v in body.state_dict().items()}
    state |= {
        "backbone.fpn.inner_blocks.0.0.weight": torch.ones(1),
        "rpn.head.conv.0.0.bias": torch.ones(1),
    }
    (found,) = find_layouts(state)
    read = from_layout(state, found)
    expected = under_our_names(whole.state_dict())
    assert all(torch.equal(v, expected[n]) for n, v in read.state.items())
    assert read.state.keys() == {n for n in expected if not n.startswith(("norm.", "head."))}
    assert (read.unknown, len(read.outside)) == ((), 2)


NOT_CONVNEXT = ("resnet18", "efficientnet_b0", "mobilenet_v3_small", "swin_t", "maxvit_t",
                "densenet121", "vit_b_16", "mnasnet0_5", "shufflenet_v2_x0_5")  # fmt: skip


@pytest.mark.parametrize("name", NOT_CONVNEXT)
def test_other_networks_have_no_anchor(name):
    with torch.device("meta"):
        state = torchvision.models.get_model(name).state_dict()
    assert find_layouts(state) == []
    assert find_layouts({n.removeprefix("features."): v for n, v in state.items()}) == []


def test_grn_of_every_shape_becomes_one_dimensional():
    for shape in ((1, 1, 1, 8), (1, 8), (8,)):
        state = {"stages.0.0.grn.gamma": torch.arange(8.0).reshape(shape)}
        read = from_layout(state, Found(LAYOUTS["official"], ""))
        assert torch.equal(read.state["stages.0.0.grn.gamma"], torch.arange(8.0))


def test_what_belongs_to_nothing_is_kept_apart():
    state = {
        "backbone.stages.0.0.dwconv.weight": torch.ones(1),
        "backbone.stages.0.0.dwconv.extra": torch.ones(1),
        "backbone.stages.00.0.dwconv.bias": torch.ones(1),
        "neck.conv.weight": torch.ones(1),
    }
    read = from_layout(state, Found(LAYOUTS["official"], "backbone."))
    assert list(read.state) == ["stages.0.0.dwconv.weight"]
    assert read.outside == ("neck.conv.weight",)
    assert read.unknown == ("backbone.stages.0.0.dwconv.extra", "backbone.stages.00.0.dwconv.bias")


@pytest.mark.parametrize("prefix", ["", "backbone.", "model."])
def test_dinov3s_own_files_have_the_final_norm_twice(prefix):
    """facebookresearch/dinov3 registers its norm again as the last of `norms`, after identities."""
    state = random_state(create_classifier("convnext_atto", num_classes=0))
    theirs = {prefix + n: v for n, v in state.items()}
    theirs |= {f"{prefix}norms.3.{p}": state[f"norm.{p}"].clone() for p in ("weight", "bias")}
    (found,) = find_layouts(theirs)
    read = from_layout(theirs, found)
    assert (read.unknown, read.outside) == ((), ())
    assert set(read.dropped) == {f"{prefix}norms.3.weight", f"{prefix}norms.3.bias"}
    assert read.state.keys() == state.keys()
    del theirs[f"{prefix}norm.weight"]
    assert torch.equal(from_layout(theirs, found).state["norm.weight"], state["norm.weight"])
    theirs[f"{prefix}norms.3.bias"] = state["norm.bias"] + 1
    assert from_layout(theirs, found).unknown == (f"{prefix}norms.3.bias",)


@pytest.mark.parametrize("change", ["nothing", "value", "type", "shape", "nan"])
def test_one_parameter_under_two_names_is_one_where_both_are_the_same(change):
    value = torch.rand(8)
    other = {"nothing": value.clone(), "value": value + 1, "type": value.double(), "shape": value[:4],
             "nan": value * torch.nan}[change]  # fmt: skip
    state = {
        "encoder.stages.0.layers.0.grn.weight": value,
        "encoder.stages.0.layers.0.grn.gamma": other,
    }
    read = from_layout(state, Found(LAYOUTS["huggingface"], ""))
    assert (len(read.dropped), len(read.unknown)) == ((1, 0) if change == "nothing" else (0, 1))


def test_the_counters_of_averaged_weights_are_no_parameters():
    model = create_classifier("convnext_atto")
    averaged = torch.optim.swa_utils.AveragedModel(model).state_dict()
    state = {unwrapped(n): v for n, v in averaged.items()}
    (found,) = find_layouts(state)
    read = from_layout(state, found)
    assert (read.dropped, read.unknown) == (("n_averaged",), ())
    assert read.state.keys() == model.state_dict().keys()


def test_two_names_for_one_parameter_are_not_taken_silently():
    state = {"encoder.stages.0.layers.0.grn.weight": torch.ones(8),
             "encoder.stages.0.layers.0.grn.gamma": torch.zeros(8)}  # fmt: skip
    read = from_layout(state, Found(LAYOUTS["huggingface"], ""))
    assert read.unknown == ("encoder.stages.0.layers.0.grn.gamma",)


@pytest.mark.parametrize(
    "name",
    [
        "module.stages.0.0.gamma",
        "_orig_mod.stages.0._checkpoint_wrapped_module.0.gamma",
        "_fsdp_wrapped_module.stages.0._fsdp_wrapped_module.0.gamma",
        "_forward_module.stages.0.0.gamma",
    ],
)
def test_wrappers_are_taken_out_of_names(name):
    assert unwrapped(name) == "stages.0.0.gamma"


def test_torchvision_numbers_must_fit():
    state = {
        "features.1.0.block.0.weight": torch.ones(1),
        "features.2.0.block.0.weight": torch.ones(1),
    }
    read = from_layout(state, Found(LAYOUTS["torchvision"], ""))
    assert list(read.state) == ["stages.0.0.dwconv.weight"]
    assert read.unknown == ("features.2.0.block.0.weight",)
