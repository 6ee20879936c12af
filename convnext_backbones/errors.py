"""Errors that a user can cause and mend: one sentence, no stack trace in the command-line tools."""

import contextlib
import sys


class UserError(ValueError):
    """What came, what was expected and what to do."""


class OptionError(UserError, TypeError):
    """Options that do not exist; a TypeError, as Python's own."""


class CheckpointError(UserError):
    """A checkpoint that cannot be read, found or fitted; the message names file and cause."""


@contextlib.contextmanager
def exit_with_sentence():
    """Turn a UserError into its sentence on stderr and exit status 2; around a tool's main()."""
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
