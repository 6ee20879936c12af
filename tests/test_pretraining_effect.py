"""The experiment of tools/pretraining_effect.py: what it lays out, and that its page says what its runs said."""

import importlib
import json
import sys
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
from data.folders import CLASSES, voc
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
effect = importlib.import_module("pretraining_effect")
sys.path.pop(0)

SPLITS = {"train": range(20), "val": range(20, 26), "test": range(26, 28)}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("effect")
    effect.lay_out(voc(folder / "cells", splits=SPLITS), folder / "work")
    return folder / "work"


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir())


def listed(folder: Path, split: str) -> list[str]:
    return (folder / "ImageSets" / "Main" / f"{split}.txt").read_text().split()


def test_pretraining_sees_the_training_pictures_alone(work):
    assert names(work / "unlabelled") == [f"{number:04d}" for number in SPLITS["train"]]


def test_every_box_is_a_crop_in_the_folder_of_its_class(work):
    for split in ("train", "val"):
        content = json.loads((work / "boxes" / "annotations" / f"{split}.json").read_text())
        boxes = Counter(box["category_id"] for box in content["annotations"])
        for category in content["categories"]:
            crops = list((work / "crops" / split / category["name"]).iterdir())
            assert len(crops) == boxes[category["id"]]
            for crop in crops:
                width, height = Image.open(crop).size
                assert width == height


def test_a_crop_is_the_box_with_a_margin_inside_the_picture():
    margin = effect.MARGIN
    assert effect.square((100, 100, 70, 35), (640, 480)) == (95, 78, 95 + 80, 78 + 80)
    left, top, right, bottom = effect.square((630, 0, 10, 40), (640, 480))
    assert (right, top) == (640, 0)
    assert right - left == bottom - top == round(40 * margin)
    assert effect.square((0, 0, 640, 480), (640, 480))[2:] == (560, 480)


def test_few_crops_are_as_many_of_each_class(work):
    for seed in effect.SEEDS:
        folder = work / effect.few_name(5, seed)
        for split in ("train", "val"):
            counts = {len(list((folder / split / name).iterdir())) for name in CLASSES}
            assert len(counts) == 1
    drawn = [names(work / effect.few_name(5, seed) / "train" / CLASSES[0]) for seed in effect.SEEDS]
    assert drawn[0] != drawn[1]


def test_a_share_of_the_labels_is_drawn_by_its_seed_and_measured_on_all(work):
    shares = [listed(work / effect.labels_name(10, seed), "train") for seed in effect.SEEDS]
    assert [len(share) for share in shares] == [2, 2, 2]
    assert len({tuple(share) for share in shares}) > 1
    assert len(listed(work / effect.labels_name(100, 0), "train")) == 20
    for split in ("val", "test"):
        assert len(listed(work / effect.labels_name(10, 1), split)) == len(SPLITS[split])
    items = [f"{number}" for number in range(205)]
    assert effect.part(items, 10, 7) == effect.part(items, 10, 7)
    assert len(effect.part(items, 10, 7)) == 20


def test_both_shares_are_trained_in_the_same_steps(work):
    budget = effect.Budget(detector_batch=2, passes=3)  # 10 batches of all, 1 of 10 %
    assert effect.epochs_of(work / effect.labels_name(100, 0), budget) == 3
    assert effect.epochs_of(work / effect.labels_name(10, 0), budget) == 30


def test_what_is_laid_out_is_not_laid_out_again(work):
    before = (work / "laid_out").stat().st_mtime_ns
    effect.lay_out(work / "nothing", work)
    assert (work / "laid_out").stat().st_mtime_ns == before


def test_a_run_that_fails_names_its_log_and_its_time_counts(tmp_path, monkeypatch):
    (tmp_path / "tools").mkdir()
    code = "import sys, time; t = time.process_time()\nwhile time.process_time() - t < 0.2: pass\n"
    (tmp_path / "tools" / "failing.py").write_text(code + "sys.exit('no such pictures')")
    (tmp_path / "tools" / "working.py").write_text(code)
    monkeypatch.setattr(effect, "ROOT", tmp_path)
    log = tmp_path / "logs" / "one.log"
    with pytest.raises(effect.RunError, match=r"failing ended with 1; .*one\.log"):
        effect.run(log, "failing")
    assert "no such pictures" in log.read_text()
    first = effect.seconds_of(log.with_suffix(""))
    assert first > 0.1
    assert effect.run(log, "working") > first + 0.1


def test_a_page_without_results_names_the_step(work):
    with pytest.raises(effect.RunError, match="no result of pretrain"):
        effect.figures(work, effect.Budget())


def test_after_a_failure_no_run_begins():
    begun = []

    def call(number: int) -> None:
        begun.append(number)
        if number == 1:
            raise effect.RunError("no room")

    with pytest.raises(effect.RunError, match="no room"):
        effect.some_at_a_time(1, [partial(call, number) for number in range(5)])
    assert begun == [0, 1]


# ---- the page ------------------------------------------------------------------------------------
def detector(share: int, start: str, seed: int, ap: float) -> dict:
    return dict(share=share, pictures=2 * share, start=start, seed=seed, box_AP=ap, box_AP50=2 * ap,
                of_class={"RBC": ap}, cpu_seconds=100.0 + seed)  # fmt: skip


def rows(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_a_table_of_detectors_has_mean_range_and_what_each_seed_gains():
    runs = [(10, "random", 0, 0.1), (10, "random", 1, 0.3), (10, "pretrained", 0, 0.25),
            (10, "pretrained", 1, 0.25), (100, "random", 0, 0.4)]  # fmt: skip
    found = dict(detectors=[detector(*run) for run in runs])
    header, _, random_start, pretrained, gain, alone = rows(effect.detector_table(found))
    assert header == ["labels", "start", "box AP", "AP50", "RBC"]
    assert random_start[:3] == ["10 %, 20 pictures", "random", "0.200 (0.100 to 0.300)"]
    assert pretrained[2] == "0.250 (0.250 to 0.250)"
    assert gain[1:3] == ["pretrained less random", "+0.050 (-0.050 to +0.150)"]
    assert alone == ["100 %, 200 pictures", "random", "0.400", "0.800", "0.400"]


def test_a_table_of_probes_is_in_per_cent():
    probes = [
        dict(data=data, start=start, seed=seed, method="linear", train=15, val=30, top1=top1,
             mean_of_classes=0.5)
        for data, start, seed, top1 in (
            ("crops", "random", 0, 0.9), ("crops", "random", 1, 0.92), ("crops", "pretrained", 0, 0.95),
            ("few_5_0", "random", 0, 0.6), ("few_5_1", "random", 0, 0.7),
        )
    ]  # fmt: skip
    _, _, all_of_them, few = rows(effect.probe_table(dict(probes=probes)))
    assert all_of_them[:4] == ["all: 15, 30", "linear", "91.0 (90.0 to 92.0)", "95.0"]
    assert few[0] == "5 a class: 15, 30"
    assert few[2] == "65.0 (60.0 to 70.0)"


def test_the_page_says_what_the_runs_said():
    found, page = json.loads(effect.FIGURES.read_text()), effect.PAGE.read_text()
    assert effect.written(page, found) == page
    wanted = {(share, start, seed) for share in effect.SHARES for start in effect.STARTS
              for seed in effect.SEEDS}  # fmt: skip
    assert {(one["share"], one["start"], one["seed"]) for one in found["detectors"]} == wanted
    assert effect.Budget(**found["budget"]) == effect.Budget()
