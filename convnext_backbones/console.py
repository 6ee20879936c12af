"""What a command shows, and what its log file keeps beside that.

A console shows a line for each step that matters, warnings, and the result. Frameworks and the libraries
below them say a hundred times as much, through loggers, print and warnings; that is for the log file, which
keeps everything whatever is shown. `session` is a command's console, `--quiet` and `--verbose` choose its
level; outside of one (in somebody's own program) nothing is held back, but `shorten` works.
"""

import contextlib
import enum
import io
import logging
import os
import re
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from logging.handlers import MemoryHandler
from typing import Any, NamedTuple

LOGGER = logging.getLogger("convnext_backbones")
LATE = 5  # seconds that something takes before its progress is shown
SILENT = 30  # seconds without a line, after which one tells the progress where no bar can be drawn
LINE = "{desc}: {percentage:.0f}%, {n_fmt} of {total_fmt}, {remaining} left"
EARLY = 10_000  # records that wait for a log file
# Modules that only hand a record on: who called them says it.
HANDING_ON = ("logging", "mmengine.logging.logger", "detectron2.utils.logger", __name__)


class Level(enum.IntEnum):
    """QUIET: warnings and the result. NORMAL: each step, too. VERBOSE: everything as it is said."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


@dataclass
class _State:
    """Of this process's console."""

    level: Level = Level.NORMAL
    libraries: set[str] = field(
        default_factory=set
    )  # whose prints and warnings are for the log file
    noise: list[str] = field(default_factory=list)  # regular expressions of such warnings of others
    kept: logging.Handler | None = None  # the log file, or what waits for it
    muted: bool = False  # not the process that prints


_STATE = _State()


# ---- a command's console -------------------------------------------------------------------------
@contextlib.contextmanager
def session() -> Iterator[None]:
    """A command's console, from its first line to its last: what libraries print, log and warn of goes
    to the log file, as soon as there is one (`keep_in`)."""
    if _STATE.kept is not None:  # a command that another one calls
        yield
        return
    _STATE.level, _STATE.muted = Level.NORMAL, not is_first_process()
    _STATE.kept = MemoryHandler(EARLY, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    ours, before = _Ours(), (sys.stdout, warnings.showwarning, LOGGER.level)
    sys.stdout = _Stdout(sys.stdout)
    warnings.showwarning = _show_warning
    LOGGER.addHandler(ours)
    LOGGER.setLevel(logging.INFO)
    try:
        yield
    finally:
        stdout, warnings.showwarning, level = before
        with contextlib.suppress(ValueError, BrokenPipeError):  # closed, or nobody reads it
            sys.stdout.flush()
        sys.stdout = stdout
        LOGGER.removeHandler(ours)
        LOGGER.setLevel(level)
        _STATE.kept, _STATE.level, _STATE.muted = None, Level.NORMAL, False


def level_in(args: Namespace) -> Level:
    """What a command line (--quiet, --verbose) asks for."""
    if getattr(args, "quiet", False):
        return Level.QUIET
    return Level.VERBOSE if getattr(args, "verbose", False) else Level.NORMAL


def choose(level: Level) -> None:
    """Show as much from now on."""
    _STATE.level = level


def mute(muted: bool = True) -> None:
    """Let this process say no steps: another one does."""
    _STATE.muted = muted


def is_first_process() -> bool:
    """Of those that a launcher has started, before they know of each other."""
    ranks = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK")
    return not any(int(os.environ.get(name) or 0) for name in ranks)


def keep_in(handler: logging.Handler) -> None:
    """Write what a log file should hold, and has waited for it, to that of a framework's run."""
    waiting, _STATE.kept = _STATE.kept, None if _STATE.kept is None else handler
    if isinstance(waiting, MemoryHandler):
        waiting.setTarget(handler)
        waiting.flush()


def hide(
    packages: Iterable[str] = (), messages: Sequence[str] = (), loggers: Iterable[str] = ()
) -> None:
    """Keep for the log file what these packages print and warn of, warnings that match one of `messages`,
    and what these loggers say below an error."""
    _STATE.libraries |= set(packages)
    _STATE.noise += [message for message in messages if message not in _STATE.noise]
    for name in loggers:
        logger = logging.getLogger(name)
        if _divert not in logger.filters:
            logger.addFilter(_divert)


def _keep(level: int, text: str, logger: str = LOGGER.name) -> None:
    if _STATE.kept is not None and text.strip():
        _STATE.kept.handle(logging.LogRecord(logger, level, "", 0, text, None, None))


# ---- our own lines -------------------------------------------------------------------------------
def say(line: str, *, always: bool = False) -> None:
    """Tell of a step that matters: on the console, without --quiet, and in the log file. A warning and
    a result `always`."""
    if not _STATE.muted and (always or _STATE.level > Level.QUIET):
        print(line, flush=True)
    _keep(logging.INFO, line)


def counted(count: int, what: str) -> str:
    """ "1 picture", "2 pictures", "2 boxes", "2 processes", "2 categories"."""
    if count != 1:
        ends_in_y = what.endswith("y") and what[-2:-1] not in "aeo"
        what = what[:-1] + "ies" if ends_in_y else what + ("es" if what[-1] in "xs" else "s")
    return f"{count} {what}"


class _Ours(logging.Handler):
    """Our own loggers: warnings on stderr, as Python shows them without any handler; all in the file."""

    def emit(self, record: logging.LogRecord) -> None:
        if _STATE.kept is not None:
            _STATE.kept.handle(record)
        if record.levelno >= logging.WARNING or _STATE.level is Level.VERBOSE:
            print(record.getMessage(), file=sys.stderr)


# ---- what frameworks say -------------------------------------------------------------------------
class Lines(NamedTuple):
    """Which lines of a framework a user looks for: regular expressions, matched at a line's start."""

    shown: Sequence[str]  # of what it says by the way
    noise: Sequence[str] = ()  # of its warnings, those that tell nothing


def shorten(handler: logging.Handler, lines: Lines) -> None:
    """Let a framework's handler show `lines`, warnings, and what others than a library say through it:
    a user's own modules, and ours."""
    if not any(isinstance(one, _Shown) for one in handler.filters):
        handler.addFilter(_Shown(lines))
        handler.setFormatter(_Short(handler.formatter))


class _Shown(logging.Filter):
    def __init__(self, lines: Lines):
        super().__init__()
        self.lines, self.noise = (_pattern(some) for some in lines)

    def filter(self, record: logging.LogRecord) -> bool:
        if _STATE.level is Level.VERBOSE:
            return True
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            return not self.noise.match(text)
        if _STATE.level is Level.QUIET:
            return False
        return bool(self.lines.match(text)) or not _from_library(_caller())


class _Short(logging.Formatter):
    """The time and the line; with --verbose as the framework formats it."""

    def __init__(self, own: logging.Formatter | None):
        super().__init__("%(asctime)s  %(message)s", "%H:%M:%S")
        self.own = own or logging.Formatter()

    def format(self, record: logging.LogRecord) -> str:
        if _STATE.level is Level.VERBOSE:
            return self.own.format(record)
        text = super().format(record)
        return text.replace("  ", "  warning: ", 1) if record.levelno == logging.WARNING else text


def _divert(record: logging.LogRecord) -> bool:
    """A filter of libraries' loggers; True: go on as ever."""
    if _STATE.level is Level.VERBOSE or record.levelno >= logging.ERROR:
        return True
    _keep(record.levelno, record.getMessage(), record.name)
    return False


def _pattern(starts: Sequence[str]) -> re.Pattern:
    return re.compile("|".join(starts) or "(?!)")


def _caller() -> str:
    """The file of who logs."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__") in HANDING_ON:
        frame = frame.f_back
    return frame.f_code.co_filename if frame else ""


def _from_library(file: str) -> bool:
    """Whether it is a module of `libraries`, wherever they are installed."""
    for name in _STATE.libraries:
        module = sys.modules.get(name)
        places = getattr(module, "__path__", None) or [getattr(module, "__file__", None)]
        for place in places if module else ():
            if place and (file == place or file.startswith(place + os.sep)):
                return True
    return False


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    """warnings.showwarning: a library's for the log file, others on stderr too."""
    text = warnings.formatwarning(message, category, filename, lineno, line)
    if file is not None:
        file.write(text)
        return
    said = str(message)
    library = _from_library(filename) or any(re.match(known, said) for known in _STATE.noise)
    _keep(logging.INFO if library else logging.WARNING, text.rstrip(), "py.warnings")
    if not library or _STATE.level is Level.VERBOSE:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)


class _Stdout(io.TextIOBase):
    """The console: what a library prints goes to the log file, a line at once; all else beside bars."""

    def __init__(self, under):
        self.under, self.of_library, self.beside_bars = under, "", ""
        self.written = time.monotonic()

    def write(self, text: str) -> int:
        if _from_library(sys._getframe(1).f_code.co_filename):
            *lines, self.of_library = (self.of_library + text).split("\n")
            for line in lines:
                _keep(logging.INFO, line, "stdout")
            if _STATE.level is not Level.VERBOSE:
                return len(text)
        self.written = time.monotonic()
        if _bars():
            *lines, self.beside_bars = (self.beside_bars + text).split("\n")
            if lines:
                with _bars().external_write_mode(file=self):
                    self.under.write("\n".join([*lines, ""]))
        else:
            self.under.write(self.beside_bars + text)
            self.beside_bars = ""
        return len(text)

    def flush(self) -> None:
        if self.beside_bars and not _bars():
            self.under.write(self.beside_bars)
            self.beside_bars = ""
        self.under.flush()

    def __getattr__(self, name: str) -> Any:  # what io.TextIOBase does not define
        return getattr(self.under, name)

    # and what it defines
    def fileno(self) -> int:
        return self.under.fileno()

    def isatty(self) -> bool:
        return self.under.isatty()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:
        return self.under.encoding

    @property
    def errors(self) -> str | None:
        return self.under.errors


# ---- progress ------------------------------------------------------------------------------------
def _bars():
    """tqdm's class, if a bar is drawn now."""
    tqdm = sys.modules.get("tqdm")
    return tqdm.tqdm if tqdm and getattr(tqdm.tqdm, "_instances", None) else None


def progress(items: Iterable | None = None, desc: str = "", late: float = LATE, **settings):
    """tqdm's bar over items, or one to update, of what takes longer than `late` seconds: on a terminal.
    Elsewhere a line at the end, and when none was written for SILENT; with --quiet none."""
    from tqdm import tqdm

    if sys.stderr is not None and sys.stderr.isatty():
        settings |= dict(dynamic_ncols=True, leave=False)
    else:
        settings |= dict(file=_Progress(), mininterval=SILENT, maxinterval=SILENT, bar_format=LINE)
    if _STATE.level is Level.QUIET or _STATE.muted:
        settings["disable"] = True
    return tqdm(items, desc=desc, delay=late, **settings)


class _Progress(io.TextIOBase):
    """What tqdm draws, a line each, unless other lines show that something moves."""

    def write(self, text: str) -> int:
        line = text.strip()
        still = time.monotonic() - getattr(sys.stdout, "written", 0.0) >= SILENT
        if line and (still or ": 100%" in line) and sys.stderr is not None:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()
        return len(text)
