"""from_pretrained, save_pretrained and push_to_hub: whole or refused, from wherever weights come."""

import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from randomness import random_images, randomised, relative_difference
from safetensors.torch import load_file, save_file
from theirs import CLASSIFIERS, CONFIGS, SMALL

from convnext_backbones import create_backbone, create_classifier
from convnext_backbones.adapters.huggingface import (
    ConvNeXtBackbone,
    ConvNeXtBackboneConfig,
    ConvNeXtConfig,
    ConvNeXtForImageClassification,
    ConvNeXtModel,
    load_backbone_weights,
)
from convnext_backbones.adapters.huggingface.card import model_card
from convnext_backbones.checkpoints import convert_checkpoint, load_pretrained, sources
from convnext_backbones.errors import CheckpointError, UserError

CLASSES = [ConvNeXtModel, ConvNeXtForImageClassification, ConvNeXtBackbone]
BOTH = pytest.mark.parametrize("version", [1, 2])
EVERY = pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
IMAGES = random_images(2, 3, 64, 64)


def peer_in(folder, version, shards=False, suffix="safetensors", **fields):
    """A classifier of transformers with random weights, saved in one of its ways."""
    peer = randomised(
        CLASSIFIERS[version](CONFIGS[version](**{**SMALL, "num_labels": 5, **fields}))
    )
    peer.save_pretrained(folder, max_shard_size="10KB" if shards else "5GB")
    if suffix == "bin":  # as transformers 4 wrote them
        for file in folder.glob("*.safetensors"):
            name = file.name.replace("model", "pytorch_model", 1).replace(".safetensors", ".bin")
            torch.save(load_file(file), folder / name)
            file.unlink()
        for index in folder.glob("*.index.json"):
            content = (
                index.read_text()
                .replace("model-", "pytorch_model-")
                .replace(".safetensors", ".bin")
            )
            (folder / "pytorch_model.bin.index.json").write_text(content)
            index.unlink()
    return peer


def equal(one, other):
    state = other.state_dict()
    return one.state_dict().keys() == state.keys() and all(
        torch.equal(value, state[name]) for name, value in one.state_dict().items()
    )


# ---- from where
@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@BOTH
def test_a_folder_saved_by_transformers_gives_its_outputs(tmp_path, version, shards, suffix):
    names = {0: "cat", 1: "dog", 2: "newt"}
    peer = peer_in(
        tmp_path, version, shards, suffix, id2label=names, num_labels=3, drop_path_rate=0.1
    )
    assert len(list(tmp_path.glob(f"*.{suffix}"))) > 1 or not shards
    model, info = ConvNeXtForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert not model.training
    assert model.config.id2label == names
    assert model.config.version == version
    for field in ("depths", "drop_path_rate", "layer_norm_eps", "image_size"):
        assert getattr(model.config, field) == getattr(peer.config, field)
    with torch.no_grad():
        assert relative_difference(model(IMAGES).logits, peer(IMAGES).logits) <= 2e-5
        body = ConvNeXtModel.from_pretrained(tmp_path)
        expected = peer.base_model(IMAGES).pooler_output
        assert relative_difference(body(IMAGES).pooler_output, expected) <= 2e-5


@pytest.mark.parametrize("shards", [False, True], ids=["one file", "shards"])
@EVERY
@BOTH
def test_a_folder_of_ours_loads_again_bit_for_bit(tmp_path, version, kind, shards):
    config = ConvNeXtConfig(version=version, **SMALL, num_labels=5, out_indices=[1, -1])
    model = randomised(kind(config))
    model.save_pretrained(tmp_path, max_shard_size="10KB" if shards else "5GB")
    auto = {
        ConvNeXtModel: transformers.AutoModel,
        ConvNeXtForImageClassification: transformers.AutoModelForImageClassification,
    }
    for way in (kind, auto.get(kind, kind)):
        again = way.from_pretrained(tmp_path)
        assert type(again) is kind
        assert equal(again, model)
        assert again.config.out_features == ["stage1", "stage4"]
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == "convnext_backbones"
    assert saved["architectures"] == [kind.__name__]


@BOTH
def test_parameters_are_saved_under_the_official_names(tmp_path, version):
    model = ConvNeXtForImageClassification(ConvNeXtConfig(version=version, **SMALL))
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors").keys()
    core = ConvNeXtForImageClassification.core_network(model.config).state_dict()
    heads = {"head.weight": "classifier.weight", "head.bias": "classifier.bias"}
    assert saved == {heads.get(name, f"convnext.network.{name}") for name in core}


@EVERY
def test_a_state_dict_can_be_given_instead_of_a_name_and_a_model_can_begin_without_memory(kind):
    config = ConvNeXtConfig(version=2, **SMALL)
    model = randomised(kind(config))
    again = kind.from_pretrained(None, config=config, state_dict=model.state_dict())
    assert equal(again, model)
    with torch.device("meta"):
        empty = kind(config)
    assert all(parameter.is_meta for parameter in empty.parameters())
    empty.to_empty(device="cpu").load_state_dict(model.state_dict())
    assert equal(pickle.loads(pickle.dumps(empty)), model)


@EVERY
@BOTH
def test_our_loader_and_converter_read_what_is_saved(tmp_path, version, kind):
    config = ConvNeXtConfig(
        version=version, **SMALL, num_labels=5, out_features=["stage2", "stage4"]
    )
    model = randomised(kind(config))
    model.save_pretrained(tmp_path / "ours")
    core = kind.core_network(config)
    report = load_pretrained(core, tmp_path / "ours")
    assert report.layout == "convnext_backbones"
    assert not report.reinitialised
    state = core.state_dict()
    assert all(
        torch.equal(model.state_dict()[kind.own_name(n)], value) for n, value in state.items()
    )
    convert_checkpoint(tmp_path / "ours", tmp_path / "theirs", "huggingface")
    family = "ConvNextV2" if version == 2 else "ConvNext"
    peer_class = getattr(transformers, kind.__name__.replace("ConvNeXt", family))
    peer, info = peer_class.from_pretrained(tmp_path / "theirs", output_loading_info=True)
    assert not info["missing_keys"]
    with torch.no_grad():
        own, theirs = model(IMAGES).to_tuple()[0], peer.eval()(IMAGES).to_tuple()[0]
        for one, other in zip(own, theirs, strict=True):
            assert relative_difference(one, other) <= 2e-5


@BOTH
def test_a_file_of_any_layout_tells_its_configuration(tmp_path, version):
    name = "convnextv2_atto" if version == 2 else "convnext_atto"
    core = randomised(create_classifier(name, num_classes=7))
    torch.save({"model": core.state_dict()}, tmp_path / "official.pth")
    model = ConvNeXtForImageClassification.from_pretrained(tmp_path / "official.pth")
    assert (model.config.num_labels, model.config.layer_norm_eps) == (7, 1e-6)
    with torch.no_grad():
        assert torch.equal(model(IMAGES).logits, core(IMAGES))


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Every download of the catalogue gives one file, an atto classifier of 1000 classes."""
    core = randomised(create_classifier("convnextv2_atto"))
    torch.save({"model": core.state_dict()}, tmp_path / "published.pt")
    monkeypatch.setattr(sources, "download", lambda *args, **options: tmp_path / "published.pt")
    return core


@pytest.mark.parametrize(
    "name", ["convnextv2_atto.fcmae_ft_in1k", "facebook/convnextv2-atto-1k-224", "timm/convnextv2_atto.fcmae_ft_in1k"]
)  # fmt: skip
def test_a_name_of_the_catalogue_gives_weights_and_class_names(published, name, caplog):
    with caplog.at_level(logging.INFO):
        model = ConvNeXtForImageClassification.from_pretrained(name)
    with torch.no_grad():
        assert torch.equal(model(IMAGES).logits, published(IMAGES))
    assert model.config.weights == "convnextv2_atto.fcmae_ft_in1k"
    assert model.config.id2label[281] == "tabby"
    assert model.config.label2id["tabby"] == 281
    assert "not for commercial use" in caplog.text


def test_a_configuration_of_the_catalogue_needs_no_download():
    config = ConvNeXtConfig.from_pretrained("convnextv2_tiny.fcmae_ft_in1k", num_labels=4)
    assert config.depths == [3, 3, 9, 3]
    assert (config.version, config.num_labels) == (2, 4)


def test_a_repository_of_the_hub_is_read_from_its_snapshot(tmp_path, monkeypatch):
    peer_in(tmp_path / "snapshot", 2)
    asked = []

    def snapshot_download(repo_id, **options):
        asked.append((repo_id, options["revision"], options["allow_patterns"]))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model = ConvNeXtForImageClassification.from_pretrained("somebody/convnext-newts", revision="v1")
    assert asked == [("somebody/convnext-newts", "v1", asked[0][2])]
    assert "model.safetensors" in asked[0][2]
    assert not any(pattern.endswith(".bin") for pattern in asked[0][2])
    assert model.config.num_labels == 5


def test_a_published_repository_is_read_from_the_hubs_cache_where_its_publisher_cannot_be_reached(
    tmp_path, monkeypatch
):
    peer_in(tmp_path / "snapshot", 1)

    def no_network(*args, **options):
        raise CheckpointError("dl.fbaipublicfiles.com cannot be fetched")

    monkeypatch.setattr(sources, "download", no_network)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *args, **options: str(tmp_path / "snapshot"))  # fmt: skip
    model = ConvNeXtForImageClassification.from_pretrained("facebook/convnext-tiny-224")
    assert model.config.weights == "convnext_tiny.fb_in1k"
    assert model.config.depths == SMALL["depths"]


def test_a_subfolder_is_read(tmp_path):
    peer_in(tmp_path / "inside", 1)
    model = ConvNeXtModel.from_pretrained(tmp_path, subfolder="inside")
    assert model.config.version == 1


# ---- with what
def test_fields_of_the_configuration_are_overridden_at_the_call(tmp_path):
    peer_in(tmp_path, 2)
    backbone = ConvNeXtBackbone.from_pretrained(tmp_path, out_indices=[1, 3], drop_path_rate=0.2)
    assert backbone.out_features == ["stage1", "stage3"]
    assert backbone.network.stages[2][0].drop_path.rate == pytest.approx(0.2 * 3 / 4)


def test_a_head_of_another_size_is_new_only_where_that_is_asked_for(tmp_path):
    peer = peer_in(tmp_path, 2)
    with pytest.raises(
        UserError, match=r"its head has 5 classes, and the model 3.*ignore_mismatched_sizes=True"
    ):
        ConvNeXtForImageClassification.from_pretrained(tmp_path, num_labels=3)
    torch.manual_seed(0)
    model, info = ConvNeXtForImageClassification.from_pretrained(
        tmp_path, num_labels=3, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert info["missing_keys"] == {"classifier.weight", "classifier.bias"}
    assert model.classifier.weight.shape == (3, 32)
    assert model.classifier.weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert not model.classifier.bias.any()
    assert len(model.config.id2label) == 3
    with torch.no_grad():
        expected = peer.base_model(IMAGES).pooler_output
        assert relative_difference(model.base_model(IMAGES).pooler_output, expected) <= 2e-5


def test_a_stem_of_other_images_is_new_only_where_that_is_asked_for(tmp_path):
    peer_in(tmp_path, 1)
    with pytest.raises(UserError, match="first layer takes 3 channels"):
        ConvNeXtModel.from_pretrained(tmp_path, num_channels=4)
    model, info = ConvNeXtModel.from_pretrained(
        tmp_path, num_channels=4, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert info["missing_keys"] == {"network.downsample_layers.0.0.weight"}
    assert model(torch.randn(1, 4, 64, 64)).pooler_output.shape == (1, 32)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_type_of_the_weights_is_kept_or_given(tmp_path, dtype):
    peer = randomised(CLASSIFIERS[2](CONFIGS[2](**SMALL))).to(dtype)
    peer.save_pretrained(tmp_path)
    assert ConvNeXtModel.from_pretrained(tmp_path).dtype == dtype
    assert ConvNeXtModel.from_pretrained(tmp_path, torch_dtype="auto").dtype == dtype
    assert ConvNeXtModel.from_pretrained(tmp_path, dtype=torch.float32).dtype == torch.float32
    assert ConvNeXtModel.from_pretrained(tmp_path, device_map="auto").dtype == dtype


@BOTH
def test_a_backbone_takes_a_classifiers_weights_and_new_norms(tmp_path, version, caplog):
    peer_in(tmp_path, version)
    with caplog.at_level(logging.INFO):
        model, info = ConvNeXtBackbone.from_pretrained(
            tmp_path, out_features=["stage2", "stage4"], output_loading_info=True
        )
    assert {name.split(".")[1] for name in info["missing_keys"]} == {"norm1", "norm3"}
    assert (model.network.norm1.weight == 1).all()
    assert "new: norm1, norm3" in caplog.text


def test_a_configuration_of_transformers_is_taken(tmp_path):
    peer = peer_in(tmp_path, 2)
    model = ConvNeXtForImageClassification.from_pretrained(tmp_path, config=peer.config)
    assert isinstance(model.config, ConvNeXtConfig)
    assert ConvNeXtModel(peer.config).config.version == 2
    assert ConvNeXtModel(transformers.ConvNextConfig(**SMALL)).config.version == 1


def test_a_detector_gets_weights_into_its_backbone(published):
    config = transformers.UperNetConfig(
        backbone_config=ConvNeXtBackboneConfig(variant="convnextv2_atto", out_indices=[1, 2, 3, 4]),
        hidden_size=16, use_auxiliary_head=False,
    )  # fmt: skip
    detector = transformers.UperNetForSemanticSegmentation(config)
    report = load_backbone_weights(detector, "convnextv2_atto.fcmae_ft_in1k")
    assert report.share > 0.99
    state = detector.backbone.network.state_dict()
    assert all(
        torch.equal(state[n], value) for n, value in published.state_dict().items() if n in state
    )
    with pytest.raises(UserError, match="a Linear has 0 ConvNeXtBackbones"):
        load_backbone_weights(torch.nn.Linear(1, 1), "convnextv2_atto.fcmae_ft_in1k")


def test_a_backbone_trained_in_a_detector_is_taken_out_by_our_loader(tmp_path):
    config = transformers.UperNetConfig(
        backbone_config=ConvNeXtBackboneConfig(variant="convnextv2_atto", out_indices=[1, 2, 3, 4]),
        hidden_size=16, use_auxiliary_head=False,
    )  # fmt: skip
    detector = randomised(transformers.UperNetForSemanticSegmentation(config))
    detector.save_pretrained(tmp_path)
    backbone = create_backbone("convnextv2_atto", out_indices=(0, 1, 2, 3))
    report = load_pretrained(backbone, tmp_path)
    assert not report.reinitialised
    assert all(torch.equal(v, detector.backbone.network.state_dict()[n]) for n, v in backbone.state_dict().items())  # fmt: skip


def test_what_a_detectors_file_lacks_of_the_backbone_begins_as_the_core_has_it(tmp_path):
    config = transformers.UperNetConfig(
        backbone_config=ConvNeXtBackboneConfig(version=2, **SMALL, out_indices=[1, 2, 3, 4]),
        hidden_size=16, use_auxiliary_head=False,
    )  # fmt: skip
    detector = randomised(transformers.UperNetForSemanticSegmentation(config))
    detector.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    lost = [n for n in state if n.startswith("backbone") and not n.endswith("dwconv.weight")]
    save_file({n: v for n, v in state.items() if n not in lost}, tmp_path / "model.safetensors", {"format": "pt"})  # fmt: skip
    again = transformers.UperNetForSemanticSegmentation.from_pretrained(tmp_path).state_dict()
    for name in lost:
        value = again[name]
        if value.dim() > 1:
            assert value.std().item() == pytest.approx(0.02, rel=0.5), name
        else:
            assert (value == (1 if "norm" in name and name.endswith("weight") else 0)).all() or (
                ".downsample_layers" in name and value.unique().numel() == 1
            ), name
    assert all(torch.equal(again[n], v) for n, v in state.items() if n not in lost)


# ---- refused
def damaged(folder, change):
    peer_in(folder, 2)
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


STAGE = "convnextv2.encoder.stages.1.layers.0"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(f"{STAGE}.pwconv1.weight"), "1 parameter would stay random"),
        (lambda s: s.update({f"{STAGE}.extra": torch.ones(1)}), "extra has no place in the model"),
        (lambda s: s[f"{STAGE}.dwconv.bias"].fill_(torch.nan), "holds NaN"),
        (lambda s: s.update({f"{STAGE}.dwconv.bias": torch.ones(3)}), r"is \(3,\), not \(16,\)"),
    ],
)
@EVERY
def test_weights_that_are_not_whole_are_refused(tmp_path, kind, change, message):
    damaged(tmp_path, change)
    with pytest.raises(UserError, match=message):
        kind.from_pretrained(tmp_path, ignore_mismatched_sizes=True)


def with_config(folder, **fields):
    peer_in(folder, 2)
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))
    return folder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model_type": "resnet"},
            "model_type='resnet', and a ConvNeXt's is convnext or convnextv2 or",
        ),
        ({"model_type": "convnext"}, "the model is a ConvNeXt V1"),
        ({"depths": [1, 2, 2, 1]}, "the model is a ConvNeXt V2 of depths"),
        ({"kernel_size": 5}, "'kernel_size'=5 is not known"),
    ],
)
def test_a_configuration_of_another_network_is_refused(tmp_path, fields, message):
    with pytest.raises(UserError, match=message):
        ConvNeXtModel.from_pretrained(with_config(tmp_path, **fields))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convnextv2_tini", "no published weights have this name. Did you mean 'convnextv2_tiny"),
        (
            "somebody/convnext-newts",
            "could not be fetched from huggingface.co, which is switched off",
        ),
        ("./nowhere", "there is no such file"),
        ("facebook/convnext-tiny-224", "cannot be fetched"),
    ],
)
def test_a_name_that_nobody_knows_or_cannot_be_fetched_is_a_sentence(
    tmp_path, monkeypatch, name, message
):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def no_network(*args, **options):
        raise UserError("https://dl.fbaipublicfiles.com cannot be fetched: no network")

    monkeypatch.setattr(sources, "download", no_network)
    with pytest.raises(UserError, match=message) as caught:
        ConvNeXtModel.from_pretrained(name)
    assert "\n" not in str(caught.value)
    if name != "facebook/convnext-tiny-224":
        with pytest.raises(UserError, match="no configuration is to be had of this name"):
            ConvNeXtConfig.from_pretrained(name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": "red"}, "has no option 'colour'"),
        ({"variant": "fp16"}, "variant='fp16' is no choice of weights here"),
        ({"out_indices": [7]}, "must be a list of whole numbers from -5 to 4, where 0 is the stem"),
        ({"config": "./nowhere"}, "no configuration is to be had"),
        ({"config": transformers.ResNetConfig()}, "model_type='resnet'"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path, options, message):
    peer_in(tmp_path, 2)
    with pytest.raises(UserError, match=message):
        ConvNeXtBackbone.from_pretrained(tmp_path, **options)


def test_without_transformers_the_classes_say_what_to_install():
    program = (
        "import sys; sys.modules['transformers'] = None\n"
        "from convnext_backbones.adapters import huggingface\n"
        "try: huggingface.ConvNeXtModel\n"
        "except ImportError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "needs transformers, 5.23 or later: pip install" in result.stdout, result.stderr


# ---- to the hub
CARDS = {
    "convnext_tiny.fb_in1k": {"license": "mit"},
    "convnext_tiny.tv_in1k": {"license": "bsd-3-clause"},
    "convnextv2_atto.fcmae_ft_in1k": {"license": "cc-by-nc-4.0"},
    "convnext_tiny.dinov3_lvd1689m": {"license": "other", "license_name": "dinov3-license"},
    None: {"license": None},
}


@pytest.mark.parametrize(("weights", "fields"), CARDS.items(), ids=str)
def test_the_card_tells_the_source_and_licence_of_the_weights(weights, fields):
    model = ConvNeXtForImageClassification(ConvNeXtConfig(version=2, **SMALL, weights=weights))
    card = model_card(model, "somebody/newts", tags=["newts"])
    again = huggingface_hub.ModelCard(str(card))  # its head is YAML that the hub reads
    assert {field: getattr(again.data, field, None) for field in fields} == fields
    assert again.data.pipeline_tag == "image-classification"
    assert {"convnext_backbones", "convnextv2", "newts"} <= set(again.data.tags)
    assert 'ConvNeXtForImageClassification.from_pretrained("somebody/newts")' in again.text
    if weights is None:
        assert "Their licence is for their author to say" in again.text
    else:
        assert f"`{weights}`" in again.text
    assert ("forbids commercial use" in again.text) == (weights == "convnextv2_atto.fcmae_ft_in1k")


class Hub:
    """A hub without a network: what would be uploaded, and to where."""

    def __init__(self, files=()):
        self.files, self.uploaded = set(files), {}

    def create_repo(self, repo_id, **options):
        self.repo_id = repo_id
        return huggingface_hub.RepoUrl(f"https://huggingface.co/{repo_id}")

    def file_exists(self, repo_id, filename, **options):
        return filename in self.files

    def upload_folder(self, *, repo_id, folder_path, **options):
        self.uploaded = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        return f"https://huggingface.co/{repo_id}/commit/1"


@pytest.mark.parametrize("own_card", [False, True], ids=["a new card", "a card of the user's"])
@pytest.mark.parametrize("way", ["push_to_hub", "save_pretrained"])
def test_a_push_uploads_weights_configuration_and_a_card(tmp_path, monkeypatch, way, own_card):
    hub = Hub(["README.md"] if own_card else [])
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda **options: hub)
    model = randomised(ConvNeXtModel(ConvNeXtConfig(**SMALL, weights="convnext_tiny.fb_in1k")))
    if way == "push_to_hub":
        model.push_to_hub("somebody/newts")
    else:
        model.save_pretrained(tmp_path / "newts", push_to_hub=True, repo_id="somebody/newts")
    assert hub.repo_id == "somebody/newts"
    assert {"config.json", "model.safetensors"} <= hub.uploaded.keys()
    assert ("README.md" in hub.uploaded) != own_card
    for name, content in hub.uploaded.items():
        (tmp_path / "again").mkdir(exist_ok=True)
        (tmp_path / "again" / name).write_bytes(content)
    again = ConvNeXtModel.from_pretrained(tmp_path / "again")
    assert equal(again, model)
    assert again.config.weights == "convnext_tiny.fb_in1k"  # so that its card can be written again


# ---- in a training
def test_trainer_takes_a_step_saves_and_goes_on(tmp_path):
    data = [
        {"pixel_values": image, "labels": k % 3}
        for k, image in enumerate(random_images(4, 3, 64, 64))
    ]
    arguments = dict(
        output_dir=str(tmp_path / "run"), max_steps=2, save_steps=1, per_device_train_batch_size=2,
        report_to=[], use_cpu=True, disable_tqdm=True, activation_checkpointing=True,
    )  # fmt: skip
    model = ConvNeXtForImageClassification(ConvNeXtConfig(version=2, **SMALL, num_labels=3))
    before = model.state_dict()["classifier.weight"].clone()
    trainer = transformers.Trainer(
        model, transformers.TrainingArguments(**arguments), train_dataset=data
    )
    trainer.train()
    assert not torch.equal(model.classifier.weight, before)
    again = ConvNeXtForImageClassification.from_pretrained(tmp_path / "run" / "checkpoint-2")
    assert equal(again, model)
    resumed = transformers.Trainer(
        ConvNeXtForImageClassification(model.config),
        transformers.TrainingArguments(**arguments),
        train_dataset=data,
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-1"))
    assert all(
        torch.allclose(value, model.state_dict()[name], atol=1e-6)
        for name, value in resumed.model.state_dict().items()
    )
