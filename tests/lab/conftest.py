import pytest

from convnext_backbones.lab.benchmark import page


@pytest.fixture
def no_results():
    """Of a machine that is written as a.json."""
    about = {"processor": "A", "device": "cpu", "flags": [], "threads": 2, "packages": {},
             "date": "2026-11-26", "speeds": {"copy, bytes/s": 1e9}}  # fmt: skip
    return page.no_results("tool", about)
