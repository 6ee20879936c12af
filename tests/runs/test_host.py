"""The contract of a framework, and a third one that fulfils it, run by the same commands."""

import importlib
import inspect
import json
import sys

import numpy as np
import pytest
import tiny_host
from PIL import Image

from convnext_backbones import adapters
from convnext_backbones.adapters import FRAMEWORKS, Framework, Option
from convnext_backbones.cli import predict, test, train
from convnext_backbones.errors import UserError
from convnext_backbones.runs.host import Host

NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def shortcomings(module) -> list[str]:
    """What in a module is otherwise than in Host."""
    found = [f"{name} is missing" for name in Host.__annotations__ if not hasattr(module, name)]
    for name, member in vars(Host).items():
        if name.startswith("_") or not inspect.isfunction(member):
            continue
        if not callable(getattr(module, name, None)):
            found.append(f"{name} is missing")
            continue
        wanted = list(inspect.signature(member).parameters.values())[1:]
        given = list(inspect.signature(getattr(module, name)).parameters.values())
        by_place = [p for p in wanted if p.kind is inspect.Parameter.POSITIONAL_ONLY]
        for place, parameter in enumerate(by_place):
            if place >= len(given) or given[place].kind is inspect.Parameter.KEYWORD_ONLY:
                found.append(f"{name} takes no {parameter.name} at place {place}")
        by_name = {p.name: p for p in given[len(by_place) :]}
        for parameter in wanted[len(by_place) :]:
            own = by_name.pop(parameter.name, None)
            if own is None or own.kind not in NAMED:
                found.append(f"{name} takes no {parameter.name}=")
        optional = [p for p in wanted if p.default is not p.empty]
        required = [p.name for p in given if p.default is p.empty]
        if len(required) > len(wanted) - len(optional):
            found.append(f"{name} needs {', '.join(required)}")
    return found


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_every_framework_fulfils_the_contract(framework):
    needs = {"openmmlab": ("mmdet", "mmseg"), "detectron2": ("detectron2",)}
    for package in needs[framework]:
        pytest.importorskip(package)
    assert shortcomings(importlib.import_module(FRAMEWORKS[framework].run)) == []


def test_the_contract_finds_what_is_missing_and_what_is_otherwise(monkeypatch):
    assert shortcomings(tiny_host) == []
    monkeypatch.delattr(tiny_host, "infer")
    monkeypatch.setattr(tiny_host, "train", lambda config, *, again: None)
    monkeypatch.setattr(tiny_host, "evaluate", lambda config: None)
    assert shortcomings(tiny_host) == [
        "train takes no resume=",
        "evaluate takes no checkpoint at place 1",
        "infer is missing",
    ]


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The third framework's row, and a folder with a config of it and a picture."""
    row = Framework(
        title="Tiny",
        run="tiny_host",
        keys=frozenset({"tiny"}),
        imports=frozenset(),
        options=(
            Option(
                ("--turbo",),
                dict(nargs="*", default=[], metavar="K=V"),
                ("train", "test", "predict", "check-data", "show-data"),
            ),
        ),
    )
    monkeypatch.setitem(FRAMEWORKS, "tiny", row)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"tiny": 1}))
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    return tmp_path


def test_a_third_framework_runs_by_the_same_commands(tiny, capsys):
    train.main(["config.json", "--sample", "--turbo", "speed=3"])
    printed = capsys.readouterr().out
    work_dir = tiny / "work_dirs/tiny/config_sample"
    assert "last validation:" in printed
    assert "mIoU (%)" in printed
    for name in ("curves.png", "predictions.png"):
        assert Image.open(work_dir / name).size[0] > 20
    own = json.loads((work_dir / "config.json").read_text())
    assert (own["sample"], own["speed"], own["checked"]) == (True, "3", ["train", "val"])
    checkpoint = "work_dirs/tiny/config_sample/last.pth"
    assert (
        f"evaluate:    convnext-backbones test {own['work_dir']}/config.json {checkpoint}"
        in printed
    )

    test.main(["config.json", checkpoint])
    assert "41.00" in capsys.readouterr().out

    predict.main(["config.json", checkpoint, "picture.png", "--out", "drawn"])
    drawn = np.asarray(Image.open("drawn/picture.png"))[:8]
    assert (drawn == round(0.55 * 200)).all()  # the model's grey over a black picture


def test_what_comes_next_is_said_in_the_words_of_the_call(tiny, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["somewhere/tools/train.py"])
    train.main(["config.json"])
    printed = capsys.readouterr().out
    assert (
        "evaluate:    python somewhere/tools/test.py work_dirs/tiny/config/config.json" in printed
    )
    assert "predict:     python somewhere/tools/predict.py work_dirs/tiny/config" in printed


def test_a_started_process_reads_the_config_for_itself_and_says_nothing_twice(tiny, capsys):
    (tiny / "config.json").write_text(json.dumps({"tiny": 1, "processes": 2}))
    train.main(["config.json", "--work-dir", "here"])
    assert capsys.readouterr().out.count("fitted") == 1
    assert len((tiny / "here/log.json").read_text().splitlines()) == 2


def test_a_run_goes_on_with_resume_or_says_that_there_is_none(tiny, capsys):
    with pytest.raises(UserError, match="nothing to resume: here holds no checkpoint; leave out"):
        train.main(["config.json", "--work-dir", "here", "--resume"])
    train.main(["config.json", "--work-dir", "here"])
    train.main(["config.json", "--work-dir", "here", "--resume"])
    assert [e.iteration for e in tiny_host.read_log(tiny / "here") if e.validation] == [1, 2]


def test_an_option_of_another_framework_is_refused_with_the_right_ones(tiny, monkeypatch):
    with pytest.raises(UserError, match=r"--num-gpus 8: not for config.json, .* Tiny, .*--turbo"):
        train.main(["config.json", "--num-gpus", "8"])
    monkeypatch.setitem(FRAMEWORKS, "tiny", FRAMEWORKS["tiny"]._replace(options=()))
    with pytest.raises(UserError, match="whose own options are none"):
        train.main(["config.json", "--num-gpus", "8"])


def test_a_framework_that_is_not_installed_is_named(tiny, monkeypatch):
    monkeypatch.setitem(FRAMEWORKS, "tiny", FRAMEWORKS["tiny"]._replace(run="not_installed"))
    with pytest.raises(UserError, match=r"config of Tiny needs a framework .* 'not_installed'"):
        adapters.host_of("tiny")
