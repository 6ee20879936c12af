"""Errors that a user can cause and mend: one sentence, no stack trace in the command-line tools."""

import contextlib
import errno
import re
import sys
import traceback


class UserError(ValueError):
    """What came, what was expected and what to do."""


class OptionError(UserError, TypeError):
    """Options that do not exist; a TypeError, as Python's own."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read, found or fitted; the message names file and cause."""


class UnreadableFileError(UserError):
    """A picture or label map, `path`, that is missing or damaged. Training goes on without it
    (data/skipping.py); whatever else reads it stops."""

    def __init__(self, message: str, path: str = ""):  # torch hands on the message alone
        super().__init__(message)
        self.path = path


class Stopped(KeyboardInterrupt):
    """A run that a signal ended; the message says what was saved and how to go on."""

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal

    @property
    def status(self) -> int:
        """The exit status, as shells count it: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.signal


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # a disk, a quota, what one file may hold


def is_full_disk(error: BaseException | None) -> bool:
    """Whether a file could not be written for want of room."""
    return isinstance(error, OSError) and error.errno in FULL


def sentence_of(error: BaseException) -> str | None:
    """What a user is told of an error: its sentence, or that of the UserError which caused it, also in
    a worker process of a DataLoader, whose trace torch puts before it; None where no user caused it."""
    while error is not None and not isinstance(error, UserError):
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            return f"{error.filename}: {error.strerror}"
        if is_full_disk(error):  # written by a library, as a log or an event file
            return (
                f"a file could not be written: {error.strerror}. Make room or choose another folder; a training "
                "goes on with --resume"
            )
        error = error.__cause__
    if error is None:
        return None
    return re.sub(
        r"(?s)^Caught \w+ in DataLoader worker.*\n(?:\w+\.)+\w+: ", "", str(error)
    ).strip()


@contextlib.contextmanager
def exit_with_sentence(debug: bool = False):
    """Turn what a user can mend into its sentence on stderr and exit status 2; around a tool's main().
    With debug the stack trace comes before it."""
    try:
        yield
    except Exception as error:
        if (sentence := sentence_of(error)) is None:
            raise
        if debug:
            traceback.print_exc()
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
