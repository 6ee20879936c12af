"""Our models in timm's hands: what timm's own suite asks of every model, and the same numbers as its own.

timm's tests/test_models.py says what a model of timm does; each of its tests that is not about scripting or
downloads has a counterpart here, on the two smallest sizes.
"""

import copy
import pickle
import re
import subprocess
import sys

import pytest
import timm
import torch
from names import under_our_names
from randomness import random_images, randomised, relative_difference
from timm.data import resolve_model_data_config
from timm.models import GraphExtractNet
from timm.models._hub import save_for_hf
from timm.optim import create_optimizer_v2, param_groups_layer_decay
from torch import nn

from convnext_backbones import VARIANTS, create_backbone, create_classifier, prepare_for_inference
from convnext_backbones.adapters.timm import TimmConvNeXt, timm_state_dict
from convnext_backbones.checkpoints import CATALOGUE, load_pretrained
from convnext_backbones.errors import UserError

SMALL = ["convnext_atto", "convnextv2_atto"]
BOTH = pytest.mark.parametrize("name", SMALL)


def ours(name, **options):
    return timm.create_model(f"cb_{name}", **options).eval()


def pair(name, dtype=torch.float64, **options):
    """timm's model with random weights, and ours with the same, given by load_state_dict."""
    peer = randomised(timm.create_model(name, **options), dtype)
    own = ours(name, **options).to(dtype)
    own.load_state_dict(peer.state_dict())
    return own, peer


def images(dtype=torch.float64, size=32, channels=3):
    return random_images(2, channels, size, size, dtype=dtype)


# ---- registration
def test_every_size_is_registered_with_its_published_weights_as_tags():
    assert set(timm.list_models("cb_*")) == {f"cb_{name}" for name in VARIANTS}
    tags = {f"cb_{w.name}" for w in CATALOGUE.values() if w.variant and w.preprocessing is not None}
    assert set(timm.list_pretrained("cb_*")) == tags
    for name in VARIANTS:
        cfg = timm.get_pretrained_cfg(f"cb_{name}")
        assert cfg.num_classes == 1000, name
        assert cfg.file in CATALOGUE, name


@pytest.mark.parametrize("name", VARIANTS)
def test_every_size_has_as_many_parameters_as_timms(name):
    with torch.device("meta"):
        own, peer = timm.create_model(f"cb_{name}"), timm.create_model(name)
    count = sum(p.numel() for p in own.parameters())
    assert count == sum(p.numel() for p in peer.parameters()) == VARIANTS[name].classifier_params
    assert [i["num_chs"] for i in own.feature_info] == [i["num_chs"] for i in peer.feature_info]
    assert [i["reduction"] for i in own.feature_info] == [i["reduction"] for i in peer.feature_info]


@pytest.mark.parametrize(
    "name",
    ["convnext_tiny.fb_in22k_ft_in1k_384", "convnext_nano.d1h_in1k", "convnextv2_tiny.fcmae_ft_in1k",
     "convnextv2_base.fcmae_ft_in22k_in1k_384", "convnext_base.clip_laion2b_augreg_ft_in1k"],
)  # fmt: skip
def test_the_transform_of_a_tag_is_timms(name):
    with torch.device("meta"):
        own = resolve_model_data_config(timm.create_model(f"cb_{name}"))
        peer = resolve_model_data_config(timm.create_model(name))
    assert {key: pytest.approx(value) for key, value in own.items()} == peer


def test_importing_the_adapter_alone_registers_and_the_core_needs_no_timm():
    code = (
        "import sys; import convnext_backbones.adapters.timm as ours; import timm; "
        "assert timm.__file__ != ours.__file__; print(timm.is_model('cb_convnextv2_tiny'))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "True"


def test_without_timm_the_sentence_says_what_to_install():
    code = "import sys; sys.modules['timm'] = None; import convnext_backbones.adapters.timm"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode != 0
    assert "pip install 'convnext_backbones[timm]'" in run.stderr


# ---- forward, backward
@BOTH
def test_a_step_gives_every_parameter_a_gradient(name):
    model = ours(name, num_classes=42, drop_rate=0.1, drop_path_rate=0.1).train()
    logits = model(images(torch.float32))
    assert logits.shape == (2, 42)
    logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", "fast", ""])
@BOTH
def test_logits_and_features_equal_timms(name, pool):
    own, peer = pair(name, num_classes=7, global_pool=pool)
    x = images()
    with torch.no_grad():
        features = own.forward_features(x)
        assert relative_difference(features, peer.forward_features(x)) <= 1e-9
        for pre_logits in (False, True):
            expected = peer.forward_head(peer.forward_features(x), pre_logits=pre_logits)
            head = own.forward_head(features, pre_logits=pre_logits)
            assert relative_difference(head, expected) <= 1e-9
        assert relative_difference(own(x), peer(x)) <= 1e-9


@BOTH
def test_gradients_equal_timms(name):
    own, peer = pair(name, num_classes=7)
    weights = random_images(2, 7, dtype=torch.float64, seed=3)
    for model in (own, peer):
        (model(images()) * weights).sum().backward()
    theirs = under_our_names({n: p.grad for n, p in peer.named_parameters()})
    for parameter, gradient in own.named_parameters():
        assert relative_difference(gradient.grad, theirs[parameter]) <= 1e-9, parameter


@BOTH
def test_names_and_sizes_of_the_default_config_hold(name):
    model = ours(name)
    cfg, state = model.default_cfg, model.state_dict()
    assert model.pretrained_cfg is cfg
    assert {f"{cfg['classifier']}.weight", f"{cfg['first_conv']}.weight"} <= set(state)
    x = torch.zeros(1, *cfg["input_size"])
    with torch.no_grad():
        assert model.forward_features(x).shape[-2:] == cfg["pool_size"]
        assert model(x).shape == (1, cfg["num_classes"])
        model.reset_classifier(0)
        assert model(x).shape == (1, model.num_features)
        model.reset_classifier(0, "")
        assert model(x).shape == (1, model.num_features, *cfg["pool_size"])
        model.reset_classifier(5, "avg")
        assert model(x).shape == (1, 5)
    assert model.get_classifier().weight.shape == (5, model.head_hidden_size)
    assert model.num_classes == 5


def test_a_new_head_is_where_the_network_is():
    model = ours("convnextv2_atto", device="meta", dtype=torch.bfloat16)
    model.reset_classifier(3)
    assert {(p.device.type, p.dtype) for p in model.parameters()} == {("meta", torch.bfloat16)}


# ---- feature maps
@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("indices", [(0, 1, 2, 3), (1, 3), (-2, -1), 2, (0,)], ids=str)
@BOTH
def test_features_only_gives_what_feature_info_says(name, indices, stride):
    options = dict(features_only=True, out_indices=indices, output_stride=stride)
    model, peer = ours(name, **options), timm.create_model(name, **options)
    assert model.feature_info.channels() == peer.feature_info.channels()
    assert model.feature_info.reduction() == peer.feature_info.reduction()
    maps = model(torch.zeros(1, 3, 64, 64))
    assert [x.shape[1] for x in maps] == model.feature_info.channels()
    assert [64 // x.shape[2] for x in maps] == model.feature_info.reduction()
    sum(x.square().sum() for x in maps).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("kind", ["getter", "hook", "fx"])
@BOTH
def test_every_feature_extractor_gives_timms_maps(name, kind):
    own, peer = pair(name)
    extractor = ours(name, features_only=True, out_indices=(0, 2), feature_cls=kind).double()
    parameters = dict(own.named_parameters())
    for parameter, value in extractor.named_parameters():
        start = r"^(model|body|graph_module)\."
        value.data = parameters[re.sub(start, "", parameter)].data
    with torch.no_grad():
        expected = peer.forward_intermediates(images(), [0, 2], intermediates_only=True)
        for x, y in zip(extractor(images()), expected, strict=True):
            assert relative_difference(x, y) <= 1e-9


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize("indices", [None, 2, (0, 2), (-3,)], ids=str)
@BOTH
def test_intermediates_equal_timms(name, indices, early):
    own, peer = pair(name)
    with torch.no_grad():
        last, maps = own.forward_intermediates(images(), indices, stop_early=early)
        expected, theirs = peer.forward_intermediates(images(), indices, stop_early=early)
        assert relative_difference(last, expected) <= 1e-9
        for x, y in zip(maps, theirs, strict=True):
            assert relative_difference(x, y) <= 1e-9


def test_stopping_early_calls_no_later_stage():
    model = ours("convnext_atto")
    model.stages[2].register_forward_pre_hook(lambda *_: pytest.fail("called"))
    model.forward_intermediates(images(torch.float32), [1], stop_early=True)


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("indices", [1, (1,), (-4, -3)], ids=str)
@BOTH
def test_pruning_leaves_what_timms_leaves(name, indices, head):
    own, peer = pair(name)
    kept = [m.prune_intermediate_layers(indices, prune_head=head) for m in (own, peer)]
    assert kept[0] == kept[1]
    assert own.num_features == peer.num_features
    assert sum(p.numel() for p in own.parameters()) == sum(p.numel() for p in peer.parameters())
    with torch.no_grad():
        assert relative_difference(own(images()), peer(images())) <= 1e-9


@BOTH
def test_a_graph_of_fx_and_a_trace_compute_the_same(name):
    model = randomised(ours(name, num_classes=3), torch.float64)
    x = images()
    traced = torch.jit.trace(model, x)
    graph = GraphExtractNet(model, ["head"])
    with torch.no_grad():
        assert relative_difference(traced(x), model(x)) <= 1e-9
        assert relative_difference(graph(x).flatten(1), model(x)) <= 1e-9


def test_checkpointing_of_activations_changes_no_gradient():
    model = randomised(ours("convnextv2_atto", num_classes=3), torch.float64).train()
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        assert all(stage.with_cp == enable for stage in model.stages)
        model.zero_grad()
        model(images()).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters()])
    assert all(map(torch.equal, *gradients))


def test_copies_and_pickles_compute_the_same():
    model = randomised(ours("convnextv2_atto", num_classes=3))
    x = images(torch.float32)
    with torch.no_grad():
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(copied(x), model(x))


def test_a_model_prepared_for_inference_keeps_the_contract():
    model = randomised(ours("convnextv2_atto", num_classes=3))
    fast = prepare_for_inference(model, dtype=torch.float32, compile=False)
    x = images(torch.float32)
    with torch.no_grad():
        assert relative_difference(fast(x), model(x)) <= 2e-5
        (own,), (plain,) = (
            m.forward_intermediates(x, [1], stop_early=True)[1] for m in (fast, model)
        )
    assert relative_difference(own, plain) <= 2e-5


# ---- groups of parameters
def grouped(model, coarse=None):
    """Our name to what an optimizer does with a parameter, or to its number among groups."""
    if coarse is not None:
        layers = timm.models.group_parameters(model, model.group_matcher(coarse), reverse=True)
        return {n: (layers[n],) for n, _ in model.named_parameters()}
    names = {id(p): n for n, p in model.named_parameters()}
    groups = param_groups_layer_decay(
        model, weight_decay=0.05, layer_decay=0.9, no_weight_decay_list=model.no_weight_decay()
        if hasattr(model, "no_weight_decay") else (),
    )  # fmt: skip
    return {
        names[id(p)]: (group["lr_scale"], group["weight_decay"])
        for group in groups
        for p in group["params"]
    }


@pytest.mark.parametrize("coarse", [None, False, True])
@pytest.mark.parametrize("name", ["convnext_tiny", "convnextv2_tiny", *SMALL])
def test_layer_decay_groups_are_timms(name, coarse):
    with torch.device("meta"):
        own, peer = timm.create_model(f"cb_{name}"), timm.create_model(name)
    shapes = dict(peer.named_parameters())
    numbered = {n: k for k, n in enumerate(shapes)}
    tagged = under_our_names({n: torch.full(p.shape, numbered[n]) for n, p in shapes.items()})
    theirs, names = grouped(peer, coarse), list(shapes)
    for parameter, found in grouped(own, coarse).items():
        assert found == theirs[names[int(tagged[parameter].flatten()[0])]], parameter


def test_timms_factory_makes_an_optimizer():
    model = ours("convnextv2_atto")
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.8)
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(model.parameters()))


# ---- weights
@pytest.mark.parametrize("name", [*SMALL, "convnext_tiny", "convnextv2_tiny"])
def test_our_weights_are_those_of_timms_model(name):
    own = randomised(create_classifier(name, num_classes=5), torch.float64)
    peer = timm.create_model(name, num_classes=5).double().eval()
    peer.load_state_dict(timm_state_dict(own))
    with torch.no_grad():
        assert relative_difference(peer(images()), own(images())) <= 1e-9


def test_a_backbones_weights_are_those_of_timms_body():
    own = randomised(create_backbone("convnextv2_atto", output_norm=False))
    peer = timm.create_model("convnextv2_atto")
    missing, unexpected = peer.load_state_dict(timm_state_dict(own), strict=False)
    assert not unexpected
    assert all(key.startswith("head.") for key in missing)


@pytest.mark.parametrize("way", ["checkpoint_path", "overlay", "local-dir"])
@pytest.mark.parametrize("layout", ["ours", "timm"])
def test_a_saved_file_loads_by_each_of_timms_ways(tmp_path, way, layout):
    own, peer = pair("convnextv2_atto", torch.float32, num_classes=5)
    saved, file = {"ours": own, "timm": peer}[layout], tmp_path / "model.pth"
    torch.save({"state_dict": saved.state_dict()}, file)
    if way == "checkpoint_path":
        model = ours("convnextv2_atto", num_classes=5, checkpoint_path=str(file))
    elif way == "overlay":
        overlay = {"file": str(file), "num_classes": 5}
        model = ours("convnextv2_atto", pretrained=True, pretrained_cfg_overlay=overlay)
    else:
        save_for_hf(own, tmp_path, safe_serialization=layout == "timm")
        model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert isinstance(model, TimmConvNeXt)
    for name, value in own.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_timm_reads_our_file_as_weights_of_its_own_model(tmp_path):
    own = randomised(ours("convnextv2_atto", num_classes=5), torch.float32)
    torch.save(own.state_dict(), tmp_path / "ours.pth")
    overlay = {"file": str(tmp_path / "ours.pth"), "num_classes": 5}
    peer = timm.create_model("convnextv2_atto", pretrained=True, pretrained_cfg_overlay=overlay)
    with torch.no_grad():
        x = images(torch.float32)
        assert relative_difference(peer.eval()(x), own(x)) <= 2e-5


@pytest.mark.parametrize("channels", [1, 4])
def test_other_channels_and_classes_take_what_timms_take(tmp_path, channels):
    peer = randomised(timm.create_model("convnext_atto", num_classes=5))
    torch.save(peer.state_dict(), tmp_path / "timm.pth")
    options = dict(
        pretrained=True, in_chans=channels, num_classes=0,
        pretrained_cfg_overlay={"file": str(tmp_path / "timm.pth"), "num_classes": 5},
    )  # fmt: skip
    own, peer = ours("convnext_atto", **options), timm.create_model("convnext_atto", **options)
    with torch.no_grad():
        x = images(torch.float32, channels=channels)
        assert relative_difference(own(x), peer.eval()(x)) <= 2e-5


def test_pretrained_goes_through_the_catalogue(tmp_path, monkeypatch):
    """timm hands the tag's name to our loader, which reads the file where torch's cache has it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    name = "convnextv2_atto.fcmae_ft_in1k"
    published = randomised(create_classifier("convnextv2_atto"))
    torch.save({"model": published.state_dict()}, folder / CATALOGUE[name].filename)
    model = ours("convnextv2_atto", pretrained=True)
    maps = ours("convnextv2_atto", pretrained=True, features_only=True, out_indices=(3,))
    x = images(torch.float32)
    with torch.no_grad():
        assert relative_difference(model(x), published(x)) <= 1e-6
        assert relative_difference(maps(x)[0], published.forward_features(x)[0]) <= 1e-6


def test_our_loader_takes_a_model_of_timms_factory(tmp_path):
    model = ours("convnextv2_atto", num_classes=5)
    torch.save(randomised(create_classifier("convnextv2_atto", num_classes=5)).state_dict(),
               tmp_path / "a.pth")  # fmt: skip
    assert load_pretrained(model, tmp_path / "a.pth").share == 1


def test_a_state_dict_inside_a_larger_model_is_renamed_in_its_place():
    whole = nn.ModuleDict({"trunk": ours("convnext_atto"), "other": nn.Linear(2, 2)})
    peer = nn.ModuleDict({"trunk": timm.create_model("convnext_atto"), "other": nn.Linear(2, 2)})
    whole.load_state_dict(peer.state_dict())
    assert torch.equal(whole["other"].weight, peer["other"].weight)
    stem = peer["trunk"].stem[0].weight
    assert torch.equal(whole["trunk"].downsample_layers[0][0].weight, stem)


# ---- mistakes
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(features_only=True, out_indices=(0, 4)), "4 maps, 0 to 3"),
        (dict(features_only=True, out_indices=(-5,)), "-4 to -1"),
        (dict(features_only=True, out_indices=9), "1 to 4, is the last so many"),
        (dict(features_only=True, out_indices=(2, 0)), r"must rise, each once; write \[0, 2\]"),
        (dict(features_only=True, out_indices="ab"), "out_indices='ab'"),
        (dict(features_only=True, feature_cls="list"), "'getter', 'hook' or 'fx'"),
        (dict(features_only=True, feature_cls=timm.models.FeatureDictNet), "takes a model apart"),
        (dict(global_pool="catavgmax"), "doubles the channels"),
        (dict(global_pool="average"), "did you mean"),
        (dict(output_stride=4), r"one of \(8, 16, 32\)"),
        (dict(drop_rate=2.0), "drop_rate must be between 0 and 1"),
        (dict(stem_type="overlap"), "'stem_type': leave out"),
        (dict(arch="tiny"), "the model's name says it"),
        (dict(in_channels=1), "write in_chans"),
        (dict(frozen_stages=1), "timm.utils.freeze"),
        (dict(act_layer="geluu"), "did you mean 'gelu'"),
        (dict(pretrained_cfg="in22k"), "has no tag 'in22k'"),
        (dict(pretrained=True, cache_dir="x"), "set TORCH_HOME"),
        (dict(pretrained=True, pretrained_cfg_overlay={"file": "no.pth"}), "there is no such file"),
        (
            dict(pretrained=True, pretrained_cfg_overlay={"url": "http://localhost:1/no.pth"}),
            "cannot be fetched",
        ),
    ],
)
def test_a_mistake_gets_a_sentence(options, words):
    with pytest.raises(UserError, match=words):
        timm.create_model("cb_convnextv2_atto", **options)


def test_an_unknown_tag_is_answered_with_those_that_are():
    with pytest.raises(UserError, match="did you mean 'fcmae_ft_in1k'"):
        timm.create_model("cb_convnextv2_atto.fcmae_in1k")


def test_mistakes_after_construction_get_a_sentence():
    model = ours("convnext_atto")
    for mistake, words in (
        (lambda: model.reset_classifier(-1), "whole number from 0"),
        (lambda: model.reset_classifier(3, "median"), "global_pool='median' is unknown"),
        (lambda: model.forward_intermediates(images(torch.float32), output_fmt="NLC"), "'NCHW'"),
        (lambda: model.prune_intermediate_layers([7]), "4 maps"),
        (lambda: torch.jit.script(model), "torch.export takes it"),
        (lambda: model.load_state_dict(timm.create_model("convnext_atto", head_norm_first=True).state_dict()),
         "belong to no parameter of a ConvNeXt"),
    ):  # fmt: skip
        with pytest.raises(UserError, match=words):
            mistake()
