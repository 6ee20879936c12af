"""Where Keras, or what it needs, is missing, the adapter says what to install."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def said(folder: Path, before: str = "") -> str:
    """The last line of importing the adapter, with the folder before all others."""
    code = f"import sys; sys.path.insert(0, {str(folder)!r}); {before}\nimport convnext_backbones.adapters.keras"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 1
    return ran.stderr.strip().splitlines()[-1]


def a_keras(folder: Path, text: str) -> Path:
    (folder / "keras").mkdir()
    (folder / "keras/__init__.py").write_text(text)
    return folder


def test_a_missing_keras_is_named(tmp_path):
    line = said(tmp_path, "sys.modules['keras'] = None")
    assert line.startswith("ImportError: convnext_backbones.adapters.keras needs Keras 3")
    assert "pip install keras tensorflow" in line


def test_a_folder_called_keras_is_not_the_library(tmp_path):
    a_keras(tmp_path, "")
    assert "needs Keras 3 and one of its backends" in said(tmp_path)


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_a_missing_backend_is_named(tmp_path, backend):
    a_keras(tmp_path, f"raise ModuleNotFoundError('no', name='{backend}.python')")
    line = said(tmp_path)
    assert f"its backend is not: {backend} is missing. pip install {backend}, or choose" in line
    assert 'os.environ["KERAS_BACKEND"] = "torch"' in line


def test_an_old_keras_is_named(tmp_path):
    a_keras(tmp_path, "__version__ = '2.15.0'\nModel = object")
    assert "needs Keras 3, this is 2.15.0; pip install -U keras" in said(tmp_path)
