"""Files are whole or not there, whatever ends the writing."""

import errno
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch

from convnext_backbones.errors import CheckpointError, UserError, sentence_of
from convnext_backbones.runs import whole_files
from convnext_backbones.runs.whole_files import (
    UNFINISHED,
    check_room,
    newest_whole,
    remove_unfinished,
    size_of_state,
    size_of_weights,
    text_written_whole,
    write_whole,
    written_whole,
)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_file_is_there_when_it_is_whole(tmp_path):
    path = tmp_path / "a.pth"
    write_whole(path, b"before")
    with written_whole(path) as file:
        file.write(b"after")
        assert path.read_bytes() == b"before"
        assert len(names(tmp_path)) == 2
    assert path.read_bytes() == b"after"
    with text_written_whole(path) as text:
        text.write("größer")
    assert path.read_text(encoding="utf-8") == "größer"
    assert names(tmp_path) == ["a.pth"]


def test_an_error_of_the_writer_is_its_own_and_changes_nothing(tmp_path):
    write_whole(tmp_path / "a.pth", b"before")
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "a.pth") as file:
        file.write((tmp_path / "none").read_bytes())
    assert (tmp_path / "a.pth").read_bytes() == b"before"
    assert names(tmp_path) == ["a.pth"]


def test_what_a_link_leads_to_is_written(tmp_path):
    (tmp_path / "latest").symlink_to("a.pth")
    write_whole(tmp_path / "latest", b"after")
    assert (tmp_path / "latest").is_symlink()
    assert (tmp_path / "a.pth").read_bytes() == b"after"


@pytest.fixture
def full_disk(monkeypatch):
    """No file may be longer than a megabyte, as the system itself refuses it."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_leaves_what_was_there_and_is_told(tmp_path, full_disk):
    path = tmp_path / "a.pth"
    with written_whole(path) as file:
        torch.save({"x": torch.ones(10)}, file)
    told = pytest.raises(UserError, match=r"a\.pth could not be written: File too large")
    with told, written_whole(path) as file:
        torch.save({"x": torch.ones(2**20)}, file)
    assert torch.load(path)["x"].shape == (10,)
    assert names(tmp_path) == ["a.pth"]


def test_a_folder_that_is_not_there_or_takes_no_files_is_told(tmp_path):
    with pytest.raises(UserError, match=r"a\.pth could not be written: No such file"):
        write_whole(tmp_path / "none" / "a.pth", b"")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"a\.pth could not be written: Not a directory"):
        write_whole(tmp_path / "file" / "a.pth", b"")


@pytest.mark.slow
def test_a_disk_that_is_full_keeps_the_last_file(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("this process may mount nothing")
    try:
        write_whole(disk / "a.pth", b"x" * 600_000)
        with pytest.raises(UserError, match="No space left on device"):
            write_whole(disk / "a.pth", b"y" * 600_000)
        assert (disk / "a.pth").read_bytes() == b"x" * 600_000
        assert names(disk) == ["a.pth"]
        with pytest.raises(UserError, match="free, and this run needs"):
            check_room(disk, 2**19, 9, kept=2)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_what_killed_writers_left_is_removed_and_what_is_being_written_is_not(tmp_path):
    (tmp_path / f"a.pth.1{UNFINISHED}").write_bytes(b"cut")
    (tmp_path / "b.pth").write_bytes(b"whole")
    with written_whole(tmp_path / "c.pth") as file:
        file.write(b"more")
        assert [left.name for left in remove_unfinished(tmp_path)] == [f"a.pth.1{UNFINISHED}"]
    assert names(tmp_path) == ["b.pth", "c.pth"]
    assert remove_unfinished(tmp_path / "none") == []


# ---- room ----------------------------------------------------------------------------------------
def test_the_state_of_an_optimizer_is_known_before_its_first_step():
    model = torch.nn.Linear(100, 10)
    assert size_of_weights(model) == 4 * 1010
    for kind, options in (
        ("AdamW", {}),
        ("Adam", {"amsgrad": True}),
        ("SGD", {"momentum": 0.9}),
        ("SGD", {}),
    ):
        optimizer = getattr(torch.optim, kind)(model.parameters(), lr=0.1, **options)
        expected = size_of_state(optimizer)
        model(torch.ones(1, 100)).sum().backward()
        optimizer.step()
        assert expected == pytest.approx(size_of_state(optimizer), abs=16), kind


@pytest.fixture
def disk_of(monkeypatch):
    def free(size):
        usage = type("Usage", (), {"free": size})
        monkeypatch.setattr(whole_files.shutil, "disk_usage", lambda folder: usage)

    return free


def test_a_run_that_does_not_fit_is_refused_before_it_starts(tmp_path, disk_of, caplog):
    disk_of(40 * 2**20)
    check_room(tmp_path, 10 * 2**20, 9, kept=3)
    with pytest.raises(
        UserError, match=r"has 40\.0 MiB free, and this run needs 50\.0 MiB: 4 checkpoints"
    ):
        check_room(tmp_path, 10 * 2**20, 9, kept=4)
    with pytest.raises(
        UserError, match=r"needs 50\.0 MiB.* the best weights of 5\.0 MiB and one more of each"
    ):
        check_room(tmp_path, 10 * 2**20, 9, kept=3, best=5 * 2**20)
    (tmp_path / "iter_1.pth").write_bytes(bytes(10 * 2**20))  # of the run that goes on
    check_room(tmp_path, 10 * 2**20, 9, kept=4)
    check_room(tmp_path, 10 * 2**20, 99, kept=None)  # who keeps all may move them away
    assert "needs 990.0 MiB" in caplog.text
    with pytest.raises(UserError, match="needs 100"):
        check_room(tmp_path / "other", 50 * 2**20, 1, kept=None)


# ---- going on ------------------------------------------------------------------------------------
def iteration_of(file):
    content = file.read_text()
    if content == "cut":
        raise CheckpointError("cut")
    return int(content) if content.isdigit() else None


def test_a_run_goes_on_from_the_newest_whole_checkpoint_and_says_so(tmp_path, caplog):
    for name, content in {"a": "12", "b": "9", "c": "cut", "best": "no optimizer"}.items():
        (tmp_path / f"{name}.pth").write_text(content)
    assert newest_whole(tmp_path, tmp_path / "b.pth", iteration_of) == tmp_path / "b.pth"
    assert not caplog.text
    assert newest_whole(tmp_path, tmp_path / "c.pth", iteration_of) == tmp_path / "a.pth"
    assert "c.pth is missing, damaged or cut short; the newest whole" in caplog.text
    assert "is a.pth, after iteration 12" in caplog.text
    for noted in (tmp_path / "none.pth", tmp_path / "best.pth", None):
        assert newest_whole(tmp_path, noted, iteration_of) == tmp_path / "a.pth"
    (tmp_path / "a.pth").unlink()
    (tmp_path / "b.pth").unlink()
    assert newest_whole(tmp_path, tmp_path / "c.pth", iteration_of) is None


# ---- killed --------------------------------------------------------------------------------------
SAVING = """
import sys, torch
from convnext_backbones.runs.whole_files import written_whole
print("ready", flush=True)
for k in range(10**9):
    with written_whole(sys.argv[1]) as file:
        torch.save({"k": k, "x": torch.full((5_000_000,), float(k))}, file)
"""


def test_a_killed_save_loses_nothing(tmp_path):
    path = tmp_path / "a.pth"
    torch.save({"k": -1, "x": torch.full((5_000_000,), -1.0)}, path)
    process = subprocess.Popen(
        [sys.executable, "-c", SAVING, path],
        stdout=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    process.stdout.readline()
    time.sleep(random.Random(0).uniform(0.1, 0.4))
    process.kill()
    process.wait()
    content = torch.load(path)
    assert (content["x"] == content["k"]).all()
    remove_unfinished(tmp_path)
    assert names(tmp_path) == ["a.pth"]


# ---- logs on a full disk -------------------------------------------------------------------------
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Writer(logging.Handler):
    """Of a log whose file cannot be written."""

    def __init__(self, error: OSError):
        super().__init__()
        self.error = error

    def emit(self, record) -> None:
        try:
            raise self.error
        except OSError:
            self.handleError(record)


@pytest.mark.parametrize(("error", "says"), [(FULL, False), (OSError(errno.EIO, "broken"), True)])
def test_a_log_on_a_full_disk_prints_no_trace_and_any_other_does(error, says, capsys, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", threading.__excepthook__)  # pytest has its own
    hooks = threading.excepthook, logging.Handler.handleError
    with whole_files.logs_end_quietly():
        Writer(error).handle(logging.makeLogRecord({"msg": "step 1"}))
        threading.excepthook(threading.ExceptHookArgs((type(error), error, None, None)))
    assert ("broken" in capsys.readouterr().err) == says
    assert (threading.excepthook, logging.Handler.handleError) == hooks


def test_a_full_disk_is_a_sentence_whoever_was_writing():
    assert "No space left on device. Make room" in sentence_of(FULL)
    assert sentence_of(OSError(errno.EIO, "broken")) is None
