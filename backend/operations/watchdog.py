"""Ends a process whose event loop has stood still: whoever supervises it starts it again, and people are served."""

from __future__ import annotations

import faulthandler
import sys
from typing import IO


class Watchdog:
    """The interpreter's own timer, outside its lock: it also ends a process that one long call of C code holds.

    One for the whole process. At the end it writes the stacks of all threads, so that the reason can be found.

    Args:
        seconds: that the loop may stand still; 0: as long as it likes.
        log: where the stacks go; must have a file descriptor.
    """

    def __init__(self, seconds: float, log: IO[str] | None = None) -> None:
        self._seconds = seconds
        self._log = log or sys.stderr

    def alive(self) -> None:
        """To be called by the loop, more often than every ``seconds``."""
        if self._seconds:
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._log)

    def stop(self) -> None:
        """The loop ends by itself."""
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()
