"""`finetune` as a user runs it, small: what it leaves, where that loads, what it goes on from, what it refuses."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pages
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from class_pictures import write_classes
from own_runs import break_loss, printed_lines, status_of, stopped_in

from convnext_backbones import create_backbone, create_classifier
from convnext_backbones.adapters.openmmlab import finetuning
from convnext_backbones.checkpoints import inspect_checkpoint, load_pretrained, read_checkpoint
from convnext_backbones.cli import run
from convnext_backbones.network.classifier import ConvNeXtClassifier
from convnext_backbones.network.convnext import ConvNeXtV2
from convnext_backbones.runs.sample import SHRUNK_DEPTHS, SHRUNK_DIMS

ARCH = dict(depths=SHRUNK_DEPTHS, dims=SHRUNK_DIMS)
CLASSES = ("leaf", "rust", "sky")
SMALL = ["--size", "32", "--batch", "8", "--workers", "0", "--epochs", "3"]
ROOT = Path(__file__).parents[3]
FILE = "convnextv2_shrunk_classifier.pth"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Class folders, a training and a validation picture of which are cut."""
    root = tmp_path_factory.mktemp("classes")
    write_classes(root / "train", {"leaf": 9, "rust": 8, "sky": 8})
    write_classes(root / "val", {"leaf": 4, "rust": 4, "sky": 4}, seed=1)
    for file in (root / "train/leaf/3.png", root / "val/sky/2.png"):
        file.write_bytes(file.read_bytes()[:200])
    return root


def finetuned(*arguments) -> int:
    return status_of("finetune", *SMALL, *arguments)


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run's folder and what it printed."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with printed_lines() as lines:
        assert finetuned("--data", data, "--shrink", "--lr", "2e-3", "--work-dir", folder) == 0
    return folder, "\n".join(lines)


def state_of(folder) -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / FILE)["model"]


def test_a_run_leaves_a_classifier_and_its_pictures(finished, data):
    folder, printed = finished
    content = read_checkpoint(folder / FILE)
    assert tuple(content["class_names"]) == CLASSES
    assert content["preprocessing"] == {"image_size": 32}
    metadata = content["metadata"]
    assert metadata["recipe"] == "small"
    assert metadata["data"] == str(data)
    assert metadata["pictures"] == [25, 12]
    assert metadata["scores"]["top-1 (%)"] > 40  # of three colours
    assert metadata["recipe_fields"]["layer_decay"] == 0.8
    for name in ("curves.png", "confusion.png"):
        assert np.asarray(Image.open(folder / name).convert("L")).std() > 1
    for words in ("25 pictures to train and 12 to validate", "small (for few pictures",
                  "3 epochs, 9 steps of 8 pictures of 32 pixels", "11 pictures that validate"):  # fmt: skip
        assert words in printed
    assert "2.png is damaged" in printed
    (log,) = folder.glob("*/*.log")
    assert "1 picture left out of the training" in log.read_text()


def test_the_classifier_loads_where_the_catalogues_weights_do(finished, tmp_path):
    file = finished[0] / FILE
    model = ConvNeXtClassifier(ARCH, version=2, num_classes=3)
    load_pretrained(model, file)
    assert model.class_names == CLASSES
    backbone = ConvNeXtV2(ARCH, out_indices=(0, 1, 2, 3))
    report = load_pretrained(backbone, file)
    assert set(report.dropped) == {"norm.weight", "norm.bias", "head.weight", "head.bias"}
    assert run("convert", [str(file), str(tmp_path / "folder"), "--to", "huggingface"]) == 0
    config = json.loads((tmp_path / "folder/config.json").read_text())
    assert config["id2label"] == dict(zip("012", CLASSES, strict=True))
    assert json.loads((tmp_path / "folder/preprocessor_config.json").read_text())["size"] == {
        "shortest_edge": 32
    }


def test_transformers_predict_by_the_folder_as_we_do(finished, tmp_path):
    transformers = pytest.importorskip("transformers")
    file = finished[0] / FILE
    run("convert", [str(file), str(tmp_path / "folder"), "--to", "huggingface"])
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "folder")
    ours = ConvNeXtClassifier(ARCH, version=2, num_classes=3)
    load_pretrained(ours, file)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        logits = ours.eval()(images)
        torch.testing.assert_close(theirs.eval()(images).logits, logits, atol=1e-4, rtol=1e-4)
    assert theirs.config.id2label == dict(enumerate(CLASSES))


def test_a_runs_own_checkpoint_names_its_classes_too(finished):
    assert inspect_checkpoint(finished[0] / "epoch_3.pth").class_names == CLASSES
    model = ConvNeXtClassifier(ARCH, version=2, num_classes=3)
    load_pretrained(model, finished[0] / "epoch_3.pth")
    assert all(v.equal(state_of(finished[0])[k]) for k, v in model.state_dict().items())


def test_a_stopped_run_goes_on_to_the_same_weights(finished, data, tmp_path, capsys):
    options = ["--data", data, "--shrink", "--lr", "2e-3", "--work-dir", tmp_path]
    with stopped_in(4):
        assert finetuned(*options) == 143
    assert "--resume" in capsys.readouterr().err
    assert finetuned(*options, "--epochs", "5", "--resume") == 2
    assert "was begun with epochs 3 (now 5)" in capsys.readouterr().err
    assert finetuned(*options, "--resume") == 0
    expected = state_of(finished[0])
    assert all(value.equal(expected[name]) for name, value in state_of(tmp_path).items())


def test_a_loss_that_is_not_finite_stops_the_run(data, tmp_path, monkeypatch, capsys):
    break_loss(monkeypatch, finetuning.FineTunedClassifier, sound=4)
    options = ["--data", data, "--shrink", "--work-dir", tmp_path, "--not-finite", "2"]
    assert finetuned(*options) == 2
    said = capsys.readouterr().err
    assert "loss is not finite in step 6" in said
    assert "epoch_1.pth is the last sound checkpoint" in said
    assert not (tmp_path / FILE).exists()


def test_the_published_recipe_mixes_and_averages(finished, data, tmp_path, capsys):
    """From another run's classifier: a head of the same classes is kept."""
    options = ["--data", data, "--work-dir", tmp_path, "--checkpoint", finished[0] / FILE]
    assert finetuned(*options, "--recipe", "published", "--epochs", "1", "--accumulate", "2") == 0
    said = capsys.readouterr().out
    assert "head: the file's, of the same classes" in said
    assert "base's, as none is published for this network" in said
    assert "mixup 0.8, cutmix 1, erasing 0.25, rand-m9-mstd0.5-inc1, EMA 0.9999" in said
    before, after = (
        state_of(finished[0]),
        read_checkpoint(tmp_path / "convnextv2_own_classifier.pth")["model"],
    )
    far = max((before[name] - after[name]).abs().max() for name in before)
    assert 0 < far < 1e-3  # few steps, averaged


def test_a_head_of_other_classes_starts_new(finished, tmp_path, capsys):
    root = write_classes(tmp_path / "data", {"a": 6, "b": 6, "c": 6})
    options = ["--data", root, "--work-dir", tmp_path / "run", "--checkpoint", finished[0] / FILE]
    assert finetuned(*options, "--epochs", "1") == 0
    said = capsys.readouterr().out
    assert "head: new, as the file does not say that its classes are these" in said
    content = read_checkpoint(tmp_path / "run" / "convnextv2_own_classifier.pth")
    assert content["class_names"] == ["a", "b", "c"]
    assert content["model"]["head.weight"].abs().max() < 0.05  # drawn at a thousandth


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "nowhere", "--shrink"], "there is no folder nowhere"),
        (["--data", "{empty}", "--shrink"], "has no class folders"),
        (["--data", "{one}", "--shrink"], "pictures of a single class (leaf)"),
        (["--data", "{data}"], "give the weights to start from: --checkpoint FILE"),
        (["--data", "{data}", "--arch", "ato"], "did you mean 'atto'"),
        (["--data", "{data}", "--checkpoint", "none.pth"], "none.pth: there is no such file"),
        (["--data", "{data}", "--checkpoint", "{femto}", "--arch", "tiny"],
         "is convnextv2_femto, and --arch tiny is convnextv2_tiny: leave out --arch"),
        (["--data", "{data}", "--checkpoint", "{four}"], "takes images of 4 channels, and pictures have 3"),
        (["--data", "{data}", "--checkpoint", "{femto}", "--shrink"], "leave out --checkpoint"),
        (["--data", "{data}", "--shrink", "--size", "16"], "--size 16: this network needs at least 32 pixels"),
        (["--data", "{data}", "--shrink", "--resume"], "nothing to resume"),
        (["--data", "{data}", "--shrink", "--cfg-options", "a"], "write key=value"),
    ],
)  # fmt: skip
def test_wrong_input_is_answered_with_a_sentence(
    data, tmp_path, capsys, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    places = dict(data=data, empty=tmp_path / "empty", one=tmp_path / "one")
    places |= {name: tmp_path / f"{name}.pth" for name in ("femto", "four")}
    if "{one}" in arguments:
        write_classes(tmp_path / "one", {"leaf": 3})
    if "{femto}" in arguments:
        torch.save(create_backbone("convnextv2_femto").state_dict(), places["femto"])
    if "{four}" in arguments:
        torch.save(ConvNeXtV2(ARCH, in_channels=4).state_dict(), places["four"])
    arguments = [argument.format(**places) for argument in arguments]
    assert finetuned("--work-dir", tmp_path / "run", *arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_too_many_unreadable_pictures_stop_the_validation(tmp_path, capsys):
    write_classes(tmp_path / "train", {"leaf": 8, "sky": 8})
    write_classes(tmp_path / "val", {"leaf": 2, "sky": 2})
    (tmp_path / "val/sky/0.png").write_bytes(b"")
    options = ["--data", tmp_path, "--shrink", "--epochs", "1", "--work-dir", tmp_path / "run"]
    assert finetuned(*options) == 2
    assert "1 of the 4 pictures that validate cannot be read" in capsys.readouterr().err


def test_the_page_of_fine_tuning(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = create_classifier("convnextv2_atto", num_classes=3).state_dict()
    file = tmp_path / "work_dirs/finetune_convnextv2_atto/convnextv2_atto_classifier.pth"
    file.parent.mkdir(parents=True)
    content = {"model": state, "class_names": list(CLASSES), "preprocessing": {"image_size": 64}}
    torch.save(content, file)
    Image.new("RGB", (80, 60), "green").save("leaf.jpg")
    names = pages.run("finetuning.md")
    assert names["model"].class_names == CLASSES
    assert names["transform"].image_size == 64
    assert names["backbone"].channels == (40, 80, 160, 320)
    assert names["multispectral"](torch.zeros(1, 10, 32, 32))[0].shape == (1, 40, 8, 8)


@pytest.mark.slow
def test_two_processes_train_and_validate_together(data, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29633",
               ROOT / "tools/finetune.py", *SMALL, "--batch", "4", "--data", data, "--shrink", "--work-dir", tmp_path,
               "--launcher", "pytorch"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "3 epochs, 9 steps of 8 pictures" in done.stdout
    assert read_checkpoint(tmp_path / FILE)["metadata"]["scores"]["top-1 (%)"] > 30
