"""Ctrl-C and SIGTERM in a run: the step that is under way ends, then the run saves and stops.

with Interruption() as interruption:
    ...                          # at each step's end:
    if interruption.signal:
        save()
        raise interruption.stopped("saved FILE; go on with --resume")
"""

import os
import signal
import sys
import threading
from types import FrameType

from ..errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Notes the first Ctrl-C or SIGTERM inside; the second ends the run where it stands.

    Outside the main thread, where Python takes no signal handlers, it notes nothing.
    """

    def __init__(self):
        self.signal: int | None = None
        self._process = os.getpid()
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *error) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a data loader's worker has inherited the handler
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return  # Ctrl-C reaches it too; it feeds the step that is under way
        if self.signal is not None:
            raise self.stopped("stopped at once: what was not saved before is lost")
        self.signal = number
        name = signal.Signals(number).name
        print(f"\n{name}: the run saves after this step and ends; once more ends it at once",
              file=sys.stderr)  # fmt: skip

    def stopped(self, message: str) -> Stopped:
        """The end of the run, with the signal's exit status."""
        return Stopped(message, self.signal or signal.SIGINT)
