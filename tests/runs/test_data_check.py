"""check-data, and what train does of it before its first step, on a host of a few lines."""

import json

import numpy as np
import pytest
import tiny_host
from data import folders
from PIL import Image

from convnext_backbones.adapters import FRAMEWORKS, Framework, Option
from convnext_backbones.cli import check_data, train
from convnext_backbones.data.checks import complete
from convnext_backbones.data.records import Records
from convnext_backbones.errors import UserError
from convnext_backbones.runs import data_check


@pytest.fixture
def run(monkeypatch, tmp_path):
    """check-data of a config on folders.coco; a change of the JSON of the training split before it."""
    root = folders.coco(tmp_path / "coco", masks=True)
    (tmp_path / "config.json").write_text(json.dumps({"tiny": 1}))
    row = Framework("Tiny", "tiny_host", frozenset({"tiny"}), frozenset(),
                    (Option(("--turbo",), dict(nargs="*", default=[]), ("train", "check-data")),))  # fmt: skip
    monkeypatch.setitem(FRAMEWORKS, "tiny", row)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "400")  # a table's cells in one line each

    def records(config, split, *, most=None):
        if split == "test":
            return None
        data = Records(
            split, "boxes", folders.CLASSES, annotations=str(root / f"annotations/{split}.json"),
            images=str(root / split), resized=lambda w, h: (w / 4, h / 4), least=8,
            setting="{split} = [{annotations!r}, {images!r}]",
        )  # fmt: skip
        data.error = "not made here"
        complete(data)
        data.error, data.records = None, [record for record in data.records if record.boxes]
        return data

    monkeypatch.setattr(tiny_host, "records", records)

    def call(*options, change=lambda content: None, command=check_data):
        file = root / "annotations/train.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))
        return command.main(["config.json", *options])

    call.root = root
    return call


def beyond(content):
    content["annotations"][0]["bbox"] = [-9, 3, 30, 30]


def test_good_data_have_counts_and_status_0(run, capsys):
    assert run() == 0
    printed = capsys.readouterr().out
    assert "red" in printed
    assert "11 files read; pictures: train 8, val 3. 0 checks stop a training, 0 warn" in printed


def test_warnings_fail_with_strict_alone(run):
    assert run(change=beyond) == 0
    assert run("--strict") == 1


def test_what_cannot_work_is_status_2_named_and_written(run, tmp_path, capsys):
    (run.root / "train/0003.jpg").write_bytes(b"")
    assert run("--json", "out/found.json", change=beyond) == 2
    printed = capsys.readouterr().out
    assert printed.index("picture cannot be read") < printed.index("box reaches over its picture")
    written = json.loads((tmp_path / "out/found.json").read_text())
    first = written["findings"][0]
    assert (first["check"], first["severity"], first["count"]) == (
        "picture cannot be read",
        "stops",
        1,
    )
    assert "0003.jpg is empty" in first["examples"][0]
    assert written["splits"]["val"]["classes"]["red"]["pictures"] > 0


def test_small_objects_and_rare_classes_are_told(run, capsys, monkeypatch):
    monkeypatch.setattr("convnext_backbones.data.checks.RARE", 0.5)
    run()
    printed = capsys.readouterr().out
    assert "objects of less than 4 pixels" in printed
    assert "classes of very unequal counts" in printed


def test_pictures_without_a_box_that_are_left_out_are_counted(run, capsys):
    def change(content):
        content["annotations"] = [b for b in content["annotations"] if b["image_id"] != 2]

    run(change=change)
    assert "picture without a box is left out" in capsys.readouterr().out


def test_the_page_shows_pictures_and_says_what_cannot_be_read(run, tmp_path):
    (run.root / "train/0003.jpg").write_bytes(b"")
    run("--page", "pages/data.png", change=beyond)
    page = np.asarray(Image.open(tmp_path / "pages/data.png"))
    assert page.shape[1] == 3 * 430 + 10
    assert (page[60:400, 20:400] == 211).mean() > 0.9  # gray, with words
    drawn = page[60:300, 450:870].reshape(-1, 3).astype(int)
    assert (drawn.max(1) - drawn.min(1) > 120).sum() > 200  # coloured boxes


def test_a_page_or_json_that_cannot_be_written_is_a_sentence(run):
    for page, words in (
        ("data.xyz", "a page is a picture; name a .png file"),
        ("config.json/a.png", "config.json is no folder"),
    ):
        with pytest.raises(UserError, match=words):
            run("--page", page)
    with pytest.raises(UserError, match=r"config.json/a cannot be written"):
        run("--json", "config.json/a")


def test_the_repaired_copy_is_told_with_the_lines_to_set(run, capsys, tmp_path):
    (run.root / "train/0003.jpg").unlink()
    run("--fix", "fixed", change=beyond)
    printed = capsys.readouterr().out
    assert "1 pictures left out" in printed
    assert (
        f"train = ['{tmp_path}/fixed/annotations/train.json', '{tmp_path}/fixed/train']" in printed
    )
    assert not (tmp_path / "fixed/train/0003.jpg").exists()
    assert (tmp_path / "fixed/train/0001.jpg").read_bytes() == (
        run.root / "train/0001.jpg"
    ).read_bytes()


def test_what_the_framework_refuses_stands_in_the_table(run, capsys, monkeypatch):
    def refuse(config, splits=()):
        raise UserError("the heads have 80 classes")

    monkeypatch.setattr(tiny_host, "check_data", refuse)
    assert run() == 2
    assert "the heads have 80 classes" in capsys.readouterr().out


def test_a_data_set_that_cannot_be_built_is_checked_by_its_annotation_file(
    run, capsys, monkeypatch
):
    plain = tiny_host.records

    def broken(config, split, *, most=None):
        data = plain(config, split)
        if data:
            data.error, data.records = "KeyError: 'area'", []
        return data

    monkeypatch.setattr(tiny_host, "records", broken)
    assert run(change=lambda content: content["annotations"][0].pop("area")) == 2
    printed = capsys.readouterr().out
    assert printed.index("box without an area") < printed.index("data set cannot be built")
    assert "11 files read" in printed


def test_a_config_without_data_is_a_sentence(run, monkeypatch):
    monkeypatch.setattr(tiny_host, "records", lambda config, split, most=None: None)
    with pytest.raises(UserError, match="has no data to check"):
        run()


# ---- before training -----------------------------------------------------------------------------
def test_training_begins_with_a_few_lines_on_its_data(run, capsys):
    run("--work-dir", "here", change=beyond, command=train)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("data: ")]
    assert lines[0].startswith("data: train 8 pictures, 15 boxes: red 5, green 5, blue 5")
    assert lines[1].startswith("data: val 3 pictures")
    assert lines[2].startswith(
        "data: warning: train: box reaches over its picture: annotation 1 of 0000.jpg"
    )
    assert lines[3] == (
        "data: 11 pictures looked at, nothing stops the training; convnext-backbones check-data looks "
        "at every file"
    )


def test_a_file_too_large_for_the_look_is_named(run, monkeypatch, capsys):
    def unread(config, split, *, most=None):
        return Records(split, "boxes", (), annotations=f"{split}.json", unread=most + 2**20)

    monkeypatch.setattr(tiny_host, "records", unread)
    run("--work-dir", "here", command=train)
    assert (
        "data: train not looked at: train.json has 33 MB, more than 32" in capsys.readouterr().out
    )


def test_training_stops_on_what_cannot_work(run):
    (run.root / "train/0003.jpg").write_bytes(b"")
    with pytest.raises(
        UserError,
        match=r"(?s)cannot be trained on:\n  train: picture cannot be read: .*0003.jpg is empty",
    ):
        run("--work-dir", "here", command=train)


def test_an_empty_file_is_found_outside_of_the_sample_too(run, monkeypatch):
    monkeypatch.setattr(data_check, "SAMPLE", 1)
    (run.root / "train/0003.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"0003.jpg is empty"):
        run("--work-dir", "here", command=train)


def test_only_the_first_process_of_a_launcher_looks(run, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    run("--work-dir", "here", command=train)
    assert "data: " not in capsys.readouterr().out
