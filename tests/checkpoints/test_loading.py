"""load_pretrained: right, wrong and half-right checkpoints, and what the verdict says."""

import pathlib
import re

import pytest
import timm
import torch
import torchvision
import transformers
from randomness import random_images, random_state, randomised, relative_difference
from safetensors.torch import save_file

from convnext_backbones import ConvNeXt, ConvNeXtV2, create_backbone, create_classifier
from convnext_backbones.checkpoints import (
    CheckpointError,
    inspect_checkpoint,
    inspection,
    load_pretrained,
    reading,
)
from convnext_backbones.checkpoints.layouts import to_layout

NORMS = {f"norm{i}.{kind}" for i in range(4) for kind in ("weight", "bias")}
ALL = (0, 1, 2, 3)


def saved(path, content):
    torch.save(content, path)
    return path


def values(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_a_right_checkpoint_is_reported_in_three_lines(tmp_path):
    source = randomised(create_classifier("convnext_atto"))
    path = saved(tmp_path / "a.pth", {"model": source.state_dict()})
    model = create_backbone("convnext_atto", out_indices=ALL)
    report = load_pretrained(model, path)
    assert (report.layout, report.recognised) == ("official", "convnext_atto")
    assert set(report.reinitialised) == NORMS
    assert set(report.dropped) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert len(report.loaded) + len(NORMS) == len(list(model.parameters()))
    assert 0.99 < report.share < 1
    for name in report.loaded:
        assert torch.equal(model.state_dict()[name], source.state_dict()[name]), name
    lines = str(report).splitlines()
    assert lines == [
        f"pretrained weights: {path} is convnext_atto (official names)",
        "  loaded: 124 of 132 parameters, 99.9 % of the model's bytes; "
        "new: norm0, norm1, norm2, norm3",
        "  not needed from the file: norm, head",
    ]


@pytest.mark.parametrize(
    ("model", "source"),
    [
        ("convnext_atto", "convnext_femto"),
        ("convnext_atto", "convnextv2_atto"),
        ("convnextv2_atto", "convnext_atto"),
        ("convnextv2_femto", "convnextv2_pico"),
    ],
)
def test_another_network_is_refused_and_named(tmp_path, model, source):
    path = saved(tmp_path / "a.pth", create_classifier(source).state_dict())
    ours = create_backbone(model)
    before = values(ours)
    sentence = (
        rf"this is {source} \(official names\); the model is {model}. Nothing was loaded: "
        rf"build {source}, or give a checkpoint of {model}$"
    )
    with pytest.raises(CheckpointError, match=sentence):
        load_pretrained(ours, path)
    assert all(torch.equal(before[n], v) for n, v in ours.state_dict().items())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda s: s.pop("stages.2.3.pwconv1.weight"),
            "1 parameter would stay random, in stages.2.3",
        ),
        (
            lambda s: s.update({"stages.0.0.extra": torch.ones(3)}),
            "extra has no place in the model",
        ),
        (lambda s: s.update({"stages.0.0.norm.weight": torch.ones(3)}), r"is \(3,\), not \(40,\)"),
        (lambda s: s["stages.0.0.norm.weight"].fill_(float("nan")), "holds NaN"),
        (lambda s: s.update({"stages.0.0.gamma": torch.ones(40, dtype=torch.int8)}), "torch.int8"),
        (lambda s: s.update({"stages.1.7.gamma": torch.ones(80)}), "7.gamma has no place"),
    ],
    ids=["missing", "unknown", "shape", "nan", "integers", "depth"],
)
def test_a_half_right_checkpoint_loads_nothing(tmp_path, spoil, message):
    state = create_classifier("convnext_atto").state_dict()
    spoil(state)
    path = saved(tmp_path / "half.pth", state)
    model = create_backbone("convnext_atto")
    before = values(model)
    with pytest.raises(CheckpointError, match=f"Nothing was loaded: .*{message}"):
        load_pretrained(model, path)
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_a_file_without_a_convnext_says_what_it_holds(tmp_path):
    path = saved(tmp_path / "r.pth", {"state_dict": torchvision.models.resnet18().state_dict()})
    with pytest.raises(CheckpointError, match=r"no parameter of a ConvNeXt was recognised.*conv1"):
        load_pretrained(create_backbone("convnext_atto"), path)
    with pytest.raises(CheckpointError, match="recognised; it holds 1 entries such as epoch"):
        load_pretrained(create_backbone("convnext_atto"), saved(tmp_path / "e.pth", {"epoch": 3}))


def test_a_head_of_another_size_stays_new(tmp_path):
    path = saved(tmp_path / "a.pth", create_classifier("convnext_atto").state_dict())
    assert load_pretrained(create_classifier("convnext_atto"), path).share == 1
    report = load_pretrained(create_classifier("convnext_atto", num_classes=7), path)
    assert report.reinitialised == report.dropped == ("head.weight", "head.bias")


def test_a_backbone_file_gives_a_classifier_all_but_norm_and_head(tmp_path):
    path = saved(tmp_path / "a.pth", create_backbone("convnext_atto", out_indices=ALL).state_dict())
    report = load_pretrained(create_classifier("convnext_atto"), path)
    assert set(report.reinitialised) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert set(report.dropped) == NORMS


def test_stages_that_are_not_built_are_dropped(tmp_path):
    source = randomised(create_classifier("convnext_atto"))
    path = saved(tmp_path / "a.pth", source.state_dict())
    model = create_backbone("convnext_atto", out_features=("stem", "stage2"))
    report = load_pretrained(model, path)
    assert set(report.reinitialised) == {
        "norm_stem.weight",
        "norm_stem.bias",
        "norm1.weight",
        "norm1.bias",
    }
    assert any(name.startswith("stages.2.") for name in report.dropped)
    assert torch.equal(model.stages[1][1].gamma, source.stages[1][1].gamma)


def test_what_may_stay_random_is_allowed_by_name(tmp_path):
    path = saved(tmp_path / "a.pth", create_classifier("convnext_atto").state_dict())
    model = create_backbone("convnext_atto", in_channels=4)
    with pytest.raises(
        CheckpointError, match=r"0\.0\.weight is \(40, 3, 4, 4\), not \(40, 4, 4, 4\)"
    ):
        load_pretrained(model, path)
    report = load_pretrained(model, path, allow_random=("downsample_layers.0.0.weight",))
    assert "downsample_layers.0.0.weight" in report.reinitialised
    with pytest.raises(
        CheckpointError, match="allow_random names 'stem', which the model does not"
    ):
        load_pretrained(model, path, allow_random=("stem", "downsample_layers.0.0.weight"))


@pytest.mark.parametrize(
    ("file", "model", "way"),
    [
        (
            {},
            {"in_channels": 4},
            "3 channels in patches of 4x4, the model's 4 channels in patches of 4x4",
        ),
        ({"in_channels": 1}, {}, "1 channel in patches of 4x4, the model's 3 channels"),
        (
            {},
            {"patch_size": 2},
            "3 channels in patches of 4x4, the model's 3 channels in patches of 2x2",
        ),
        ({"patch_size": 2, "in_channels": 6}, {}, "6 channels in patches of 2x2, the model's 3"),
    ],
    ids=str,
)
def test_a_first_layer_of_another_shape_is_refused_with_the_way_on(tmp_path, file, model, way):
    path = saved(tmp_path / "a.pth", create_classifier("convnext_atto", **file).state_dict())
    ours = create_backbone("convnext_atto", **model)
    sentence = (
        rf"The file's first layer takes {way}.*: build the model so, or let that layer start at "
        r'random with load_pretrained\(model, source, allow_random=\("downsample_layers\.0\.0",\)\)'
    )
    with pytest.raises(CheckpointError, match=sentence):
        load_pretrained(ours, path)
    report = load_pretrained(ours, path, allow_random=("downsample_layers.0.0",))
    assert "downsample_layers.0.0.weight" in report.reinitialised


@pytest.mark.parametrize(
    ("file", "model", "way"),
    [
        (None, 1e-6, "The file has no layer scale: build with layer_scale_init_value=None"),
        (1e-6, None, "The file has layer scale: build with layer_scale_init_value=1e-6"),
    ],
)
def test_layer_scale_on_one_side_only_is_refused_with_the_way_on(tmp_path, file, model, way):
    source = create_classifier("convnext_atto", layer_scale_init_value=file)
    path = saved(tmp_path / "a.pth", source.state_dict())
    with pytest.raises(CheckpointError, match=way):
        load_pretrained(create_backbone("convnext_atto", layer_scale_init_value=model), path)


def test_a_refusal_of_something_else_names_no_way_on(tmp_path):
    state = create_classifier("convnext_atto").state_dict()
    del state["stages.2.3.pwconv1.weight"]
    with pytest.raises(CheckpointError, match=r"would stay random, in stages\.2\.3$"):
        load_pretrained(create_backbone("convnext_atto"), saved(tmp_path / "a.pth", state))


class Weight:
    """An object of a class that no reader knows."""


def test_an_object_where_a_tensor_should_be_is_refused_and_elsewhere_it_is_not(tmp_path):
    state = create_classifier("convnext_atto").state_dict()
    hyper_parameters = {"path": pathlib.Path("a")}
    content = {"state_dict": {f"model.{n}": v for n, v in state.items()},
               "hyper_parameters": hyper_parameters}  # fmt: skip
    model = create_backbone("convnext_atto")
    assert load_pretrained(model, saved(tmp_path / "last.ckpt", content)).layout == "official"
    flat = {**state, "path": pathlib.Path("a")}
    assert load_pretrained(model, saved(tmp_path / "flat.pth", flat)).layout == "official"
    before = values(model)
    for name in ("stages.1.1.norm.bias", "head.bias"):
        broken = {"model": {**state, name: Weight()}}
        sentence = (
            rf"Python object \(\S*Weight\) in the place of the tensor {name}, which is not built"
        )
        with pytest.raises(CheckpointError, match=sentence):
            load_pretrained(model, saved(tmp_path / "broken.pth", broken))
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())


def test_a_whole_model_in_a_file_is_named(tmp_path):
    path = saved(tmp_path / "a.pth", {"model": Weight(), "epoch": 3})
    with pytest.raises(
        CheckpointError, match=r"'model' is a Python object \(\S*Weight\), .* save its state_dict"
    ):
        load_pretrained(create_backbone("convnext_atto"), path)


def test_a_checkpoint_is_located_and_read_once(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.pth", create_classifier("convnext_atto").state_dict())
    calls = []
    for module, name in ((inspection, "locate"), (inspection, "read_path"), (reading, "locate")):
        whole = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, f=whole, n=name, **k: calls.append(n) or f(*a, **k)
        )
    load_pretrained(create_backbone("convnext_atto"), path)
    assert calls == ["locate", "read_path"]


def test_dinov3s_own_file_and_averaged_weights_load(tmp_path):
    state = random_state(create_classifier("convnext_atto", num_classes=0))
    twice = {**state, "norms.3.weight": state["norm.weight"], "norms.3.bias": state["norm.bias"]}
    model = create_backbone("convnext_atto", out_indices=ALL)
    report = load_pretrained(
        model, saved(tmp_path / "a.pth", twice), last_norm_from_classifier=True
    )
    assert set(report.dropped) == {"norm.weight", "norm.bias", "norms.3.weight", "norms.3.bias"}
    assert torch.equal(model.norm3.weight, state["norm.weight"])
    averaged = torch.optim.swa_utils.AveragedModel(randomised(create_backbone("convnext_atto")))
    report = load_pretrained(model, saved(tmp_path / "b.pth", averaged.state_dict()))
    assert "n_averaged" in report.dropped


def test_the_last_output_norm_can_be_the_classifiers(tmp_path):
    source = randomised(create_classifier("convnext_atto"))
    path = saved(tmp_path / "a.pth", source.state_dict())
    model = create_backbone("convnext_atto", out_indices=ALL)
    report = load_pretrained(model, path, last_norm_from_classifier=True)
    assert {"norm3.weight", "norm3.bias"} <= set(report.loaded)
    assert torch.equal(model.norm3.weight, source.norm.weight)
    assert torch.equal(model.norm3.bias, source.norm.bias)
    with pytest.raises(ValueError, match="needs the output norm of the last stage"):
        load_pretrained(create_backbone("convnext_atto", out_indices=(0,)), path,
                        last_norm_from_classifier=True)  # fmt: skip
    path = saved(tmp_path / "b.pth", create_backbone("convnext_atto").state_dict())
    with pytest.raises(CheckpointError, match="has no final norm"):
        load_pretrained(model, path, last_norm_from_classifier=True)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s, "epoch": 3},
        lambda s: {"state_dict": {f"module.{n}": v for n, v in s.items()}, "optimizer": {"lr": 1}},
        lambda s: {"model": {"module": {f"backbone.{n}": v for n, v in s.items()}}},
        lambda s: {"state_dict": {f"_orig_mod.backbone.bottom_up.{n}": v for n, v in s.items()}},
        lambda s: {"meta": {"a": 1}, "state_dict": {f"backbone.{n}": v for n, v in s.items()}
                   | {"neck.conv.weight": torch.ones(2), "rpn_head.rpn_cls.bias": torch.ones(1)}},
    ],
    ids=["bare", "model", "module", "nested", "compiled", "detector"],
)  # fmt: skip
def test_any_wrapping_is_seen_through(tmp_path, wrap):
    source = randomised(create_classifier("convnextv2_atto"))
    path = saved(tmp_path / "a.pth", wrap(source.state_dict()))
    model = create_backbone("convnextv2_atto", output_norm=False)
    report = load_pretrained(model, path)
    assert report.share == 1
    state = source.state_dict()
    assert all(torch.equal(v, state[n]) for n, v in model.state_dict().items())


def test_averaged_weights_are_taken_when_asked_for_and_named_when_not(tmp_path):
    plain, averaged = (random_state(create_classifier("convnext_atto"), seed=k) for k in (0, 1))
    path = saved(tmp_path / "a.pth", {"model_ema": averaged, "model": plain})
    model = create_classifier("convnext_atto")
    report = load_pretrained(model, path)
    assert str(report).endswith("not needed from the file: nothing; not taken: model_ema")
    assert torch.equal(model.head.weight, plain["head.weight"])
    load_pretrained(model, path, section="model_ema")
    assert torch.equal(model.head.weight, averaged["head.weight"])
    with pytest.raises(
        CheckpointError, match=r"has no entry 'ema'.*its entries are model_ema, model"
    ):
        load_pretrained(model, path, section="ema")


def test_two_networks_in_a_file_need_a_choice(tmp_path):
    plain, other = (random_state(create_classifier("convnext_atto"), seed=k) for k in (0, 1))
    content = {f"student.{n}": v for n, v in plain.items()}
    content |= {f"teacher.{n}": v for n, v in other.items()}
    path = saved(tmp_path / "a.pth", content)
    model = create_classifier("convnext_atto")
    with pytest.raises(CheckpointError, match=r"holds 2 ConvNeXts.*'student\.', 'teacher\.'"):
        load_pretrained(model, path)
    load_pretrained(model, path, prefix="teacher")
    assert torch.equal(model.head.weight, other["head.weight"])
    with pytest.raises(CheckpointError, match="whose names start with 'backbone'"):
        load_pretrained(model, path, prefix="backbone")


def test_a_file_that_contains_itself_is_read_once(tmp_path):
    content = {"epoch": 3}
    content["model"] = content
    with pytest.raises(CheckpointError):
        load_pretrained(create_backbone("convnext_atto"), saved(tmp_path / "c.pth", content))


def test_a_model_that_cannot_take_weights_is_refused(tmp_path):
    path = saved(tmp_path / "a.pth", create_classifier("convnext_atto").state_dict())
    with torch.device("meta"):
        model = create_backbone("convnext_atto")
    with pytest.raises(ValueError, match="meta device"):
        load_pretrained(model, path)
    with pytest.raises(TypeError, match=r"got a ResNet; give the backbone inside it"):
        load_pretrained(torchvision.models.resnet18(), path)


def test_half_precision_files_load_into_float32_models(tmp_path):
    state = random_state(create_classifier("convnext_atto"), torch.bfloat16)
    path = tmp_path / "a.safetensors"
    save_file(state, path)
    model = create_classifier("convnext_atto")
    load_pretrained(model, path)
    assert torch.equal(model.head.weight, state["head.weight"].float())


# A file of each peer, as the peer itself writes it.


def hugging_face(version):
    kind = "ConvNextV2" if version == 2 else "ConvNext"
    config = getattr(transformers, f"{kind}Config")(
        depths=[2, 2, 6, 2], hidden_sizes=[40, 80, 160, 320], num_labels=10, layer_norm_eps=1e-6
    )
    return getattr(transformers, f"{kind}ForImageClassification")(config)


PEERS = {
    "timm": lambda version: timm.create_model(
        f"convnext{'v2' * (version - 1)}_atto", num_classes=10
    ),
    "huggingface": hugging_face,
    "torchvision": lambda version: torchvision.models.convnext_tiny(num_classes=10),
}


@pytest.mark.parametrize(
    ("peer", "version"), [("timm", 1), ("timm", 2), ("huggingface", 1), ("huggingface", 2), ("torchvision", 1)]
)  # fmt: skip
def test_a_file_of_a_peer_gives_the_peers_logits(tmp_path, peer, version):
    theirs = randomised(PEERS[peer](version))
    if peer == "huggingface":
        path = tmp_path / "folder"
        theirs.save_pretrained(path)
    else:
        path = saved(tmp_path / "a.pth", theirs.state_dict())
    size = "tiny" if peer == "torchvision" else "atto"
    ours = create_classifier(f"convnext{'v2' * (version - 1)}_{size}", num_classes=10).eval()
    report = load_pretrained(ours, path)
    assert (report.layout, report.share) == (peer, 1)
    images = random_images(2, 3, 64, 64)
    with torch.no_grad():
        expected = theirs(images)
        expected = expected.logits if peer == "huggingface" else expected
        assert relative_difference(ours(images), expected) <= 2e-5


def test_a_clip_trunk_of_open_clip_is_read(tmp_path):
    """open_clip's ConvNeXt is timm's below visual.trunk; the text tower and heads are left."""
    trunk = randomised(timm.create_model("convnext_atto", num_classes=0))
    state = {f"visual.trunk.{n}": v for n, v in trunk.state_dict().items()}
    state |= {"visual.head.proj.weight": torch.ones(4, 320), "logit_scale": torch.ones([]),
              "transformer.resblocks.0.ln_1.weight": torch.ones(4)}  # fmt: skip
    ours = create_backbone("convnext_atto", output_norm=False).eval()
    report = load_pretrained(ours, saved(tmp_path / "open_clip_pytorch_model.bin", state))
    assert (report.layout, report.share) == ("timm", 1)
    images = random_images(1, 3, 64, 64)
    with torch.no_grad():
        assert relative_difference(ours(images)[0], trunk.forward_features(images)) <= 2e-5


@pytest.mark.parametrize("names", ["official", "mmpretrain_backbone"])
def test_a_detector_of_mmengine_gives_its_backbone_with_norms(tmp_path, names):
    source = randomised(create_backbone("convnext_atto", out_indices=ALL))
    body, _ = to_layout(source.state_dict(), names, version=1)
    state = {f"backbone.{n}": v for n, v in body.items()} | {"bbox_head.fc.weight": torch.ones(3)}
    path = saved(tmp_path / "mask_rcnn.pth", {"meta": {"epoch": 1}, "state_dict": state})
    model = create_backbone("convnext_atto", out_indices=ALL)
    report = load_pretrained(model, path)
    assert (report.layout, report.share, report.dropped) == (names, 1, ("bbox_head.fc.weight",))
    assert torch.equal(model.norm2.bias, source.norm2.bias)


def sparse(name: str, value: torch.Tensor) -> tuple[str, torch.Tensor]:
    """A dense parameter as FCMAE's sparse encoder stores it, worked out apart from the tables."""
    if value.dim() == 4 and "stages" in name:  # depthwise (C, 1, K, K) -> (K*K, C)
        value = torch.stack([value[:, 0, y, x] for x in range(7) for y in range(7)])
        name = name.replace(".weight", ".kernel")
    elif value.dim() == 4 and ".0.0." not in name:  # (out, in, K, K) -> (K*K, in, out)
        value = torch.stack([value[:, :, y, x].T for x in range(2) for y in range(2)])
        name = name.replace(".weight", ".kernel")
    elif ".grn." in name or re.search(r"dwconv\.bias|downsample_layers\.[1-3]\.1\.bias", name):
        value = value.reshape(1, -1)
    name = re.sub(r"(stages\.\d+\.\d+\.norm|downsample_layers\.[1-3]\.0)\.", r"\1.ln.", name)
    name = re.sub(r"(pwconv[12])\.", r"\1.linear.", name)
    return f"encoder.{name}", value.contiguous()


def test_a_sparse_fcmae_encoder_becomes_the_dense_network(tmp_path):
    source = ConvNeXtV2("atto")
    dense = {n: torch.randn_like(v) for n, v in source.state_dict().items() if "norm3" not in n}
    file = dict(sparse(name, value) for name, value in dense.items())
    file.update({"mask_token": torch.ones(1, 512, 1, 1), "decoder.0.gamma": torch.ones(3),
                 "proj.weight": torch.ones(2), "pred.bias": torch.ones(2)})  # fmt: skip
    model = ConvNeXtV2("atto")
    report = load_pretrained(model, saved(tmp_path / "fcmae.pt", {"model": file}))
    assert (report.layout, report.recognised) == ("fcmae", "convnextv2_atto")
    assert {name.split(".")[0] for name in report.dropped} == {
        "mask_token",
        "decoder",
        "proj",
        "pred",
    }
    for name, value in dense.items():
        assert torch.equal(model.state_dict()[name], value), name


def test_any_number_of_stages_loads(tmp_path):
    arch = dict(depths=(1, 2, 1), dims=(8, 16, 24))
    source = randomised(ConvNeXt(arch))
    path = saved(tmp_path / "a.pth", source.state_dict())
    file = inspect_checkpoint(path)
    assert (file.network.depths, file.network.dims, file.network.variant) == (
        (1, 2, 1),
        (8, 16, 24),
        None,
    )
    assert str(file) == "a ConvNeXt V1 of depths (1, 2, 1) and dims (8, 16, 24) (official names)"
    assert load_pretrained(ConvNeXt(arch), path).share == 1


@pytest.mark.parametrize("create", [create_backbone, create_classifier])
def test_pretrained_builds_and_loads_in_one_call(tmp_path, create, caplog):
    source = randomised(create_classifier("convnext_atto"))
    path = saved(tmp_path / "mine.pth", source.state_dict())
    with caplog.at_level("INFO", logger="convnext_backbones"):
        model = create("convnext_atto", pretrained=path)
    assert torch.equal(model.stages[3][1].gamma, source.stages[3][1].gamma)
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "mine.pth is convnext_atto (official names)" in caplog.text
    with pytest.raises(CheckpointError, match="this is convnext_atto"):
        create("convnextv2_atto", pretrained=path)


def test_weights_that_forbid_commercial_use_say_so(tmp_path, caplog):
    state = randomised(create_classifier("convnextv2_atto")).state_dict()
    path = saved(tmp_path / "convnextv2_atto_1k_224_ema.pt", {"model": state})
    create_backbone("convnextv2_atto", pretrained=path)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "licence CC-BY-NC-4.0, not for commercial use" in caplog.text


def test_a_name_of_the_catalogue_is_loaded_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    source = randomised(create_classifier("convnextv2_atto"))
    saved(
        tmp_path / "checkpoints" / "convnextv2_atto_1k_224_ema.pt", {"model": source.state_dict()}
    )
    for name in ("convnextv2_atto.fcmae_ft_in1k", "facebook/convnextv2-atto-1k-224"):
        model = create_classifier("convnextv2_atto", pretrained=name)
        assert torch.equal(model.head.weight, source.head.weight)
    with pytest.raises(CheckpointError, match=r"convnextv2_tiny_1k_224_ema\.pt"):
        create_classifier("convnextv2_tiny", pretrained="convnextv2_tiny.fcmae_ft_in1k")
    with pytest.raises(CheckpointError, match=r"Did you mean 'convnextv2_tiny\.fcmae_ft_in1k'"):
        create_classifier("convnextv2_tiny", pretrained="convnextv2_tiny.fcmae_in1k")
