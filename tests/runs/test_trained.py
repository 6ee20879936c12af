"""test and predict take the checkpoint that a user means, and say which weights of it."""

import os
from pathlib import Path

import pytest
import torch

from convnext_backbones.errors import UserError
from convnext_backbones.runs import trained

WEIGHTS = {"backbone.stages.0.0.gamma": torch.ones(2)}
OPENMMLAB, DETECTRON2 = "MMDetection or MMSegmentation", "Detectron2"
HEADS = {OPENMMLAB: "decode_head.conv_seg.bias", DETECTRON2: "roi_heads.box_head.fc1.bias"}


def files(folder: Path, *names: str) -> None:
    """Each newer than the one before."""
    for age, name in enumerate(names):
        (folder / name).write_bytes(b"")
        os.utime(folder / name, (age, age))


def found(path: Path) -> str:
    return Path(trained.checkpoint_file(str(path))).name


def test_a_file_is_itself(tmp_path, capsys):
    assert trained.checkpoint_file(f"{tmp_path}/no.pth") == f"{tmp_path}/no.pth"
    assert trained.checkpoint_file("https://a.b/c.pth") == "https://a.b/c.pth"
    (tmp_path / ".metadata").touch()  # a checkpoint in parts
    assert trained.checkpoint_file(str(tmp_path)) == str(tmp_path)
    assert capsys.readouterr().out == ""


def test_a_work_directory_gives_its_best_or_its_newest(tmp_path, capsys):
    with pytest.raises(UserError, match=r"is a folder without a checkpoint .* give a checkpoint's"):
        found(tmp_path)
    files(tmp_path, "iter_9.pth", "iter_12.pth", "iter_3.pth")
    assert found(tmp_path) == "iter_3.pth"
    (tmp_path / "last_checkpoint").write_text("/where/it/was/iter_12.pth")
    assert found(tmp_path) == "iter_12.pth"
    assert found(tmp_path / "last_checkpoint") == "iter_12.pth"
    files(tmp_path, "best_mIoU_iter_9.pth", "best_mAcc_iter_12.pth")
    capsys.readouterr()
    assert found(tmp_path) == "best_mAcc_iter_12.pth"
    assert capsys.readouterr().out.endswith("best_mAcc_iter_12.pth, the best of the run\n")
    (tmp_path / "last_checkpoint").write_text("gone.pth")
    with pytest.raises(UserError, match="last_checkpoint names no checkpoint that is beside it"):
        found(tmp_path / "last_checkpoint")
    files(tmp_path, *(file.name for file in tmp_path.glob("best_*")), "model_best.pth")
    assert found(tmp_path) == "model_best.pth"


@pytest.mark.parametrize("framework", HEADS)
@pytest.mark.parametrize("entry", ["state_dict", "model", None])
def test_weights_are_an_entry_or_all_there_is(framework, entry):
    state = {**WEIGHTS, HEADS[framework]: torch.zeros(2)}
    content = {entry: {**state, "note": 1}, "optimizer": {}} if entry else state
    assert trained.state_of(content, "a.pth", framework) == state
    (other,) = HEADS.keys() - {framework}
    with pytest.raises(UserError, match=f"a.pth is a checkpoint of {framework}, and the config is"):
        trained.state_of(content, "a.pth", other)


def test_a_file_without_weights_is_refused():
    with pytest.raises(UserError, match=r"^a\.pth holds no weights"):
        trained.state_of({"meta": {}}, "a.pth", DETECTRON2)


def test_whether_weights_are_averages_is_said_once(capsys, monkeypatch):
    trained.tell_weights({"state_dict": WEIGHTS})
    assert "as trained\n" in capsys.readouterr().out
    content = {"state_dict": WEIGHTS, trained.AVERAGES: {"steps": 3}}
    trained.tell_weights(content)
    assert "the averages that EMA keeps" in capsys.readouterr().out
    monkeypatch.setenv("RANK", "1")
    trained.tell_weights(content)
    assert capsys.readouterr().out == ""
