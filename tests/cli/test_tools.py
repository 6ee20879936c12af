"""The command-line tools as a user runs them: a few iterations of a real run on sample data."""

import re
import subprocess
import sys
from pathlib import Path

import events
import noise
import numpy as np
import pytest
from PIL import Image
from run_page import check_page

pytest.importorskip("mmdet")
pytest.importorskip("mmseg")

ROOT = Path(__file__).parents[2]
SEGMENTATION = "configs/ade20k_upernet_convnextv2_atto.py"
DETECTION = "configs/coco_mask_rcnn_convnextv2_atto.py"
SHORT = {
    SEGMENTATION: ["train_cfg.max_iters=4", "train_cfg.val_interval=2",
                   "default_hooks.checkpoint.interval=2", "default_hooks.logger.interval=1"],
    DETECTION: ["train_cfg.max_epochs=2", "train_cfg.val_interval=1",
                "default_hooks.checkpoint.interval=1", "default_hooks.logger.interval=1",
                "train_dataloader.dataset.indices=8", "val_dataloader.dataset.indices=4",
                "test_dataloader.dataset.indices=4"],
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A working directory with the repository's configs and no data but the sample data."""
    path = tmp_path_factory.mktemp("work")
    (path / "configs").symlink_to(ROOT / "configs")
    return path


def tool(folder: Path, name: str, *arguments, code: int = 0) -> str:
    """What a tool prints, run in `folder`; fails unless it exits with `code`."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / f"{name}.py", *map(str, arguments)],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert done.returncode == code, printed[-3000:]
    return printed


def table(printed: str) -> dict[str, str]:
    """The rows of the last metrics table."""
    last = printed[printed.rindex("metric") :]
    return dict(re.findall(r"[│|] (.+?) +[│|] +([-\d.]+) +[│|]", last))


@pytest.fixture(scope="module")
def segmentation(folder):
    printed = tool(folder, "train", SEGMENTATION, "--sample", "--work-dir", "seg",
                   *events.TRACKER, "--cfg-options", *SHORT[SEGMENTATION])  # fmt: skip
    return folder / "seg", printed


@pytest.fixture(scope="module")
def detection(folder):
    printed = tool(folder, "train", DETECTION, "--sample", "--work-dir", "det",
                   "--cfg-options", *SHORT[DETECTION])  # fmt: skip
    return folder / "det", printed


@pytest.mark.parametrize("run", ["segmentation", "detection"])
def test_a_run_ends_with_metrics_curves_and_predictions(run, request):
    work_dir, printed = request.getfixturevalue(run)
    expected = {"mIoU (%)"} if run == "segmentation" else {"box AP50", "mask AP50"}
    assert expected <= table(printed).keys()
    assert "--sample changes this config:" in printed
    assert "on this CPU, one process: " in printed or "on this GPU" in printed
    for name in ("curves.png", "predictions.png"):
        assert str(work_dir.name + "/" + name) in printed
        assert np.asarray(Image.open(work_dir / name).convert("L")).std() > 5


@pytest.mark.parametrize("run", ["segmentation", "detection"])
def test_the_console_shows_steps_and_the_log_file_everything(run, request):
    work_dir, printed = request.getfixturevalue(run)
    log = next(work_dir.glob("*/*.log")).read_text()
    talk = (*noise.OPENMMLAB, *(noise.COCO if run == "detection" else noise.SEGMENTATION))
    assert noise.not_shown(talk, printed, log) == []
    assert noise.lacking(noise.STEPS, printed, log) == []
    assert (
        noise.lacking((r"\(train\) .*eta: .*loss: ", "validation: ", "Saving checkpoint"), printed)
        == []
    )
    assert max(map(len, printed.splitlines())) < 300


def test_quiet_shows_the_result_and_verbose_everything(segmentation, folder):
    work_dir, _ = segmentation
    asked = [work_dir / Path(SEGMENTATION).name, (work_dir / "last_checkpoint").read_text()]
    few = ["--cfg-options", "test_dataloader.dataset.indices=2"]
    quiet = tool(folder, "test", *asked, "--quiet", *few)
    assert quiet.lstrip().startswith(asked[1])
    assert "mIoU (%)" in table(quiet)
    verbose = tool(folder, "test", *asked, "--verbose", *few)
    talk = ("The prefix is not set", "System environment:", "mmengine - INFO - ", "UserWarning")
    assert noise.lacking(talk, verbose) == []
    assert table(verbose) == table(quiet)


@pytest.mark.parametrize("run", ["segmentation", "detection"])
def test_a_run_ends_with_its_page(run, request):
    work_dir, printed = request.getfixturevalue(run)
    check_page(work_dir, printed, "boxes" if run == "detection" else "label maps")


@pytest.mark.parametrize("run", ["segmentation", "detection"])
def test_testing_the_checkpoint_gives_the_runs_last_metrics_again(run, request, folder):
    work_dir, printed = request.getfixturevalue(run)
    config = SEGMENTATION if run == "segmentation" else DETECTION
    checkpoint = (work_dir / "last_checkpoint").read_text()
    again = tool(folder, "test", work_dir / Path(config).name, checkpoint)
    assert table(again) == table(printed)


@pytest.mark.parametrize("run", ["segmentation", "detection"])
def test_predict_draws_every_picture_of_a_folder(run, request, folder, tmp_path):
    work_dir, _ = request.getfixturevalue(run)
    config = SEGMENTATION if run == "segmentation" else DETECTION
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in range(2):
        source = folder / f"data/sample/coco/val2017/{number:06d}.jpg"
        (pictures / source.name).write_bytes(source.read_bytes())
    checkpoint = (work_dir / "last_checkpoint").read_text()
    arguments = (work_dir / Path(config).name, checkpoint, pictures, "--out", tmp_path / "out")
    assert "2 pictures drawn" in tool(folder, "predict", *arguments)
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"000000.png", "000001.png"}
    (pictures / "broken.jpg").write_bytes(b"no picture")
    printed = tool(folder, "predict", *arguments, code=2)
    assert "broken.jpg" in printed
    assert "2 pictures drawn" in printed


def test_a_tracker_has_config_losses_metrics_and_pictures(segmentation):
    work_dir, _ = segmentation
    found = events.shown(work_dir / "tensorboard")
    assert "optim_wrapper" in found.texts["config/text_summary"]
    assert found.scalars["loss"][:4] == [1, 2, 3, 4]
    assert found.scalars["lr"][:4] == [1, 2, 3, 4]
    for name in ("mIoU", "IoU-disc (%)"):
        assert found.scalars[name][:2] == [2, 4]
    assert {name: steps[:2] for name, steps in found.pictures.items()} == {
        f"validation/{k}": [2, 4] for k in range(4)
    }


def test_resume_goes_on_where_the_run_stopped(segmentation, folder):
    work_dir, _ = segmentation
    options = [o for o in SHORT[SEGMENTATION] if "max_iters" not in o]
    printed = tool(folder, "train", SEGMENTATION, "--sample", "--work-dir", work_dir.name, "--resume",
                   *events.TRACKER, "--cfg-options", "train_cfg.max_iters=6", *options)  # fmt: skip
    assert "resumed epoch: 0, iter: 4" in printed
    assert "Iter(train) [5/6]" in printed
    assert "Iter(train) [1/6]" not in printed
    assert (work_dir / "iter_6.pth").exists()
    if events.TRACKER:
        assert events.shown(work_dir / "tensorboard").scalars["loss"] == [1, 2, 3, 4, 5, 6]


def test_resume_executes_nothing_that_a_checkpoint_holds(segmentation, folder):
    """MMEngine runs the config text in a checkpoint, and on some versions any pickle payload."""
    import torch

    from convnext_backbones.adapters.openmmlab.checkpoints import read_training_checkpoint

    work_dir, _ = segmentation
    source, hostile = (work_dir / "last_checkpoint").read_text(), folder / "hostile"
    hostile.mkdir()
    content = read_training_checkpoint(source)
    content["meta"]["config"] = "import pathlib\npathlib.Path('executed').touch()\n"
    torch.save(content, hostile / "iter_2.pth")
    (hostile / "last_checkpoint").write_text(str(hostile / "iter_2.pth"))
    tool(folder, "train", SEGMENTATION, "--sample", "--work-dir", hostile.name, "--resume",
         "--cfg-options", *SHORT[SEGMENTATION])  # fmt: skip
    assert not (folder / "executed").exists()


@pytest.mark.parametrize("config", [SEGMENTATION, DETECTION])
def test_a_missing_data_set_is_answered_with_its_layout(folder, config):
    printed = tool(folder, "train", config, code=2)
    assert "Traceback" not in printed
    assert "--sample" in printed
    root = "data/ade/ADEChallengeData2016" if config == SEGMENTATION else "data/coco"
    assert f"{root}/" in printed
    assert "annotations" in printed


def test_wrong_paths_are_answered_with_a_sentence(segmentation, folder, tmp_path):
    work_dir, _ = segmentation
    own = work_dir / Path(SEGMENTATION).name
    checkpoint = (work_dir / "last_checkpoint").read_text()
    for name, arguments, words in (
        ("train", ["configs/none.py"], "there is no config configs/none.py"),
        (
            "train",
            [SEGMENTATION, "--sample", "--resume", "--work-dir", "empty"],
            "nothing to resume",
        ),
        ("test", [own, "none.pth"], "there is no such file"),
        ("test", [SEGMENTATION, checkpoint], "data is not there"),
        (
            "predict",
            [own, checkpoint, "nowhere", "--out", tmp_path],
            "no picture or folder nowhere",
        ),
    ):
        printed = tool(folder, name, *arguments, code=2)
        assert words in printed
        assert "Traceback" not in printed


def test_a_checkpoint_of_another_config_is_refused_with_the_reason(segmentation, folder):
    work_dir, _ = segmentation
    checkpoint = (work_dir / "last_checkpoint").read_text()
    other = "configs/ade20k_upernet_convnext_t.py"
    picture = "data/sample/coco/val2017/000000.jpg"
    printed = tool(folder, "predict", other, checkpoint, picture, "--out", "x", "--sample", code=2)
    assert "does not fit this config" in printed
    assert f"its run's own config is {work_dir}" in printed or "own config is" in printed
    assert "Traceback" not in printed


def test_multi_scale_testing_runs(segmentation, folder):
    work_dir, _ = segmentation
    checkpoint = (work_dir / "last_checkpoint").read_text()
    config = work_dir / Path(SEGMENTATION).name
    printed = tool(folder, "test", config, checkpoint, "--tta",
                   "--cfg-options", "test_dataloader.dataset.indices=2")  # fmt: skip
    assert "mIoU (%)" in table(printed)


def test_two_cpu_processes_train_together(folder):
    printed = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         ROOT / "tools/train.py", SEGMENTATION, "--sample", "--launcher", "pytorch", "--work-dir", "two",
         "--cfg-options", "train_cfg.max_iters=2", "train_cfg.val_interval=2",
         "val_dataloader.dataset.indices=2", "train_dataloader.batch_size=2"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    assert printed.returncode == 0, (printed.stdout + printed.stderr)[-3000:]
    assert printed.stdout.count("mIoU (%)") == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "least"),
    [
        ("ade20k_upernet_convnext_t", {"mIoU (%)": 80}),
        ("ade20k_mask2former_convnextv2_t", {"mIoU (%)": 80}),
        ("coco_mask_rcnn_convnextv2_atto", {"box AP50": 0.5, "mask AP50": 0.5}),
    ],
)
def test_three_kinds_of_config_learn_the_sample_data(config, least, folder):
    """Minutes each; docs/proof.md has what they reach, a constant answer under 20 %."""
    metrics = table(tool(folder, "train", f"configs/{config}.py", "--sample", "--work-dir", config))
    assert all(float(metrics[name]) >= score for name, score in least.items()), metrics
