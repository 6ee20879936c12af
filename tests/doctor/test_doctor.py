"""The doctor on environments that are broken on purpose: a folder before all others on the path holds
metadata of what is not there, or makes an import fail as it does in the wild."""

import json
import sys
from typing import NamedTuple

import pytest

from convnext_backbones.cli import main
from convnext_backbones.doctor import findings as table
from convnext_backbones.doctor import trials
from convnext_backbones.doctor.facts import Facts, read_facts

# Imports fail by a finder that a sitecustomize.py installs: module -> the error, as an expression.
HOOK = """
import builtins, importlib.abc, os, sys
ERRORS = {errors}
class Broken(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name in ERRORS:
            raise eval(ERRORS[name])
sys.meta_path.insert(0, Broken())
"""


class Broken(NamedTuple):
    """An environment: distributions that it seems to have, imports that fail; the trials that are run; and what
    is expected of the findings: words of a sentence, and of its command."""

    distributions: dict[str, str]  # name -> version, with what it requires after a ;
    imports: dict[str, str]
    trials: tuple[str, ...]
    said: str
    mend: str


def gone(name: str) -> str:
    return f'ModuleNotFoundError("No module named {name}", name="{name}")'


SYMBOL = "ImportError('/lib/_ext.so: undefined symbol: _ZN3c105ErrorC2ENS_14SourceLocationE')"
NMS = "RuntimeError('operator torchvision::nms does not exist')"
NUMPY = "ValueError('numpy.dtype size changed, may indicate binary incompatibility')"
BROKEN = {
    "both lanes": Broken({"mmcv": "2.1.0", "onedl-mmcv": "2.3.6"}, {}, (), "side by side", "uninstall -y"),
    "MMPretrain beside transformers 5": Broken(
        {"mmpretrain": "1.2.0", "transformers": "5.23.0"}, {}, (), "mmpretrain 1.2.0", "uninstall -y mmpretrain"),
    "setuptools without pkg_resources": Broken(
        {"setuptools": "82.0.0", "mmengine": "0.10.7"}, {}, (), "setuptools 82.0.0", "setuptools<82"),
    "no pkg_resources": Broken(
        {}, {"mmcv": gone("pkg_resources")}, ("mmcv",), "pkg_resources", "setuptools<82"),
    "mmcv of another torch": Broken({}, {"mmcv": SYMBOL}, ("mmcv",), "another torch", "mmcv"),
    "mmcv too new": Broken({"mmcv": "2.2.0", "mmdet": "3.3.0"}, {}, (), "refuse mmcv 2.2.0", "mmcv==2.1.0"),
    "mmcv without operators": Broken({"mmcv-lite": "2.1.0"}, {}, (), "no operators", "uninstall -y mmcv-lite"),
    "torchvision of another torch, by its metadata": Broken(
        {"torchvision": "0.28.0;torch==2.13.0"}, {}, (), "asks for torch 2.13.0", "torchvision"),
    "torchvision of another build": Broken(
        {"torchvision": "0.27.1+cu126;torch==2.12.1", "torch": "2.12.1+cpu"}, {}, (), "build for cu126", "torchvision"),
    "torchvision without its operators": Broken(
        {}, {"torchvision": NMS}, ("torchvision",), "not of the installed torch's build", "torchvision"),
    "pycocotools of another numpy": Broken(
        {}, {"pycocotools": NUMPY}, ("pictures",), "another numpy", "pycocotools"),
    "OpenCV for desktops on a server": Broken(
        {}, {"cv2": "ImportError('libGL.so.1: cannot open shared object file')"}, ("pictures",),
        "system libraries", "opencv-python-headless"),
    "two of OpenCV": Broken(
        {"opencv-python": "4.1.0", "opencv-python-headless": "5.0.0"}, {}, (), "in one folder", "uninstall -y"),
    "a library that ends the process": Broken(
        {}, {"timm": "os.abort()"}, ("timm",), "ended by signal", "timm"),
    "a package that another one needs": Broken(
        {}, {"supervision": gone("supervision")}, ("pictures",), "needs supervision", "pip install supervision"),
    "torch 2.3": Broken({"torch": "2.3.1"}, {}, (), "2.4 or newer", "torch"),
}  # fmt: skip


@pytest.fixture
def environment(tmp_path, monkeypatch):
    def broken(case: Broken) -> None:
        for name, told in case.distributions.items():
            version, _, required = told.partition(";")
            folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
            folder.mkdir()
            lines = [f"Name: {name}", f"Version: {version}"]
            lines += [f"Requires-Dist: {required}"] if required else []
            (folder / "METADATA").write_text("Metadata-Version: 2.1\n" + "\n".join(lines) + "\n")
        (tmp_path / "sitecustomize.py").write_text(HOOK.format(errors=repr(case.imports)))
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return broken


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_environment_gets_its_finding(name, environment):
    case = BROKEN[name]
    environment(case)
    outcomes = trials.try_all(list(case.trials))
    assert all(outcome.status == "fails" for outcome in outcomes.values())
    found = [f for f in table.findings(read_facts(), outcomes) if case.said in f.said]
    assert len(found) == 1
    assert case.mend in found[0].mend
    assert found[0].severity in (table.STOPS, table.WARNS)


def test_a_machine_that_lacks_something(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("TORCH_HOME", "/proc/nothing")
    facts = read_facts()
    said = " ".join(finding.said for finding in table.findings(facts, {}))
    assert "no C++ compiler" in said
    assert "nothing can be written in /proc/nothing" in said
    facts.memory, facts.free = 1 << 30, {"/small": 1 << 20}
    said = " ".join(finding.said for finding in table.findings(facts, {}))
    assert "1.0 GiB of memory" in said
    assert "2 GiB are free for /small" in said


def healthy() -> Facts:
    facts = read_facts()
    facts.versions = {k: v for k, v in facts.versions.items() if k in ("torch", "numpy")}
    facts.requires, facts.memory, facts.free = {}, 64 << 30, {"/large": 1 << 40}
    return facts


def test_a_healthy_one_has_none():
    assert table.findings(healthy(), {}) == []


def test_a_transformers_for_a_newer_torch_is_named():
    said = "ImportError: ConvNextV2Model requires PyTorch >= 2.6, but PyTorch was not found or an older"
    outcomes = {"transformers": trials.Outcome("fails", said)}
    (finding,) = table.findings(healthy(), outcomes)
    assert "for a newer torch" in finding.said
    assert 'or pip install "transformers<5"' in finding.mend


def test_what_is_newer_than_anything_tried_is_told():
    facts = healthy()
    facts.versions["torch"] = "99.0"
    (finding,) = table.findings(facts, {})
    assert finding.severity == table.TELLS
    assert "torch 99.0 (tried up to 2." in finding.said


def test_what_is_absent_is_no_finding_but_its_commands_do_not_work():
    outcomes = {name: trials.Outcome("works", "") for name in trials.TRIALS}
    outcomes["mmdet"] = trials.Outcome("absent", "")
    assert table.findings(healthy(), outcomes) == []
    works = table.commands(outcomes)
    assert works["train, test, predict with MMDetection"] == "mmdet is not installed"
    assert works["train, test, predict with Detectron2"] is None


def test_a_failure_of_mmcv_is_told_once():
    broken = trials.Outcome("fails", "ImportError: undefined symbol: x")
    outcomes = {"mmcv": broken, "mmdet": broken, "mmseg": broken}
    assert len(table.findings(healthy(), outcomes)) == 1
    forks = healthy()
    forks.versions["onedl-mmcv"] = "2.3.6"
    assert "onedl-mmcv" in table.findings(forks, outcomes)[0].mend


@pytest.mark.parametrize("name", ["torch", "backbone"])
def test_a_trial_works_here(name):
    outcome = trials.try_one(name)
    assert outcome.status == "works", outcome.said


@pytest.mark.slow
@pytest.mark.parametrize("name", trials.TRIALS)
def test_every_trial_works_here(name):
    outcome = trials.try_one(name)
    assert outcome.status == "works" or outcome.status == "absent", outcome.said


def test_it_prints_and_is_read_by_programs(capsys):
    status = main(["doctor", "--quick", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"facts", "trials", "findings", "commands"}
    stops = any(finding["severity"] == table.STOPS for finding in told["findings"])
    assert status == stops
    main(["doctor", "--quick"])
    assert told["facts"]["versions"]["torch"] in capsys.readouterr().out


def test_it_prints_without_rich(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    main(["doctor", "--quick"])
    assert "[bold]" not in capsys.readouterr().out
