"""The notebook runs from its first cell to its last, without a network, and is kept without outputs."""

import os
import shlex
import sys
from pathlib import Path

import pytest
from pages import ROOT

pytest.importorskip("nbclient", reason="nbclient is not installed (requirements/docs.txt)")
pytest.importorskip("mmdet", reason="mmdet is not installed (docs/install.md says how)")

import nbformat
from nbclient import NotebookClient

NOTEBOOK = ROOT / "notebooks/convnext_backbones.ipynb"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder to run it in, where `convnext-backbones` is the package of this test."""
    command = tmp_path / "bin/convnext-backbones"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m convnext_backbones "$@"\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CONVNEXT_BACKBONES_QUICK", "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing answers there
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    return tmp_path


def said(notebook) -> str:
    """What its cells print, without progress that is written over."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "".join(output.text for output in outputs if output.output_type == "stream")


def test_the_notebook_runs_and_shows_a_detector(place):
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(place)}}).execute()
    printed = said(notebook)
    assert "error:" not in printed, printed
    assert "box AP50" in printed
    assert "checks stop a training" in printed
    assert any(Path(place, "seen").rglob("*.json"))
    shown = [
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", ())
        for kind in output.get("data", ())
    ]
    assert shown.count("image/png") == 4  # a picture, its maps, the data, predictions
    assert shown.count("text/html") == 1  # the report


def test_the_notebook_is_valid_and_holds_no_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None
