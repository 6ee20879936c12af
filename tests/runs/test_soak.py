"""The soak counts what it is there to find, in a training of a few lines that saves a text."""

import json
import random
import signal
import time
from collections import namedtuple
from pathlib import Path

import pytest

from convnext_backbones.runs import soak as soaking
from convnext_backbones.runs.host import Entry
from convnext_backbones.runs.report import records_of
from convnext_backbones.runs.soak import Soak, Trained
from convnext_backbones.runs.whole_files import newest_whole, write_whole

Record = namedtuple("Record", "picture")
Records = namedtuple("Records", "records")


class Tiny:
    """A host whose config is its work directory."""

    def load_config(self, path, **options):
        return {}

    def set_work_dir(self, config, folder):
        config["folder"] = folder

    def records(self, config, split):
        return Records([Record(str(file)) for file in sorted(Path("pictures").iterdir())])

    def last_checkpoint(self, config):
        return newest_whole(config["folder"], None, whole)

    def read_log(self, folder):
        return [Entry(False, r["step"], {"loss": r["loss"]}) for r in records_of(folder / "log.json")]  # fmt: skip


def whole(file):
    text = file.read_text()
    return int(text.split()[0]) if text.endswith("end") else None


def train(arguments, *, fault=""):
    """Ten steps a second and a checkpoint each, whole at every moment, but for the fault."""
    folder = Path(arguments[arguments.index("--work-dir") + 1])
    folder.mkdir(exist_ok=True)
    last = newest_whole(folder, None, whole) if "--resume" in arguments else None
    step = whole(last) if last else 0
    signals = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, frame: signals.append(n))
    while not signals:
        step += 1
        loss = random.random() if fault == "other losses" else 1 / step
        with (folder / "log.json").open("a") as log:
            log.write(json.dumps({"step": step, "loss": loss}) + "\n")
        if fault == "stands still" and step % 3 == 0:
            signals.append(0)
            time.sleep(60)
        old = set(folder.glob("*.pth"))
        if fault == "deletes first":
            for file in old:
                file.unlink()
            time.sleep(0.1)
        try:
            write_whole(folder / f"{step:04d}.pth", f"{step} {'x' * 100_000} end")
        except ValueError as error:
            print(error)
            return 2
        for file in sorted(old)[:-1]:
            file.unlink(missing_ok=True)
        time.sleep(0.05)
    if fault == "a trace":
        print("Traceback (most recent call last):")
    return 128 + signals[0]


@pytest.fixture
def soak(tmp_path, monkeypatch):
    """A soak of some seconds, with its counts."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    for k in range(9):
        (tmp_path / "pictures" / f"{k}.jpg").write_bytes(b"picture")

    def made(fault="", seconds=2.0, mishaps=None, **options):
        if mishaps:
            monkeypatch.setattr(soaking, "MISHAPS", {name: 1 for name in mishaps})
        trained = Trained(Tiny(), ["config"], "config", exact=True)
        told = []
        done = Soak(tmp_path, lambda line: train(line, fault=fault), [trained],
                    **{**dict(seed=1, patience=10.0, told=told.append), **options})  # fmt: skip
        done.go_on(seconds)
        for _ in range(20 if fault else 0):  # chance has to meet it
            if done.failed:
                break
            done.go_on(seconds)
        return done, told

    return made


def test_a_training_that_keeps_what_it_has_loses_nothing(soak, tmp_path, capsys):
    done, told = soak(mishaps=["kill -9", "SIGTERM", "a full disk", "kill -9, then a damaged checkpoint"])  # fmt: skip
    assert not done.failed, told
    assert sum(done.counts[name] for name in soaking.MISHAPS) == done.counts["runs"] >= 2
    assert done.counts["steps trained"] > 10
    assert all(file.read_bytes() == b"picture" for file in (tmp_path / "pictures").iterdir())
    done.table(0.1)
    assert "checkpoints lost" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("fault", "mishaps", "count"),
    [
        ("deletes first", ["kill -9"], "checkpoints lost"),
        ("other losses", ["kill -9, then a damaged checkpoint"], "redone otherwise"),
        ("stands still", ["kill -9"], "hangs"),
        ("a trace", ["SIGTERM"], "ends that nobody meant"),
    ],
)
def test_what_must_not_happen_is_found(soak, fault, mishaps, count):
    done, told = soak(fault, mishaps=mishaps, patience=1.5, seconds=4.0)
    assert done.failed
    assert done.counts[count]
    assert told
