"""The table of what was tried together, as tools/compatibility.py writes it and the doctor reads it."""

import importlib
import json
import sys
from pathlib import Path

from convnext_backbones.doctor.findings import _tried

sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
compatibility = importlib.import_module("compatibility")
sys.path.pop(0)

WORKS = dict(
    name="pinned, classic lane", date="2026-11-26", python="3.11.7", passed=12, failed=[], said={},
    versions={"torch": "2.12.1", "numpy": "2.4.6", "timm": "1.0", "transformers": "5.0", "mmcv": "2.1.0"},
    trials=dict.fromkeys(compatibility.TRIALS, "works"),
)  # fmt: skip


def rows(cells) -> list[list[str]]:
    lines = compatibility.table(cells).splitlines()
    return [
        [cell.strip() for cell in line.strip("|").split("|")] for line in lines if line[:1] == "|"
    ]


def test_a_row_says_versions_and_what_works():
    header, _, row = rows([WORKS])
    assert len(header) == len(row)
    assert row[:7] == [
        "pinned, classic lane",
        "3.11.7",
        "2.12.1",
        "2.4.6",
        "1.0",
        "5.0",
        "mmcv 2.1.0",
    ]
    assert row[7:] == ["works"] * 5 + ["12 passed"]


def test_what_fails_and_what_was_not_tried_has_its_reason_below():
    fails = WORKS | {
        "trials": WORKS["trials"] | {"mmdet": "fails", "timm": "fails", "detectron2": "absent"},
        "said": {"mmdet": "no pkg_resources", "timm": "another signature"},
        "failed": ["tests/test_a.py::test_b"],
    }
    cells = [fails, dict(name="other", date="2026-11-27", python="3.13", not_tried="no interpreter"),
             dict(name="third", date="2026-11-27", python="3.11", fails="mmcv does not compile: C++20")]  # fmt: skip
    header, _, row, other, third = rows(cells)
    assert len(header) == len(row) == len(other) == len(third)
    assert row[8:12] == ["**fails**", "**fails**", "works", "-"]
    assert row[12] == "12 passed, **1 failed**"
    assert other[-1] == "not tried"
    assert third[-1] == "**fails**"
    text = compatibility.table(cells)
    for reason in (
        "no pkg_resources",
        "no interpreter",
        "C++20",
        "`tests/test_a.py::test_b` fails",
    ):
        assert reason in text


def test_the_page_has_what_was_found():
    found = json.loads(compatibility.FOUND.read_text())
    assert {cell["name"] for cell in found} <= set(compatibility.CELLS)
    written = (
        compatibility.PAGE.read_text().split(compatibility.BEGIN)[1].split(compatibility.END)[0]
    )
    assert written.strip() == compatibility.table(compatibility.every_cell())


def test_the_pins_were_tried():
    """Else the doctor would name what set-up installs as newer than anything tried."""
    torch = {tried["torch"] for tried in _tried()}
    assert compatibility.pinned("build.txt", "torch") in torch
