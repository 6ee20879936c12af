"""Trainings that are killed, run out of disk and find damaged files, at random, for as long as one likes.

Each run is a process of its own, which this one forks, so that nothing is imported twice; it trains on generated
data until something ends it, and goes on from what is left. What must not happen is counted: a whole
checkpoint that is gone, a run that stands still, an end that nobody meant, a step done again that comes
out otherwise.
"""

import collections
import contextlib
import io
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from .host import Host
from .whole_files import UNFINISHED

TMPFS = 384 * 2**20  # bytes; a run's folder where it can be mounted
DAMAGED = 4  # training pictures at a time, of which a run leaves out more than that
KEPT = 5  # checkpoints, as a run begins: more than a damaged one and the one to go on from
AHEAD = 8  # steps whose pictures data workers may have read already
POLL = 0.25  # seconds

# What is done to a run, and how often of 20 times.
MISHAPS = {
    "kill -9": 6,
    "kill -9 during a save": 4,
    "SIGTERM": 3,
    "SIGINT": 3,
    "a full disk": 2,
    "kill -9, then a damaged checkpoint": 2,
}
ENDS = {  # the exit statuses that are meant
    "SIGTERM": {143, -signal.SIGTERM},
    "SIGINT": {130, -signal.SIGINT},
    "a full disk": {2},
}


class Trained(NamedTuple):
    """A config that is trained: the command line of train without --resume, and whose log gives each step's
    loss in full (else steps that are done again are not compared)."""

    host: Host
    arguments: Sequence[str]
    config: str
    exact: bool


class Soak:
    """
    Args:
        folder: to work in; it becomes the working directory, and the data is written there.
        train: the train command, which takes a command line and returns an exit status.
        patience: seconds in which a run has to get on, or to end once it is asked to.
    """

    def __init__(
        self,
        folder: Path,
        train: Callable[[list[str]], int],
        trained: Sequence[Trained],
        *,
        seed: int,
        patience: float,
        told: Callable[[str], None] = print,
    ):
        self.folder, self.train, self.patience, self.told = folder, train, patience, told
        self.random = random.Random(seed)
        self.counts: collections.Counter[str] = collections.Counter()
        self.pictures: dict[Path, bytes] = {}  # damaged ones, as they were
        self.tracks = [Track(self, item, folder / f"run{k}") for k, item in enumerate(trained)]

    def go_on(self, seconds: float) -> None:
        """Run after run, until the time is over."""
        end = time.monotonic() + seconds
        turn = 0
        while time.monotonic() < end:
            self.tracks[turn % len(self.tracks)].run_once(end)
            turn += 1
        for path in list(self.pictures):
            self.mend(path)

    def damage_a_picture(self, pictures: Sequence[str]) -> None:
        """One more, or whole again the one that was damaged first."""
        if len(self.pictures) >= DAMAGED:
            self.mend(next(iter(self.pictures)))
        path = Path(self.random.choice(pictures))
        if path in self.pictures:
            return
        content = self.pictures[path] = path.read_bytes()
        how = self.random.choice(("empty", "cut", "no picture", "gone"))
        if how == "gone":
            path.unlink()
        else:
            path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "no picture": b"?" * 99}[how])  # fmt: skip
        self.counts["pictures damaged"] += 1

    def mend(self, path: Path) -> None:
        """Put a damaged picture back."""
        path.write_bytes(self.pictures.pop(path))

    @property
    def failed(self) -> bool:
        """Whether something happened that must not."""
        return any(self.counts[name] for name in FATAL)

    def table(self, minutes: float) -> None:
        """Everything that was counted, printed."""
        table = Table("soak", f"{minutes:.1f} minutes")
        table.add_row("runs", str(self.counts["runs"]))
        for name in MISHAPS:
            table.add_row(f"survived: {name}", str(self.counts[name]))
        for name in (*SEEN, *FATAL):
            table.add_row(name, str(self.counts[name]))
        Console().print(table)


SEEN = ("saves cut", "pictures damaged", "pictures left out", "steps trained", "steps redone", "of which compared")  # fmt: skip
FATAL = (
    "redone otherwise",
    "checkpoints lost",
    "hangs",
    "ends that nobody meant",
    "processes left behind",
)


class Track:
    """One config's runs in one folder, each of which goes on where the last one ended."""

    def __init__(self, soak: Soak, trained: Trained, folder: Path):
        self.soak, self.trained, self.folder = soak, trained, folder
        self.number = 0  # of the run
        self.saved = 0  # what the newest checkpoint that was seen counts up to
        self.losses: dict[int, float] = {}  # by step, since a picture was changed
        self.comparable_from = 0
        self.reached = 0

    def run_once(self, end: float) -> None:
        """A run, something that happens to it, and a look at what is left."""
        soak = self.soak
        for path in [path for path in soak.pictures if not self.saved or not path.exists()]:
            soak.mend(path)  # a run that begins refuses it, one that goes on would have other data
            self._pictures_changed()
        saved = [f for f in self.folder.glob("*.pth") if not f.name.startswith("best")]
        for file in sorted(saved, key=lambda f: f.stat().st_mtime)[:-KEPT]:
            file.unlink()  # of earlier runs, which nobody else deletes
        mishap = soak.random.choices(list(MISHAPS), list(MISHAPS.values()))[0]
        run = self._start(limited=mishap == "a full disk" and not os.path.ismount(self.folder))
        self._happen(run, mishap, end)
        self._look_after(run, mishap)

    # ---- a run
    def _start(self, limited: bool) -> "Run":
        resume = ["--resume"] if self.saved else []
        self.number += 1
        self.soak.counts["runs"] += 1
        largest = max((f.stat().st_size for f in self.folder.glob("*.pth")), default=0)
        arguments = [*self.trained.arguments[:1], "--work-dir", str(self.folder), *resume, *self.trained.arguments[1:]]  # fmt: skip
        log = self.soak.folder / f"{self.folder.name}_{self.number:03d}.txt"
        return Run(self.soak.train, arguments, log, largest // 2 if limited else 0)

    def _happen(self, run: "Run", mishap: str, end: float) -> None:
        soak = self.soak
        if soak.random.random() < 0.15:  # at any moment, also while it starts
            run.wait(soak.random.uniform(0, soak.patience / 15))
        else:
            goal = self.reached + soak.random.randint(2, 15)
            self._until(run, lambda: self._steps() >= goal, end)
        if run.ended:
            return
        if soak.random.random() < 0.25:
            soak.damage_a_picture(self._training_pictures())
            self._pictures_changed()
            before = self._steps()
            self._until(run, lambda: self._steps() >= before + AHEAD, end)
        if run.ended:
            return
        if mishap == "a full disk":
            until = time.monotonic() + soak.patience
            with self._no_room(run) as fill:
                while not run.wait(POLL) and time.monotonic() < until:
                    fill()  # it may have deleted what it had replaced
                if not run.ended:
                    self._hang(run, "with a full disk")
            return
        if "save" in mishap:
            soak.counts["saves cut"] += self._writes(run)
        run.signal(getattr(signal, mishap, signal.SIGKILL))
        if not run.wait(soak.patience):
            self._hang(run, f"after {mishap}")

    def _writes(self, run: "Run") -> bool:
        """Wait until the run writes a checkpoint, which takes milliseconds."""
        until = time.monotonic() + self.soak.patience
        while time.monotonic() < until and not run.ended:
            for _ in range(200):
                if any(name.endswith(UNFINISHED) for name in os.listdir(self.folder)):
                    return True
        return False

    def _until(self, run: "Run", reached: Callable[[], bool], end: float) -> None:
        """Wait while the run gets on; the time may be over before."""
        steps, since = self._steps(), time.monotonic()
        while not run.wait(POLL) and not reached() and time.monotonic() < end:
            if (now := self._steps()) != steps:
                steps, since = now, time.monotonic()
            if time.monotonic() > since + self.soak.patience:
                self._hang(run, f"at step {steps}")

    def _hang(self, run: "Run", when: str) -> None:
        self.soak.counts["hangs"] += 1
        self.soak.told(f"a run stands still {when}: {run.log}")
        run.signal(signal.SIGKILL)
        run.wait(self.soak.patience)

    @contextlib.contextmanager
    def _no_room(self, run: "Run") -> Iterator[Callable[[], None]]:
        """Inside, the run's disk holds less than half a checkpoint more, and again once what is given is called; a
        run that is limited knows already."""
        filler = self.folder / "filler"
        run.by_itself = False
        largest = max((f.stat().st_size for f in self.folder.glob("*.pth")), default=2**20)

        def fill() -> None:
            if run.limited:
                return
            with filler.open("ab") as file:
                while (free := shutil.disk_usage(self.folder).free) > largest // 2:
                    file.write(bytes(min(2**20, free)))
                    file.flush()

        try:
            fill()
            yield fill
        finally:
            filler.unlink(missing_ok=True)

    # ---- what is left
    def _look_after(self, run: "Run", mishap: str) -> None:
        soak = self.soak
        bad = sum(soak.counts[name] for name in FATAL)
        status, text = run.status, run.log.read_text(errors="replace")
        if run.by_itself or status not in ENDS.get(mishap, {-signal.SIGKILL}):
            soak.counts["ends that nobody meant"] += 1
            soak.told(f"a run ended with status {status} ({mishap}): {run.log}")
        # Python's own of a data worker, from which its killed run was taking a picture, is none of the run's
        if text.count("Traceback (most recent") > text.count("resource_sharer.py"):
            soak.counts["ends that nobody meant"] += 1
            soak.told(f"a run printed a stack trace ({mishap}): {run.log}")
        soak.counts["pictures left out"] += text.count("training goes on with the next picture")
        soak.counts["processes left behind"] += run.left_behind()
        last = self._last()
        if last < self.saved:
            soak.counts["checkpoints lost"] += 1
            soak.told(
                f"the newest whole checkpoint is of {last}, and there was one of {self.saved}: {run.log}"
            )
        self._count_steps(last)
        self.saved = last
        soak.counts[mishap] += sum(soak.counts[name] for name in FATAL) == bad
        if "damaged" in mishap:
            self._damage_a_checkpoint()

    def _last(self) -> int:
        """How far the checkpoint has come from which the next run goes on; 0 for none."""
        host, config = self.trained.host, self._config()
        host.set_work_dir(config, self.folder)
        file = host.last_checkpoint(config)
        number = re.search(r"(\d+)\.pth$", file.name) if file else None
        return int(number[1]) if number else 0

    def _damage_a_checkpoint(self) -> None:
        """The newest, if there is another to go on from; or the note of its name."""
        files = sorted(self.folder.glob("*.pth"), key=lambda file: file.stat().st_mtime)
        if len(files) < 2:
            return
        how = self.soak.random.choice(("cut", "empty", "the note"))
        if how == "the note":
            (self.folder / "last_checkpoint").write_text("")
        else:
            os.truncate(files[-1], files[-1].stat().st_size // 2 if how == "cut" else 0)
        self.saved = self._last()

    # ---- steps
    def _entries(self) -> list[tuple[int, float]]:
        """Each logged step with its loss, in the order of writing."""
        log = self.trained.host.read_log(self.folder) if self.folder.is_dir() else ()
        return [(e.iteration, e.record.get("loss", 0.0)) for e in log if not e.validation]

    def _steps(self) -> int:
        """The last step that the log tells of."""
        entries = self._entries()
        return entries[-1][0] if entries else 0

    def _count_steps(self, last: int) -> None:
        """Compare the steps of this run with those of the runs before it."""
        counts, entries = self.soak.counts, self._entries()
        new = entries[counts[f"logged of {self.folder}"] :]
        counts[f"logged of {self.folder}"] = len(entries)
        counts["steps trained"] += len(new)
        for step, loss in new:
            counts["steps redone"] += step <= self.reached
            if not self.trained.exact or step < self.comparable_from:
                continue
            if step in self.losses:
                counts["of which compared"] += 1
                if self.losses[step] != loss:
                    counts["redone otherwise"] += 1
                    self.soak.told(
                        f"step {step} gave {self.losses[step]} and then {loss}: {self.folder}"
                    )
            self.losses[step] = loss
        self.reached = max([self.reached, *(step for step, _ in new)])
        if last == 0:
            self.reached = 0

    def _pictures_changed(self) -> None:
        for track in self.soak.tracks:
            track.losses.clear()
            track.comparable_from = track._steps() + AHEAD

    def _training_pictures(self) -> list[str]:
        records = self.trained.host.records(self._config(), "train")
        return sorted(record.picture for record in records.records)

    def _config(self):
        with contextlib.redirect_stdout(io.StringIO()):
            return self.trained.host.load_config(self.trained.config, sample=True, shrink=True)


class Run:
    """A train command in a process of its own, whose children are found by its session.

    Args:
        log: what it prints.
        limited: bytes that a file of its may have; 0 for any.
    """

    def __init__(self, train, arguments: list[str], log: Path, limited: int):
        self.log, self.limited = log, limited
        self.by_itself = True  # until it is sent a signal, or its disk is full
        self.process = multiprocessing.get_context("fork").Process(
            target=self._work, args=(train, arguments)
        )
        sys.stdout.flush()
        self.process.start()
        if limited:
            self.by_itself = False

    def _work(self, train, arguments: list[str]) -> None:
        os.setsid()
        with self.log.open("w", buffering=1) as log:
            for stream in (1, 2):
                os.dup2(log.fileno(), stream)
            sys.stdout = sys.stderr = log
            if self.limited:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (self.limited, self.limited))
            sys.exit(train(arguments))

    def wait(self, seconds: float) -> bool:
        """Whether it has ended by then."""
        self.process.join(seconds)
        return self.ended

    @property
    def ended(self) -> bool:
        return self.process.exitcode is not None

    @property
    def status(self) -> int | None:
        return self.process.exitcode

    def signal(self, number: int) -> None:
        self.by_itself = False
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)

    def left_behind(self) -> int:
        """How many of its processes still run a few seconds after it; they are ended."""
        for _ in range(50):
            try:
                os.killpg(self.process.pid, 0)
            except ProcessLookupError:
                return 0
            time.sleep(0.1)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return 1


@contextlib.contextmanager
def small_disk(folder: Path) -> Iterator[bool]:
    """Inside, the folder is a disk of its own of TMPFS bytes, if this user may mount one."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS}", "tmpfs", str(folder)]
    mounted = (
        bool(shutil.which("mount")) and subprocess.run(command, capture_output=True).returncode == 0
    )
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)
