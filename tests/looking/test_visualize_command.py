"""visualize as a user calls it: a classifier, a config, and what is wrong with a call."""

import json
import re

import numpy as np
import pytest
import tiny_host
import torch
from PIL import Image

pytest.importorskip("pytorch_grad_cam")

from pages import publish_atto, run

from convnext_backbones import ConvNeXt, ConvNeXtClassifier
from convnext_backbones.adapters import FRAMEWORKS, Framework, Option
from convnext_backbones.cli import visualize
from convnext_backbones.errors import UserError
from convnext_backbones.looking import maps, page
from convnext_backbones.runs.host import Classes, View

SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32))
TILE = 320  # pixels of a small picture on the page


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a picture, and the checkpoint of a classifier of five classes."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    model = ConvNeXtClassifier(SMALL, version=2, num_classes=5)
    torch.save({"model": model.state_dict()}, "five.pth")
    noise = np.random.default_rng(0).integers(0, 255, (240, 300, 3), np.uint8)
    Image.fromarray(noise).save("cat.png")
    return tmp_path


def size(file: str = "visualized.png") -> tuple[int, int]:
    return Image.open(file).size


def test_a_classifiers_page_has_its_features_and_what_speaks_for_the_class(here, capsys):
    visualize.main(["five.pth", "cat.png", "--class", "3"])
    printed = capsys.readouterr().out
    assert re.search(r"cat.png: gradcam of stage4, 3 0\.\d\d", printed)
    assert "drawn: visualized.png" in printed
    assert size()[0] > 7 * 224  # picture, stem, four stages, map


def test_features_channels_and_more_pictures(here):
    Image.new("RGB", (400, 100), "teal").save("wide.png")
    visualize.main(["five.pth", "cat.png", "wide.png", "--features", "stage3,stem", "--channels", "2",
                    "--method", "eigencam", "--layer", "stage2", "--out", "out/maps.jpg"])  # fmt: skip
    width, height = size("out/maps.jpg")
    assert 4 * 320 < width < 5 * 448
    assert height > 6 * 224  # a row, and two of channels, a picture


def test_feature_maps_alone_need_no_classes(here):
    torch.save({"model": ConvNeXt(SMALL, output_norm=False).state_dict()}, "backbone.pth")
    with pytest.raises(UserError, match="has no classes"):
        visualize.main(["backbone.pth", "cat.png"])
    visualize.main(["backbone.pth", "cat.png", "--method", "none"])
    assert size()[0] > 6 * 224


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["five.pth", "cat.png", "--class", "tabby"], r"--class tabby: there is no such class; Valid: 0 to 4"),
        (["five.pth", "cat.png", "--class", "5"], "there is no such class"),
        (["five.pth", "cat.png", "--features", "stage5"], r"no feature 'stage5'; did you mean 'stage4'"),
        (["five.pth", "cat.png", "--layer", "stage0"], "no feature 'stage0'"),
        (["five.pth", "dog.png"], "dog.png: there is no such file|dog.png"),
        (["five.pth", "five.pth"], "five.pth"),
        (["none.pth", "cat.png"], "none.pth"),
        (["convnext_tinny.fb_in1k", "cat.png"], "convnext_tiny"),
        (["five.pth", "cat.png", "--out", "page.html"], "--out page.html"),
        (["five.pth", "cat.png", "--device", "tpu"], "--device tpu"),
        (["five.pth", "cat.png", "--sample"], "five.pth is none"),
        (["none.py", "five.pth", "cat.png"], "none.py"),
        (["ade20k_upernet_convnext_t", "cat.png"], "after the config .*ade20k_upernet_convnext_t"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_call_is_a_sentence(here, arguments, words):
    with pytest.raises(UserError, match=words):
        visualize.main(arguments)
    assert not (here / "visualized.png").exists()


# ---- with a config -------------------------------------------------------------------------------
class Model(torch.nn.Module):
    """One of our networks, and a detector's or segmentor's outputs out of its last map."""

    dataset_meta = "metadata"

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = ConvNeXt(SMALL, layer_scale_init_value=0.5)

    def view(self, instances: bool) -> View:
        def forward(x):
            (last,) = self.backbone(x)
            if not instances:
                return list(last[:, :3])
            boxes = torch.tensor([[8.0, 8, 40, 50], [4, 4, 9, 9]])
            scores = last.mean(dim=(2, 3))[:, :2].sigmoid()
            return [dict(boxes=boxes, labels=torch.tensor([0, 1]), scores=s) for s in scores]

        names = ("ant", "bee", "cat")
        pixels = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
        return View(pixels, (60, 75), forward, instances, Classes(names))


@pytest.fixture
def tiny(here, monkeypatch):
    options = Option(("--turbo",), dict(nargs="*", default=[]), ("visualize",))
    row = Framework("Tiny", "tiny_host", frozenset({"tiny"}), frozenset(), (options,))
    monkeypatch.setitem(FRAMEWORKS, "tiny", row)
    monkeypatch.setattr(visualize, "CONFIGS", (".json",))
    monkeypatch.setattr(tiny_host, "load_model", lambda config, checkpoint, device: Model())
    (here / "my.json").write_text(json.dumps({"tiny": 1}))


@pytest.mark.parametrize("instances", [True, False])
def test_a_config_its_checkpoint_and_a_picture(tiny, monkeypatch, capsys, instances):
    monkeypatch.setattr(tiny_host, "view", lambda model, file: model.view(instances))
    visualize.main(["my.json", "five.pth", "cat.png", "--score", "0.1"])
    printed = capsys.readouterr().out
    assert "cat.png: layercam of stage4, " in printed
    assert ("the scores of 1" if instances else "% of the pixels") in printed
    assert size()[0] > 7 * 300
    with pytest.raises(UserError, match=r"catt: there is no such class; did you mean 'cat'"):
        visualize.main(["my.json", "five.pth", "cat.png", "--class", "catt", "--score", "0.1"])
    visualize.main(["my.json", "five.pth", "cat.png", "--class", "cat", "--method", "eigencam"])


def test_a_config_without_its_checkpoint_is_told(tiny):
    with pytest.raises(UserError, match=r"after the config my.json come its checkpoint"):
        visualize.main(["my.json", "cat.png"])


def test_the_command_knows_the_methods():
    assert (*maps.METHODS, "none") == visualize.METHODS


def test_maps_lie_over_the_picture():
    image = np.full((40, 60, 3), 100, np.uint8)
    strength = np.zeros((2, 3))
    strength[0, 0] = 1
    drawn = page.overlay(image, strength).astype(int)
    red, _, blue = drawn[2, 2]
    assert red > blue
    red, _, blue = drawn[-2, -2]
    assert blue >= red


# ---- the page in docs/ ---------------------------------------------------------------------------
def test_the_page_looks_into_a_network_by_hand(here, monkeypatch):
    publish_atto(here, monkeypatch)
    Image.new("RGB", (320, 240), "sienna").save("cat.jpg")
    names = run("looking.md", {"convnext_tiny": "convnextv2_atto", ".fb_in1k": ".fcmae_ft_in1k"})
    assert names["cam"].shape == (224, 224)
    assert names["overlay"].shape == (224, 224, 3)
