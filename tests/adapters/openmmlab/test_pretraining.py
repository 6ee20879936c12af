"""`pretrain` as a user runs it, small: what it leaves, what it goes on from, what it refuses."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

from mmengine.config import Config
from own_runs import break_loss, printed_lines, status_of, stopped_in

from convnext_backbones import create_backbone
from convnext_backbones.adapters.openmmlab import pretraining
from convnext_backbones.checkpoints import inspect_checkpoint, load_pretrained, read_checkpoint
from convnext_backbones.network.convnext import ConvNeXt, ConvNeXtV2
from convnext_backbones.pretraining import FCMAE, fcmae
from convnext_backbones.pretraining.files import load_fcmae, official_state
from convnext_backbones.runs.sample import SHRUNK_DEPTHS, SHRUNK_DIMS, WIDTH

ARCH = dict(depths=SHRUNK_DEPTHS, dims=SHRUNK_DIMS)
SMALL = ["--shrink", "--size", "32", "64", "--batch", "4", "--workers", "0", "--epochs", "4"]
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twelve pictures in a tree, one of them cut, and the label map of another."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for k in range(12):
        place = root / f"images/{k % 3}"
        place.mkdir(parents=True, exist_ok=True)
        colour = rng.integers(0, 200, (1, 1, 3)) + 40 * np.sin(np.arange(80) / 5)[None, :, None]
        pixels = np.broadcast_to(colour, (60, 80, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(place / f"p{k}.jpg")
    cut = root / "images/1/p4.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    (root / "masks/0").mkdir(parents=True)
    Image.fromarray(rng.integers(0, 3, (60, 80), dtype=np.uint8)).save(root / "masks/0/p0.png")
    return root


def pretrained(*arguments) -> int:
    return status_of("pretrain", *SMALL, *arguments)


@pytest.fixture(scope="module")
def finished(pictures, tmp_path_factory):
    """A run's folder and what it printed."""
    folder = tmp_path_factory.mktemp("run") / "run"
    with printed_lines() as lines:
        assert pretrained("--images", pictures, "--work-dir", folder) == 0
    return folder, "\n".join(lines)


def state_of(folder) -> dict[str, torch.Tensor]:
    return read_checkpoint(next(folder.glob("*_fcmae.pth")))["model"]


def losses_of(folder) -> list[float]:
    (log,) = folder.glob("*/vis_data/scalars.json")
    return [record["loss"] for record in map(json.loads, log.read_text().splitlines())]


def test_a_run_leaves_weights_curves_and_completed_pictures(finished, pictures):
    folder, printed = finished
    weights = folder / "convnextv2_shrunk_fcmae.pth"
    for name in ("curves.png", "reconstruction.png", weights.name):
        assert str(folder / name) in printed
    grid = np.asarray(Image.open(folder / "reconstruction.png").convert("RGB"))
    assert grid.shape[1] > 3 * 64
    assert grid.std() > 5
    metadata = read_checkpoint(weights)["metadata"]
    assert metadata["pictures"] == 12
    assert metadata["network"] == "convnextv2_shrunk"
    assert metadata["command"].startswith("convnext-backbones pretrain")
    assert metadata["loss"] == pytest.approx(losses_of(folder)[-1])
    assert {"size", "mask_ratio", "epochs", "recipe", "lr", "date", "started_from"} <= set(metadata)


def test_its_log_tells_pictures_a_second_and_its_console_the_recipe(finished):
    folder, printed = finished
    (log,) = folder.glob("*/vis_data/scalars.json")
    records = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(record["pictures_per_s"] > 0 for record in records)
    assert "small, for few pictures: this project's, not published" in printed
    assert "4 epochs, 12 steps of 4 pictures" in printed


def test_what_is_no_picture_or_none_that_can_be_read_is_named_and_left_out(finished, pictures):
    folder, printed = finished
    assert "left out: 1 label map" in printed
    (log,) = folder.glob("*/*.log")
    assert "1 picture left out of the training" in log.read_text()
    assert str(pictures / "images/1/p4.jpg") in log.read_text()


def test_every_backbone_of_the_network_takes_its_weights(finished):
    folder, _ = finished
    file = folder / "convnextv2_shrunk_fcmae.pth"
    backbone = ConvNeXtV2(ARCH, out_indices=(0, 1, 2, 3))
    report = load_pretrained(backbone, file)
    assert report.layout == "fcmae"
    state = inspect_checkpoint(file).state
    assert all(v.equal(state[k]) for k, v in backbone.state_dict().items() if k in state)
    model = FCMAE(ARCH, decoder_dim=WIDTH)
    assert "decoder: loaded, too" in load_fcmae(model, file)
    checkpoint = folder / Path((folder / "last_checkpoint").read_text()).name
    again = FCMAE(ARCH, decoder_dim=WIDTH)
    load_fcmae(again, checkpoint)  # a run's own checkpoint, too
    for name, value in official_state(model).items():
        assert value.equal(official_state(again)[name])


def test_its_config_is_the_runs_own(finished):
    folder, _ = finished
    config = Config.fromfile(folder / "pretrain_convnextv2_shrunk.py")
    model = pretraining.run_model(config, folder / "epoch_4.pth")
    assert model.fcmae.encoder.dims == SHRUNK_DIMS


def test_a_stopped_run_goes_on_to_the_same_weights(finished, pictures, tmp_path, capsys):
    options = ["--images", pictures, "--work-dir", tmp_path]
    with stopped_in(4):
        assert pretrained(*options) == 143
    assert "--resume" in capsys.readouterr().err
    assert pretrained(*options, "--epochs", "8", "--resume") == 2
    assert "was begun with epochs 4 (now 8)" in capsys.readouterr().err
    assert pretrained(*options, "--resume") == 0
    expected = state_of(finished[0])
    assert all(value.equal(expected[name]) for name, value in state_of(tmp_path).items())


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_file(
    pictures, tmp_path, monkeypatch, capsys
):
    break_loss(monkeypatch, pretraining.FCMAEModel, sound=5)
    assert pretrained("--images", pictures, "--work-dir", tmp_path, "--not-finite", "2") == 2
    said = capsys.readouterr().err
    assert "loss is not finite in step 7" in said
    assert "epoch_1.pth is the last sound checkpoint" in said
    assert (tmp_path / "epoch_1.pth").exists()
    assert not list(tmp_path.glob("*_fcmae.pth"))


def test_it_starts_from_weights_and_averages_them(finished, pictures, tmp_path):
    weights = finished[0] / "convnextv2_shrunk_fcmae.pth"
    options = ["--images", pictures, "--work-dir", tmp_path, "--epochs", "1", "--weights", weights]
    assert pretrained(*options, "--ema", "0.999", "--accumulate", "2") == 0
    metadata = read_checkpoint(tmp_path / weights.name)["metadata"]
    assert metadata["started_from"] == str(weights)
    before, after = state_of(finished[0]), state_of(tmp_path)
    far = max((before[name] - after[name]).abs().max() for name in before)
    assert 0 < far < 1e-4  # few steps, averaged


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--images FOLDER"),
        (["--images", "nowhere"], "nowhere does not exist"),
        (["--images", "{empty}"], "holds no pictures"),
        (["--images", "{pictures}", "--size", "100"], "multiples of 32, such as 96 or 128"),
        (["--images", "{pictures}", "--size", "32"], "a single unit"),
        (["--images", "{pictures}", "--size", "32", "64", "96"], "--size takes one side"),
        (["--images", "{pictures}", "--mask-ratio", "1"], "between 0 and 1"),
        (["--images", "{pictures}", "--arch", "ato"], "did you mean 'atto'"),
        (["--images", "{pictures}", "--arch", "convnextv2_ato"], "did you mean 'convnextv2_atto'"),
        (["--images", "{pictures}", "--resume"], "nothing to resume"),
        (["--images", "{pictures}", "--weights", "{femto}"], "this is convnextv2_femto"),
        (["--images", "{pictures}", "--cfg-options", "a"], "write key=value"),
    ],
)
def test_wrong_input_is_answered_with_a_sentence(
    pictures, tmp_path, capsys, monkeypatch, arguments, words
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    femto = tmp_path / "femto.pth"
    if "{femto}" in arguments:
        torch.save(create_backbone("convnextv2_femto").state_dict(), femto)
    places = dict(pictures=pictures, empty=tmp_path / "empty", femto=femto)
    arguments = [argument.format(**places) for argument in arguments]
    assert pretrained("--work-dir", tmp_path / "run", *arguments) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_a_folder_of_damaged_pictures_ends_the_run_with_their_names(tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for k in range(8):
        (tmp_path / f"pictures/p{k}.jpg").write_bytes(b"\xff\xd8\xff cut")
    assert pretrained("--images", tmp_path / "pictures", "--work-dir", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "6 pictures in a row cannot be read" in said
    assert "Traceback" not in said


def test_version_1_is_trained_and_marked(pictures, tmp_path, caplog):
    fcmae._tell_of_version_1.cache_clear()
    options = [
        "--images",
        pictures,
        "--work-dir",
        tmp_path,
        "--arch",
        "convnext_atto",
        "--epochs",
        "1",
    ]
    assert pretrained(*options) == 0
    assert "not the paper's" in caplog.text
    assert load_pretrained(ConvNeXt(ARCH), tmp_path / "convnext_shrunk_fcmae.pth").layout == "fcmae"


def test_more_processes_than_pictures_are_refused(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "16")
    options = ["--images", pictures, "--work-dir", tmp_path, "--launcher", "pytorch"]
    assert pretrained(*options) == 2
    assert "12 pictures, fewer than the 16 processes" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_losses_and_weights_of_one(finished, pictures, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
               ROOT / "tools/pretrain.py", *SMALL, "--batch", "2", "--images", pictures, "--work-dir", tmp_path,
               "--launcher", "pytorch"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    assert losses_of(tmp_path) == pytest.approx(losses_of(finished[0]), rel=1e-5)
    expected = state_of(finished[0])
    for name, value in state_of(tmp_path).items():
        torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-3)


SHARDED = """
import sys

import torch
from mmengine.config import Config
from mmengine.runner import FlexibleRunner

config, work_dir = sys.argv[1:]
cfg = Config.fromfile(config)
cfg.merge_from_dict(dict(work_dir=work_dir, launcher="pytorch", runner_type="FlexibleRunner"))
cfg.train_dataloader.batch_size = 2
cfg.strategy = dict(
    type="FSDPStrategy", state_dict_cfg="full",
    model_wrapper=dict(
        type="MMFullyShardedDataParallel", use_orig_params=True, device_id=torch.device("cpu"),
        auto_wrap_policy=dict(
            type="torch.distributed.fsdp.wrap.size_based_auto_wrap_policy", min_num_params=20_000
        ),
    ),
)
torch.distributed.init_process_group("gloo")
FlexibleRunner.from_cfg(cfg).train()
"""


@pytest.mark.slow
def test_fsdp_takes_the_runs_own_config_and_gives_its_weights(finished, tmp_path):
    (tmp_path / "sharded.py").write_text(SHARDED)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone",
               tmp_path / "sharded.py", finished[0] / "pretrain_convnextv2_shrunk.py", tmp_path / "run"]  # fmt: skip
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, "\n".join(re.findall(r"(?m)^\[rank0\].*", done.stderr)[-15:])
    model = FCMAE(ARCH, decoder_dim=WIDTH)
    load_fcmae(model, tmp_path / "run/epoch_4.pth")
    expected = state_of(finished[0])
    for name, value in official_state(model).items():
        torch.testing.assert_close(value, expected[name], atol=2e-5, rtol=1e-3)
