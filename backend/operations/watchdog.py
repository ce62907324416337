"""A watchdog that ends the process if its event loop is blocked, so that its supervisor restarts it."""

from __future__ import annotations

import faulthandler
import sys
from typing import IO


class Watchdog:
    """Ends the process if ``alive`` is not called in time.

    It uses the interpreter's timer thread, which runs without the global interpreter lock, so it also ends a process
    that a long call of C code blocks. Before the end it writes the stacks of all threads, which show the
    reason. Use one per process.

    Args:
        seconds: Maximum time for which the loop may be blocked; 0 for no limit.
        log: Stream for the stacks; it must have a file descriptor.
    """

    def __init__(self, seconds: float, log: IO[str] | None = None) -> None:
        self._seconds = seconds
        self._log = log or sys.stderr

    def alive(self) -> None:
        """Restart the timer. The event loop calls this more often than every ``seconds``."""
        if self._seconds:
            faulthandler.dump_traceback_later(self._seconds, exit=True, file=self._log)

    def stop(self) -> None:
        """Stop the timer, because the event loop ends."""
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()
