"""Training goes on without the pictures that cannot be read, and says which they are.

Whoever makes a sample, as a rule a data worker, takes the next picture in the place of one that is missing or
damaged, and notes it in a file; the process whose workers they are reads it after each step. The next one
is the same in every run, so that a run that goes on sees what it would have seen.
"""

import contextlib
import logging
import numbers
import os
from collections.abc import Callable
from pathlib import Path

from ..errors import UnreadableFileError, UserError

LEAST = 5  # pictures that may be left out, however few were read
NAMED = 10  # in a sentence

LOGGER = logging.getLogger("convnext_backbones")


class Skipping:
    """Reads the samples of a training.

    Args:
        note: the file to which each process adds a line for a picture that it skips.
    """

    def __init__(self, note: Path):
        self.note = note
        self._noted: set[str] = set()

    def __call__(self, dataset, index):
        """The sample at an index, or the next one whose files can be read.

        Raises:
            UserError: none of LEAST + 1 pictures in a row can be read.
        """
        try:
            return dataset[index]
        except UnreadableFileError as error:
            if not isinstance(index, numbers.Integral):
                raise
            first, failed = error, error
        for further in range(1, LEAST + 1):
            self._add(failed)
            try:
                return dataset[(int(index) + further) % len(dataset)]
            except UnreadableFileError as error:
                failed = error
        raise UserError(
            f"{LEAST + 1} pictures in a row cannot be read; the first: {first}"
        ) from first

    def _add(self, error: UnreadableFileError) -> None:
        if error.path in self._noted:
            return
        self._noted.add(error.path)
        line = f"{error.path}\t{error}".replace("\n", " ") + "\n"
        with self.note.open("ab", buffering=0) as file:  # in one piece, beside other workers' lines
            file.write(line.encode(errors="backslashreplace"))


class Skipped:
    """The pictures that a run has left out, over all workers and processes.

    Args:
        note: the file that Skipping writes to; what it holds already is of an earlier run.
        share: of the pictures read, how many may be left out; LEAST may be in any case, but none for 0.
        gather: from every process what it hands in, in a list.
    """

    def __init__(self, note: Path, share: float, gather: Callable[[list], list[list]]):
        self.note, self.share, self._gather = note, share, gather
        self._read = os.path.getsize(note) if note.exists() else 0
        self.sentences: dict[str, str] = {}  # by path

    def look(self, read: int) -> None:
        """Say which pictures were left out since the last look.

        Args:
            read: how many different pictures the run has read at most.

        Raises:
            UserError: more than the share were left out.
        """
        for path, sentence in (line for lines in self._gather(self._new()) for line in lines):
            if path not in self.sentences:
                self.sentences[path] = sentence
                LOGGER.warning("%s: training goes on with the next picture in its place", sentence)
        count = len(self.sentences)
        if count > max(LEAST * (self.share > 0), self.share * read):
            raise UserError(
                f"{count} pictures of at most {read} that were read are missing or damaged, more than the share "
                f"of {self.share:g} that may be left out (and more than {LEAST}): the run stops. "
                f"{self._named()}. {self.note} names them, and convnext-backbones check-data CONFIG all of a "
                "config's data; mend or remove them, or raise --skip-share"
            )

    def summary(self) -> str:
        """What was left out, in a sentence; "" for nothing."""
        count = len(self.sentences)
        if not count:
            return ""
        return f"{count} picture{'s' * (count > 1)} left out of the training: {self._named()}"

    def _named(self) -> str:
        said = list(self.sentences.values())
        more = f"; and {len(said) - NAMED} more, in {self.note}" if len(said) > NAMED else ""
        return "; ".join(said[:NAMED]) + more

    def _new(self) -> list[tuple[str, str]]:
        with contextlib.suppress(FileNotFoundError), self.note.open("rb") as file:
            file.seek(self._read)
            content = file.read()
            whole = content[: content.rfind(b"\n") + 1]
            self._read += len(whole)
            lines = whole.decode(errors="replace").splitlines()
            return [tuple(line.split("\t", 1)) for line in lines if "\t" in line]
        return []
