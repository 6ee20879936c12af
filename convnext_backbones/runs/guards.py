"""What watches over a training of any framework: how much it may go wrong, and when it stands still.

Each adapter's guards.py asks it at every step; data/skipping.py and memory.py know the rest.
"""

import contextlib
import faulthandler
import math
import os
import sys
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import distributed

from ..data.skipping import Skipped, Skipping
from ..errors import CheckpointError, UserError
from .memory import Picture
from .randomness import read_by

STALLED = "stalled_rank{}.txt"  # in the run's folder
SKIPPED = "skipped_pictures_rank{}.txt"  # there, too
LOOKS = 20  # steps between two looks of several processes at what each has skipped
TORCH_WAITS = ("distributed", "autograd", "nn/parallel")  # for other processes, in these folders
NAMED = 8  # files of a batch, in a sentence


class Limits(NamedTuple):
    """How much may go wrong before a run stops.

    not_finite: steps in a row whose loss is NaN or infinite; their updates are left out.
    skip_share: of the pictures read, how many may be missing or damaged; 0: none, else always a few.
    stall_timeout: seconds without a step, or a picture validated, until the run ends; 0: for ever.
    """

    not_finite: int = 5
    skip_share: float = 0.01
    stall_timeout: float = 1800.0

    @classmethod
    def of(cls, **given) -> "Limits":
        """
        Raises:
            UserError: a value that cannot be.
        """
        limits = cls(**given)
        valid = {
            "not_finite": ("a whole number from 1", lambda n: isinstance(n, int) and n >= 1),
            "skip_share": ("a share from 0 to 1", lambda share: 0 <= share <= 1),
            "stall_timeout": ("seconds, or 0 for none", lambda s: 0 <= s < math.inf),
        }
        for name, (words, holds) in valid.items():
            value = getattr(limits, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
                raise UserError(f"{name} of the run's guards is {value!r}; valid: {words}")
        return limits

    @classmethod
    def named_in(cls, args: Namespace) -> dict[str, float]:
        """Those that a command line gives."""
        return {
            name: value for name in cls._fields if (value := getattr(args, name, None)) is not None
        }

    @property
    def group_timeout(self) -> timedelta:
        """How long one process waits for another in gloo and NCCL: longer than the watch, which says more."""
        seconds = 2 * self.stall_timeout + 60
        return timedelta(seconds=seconds) if self.stall_timeout else timedelta(days=365)


# ---- losses and weights --------------------------------------------------------------------------
def finite(value) -> bool:
    """Whether a tensor or number holds neither NaN nor infinity."""
    return bool(torch.isfinite(torch.as_tensor(value)).all())


def not_finite_in(state: Mapping[str, Any]) -> str | None:
    """The first of a state dict's tensors that holds NaN or infinity."""
    for name, value in state.items():
        if torch.is_tensor(value) and value.is_floating_point() and not finite(value):
            is_mask = ((value == -math.inf) | (value == 0)).all()  # of attention, a buffer
            if not is_mask:
                return name
    return None


def last_sound(
    folder: str | Path,
    iteration_of: Callable[[Path], int | None],
    weights_of: Callable[[Path], Mapping[str, Any]],
) -> Path | None:
    """The checkpoint of a run's folder that has come furthest with weights that are all finite.

    Args:
        iteration_of: after which a file was saved, None for one without an optimizer.
        weights_of: a file's state dict. Both may raise CheckpointError.
    """
    reached = {}
    for file in Path(folder).glob("*.pth"):
        with contextlib.suppress(CheckpointError):
            if (at := iteration_of(file)) is not None:
                reached[file] = at
    for file in sorted(reached, key=lambda file: -reached[file]):
        with contextlib.suppress(CheckpointError):
            if not_finite_in(weights_of(file)) is None:
                return file
    return None


def any_process(flag: bool, device: torch.device | str = "cpu") -> bool:
    """Whether it is so in any process of a group; all have to ask."""
    if not _in_a_group():
        return flag
    where = "cpu" if distributed.get_backend() == "gloo" else device
    asked = torch.tensor(float(flag), device=where)
    distributed.all_reduce(asked, distributed.ReduceOp.MAX)
    return bool(asked)


def gathered(own: list) -> list[list]:
    """What every process of a group hands in; all have to."""
    if not _in_a_group():
        return [own]
    found: list = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, own)
    return found


def _in_a_group() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def files_of(pictures: list[Picture]) -> str:
    """A batch's files in words, which begin a sentence."""
    names = [picture.path for picture in pictures if picture.path]
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"The batch: {', '.join(names[:NAMED])}{more}. " if names else ""


# ---- pictures that cannot be read ----------------------------------------------------------------
class LeavingOut:
    """Lets a training go on without the pictures that cannot be read (data/skipping.py).

    Args:
        loader: of the training; a loader that is not ours to follow leaves out nothing.
        folder: of the run.
        rank, processes: of the group.
        share: of the pictures read, how many may be left out; 0: none.
    """

    def __init__(self, loader, folder: str | Path, rank: int, processes: int, share: float):
        self.loader, self.processes = loader, processes
        self._read = 0
        self._skipped: Skipped | None = None
        note = Path(folder).absolute() / SKIPPED.format(rank)
        if share and read_by(loader, Skipping(note)):
            self._skipped = Skipped(note, share, gathered)

    def after_step(self, step: int, batch: int) -> None:
        """A step, counted from 1, has taken a batch in every process; looks at what was left out."""
        self._read += self.processes * batch
        if self.processes == 1 or step % LOOKS == 0:
            self.look()

    def look(self) -> None:
        """Say what was left out since the last look; all processes have to.

        Raises:
            UserError: more than the share was.
        """
        if self._skipped:
            self._skipped.look(min(self._read, len(self.loader.dataset)))

    def summary(self) -> str:
        """What was left out, in a sentence; "" for nothing."""
        return self._skipped.summary() if self._skipped else ""


# ---- standing still ------------------------------------------------------------------------------
class Watch:
    """Ends a process whose run does nothing for a set time, with what every thread was doing.

    Of several processes all stand still when one does. The one that does not wait for another ends at once, and
    its launcher the others; they end themselves a little later, should it not come to that.

    Args:
        folder: for the stacks, a file a process: STALLED.
        rank, processes: of the group.
        timeout: seconds; 0 watches nothing. A run that was suspended has not stood still.
    """

    def __init__(self, folder: str | Path, rank: int, processes: int, timeout: float):
        self.folder, self.rank, self.processes = Path(folder), rank, processes
        self.timeout = timeout
        self._pause = min(1.0, timeout / 20)
        self._grace = max(4 * self._pause, min(60.0, timeout / 5))
        self._does, self._moved = "has not begun", True
        self._ended = threading.Event()

    def moves(self, does: str) -> None:
        """The run has got on, and does what the words say ("computes step 3")."""
        self._does, self._moved = does, True

    @contextlib.contextmanager
    def watching(self) -> Iterator["Watch"]:
        """Inside, the calling thread's run is watched."""
        if not self.timeout:
            yield self
            return
        file = self.folder / STALLED.format(self.rank)
        self.folder.mkdir(parents=True, exist_ok=True)
        thread = threading.get_ident()
        with file.open("w") as stacks:
            watcher = threading.Thread(target=self._watch, args=(thread, stacks), daemon=True)
            watcher.start()
            try:
                yield self
            finally:
                self._ended.set()
                faulthandler.cancel_dump_traceback_later()
                watcher.join()
                file.unlink(missing_ok=True)

    def _watch(self, thread: int, stacks) -> None:
        still, said = 0.0, False
        while not self._ended.wait(self._pause):
            # from C, should some library keep Python's lock, and with it this thread, for so long
            faulthandler.dump_traceback_later(self.timeout, file=stacks)
            still += self._pause
            if self._moved:
                self._moved, still, said = False, 0.0, False
            if still < self.timeout:
                continue
            if not said:
                stacks.seek(0)
                stacks.truncate()
                faulthandler.dump_traceback(stacks)
                said = True
            if not self._waits_for_others(thread):
                self._end(
                    f"process {self.rank} of {self.processes} stands still: it {self._does} for "
                    f"{self.timeout:g} s"
                )
            elif still >= self.timeout + self._grace:
                self._end(
                    f"process {self.rank} of {self.processes} {self._does} and waits for {self._others()} for "
                    f"{still:.0f} s"
                )

    def _waits_for_others(self, thread: int) -> bool:
        if self.processes == 1:
            return False
        frame = sys._current_frames().get(thread)
        file = frame.f_code.co_filename.replace("\\", "/") if frame else ""
        root = f"{Path(torch.__file__).parent.as_posix()}/"
        if file.startswith(root) and file.removeprefix(root).startswith(TORCH_WAITS):
            return True
        # a GPU's result is asked for wherever, and comes when all have given theirs
        return torch.cuda.is_initialized() and self._does.startswith("computes")

    def _others(self) -> str:
        """The processes that have left no stack, where all write into one folder."""
        silent = [
            str(rank)
            for rank in range(self.processes)
            if not _has_content(self.folder / STALLED.format(rank))
        ]
        return f"process {', '.join(silent)}, which does not answer," if silent else "another"

    def _end(self, what: str) -> None:
        sentence = (
            f"error: {what}. What it did: {self.folder / STALLED.format(self.rank)}; of each process in the file of "
            f"its number. The run ends; --resume goes on from its last checkpoint. What takes longer needs a "
            "longer --stall-timeout\n"
        )
        os.write(2, sentence.encode())  # whoever holds a lock of sys.stderr
        os._exit(1)


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


# ---- another process that ended ------------------------------------------------------------------
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL", "Timed out waiting",
        "gloo", "Gloo")  # fmt: skip


def lost_another(error: BaseException) -> UserError | None:
    """The sentence for an exchange that failed as another process ended; None for any other error."""
    words = str(error)
    if not _in_a_group() or not isinstance(error, RuntimeError) or isinstance(error, UserError):
        return None
    if not isinstance(error, distributed.DistBackendError) and not any(w in words for w in LOST):
        return None
    first = words.strip().splitlines()[0] if words.strip() else type(error).__name__
    return UserError(
        f"process {distributed.get_rank()} of {distributed.get_world_size()} has lost another process, whose own "
        f"message says why ({first})"
    )
