"""check-weights, by tools/check_pretrained.py, as a user runs it, and the peers that it compares with."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
import transformers
from pictures import picture, write_picture
from PIL import Image
from randomness import random_images, randomised

from convnext_backbones import ConvNeXtClassifier, create_backbone, create_classifier
from convnext_backbones.checkpoints.conversion import TARGETS, convert_checkpoint
from convnext_backbones.cli import check_weights, convert
from convnext_backbones.errors import UserError
from convnext_backbones.lab.imagenet import WORDNET_IDS
from convnext_backbones.lab.peers import PEERS, build_peer, compare
from convnext_backbones.network.preprocessing import IMAGENET_MEAN, IMAGENET_STD

TOOL = Path(__file__).parents[2] / "tools" / "check_pretrained.py"


def checkpoint(path, name="convnextv2_atto", **options):
    """A file in the official layout with random weights."""
    state = randomised(create_classifier(name, **options)).state_dict()
    torch.save({"model": state}, path)
    return path


@pytest.fixture
def check(capfd, monkeypatch):
    """Run the tool in this process: what it prints, once it has exited with `code`."""

    def run(*arguments, code=0):
        monkeypatch.setattr(sys, "argv", [str(TOOL), *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            runpy.run_path(str(TOOL), run_name="__main__")
        printed = "".join(capfd.readouterr())
        assert exit.value.code == code, printed
        assert "Traceback" not in printed
        return printed

    return run


def test_the_options_name_every_peer_and_every_target():
    """Both are written down again, so that --help does without torch."""
    assert tuple(sorted(PEERS)) == check_weights.PEERS
    assert convert.TARGETS == TARGETS


# What it is, and whether it loads whole


def test_a_right_checkpoint_is_named_and_loaded_whole(tmp_path):
    """The tool as a program of its own."""
    path = checkpoint(tmp_path / "mine.pth")
    done = subprocess.run([sys.executable, TOOL, path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    for line in (
        f"file:          {path}",
        "network:       convnextv2_atto: ConvNeXt V2, depths 2 2 6 2, dims 40 80 160 320",
        "names:         official, in the entry 'model'",
        "head:          1000 classes",
        "parameters:    3,708,400",
        "  loaded: 140 of 140 parameters, all of the model's bytes; nothing is new",
        "preprocessing: shortest edge to 256, centre 224x224, bicubic, mean 0.485 0.456 0.406, "
        "std 0.229 0.224 0.225",
    ):
        assert line in done.stdout.splitlines()
    assert "not in it, so that its licence is not known; the official ConvNeXt V2" in done.stdout
    assert "nothing says how this file was trained" in done.stdout


def test_a_file_of_the_catalogue_has_its_licence_and_preprocessing(check, tmp_path):
    path = checkpoint(tmp_path / "convnextv2_atto_1k_224_ema.pt")
    printed = check(path)
    assert "by its name convnextv2_atto.fcmae_ft_in1k: trained on ImageNet-1K" in printed
    assert "licence CC-BY-NC-4.0" in printed
    assert "from the catalogue" in printed


@pytest.mark.parametrize(("size", "classes"), [("tiny", 1000), ("atto", 10)])
def test_a_name_of_the_catalogue_on_another_network_is_noticed(check, tmp_path, size, classes):
    name = f"convnextv2_{size}_1k_224_ema.pt"
    printed = check(checkpoint(tmp_path / name, num_classes=classes))
    assert f"its name is that of convnextv2_{size}.fcmae_ft_in1k" in printed
    assert "which it is not" in printed
    assert "nothing says how this file was trained" in printed


def test_a_hugging_face_folder_has_its_own_preprocessing(check, tmp_path):
    folder = tmp_path / "folder"
    convert_checkpoint(checkpoint(tmp_path / "a.pth"), folder, "huggingface")
    config = folder / "preprocessor_config.json"
    config.write_text(config.read_text().replace('"shortest_edge": 224', '"shortest_edge": 160'))
    printed = check(folder)
    assert "names:         huggingface" in printed
    assert "shortest edge to 182, centre 160x160" in printed
    assert "from preprocessor_config.json" in printed
    printed = check(folder, "--image-size", 384)
    assert "warped to 384x384" in printed
    assert "from preprocessor_config.json and --image-size" in printed


def test_the_section_is_chosen_and_the_others_are_named(check, tmp_path):
    states = {
        section: randomised(create_classifier("convnext_atto", num_classes=n)).state_dict()
        for section, n in (("model", 10), ("model_ema", 20))
    }
    torch.save(states, tmp_path / "run.pth")
    printed = check(tmp_path / "run.pth")
    assert "head:          10 classes" in printed
    assert "also holds 'model_ema': check it with --section model_ema" in printed
    assert "head:          20 classes" in check(tmp_path / "run.pth", "--section", "model_ema")


def test_one_of_two_networks_is_chosen_by_its_prefix(check, tmp_path):
    state = {}
    for prefix, name in (("teacher", "convnext_atto"), ("student", "convnextv2_atto")):
        own = randomised(create_backbone(name)).state_dict()
        state |= {f"{prefix}.{n}": value for n, value in own.items()}
    torch.save(state, tmp_path / "two.pth")
    assert "error: " in check(tmp_path / "two.pth", code=2)
    for prefix, name in (("teacher", "convnext_atto"), ("student", "convnextv2_atto")):
        assert f"network:       {name}: " in check(tmp_path / "two.pth", "--prefix", prefix)


def test_a_wrong_checkpoint_is_refused_with_a_sentence(check, tmp_path):
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet18.pth")
    printed = check(tmp_path / "resnet18.pth", code=2)
    assert re.search(r"error: .*resnet18\.pth: no parameter of a ConvNeXt", printed)


@pytest.mark.parametrize(
    ("lost", "place"),
    [
        ("stages.2.3.grn.gamma", "stages.2.3"),
        ("head.bias", "head"),
        ("norm.", "norm"),
        (("stages.3.", "downsample_layers.3."), "head.weight"),  # which takes 320 channels, not 160
    ],
)
def test_a_half_right_checkpoint_is_refused_with_what_is_missing(check, tmp_path, lost, place):
    path = checkpoint(tmp_path / "half.pth")
    state = torch.load(path)["model"]
    torch.save({n: v for n, v in state.items() if not n.startswith(lost)}, path)
    error = check(path, code=2).partition("error: ")[2]
    assert re.search(rf"half\.pth: .*\b{re.escape(place)}\b", error)
    assert "would stay random" in error


def test_a_lost_block_is_noticed_by_the_widths(check, tmp_path):
    """What is left is a network of its own, which loads whole."""
    path = checkpoint(tmp_path / "half.pth")
    state = torch.load(path)["model"]
    torch.save({n: v for n, v in state.items() if not n.startswith("stages.1.1.")}, path)
    printed = check(path)
    assert "network:       of no published size: ConvNeXt V2, depths 2 1 6 2" in printed
    assert "wide as convnextv2_atto, whose depths are 2 2 6 2" in printed


# Agreement with the peers


PAIRS = [(p, v) for p in PEERS for v in (1, 2) if (p, v) != ("torchvision", 2)]


@pytest.mark.parametrize(("peer", "version"), PAIRS)
def test_the_tool_agrees_with_every_peer(check, tmp_path, peer, version):
    name = "convnext_atto" if version == 1 else "convnextv2_atto"
    printed = check(checkpoint(tmp_path / "a.pth", name), "--peer", peer, "--image-size", 64)
    assert re.search(rf"with {peer} [\d.]+\S* on 8 random pictures: same top-1 on 8", printed)
    assert re.search(r"logits differ by at most \S+, .* tolerance 0.0001 of that: agrees", printed)
    assert ("eps 1e-12 in the final norm" in printed) == (peer == "transformers")


@pytest.mark.parametrize("peer", PEERS)
def test_a_backbone_agrees_in_its_pooled_features(check, tmp_path, peer):
    state = randomised(create_backbone("convnext_atto", out_indices=(0, 1, 2, 3))).state_dict()
    torch.save({"state_dict": {f"backbone.{n}": v for n, v in state.items()}}, tmp_path / "d.pth")
    printed = check(tmp_path / "d.pth", "--peer", peer, "--image-size", 64)
    assert "head:          none, this is a backbone" in printed
    assert re.search(r"pooled features differ by at most .*: agrees", printed)
    printed = check(tmp_path / "d.pth", "--data", tmp_path, code=2)
    assert "has no head, so that it predicts no class; leave out --data" in printed


def test_a_peer_that_renames_weights_wrongly_disagrees(check, tmp_path, monkeypatch):
    """timm's converter with a fault put into it: GRN's gamma and beta change places."""
    convert = timm.models.convnext.checkpoint_filter_fn

    def faulty(state, model):
        swapped = {n.replace("grn.gamma", "?").replace("grn.beta", "grn.gamma"): v
                   for n, v in state.items()}  # fmt: skip
        return convert({n.replace("?", "grn.beta"): v for n, v in swapped.items()}, model)

    monkeypatch.setattr(timm.models.convnext, "checkpoint_filter_fn", faulty)
    path = checkpoint(tmp_path / "a.pth")
    printed = check(path, "--peer", "timm", "--image-size", 64, code=1)
    assert "DISAGREES" in printed


@pytest.mark.parametrize("part", ["stages.1.1.pwconv2.bias", "norm.weight", "head.bias"])
def test_one_changed_parameter_is_a_disagreement(part):
    ours = randomised(create_classifier("convnext_atto"))
    peer = build_peer("torchvision", ours)
    images = [random_images(2, 3, 64, 64)]
    assert compare(ours, peer, images).agrees
    parameter = ours.get_parameter(part)
    parameter.data = parameter.data.clone()
    parameter.data[0] -= 1.0
    assert not compare(ours, peer, images).agrees


def test_small_features_agree_although_transformers_has_another_eps():
    """A spread of 1e-4 under an eps of 1e-12, or of 1e-6, gives features of another size."""
    ours = randomised(create_classifier("convnextv2_atto", num_classes=0))
    blocks = [block.pwconv2 for block in ours.stages[3]]
    for layer in (ours.downsample_layers[3][1], *blocks):
        for parameter in layer.parameters():
            parameter.data *= 1e-4
    images = random_images(2, 3, 64, 64)
    assert compare(ours, build_peer("transformers", ours), [images]).agrees
    with torch.no_grad():
        official = ours(images)
        ours.norm.eps = 1e-12
        assert (ours(images) - official).abs().max() > 0.1


def test_a_network_of_other_inputs_without_layer_scale_is_checked_whole(check, tmp_path):
    path = checkpoint(tmp_path / "a.pth", "convnext_atto", in_channels=4, patch_size=2,
                      layer_scale_init_value=None)  # fmt: skip
    printed = check(path, "--peer", "transformers", "--image-size", 32)
    assert "nothing is new" in printed
    assert "tolerance 0.0001 of that: agrees" in printed


def test_nan_is_a_disagreement_and_our_eps_is_put_back():
    ours = randomised(create_classifier("convnextv2_atto"))
    peer = build_peer("transformers", ours)
    ours.head.bias.data[0] = float("nan")
    assert not compare(ours, peer, [random_images(1, 3, 64, 64)]).agrees
    assert ours.norm.eps == 1e-6


@pytest.mark.parametrize(
    ("peer", "options"),
    [
        ("timm", {"version": 2, "arch": {"depths": (1, 1, 2, 1), "dims": (8, 16, 24, 32)}}),
        ("timm", {"version": 1, "in_channels": 4, "layer_scale_init_value": None}),
        ("transformers", {"version": 2, "arch": {"depths": (1, 2), "dims": (8, 16)}}),
        ("transformers", {"version": 1, "in_channels": 4, "patch_size": 2,
                          "layer_scale_init_value": None, "num_classes": 0}),
        ("torchvision", {"version": 1, "arch": {"depths": (2, 1, 1), "dims": (8, 16, 24)}}),
    ],
)  # fmt: skip
def test_networks_of_no_published_size_agree(peer, options):
    ours = randomised(ConvNeXtClassifier(**{"arch": "atto", "num_classes": 7, **options}))
    images = random_images(2, options.get("in_channels", 3), 64, 64)
    assert compare(ours, build_peer(peer, ours), [images]).agrees


@pytest.mark.parametrize(
    ("peer", "options", "message"),
    [
        ("torchvision", {"version": 2}, "torchvision has no ConvNeXt V2"),
        ("torchvision", {"version": 1, "in_channels": 4}, "this one takes 4 channels"),
        ("torchvision", {"version": 1, "layer_scale_init_value": None}, "has no layer scale"),
        ("timm", {"version": 1, "arch": {"depths": (1, 1), "dims": (8, 16)}}, "has 2 stages"),
        ("timm", {"version": 1, "patch_size": 2}, "2x2 patches"),
    ],
)
def test_a_peer_without_such_a_network_says_so(peer, options, message):
    with pytest.raises(UserError, match=message):
        build_peer(peer, ConvNeXtClassifier(**{"arch": "atto", **options}))


def test_a_peer_that_is_not_installed_is_named(check, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    printed = check(checkpoint(tmp_path / "a.pth"), "--peer", "timm", code=2)
    assert "error: timm cannot be imported" in printed
    assert "pip install timm" in printed


# Top-1 and top-5


def ranks(path, processor, model):
    """All classes by transformers' model after transformers' image processor, the best first."""
    pixels = processor(Image.open(path), return_tensors="pt").pixel_values
    with torch.no_grad():
        return model(pixels).logits[0].argsort(descending=True).tolist()


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A model that transformers saved under a name of the catalogue, and 16 pictures.

    Their classes are the model's first choice for 6, its third for 5 and its last for 5: by
    transformers, top-1 is 6/16 and top-5 is 11/16.
    """
    root = tmp_path_factory.mktemp("labelled")
    config = transformers.ConvNextV2Config(
        depths=[2, 2, 6, 2], hidden_sizes=[40, 80, 160, 320], num_labels=1000
    )
    model = randomised(transformers.ConvNextV2ForImageClassification(config))
    processor = transformers.ConvNextImageProcessor(
        size={"shortest_edge": 224}, image_mean=IMAGENET_MEAN, image_std=IMAGENET_STD
    )
    path = root / "convnextv2_atto.fcmae_ft_in1k"
    model.save_pretrained(path)
    processor.save_pretrained(path)
    classes = set()
    for k in range(16):
        place = 0 if k < 6 else 2 if k < 11 else 999
        file = write_picture(k, root / "unsorted" / f"{k}.JPEG")
        chosen = ranks(file, processor, model)[place]
        target = root / "val" / WORDNET_IDS[chosen] / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
        classes.add(chosen)
    (root / "unsorted").rmdir()
    return path, root / "val", len(classes)


def test_top1_and_top5_are_those_of_transformers_beside_the_published(labelled):
    """With worker processes, as a program of its own."""
    path, val, classes = labelled
    done = subprocess.run(
        [sys.executable, TOOL, path, "--data", val, "--workers", "2", "--batch-size", "5",
         "--peer", "transformers"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"16 pictures of {classes} of the head's 1000 classes, WordNet ids" in done.stdout
    assert "on 8 pictures of the data: same top-1 on 8" in done.stdout
    assert re.search(r"top-1: +37\.50 % of 16 pictures; [\d.]+ a second", done.stdout)
    assert re.search(r"top-5: +68\.75 %", done.stdout)
    assert "published:     top-1 76.7 %, this run -39.20" in done.stdout
    assert f"on 50000 pictures of 1000 classes, this run on 16 of {classes}" in done.stdout
    assert "evaluating: 100%" in done.stderr


def test_another_order_of_classes_gives_other_figures(check, labelled, tmp_path):
    """The user's class index decides, not the ids' own order."""
    path, val, _ = labelled
    (tmp_path / "same.txt").write_text("\n".join(WORDNET_IDS))
    (tmp_path / "moved.txt").write_text("\n".join((*WORDNET_IDS[1:], WORDNET_IDS[0])))
    options = ("--data", val, "--workers", 0, "--class-index")
    assert "37.50 %" in check(path, *options, tmp_path / "same.txt")
    printed = check(path, *options, tmp_path / "moved.txt")
    assert "in the order of" in printed
    assert "37.50 %" not in printed


def test_damaged_pictures_are_named_counted_and_skipped(check, labelled):
    path, val, _ = labelled
    damaged = next(val.iterdir()) / "damaged.JPEG"
    damaged.write_bytes(b"\xff\xd8\xff\xe0 cut")
    try:
        printed = check(path, "--data", val, "--workers", 0)
    finally:
        damaged.unlink()
    assert re.search(rf"unreadable: +{damaged}: .+", printed)
    assert "37.50 % of 16 pictures, 1 unreadable skipped" in printed


def test_a_limit_and_another_size_are_said_beside_the_published_figure(check, labelled):
    path, val, _ = labelled
    printed = check(path, "--data", val, "--limit", 4, "--image-size", 64, "--workers", 0)
    assert "% of 4 pictures" in printed
    assert "published at 224x224 pixels, this run at 64x64" in printed
    assert "this run on 4 of" in printed


def test_a_head_of_ones_own_is_evaluated_over_ones_own_folders(check, tmp_path):
    """Three classes in alphabetical order; no top-5, nothing published."""
    path = checkpoint(tmp_path / "mine.pth", "convnext_atto", num_classes=3)
    model = randomised(create_classifier("convnext_atto", num_classes=3))
    val = tmp_path / "val"
    for k, name in enumerate(("ant", "bee", "cow")):
        write_picture(k, val / name / "a.png")
    with torch.no_grad():
        model.head.bias.copy_(torch.tensor([-1e3, 0, 1e3]))  # always the cow
    torch.save(model.state_dict(), path)
    printed = check(path, "--data", val, "--workers", 0)
    assert "3 pictures of 3 of the head's 3 classes, in alphabetical order" in printed
    assert "33.33 % of 3 pictures" in printed
    assert "top-5" not in printed
    assert "no top-1 is known for this file" in printed


def test_what_a_user_gets_wrong_is_answered_with_a_sentence(check, tmp_path):
    path = checkpoint(tmp_path / "a.pth", "convnext_atto", num_classes=10)
    four = checkpoint(tmp_path / "four.pth", "convnext_atto", in_channels=4)
    picture(0).save(tmp_path / "ILSVRC2012_val_00000001.JPEG")
    for arguments, words in (
        ([tmp_path / "none.pth"], "none.pth"),
        ([path, "--data", tmp_path / "nowhere"], "there is no folder"),
        ([path, "--data", tmp_path], "holds the validation pictures unsorted"),
        ([four, "--data", tmp_path], "takes 4 channels, pictures have 3"),
        ([path, "--device", "abacus"], "--device abacus"),
        ([path, "--image-size", "0"], "--image-size: invalid number (from 1) value: '0'"),
        ([path, "--crop-pct", "1.5"], "--crop-pct: invalid number (from 0.01 to 1) value"),
        ([path, "--image-size", "31"], "--image-size 31: this network needs at least 32 pixels"),
        ([path, "--workers", "-1"], "--workers: invalid number (from 0) value: '-1'"),
        ([path, "--peer", "mmpretrain"], "invalid choice: 'mmpretrain'"),
    ):
        assert words in check(*arguments, code=2)
