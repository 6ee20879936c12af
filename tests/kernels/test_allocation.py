"""Freed memory is kept where a program asks for it, and nowhere else."""

import subprocess
import sys

import pytest

from convnext_backbones.kernels.allocation import keep_freed_memory

FAULTS = """
import resource, torch
from convnext_backbones.kernels.allocation import keep_freed_memory
assert {call}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)  # 64 MiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


@pytest.mark.skipif(not keep_freed_memory(False), reason="this C library has no mallopt")
def test_kept_memory_is_not_taken_page_by_page_again():
    kept, given_back = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS.format(call=call)], text=True))
        for call in ("keep_freed_memory()", "keep_freed_memory(False)")
    )
    assert given_back > 1000  # a heap whose gaps do not fit may take it once or twice
    assert given_back > 3 * kept


def test_another_system_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not keep_freed_memory()
