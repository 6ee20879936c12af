"""A page of training samples: what is drawn, and what is said of them."""

import json

import numpy as np
import pytest
import tiny_host
from PIL import Image

from convnext_backbones.adapters import FRAMEWORKS, Framework, Option
from convnext_backbones.cli import show_data as command
from convnext_backbones.data.records import Record, Records
from convnext_backbones.errors import UserError
from convnext_backbones.runs import show_data
from convnext_backbones.runs.host import Classes, Result, Sample

NAMES = Classes(("ant", "bee"), [(255, 0, 0), (0, 0, 255)])


def boxes(*found, ignored=(), channels="RGB", values=(0.1, 1.1)) -> Sample:
    """A grey sample of 60x40, padded to 64x64, with (left, top, right, bottom, class) in it."""
    found = np.array(found, float).reshape(-1, 5)
    truth = Result(NAMES, boxes=found[:, :4], labels=found[:, 4].astype(int))
    ignored = np.array(ignored, float).reshape(-1, 4)
    image = np.full((64, 64, 3), 100, np.uint8)
    return Sample(image, (40, 60), truth, ignored, "a/one.jpg", values, channels)


def label_map() -> Sample:
    """Half bee, a quarter void, and padding, which is void, too."""
    labels = np.full((64, 64), 255)
    labels[:20, :60], labels[20:30, :60] = 1, 0
    truth = Result(NAMES, label_map=labels)
    return boxes()._replace(truth=truth)


def lines(*samples: Sample, data: Records | None = None) -> str:
    return "\n".join(show_data._lines(samples, data, "my.py"))


def test_boxes_are_counted_by_their_size_in_the_networks_pixels():
    data = Records("train", "boxes", NAMES.names, [Record("a", crowd=(True, False)), Record("b")])
    said = lines(
        boxes((0, 0, 20, 20, 0), (0, 0, 32, 32, 1), (0, 0, 300, 200, 1)), boxes(), data=data
    )
    assert "my.py: 2 training samples of 2 pictures" in said
    assert "3 objects: 1 small, 1 medium, 1 large; 1 samples without any" in said
    assert "1 crowd regions" in said
    assert "WARNING" not in said


def test_what_published_weights_do_not_know_is_warned_of():
    assert "WARNING: published ConvNeXt weights know pictures in RGB" in lines(
        boxes(channels="BGR")
    )
    for values in ((120.0, 60.0), (0.4, 0.004)):
        assert "do not fit the pictures" in lines(boxes(values=values))


def test_label_maps_are_counted_in_the_picture_alone():
    assert "25.0 % of the pixels count for no class" in lines(label_map())
    counts, _ = show_data._amounts([label_map()], None)
    assert counts == {1: 50, 0: 25}


def test_counts_of_classes_are_all_training_datas_where_they_are_known():
    records = [Record("a", labels=(0, 1, 1)), Record("b", labels=(1, -1))]
    data = Records("train", "boxes", NAMES.names, records)
    assert show_data._amounts([boxes((0, 0, 9, 9, 0))], data)[0] == {0: 1, 1: 3}
    assert show_data._amounts([boxes((0, 0, 9, 9, 0))], None)[0] == {0: 1}


def test_padding_is_hatched_and_what_is_ignored_is_grey():
    drawn = show_data._hatched(boxes())
    assert (drawn[:40, :60] == 100).all()
    assert set(np.unique(drawn[40:])) == {128, 255}
    ignored = show_data._with_ignored(boxes((0, 0, 9, 9, 1), ignored=[(10, 10, 20, 20)]))
    assert ignored.labels.tolist() == [1, 2]
    assert ignored.classes.names[2] == "ignored"
    assert ignored.classes.palette[2] == show_data.GREY
    void = show_data._hatched(label_map())
    assert set(np.unique(void[30:40, :60])) == {100, 255}
    assert (void[:30, :60] == 100).all()
    maps = show_data._with_ignored(label_map())
    assert (maps.label_map[30:40, :60] == 2).all()
    assert (maps.label_map[40:] == 255).all()


@pytest.mark.parametrize(
    "sample",
    [boxes(), boxes((5, 5, 5, 5, 0)), boxes(ignored=[(1, 1, 5, 5)]), label_map(),
     boxes()._replace(truth=Result()), boxes((1, 1, 9, 9, 7))._replace(truth=Result(boxes=np.ones((1, 4)), labels=np.array([7])))],
    ids=["empty", "no area", "ignored alone", "label map", "no annotation", "no names"],
)  # fmt: skip
def test_every_kind_of_sample_is_drawn(sample):
    drawn = show_data.drawn(sample)
    assert drawn.dtype == np.uint8
    assert min(drawn.shape[:2]) >= 320
    head = show_data._head(["a line"], [sample], None)
    assert head.height > show_data.CHART_HEIGHT


def test_a_sample_with_masks_and_an_ignored_box_keeps_both():
    sample = boxes((0, 0, 9, 9, 0), ignored=[(1, 1, 5, 5)])
    masks = np.zeros((1, 64, 64), bool)
    sample = sample._replace(truth=sample.truth._replace(masks=masks))
    assert show_data._with_ignored(sample).masks.shape == (2, 64, 64)
    assert show_data.drawn(sample).shape[2] == 3


# ---- the command ---------------------------------------------------------------------------------
@pytest.fixture
def tiny(monkeypatch, tmp_path):
    option = Option(("--turbo",), dict(nargs="*", default=[]), ("show-data",))
    row = Framework("Tiny", "tiny_host", frozenset({"tiny"}), frozenset(), (option,))
    monkeypatch.setitem(FRAMEWORKS, "tiny", row)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.json").write_text(json.dumps({"tiny": 1}))


def test_a_page_is_written_and_told_of(tiny, capsys):
    command.main(["my.json", "--pictures", "4"])
    page = np.asarray(Image.open("my_data.png"))
    assert page.shape[0] > 900  # two rows below the charts
    printed = capsys.readouterr().out
    assert "4 objects: 4 small" in printed
    assert "page: my_data.png" in printed
    command.main(["my.json", "--pictures", "4", "--out", "pages/again.png"])
    assert np.array_equal(np.asarray(Image.open("pages/again.png")), page)
    command.main(["my.json", "--pictures", "4", "--seed", "9", "--out", "other.jpg"])
    assert Image.open("other.jpg").size == page.shape[1::-1]


def test_wrong_files_and_numbers_are_told_before_anything_is_read(tiny, monkeypatch, capsys):
    monkeypatch.setattr(tiny_host, "samples", None)
    with pytest.raises(UserError, match=r"--out page.html: a page is a picture; name a .png file"):
        command.main(["my.json", "--out", "page.html"])
    with pytest.raises(SystemExit):
        command.main(["my.json", "--pictures", "0"])
    assert "number (from 1 to 200)" in capsys.readouterr().err
