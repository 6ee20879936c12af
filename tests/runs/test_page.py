"""The page of a run: whole in itself, true to what is there, in sentences where something is not."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import tiny_host
import torch
from chromium import PROGRAM, Browser
from run_page import Page

from convnext_backbones.adapters import FRAMEWORKS, Framework, Option
from convnext_backbones.cli import report, train
from convnext_backbones.data.records import Record, Records
from convnext_backbones.errors import UserError
from convnext_backbones.runs import data_check
from convnext_backbones.runs.host import Classes, Entry, Example, Optimized, Result
from convnext_backbones.runs.page import facts, making, render
from convnext_backbones.runs.page.charts import chart
from convnext_backbones.runs.page.groups import groups_of
from convnext_backbones.runs.page.looking import NONE, SHOWN, SIDE, Looked, confused, smaller
from convnext_backbones.runs.page.settings import differences, settings_of, weights_of

HOSTILE = "<script>alert('$x_1$')</script>"
NAMES = ("cat", HOSTILE, '_dog & "co"')


def shapes(boxes, labels, scores=None) -> Result:
    return Result(
        Classes(NAMES), boxes=np.array(boxes, float).reshape(-1, 4), labels=np.array(labels, int),
        scores=None if scores is None else np.array(scores, float),
    )  # fmt: skip


TRUTH = shapes([(2, 2, 10, 10), (20, 20, 40, 40)], [0, 1])
FOUND = shapes([(2, 2, 10, 10), (50, 50, 60, 60)], [1, 2], [0.9, 0.8])


class Host:
    """tiny_host, with what a test puts in its place."""

    def __init__(self, monkeypatch):
        self.monkeypatch = monkeypatch
        self.log, self.told = [], []
        self.pictures = [(TRUTH, TRUTH._replace(scores=np.ones(2)))] * 3 + [(TRUTH, FOUND)]
        records = [Record(f"{k}.png", labels=(0, 1)) for k in range(4)]
        self.put(
            read_log=lambda folder: self.log,
            read_warnings=lambda folder: self.told,
            examples=self.examples,
            truth_of=lambda truth, meta, image: truth,
            result_of=lambda prediction, meta, score: prediction,
            records=lambda config, split, most=None: Records(split, "boxes", NAMES, records),
            infer=None,
        )

    def put(self, **functions):
        for name, function in functions.items():
            self.monkeypatch.setattr(tiny_host, name, function)

    def examples(self, config, model, count):
        image = np.zeros((64, 64, 3), np.uint8)
        for k, (truth, prediction) in enumerate(self.pictures[:count]):
            yield Example(image, truth, prediction, "metadata", f"folder <{k}>/{k}.png")


@pytest.fixture
def host(monkeypatch, tmp_path):
    """The tiny framework's row, a config of it, and a log of three steps and two validations."""
    row = Framework("Tiny", "tiny_host", frozenset({"tiny"}), frozenset(),
                    (Option(("--turbo",), dict(nargs="*", default=[]), ("train", "test")),))  # fmt: skip
    monkeypatch.setitem(FRAMEWORKS, "tiny", row)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"tiny": 1, "lr": 0.1}))
    monkeypatch.setattr(data_check, "before_training", lambda *_, **__: None)  # there are no files
    host = Host(monkeypatch)
    for at in (1, 2, 3):
        host.log.append(
            Entry(False, at, {"loss": 1 / at, "lr": 0.1 / at, "time": 0.5, "memory": 900})
        )
    host.log.append(Entry(True, 2, {"mIoU": 30.0, "aAcc": math.nan}))
    of_classes = {"AP-cat": 0.25, f"AP-{HOSTILE}": 0.75, 'AP-_dog & "co"': math.nan}
    host.log.append(Entry(True, 3, {"mIoU": 20.0, "aAcc": math.nan, "rare": -1.0, **of_classes}))
    return host


def trained(*options: str) -> Page:
    train.main(["config.json", "--work-dir", "run", *options])
    return Page(Path("run/report.html"))


def reported(*arguments: str) -> Page:
    report.main([*arguments, "--out", "out.html"])
    return Page(Path("out.html"))


# ---- one run -------------------------------------------------------------------------------------
def test_a_training_ends_with_a_page_that_needs_nothing_else(host, capsys):
    host.told = ["<b>careful</b>", "<b>careful</b>"]
    page = trained()
    assert "report:      run/report.html" in capsys.readouterr().out
    assert all(link.startswith(("data:", "#")) for link in page.links), page.links
    assert {link[1:] for link in page.links if link[0] == "#"} <= set(page.ids)
    assert len(set(page.ids)) == len(page.ids)
    assert "http" not in re.sub(r"http-equiv|http://www.w3.org/\S+", "", page.html)
    assert "default-src 'none'" in page.html
    for words in ("<b>careful</b> (2 times)", "run/last.pth, the newest", "4 pictures, 8 objects"):
        assert words in page.words
    assert "What is not there" not in page.words
    assert "convnext-backbones test run/config.json run/last.pth" in page.words


def test_names_and_paths_are_text_whatever_they_hold(host):
    page = trained()
    assert "alert" not in "".join(page.links)
    assert page.tags.count("script") == 1
    classes = {row[0]: row[1:] for row in page.table("class")}
    assert classes[HOSTILE] == ["0.750", "4", "4", "missed (25 %)"]
    assert classes["cat"] == ["0.250", "4", "4", f"{HOSTILE} (25 %)"]
    assert classes['_dog & "co"'][0] == render.DASH  # not a number
    assert "folder <3>/3.png" in page.words


def test_metrics_are_the_last_and_the_highest_ones(host):
    rows = {row[0]: row[1:] for row in trained().table("metric")}
    assert rows["mIoU (%)"] == ["20.00", "30.00", "2"]
    assert rows["pixel accuracy (%)"] == [render.DASH] * 3
    assert rows["rare"][0] == render.DASH  # COCO's -1: nothing to measure


def test_the_worst_picture_is_first_and_the_matrix_counts_objects(host):
    page = trained()
    assert page.words.index("folder <3>") < page.words.index("folder <0>")
    assert "1 missed, 1 false, 1 of another class; 2 objects" in page.words
    matrix = {row[0]: row[1:] for row in page.table("truth")}
    #                cat   the hostile one, dog, missed, count
    assert matrix["cat"] == ["75", "25", "", "", "4"]
    assert matrix[HOSTILE] == ["", "75", "", "25", "4"]
    assert matrix["nothing"] == ["", "", "1", "", "1"]
    assert page.tags.count("img") == 3 * 4 + 1


def test_a_part_that_fails_is_a_sentence_and_the_training_has_succeeded(host, capsys):
    def failing(*_, **__):
        raise RuntimeError("<no> memory")

    host.put(records=failing, optimized=failing)
    page = trained()
    assert "The data could not be told: RuntimeError: <no> memory." in page.words
    assert "1 missed" in page.words
    host.put(read_warnings=failing)
    trained()
    printed = capsys.readouterr().out
    assert (
        "report:      none, for a fault of ours or of a library (RuntimeError: <no> memory)"
        in printed
    )
    assert "checkpoint:  run/last.pth" in printed.splitlines()[-3]
    host.put(read_warnings=lambda folder: ())
    Path("run/report.html").write_text("my own page")
    train.main(["config.json", "--work-dir", "run"])
    assert "none, as run/report.html is there and is no page of a report" in capsys.readouterr().out
    assert Path("run/report.html").read_text() == "my own page"


def test_what_is_missing_is_said_of_a_run_of_anyone(host, capsys):
    folder = Path("theirs")
    folder.mkdir()
    (folder / "config.json").write_text("tiny: 1")
    host.log = host.log[:3]
    page = reported("theirs")
    for words in ("No validation is in the log", "has not come to its end", "No checkpoint is in"):
        assert words in page.words
        assert words in capsys.readouterr().out + page.words
    assert "loss" in page.words
    host.log = []
    with pytest.raises(UserError, match="theirs holds no run: no log and no checkpoint"):
        reported("theirs")


def test_the_page_can_be_made_again_from_what_is_kept(host):
    first = trained()
    assert reported("run").html == first.html
    for name in ("00_truth.jpg", "run.json"):
        Path("run/report", name).unlink()
        again = reported("run")
        assert "Pictures are missing" in again.words or "has not come to its end" in again.words
    for other in ("{damaged", "[]", '{"version": 0, "groups": [1]}'):
        Path("run/report/run.json").write_text(other)
        assert "has not come to its end" in reported("run").words


def test_a_run_that_went_on_says_of_which_step_its_pictures_are(host):
    trained()
    host.log.append(Entry(False, 9, {"loss": 0.1}))
    page = reported("run")
    assert "The log goes on to step 9" in page.words
    assert "are those of step 3" in page.words
    assert "--work-dir run --resume" in page.words


def test_a_thousand_classes_and_many_large_pictures_stay_a_small_page(host):
    rng = np.random.default_rng(0)
    names = [f"class {k}" for k in range(1000)]
    image = rng.integers(0, 255, (800, 1500, 3), np.uint8)

    def examples(config, model, count):
        for k in range(min(count, 3)):
            truth = rng.integers(10 * k, 10 * k + 20, (4, 5)).repeat(200, 0).repeat(300, 1)
            maps = [Result(Classes(names), label_map=m) for m in (truth, np.roll(truth, 1, 1))]
            yield Example(image, *maps, "metadata", f"{k}.png")

    host.put(examples=examples)
    host.log = [
        *(Entry(False, at, {"loss": 1.0, "lr": 0.1}) for at in range(20_000)),
        Entry(True, 20_000, {"mIoU": 1.0, **{f"IoU-{name} (%)": 1.0 for name in names}}),
    ]
    page = trained()
    assert len(page.html) < 10 * 2**20
    assert len(page.table("class")) == 1000 + len(NAMES)
    assert len(page.table("truth")) == making.MATRIX
    assert re.search(r"The most confused of \d\d classes", page.words)
    assert "every 50th value is drawn" in page.words


# ---- several -------------------------------------------------------------------------------------
def test_runs_are_compared_by_settings_metrics_and_curves(host, tmp_path):
    trained()
    other = tmp_path / "other" / "run"
    (tmp_path / "config.json").write_text(json.dumps({"tiny": 1, "lr": 0.2, "more": HOSTILE}))
    train.main(["config.json", "--work-dir", str(other)])
    page = reported("run", str(other))
    settings = {row[0]: row[1:] for row in page.table("setting")}
    assert settings["lr"] == ["0.1", "0.2"]
    assert settings["more"] == ["not set", HOSTILE]
    assert "tiny" not in settings
    assert page.tables[0][0][0] == "run"
    assert [row[0] for row in page.table("run")] == ["run", str(other)]  # both are called run
    assert page.words.count(str(other)) > 3  # also the curves' keys
    assert {row[0] for row in page.table("class")} >= {"AP of cat"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "nowhere does not exist; give the work directory"),
        (["config.json"], "config.json is a file; give the work directory"),
        (["run", "run/../run"], "is given twice"),
        (["empty"], "empty holds no config of .*Tiny.* --framework"),
        (["run", "--out", "page.pdf"], "page.pdf: the page is HTML"),
        (["run", "--out", "mine.html"], "mine.html is there and is no page of a report"),
        (["run", "--out", "config.json/page.html"], "config.json is no folder"),
    ],
)
def test_wrong_words_are_answered_with_a_sentence(host, arguments, words):
    for folder in ("empty", "run"):
        Path(folder).mkdir()
    Path("run/config.json").write_text("tiny: 1")
    Path("mine.html").write_text("<html>my own</html>")
    with pytest.raises(UserError, match=words):
        report.main(arguments)


# ---- its parts -----------------------------------------------------------------------------------
def test_pictures_are_ranked_by_iou_without_what_is_not_annotated(host):
    looked = Looked(0.3)

    def look(truth, found):
        results = [Result(Classes(NAMES), label_map=np.array(m)) for m in (truth, found)]
        looked.look(
            tiny_host, Example(np.zeros((1, 4, 3), np.uint8), *results, "metadata", "a.png")
        )

    look([[0, 0, 1, 255]], [[0, 1, 1, 2]])  # IoU of 0: 1/2, of 1: 1/2
    look([[255] * 4], [[0] * 4])
    look([[0, 0, 0, 2]], [[0, 255, 0, 2]])  # 2/3 and 1
    assert [seen.words for seen in looked.worst] == [
        "IoU 50.0 %, the mean of 2 classes", "IoU 83.3 %, the mean of 2 classes",
        "no pixel is annotated",
    ]  # fmt: skip
    assert looked.matrix == {(0, 0): 3, (0, 1): 1, (1, 1): 1, (0, NONE): 1, (2, 2): 1}
    assert looked.without_truth == 1
    pairs = confused([(r, c, n) for (r, c), n in looked.matrix.items()], 1)
    assert pairs in ([(0, 1, 1, 0.2)], [(0, NONE, 1, 0.2)])


def test_only_the_worst_pictures_are_kept_and_large_ones_small(host):
    looked = Looked(0.3)
    large = np.zeros((3000, 1000, 3), np.uint8)
    for k in range(SHOWN + 5):
        found = FOUND if k == SHOWN + 2 else shapes([], [], [])
        looked.look(tiny_host, Example(large, TRUTH, found, "metadata", str(k)))
    assert len(looked.worst) == SHOWN
    assert looked.worst[0].file == str(SHOWN + 2)
    assert max(looked.worst[0].image.shape) == SIDE
    masks = np.zeros((1, 3000, 1000), bool)
    masks[0, 300:600, 100:200] = True
    image, result = smaller(large, shapes([(100, 300, 200, 600)], [0])._replace(masks=masks))
    assert result.masks.shape == (1, *image.shape[:2])
    left, top, right, bottom = result.boxes[0].round().astype(int)
    assert result.masks[0, top + 1 : bottom - 1, left + 1 : right - 1].all()
    assert result.masks.sum() <= (right - left + 2) * (bottom - top + 2)


def test_looking_takes_a_part_of_the_trainings_time(host, monkeypatch):
    asked = []

    def slow(config, model, count):
        asked.append(count)
        clock[0] += 1  # the weights are loaded
        for example in Host.examples(host, config, model, count):
            clock[0] += 2
            yield example

    clock = [0.0]
    monkeypatch.setattr(facts.time, "monotonic", lambda: clock[0])
    host.put(examples=slow)
    host.pictures *= 10
    looked = facts._looked(tiny_host, {}, None, 0.3, seconds=400)
    assert asked == [4, 10]  # a twentieth of 400 s, 2 s a picture
    assert looked.count == 10
    assert facts._looked(tiny_host, {}, None, 0.3, seconds=1).count == 4


def test_groups_of_one_rate_and_decay_are_one_with_the_curve_of_each_rate():
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 3)})
    backbone, head = model["backbone"], model["head"]
    groups = groups_of(Optimized(model, [
        dict(params=[backbone.weight], lr=0.005, initial_lr=0.01, weight_decay=0.1),
        dict(params=[backbone.bias], lr=0.005, initial_lr=0.01, weight_decay=0.0),
        dict(params=[head.weight], lr=0.05, initial_lr=0.1, weight_decay=0.1),
        dict(params=[head.bias], lr=0.05, initial_lr=0.1, weight_decay=0.1),
    ]))  # fmt: skip
    assert [(g.of, g.lr, g.parameters, round(g.rate, 6), g.factor) for g in groups] == [
        ("head", 0.1, 9, 10.0, 0.5), ("backbone", 0.01, 4, 1.0, 0.5), ("backbone", 0.01, 2, 1.0, 0.5),
    ]  # fmt: skip
    log = [{"at": 1, "lr": 0.01}, {"at": 2, "lr": 0.005}]
    lines = making._rates(log, groups)
    assert lines["head"] == [(1, pytest.approx(0.1)), (2, pytest.approx(0.05))]
    assert lines["backbone"] == [(1, 0.01), (2, 0.005)]
    other = [groups[0]._replace(factor=0.9), *groups[1:]]  # a schedule of its own
    assert list(making._rates(log, other)) == ["the logged group's"]


def test_a_chart_takes_any_name_and_leaves_gaps_for_what_is_no_number():
    drawn = chart("Losses", {HOSTILE: [(1, 1.0), (2, math.inf), (3, 2.0)], "_$hidden$": [(1, 1)]})
    assert [key.label for key in drawn.keys] == [HOSTILE, "_$hidden$"]
    assert "script" not in drawn.svg
    for key in drawn.keys:
        assert f'id="{key.line}"' in drawn.svg
    some = chart("Box AP", {"a": [], "b": [(1, 1.0)], "c": [(1, 1.0)]}).keys
    all_of_them = chart("Loss", {name: [(1, 1.0)] for name in "abc"}).keys
    assert [key.colour for key in some] == [key.colour for key in all_of_them[1:]]
    assert chart("Nothing", {"loss": [(1, math.nan)], "other": []}) is None
    assert "mathdefault" not in chart("Rates", {"lr": [(1, 1e-4), (2, 1e-8)]}, log=True).svg


def test_settings_are_read_and_nothing_is_executed(tmp_path):
    python = tmp_path / "config.py"
    python.write_text(
        "import os\nwork_dir = 'a'\nlr = -0.1\nload_from = 'convnext_tiny.fb_in1k'\n"
        "model = dict(type='A', parts=[dict(n=1), dict(n=(1, 2))], **more)\n"
        f"data = {{'a b': 1}}\nhook = open({str(tmp_path / 'made')!r}, 'w')\n"
    )
    found = settings_of(python)
    assert found["lr"] == "-0.1"
    assert found["model.parts[1].n"] == "[1, 2]"
    assert found["data.a b"] == "1"
    assert found["hook"].startswith("open(")
    assert not (tmp_path / "made").exists()
    assert weights_of(found) == {"load_from": "convnext_tiny.fb_in1k"}
    yaml = tmp_path / "config.yaml"
    yaml.write_text(
        f"MODEL:\n  WEIGHTS: ''\n  A: !!python/object/apply:os.mkdir ['{tmp_path}/made']\n"
    )
    assert settings_of(yaml)["MODEL.A"] == f"[{tmp_path}/made]"
    assert weights_of(settings_of(yaml)) == {}
    assert not (tmp_path / "made").exists()
    python.write_text("model = dict(")
    assert settings_of(python) == {}
    assert settings_of(tmp_path / "none.py") == {}
    assert differences([{"a": "1", "work_dir": "x"}, {"a": "1", "b": "2", "work_dir": "y"}]) == {
        "b": [None, "2"]
    }


# ---- in a browser --------------------------------------------------------------------------------
@pytest.mark.skipif(PROGRAM is None, reason="needs Chromium")
def test_a_browser_sorts_enlarges_and_reports_no_error(host, tmp_path):
    trained()
    with Browser(tmp_path / "profile") as browser:
        for scheme, background in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 26)")):
            for width in (1280, 400):
                browser.window(width, 800, scheme)
                browser.open(Path("run/report.html"))
                assert browser.run("document.documentElement.scrollWidth") == width
                assert browser.run("getComputedStyle(document.body).backgroundColor") == background
        rows = "[...document.querySelectorAll('[aria-label=classes] tbody tr')].map(r => r.cells[0].textContent)"
        head = "[aria-label=classes] th:nth-child(2)"
        browser.click(f"{head} button")
        assert browser.run(rows) == ["cat", HOSTILE, '_dog & "co"']
        browser.press("Enter")  # the head has the focus
        assert browser.run(rows) == [HOSTILE, "cat", '_dog & "co"']  # no number: still last
        assert browser.run(f"document.querySelector('{head}').ariaSort") == "descending"
        browser.run("document.querySelector('.enlarge').focus()")
        browser.press("Enter")
        assert browser.run("document.getElementById('enlarged').open")
        browser.press("Escape")
        assert not browser.run("document.getElementById('enlarged').open")
        browser.click("[data-line=losses-line-0]")
        assert browser.run("document.getElementById('losses-line-0').style.display") == "none"
        assert browser.problems == []
        assert {url.partition(":")[0] for url in browser.requests} == {"file", "data"}
