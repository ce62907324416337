"""The pause in claiming that follows a fault of the worker itself."""

from __future__ import annotations

import threading

from worker import clock

_FIRST_SECONDS = 30.0
_LONGEST_SECONDS = 600.0


class ClaimBackoff:
    """Pauses claiming; each consecutive fault doubles the pause. Thread-safe.

    Without a pause, a worker with a broken disk or GPU would claim one run after another and make all of them fail.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next_seconds = _FIRST_SECONDS
        self._until = 0.0
        self._reason = ""

    @property
    def active(self) -> bool:
        """Whether claiming is paused."""
        return clock.now() < self._until

    def start(self, reason: str) -> None:
        """Pause claiming because of ``reason``."""
        with self._lock:
            self._reason = reason
            self._until = clock.now() + self._next_seconds
            self._next_seconds = min(self._next_seconds * 2, _LONGEST_SECONDS)

    def reset(self) -> None:
        """Make the next pause short again. To be called if a training ended without a fault of the worker."""
        with self._lock:
            self._next_seconds = _FIRST_SECONDS

    def problem(self) -> str:
        """Return a sentence about the current pause; an empty string if claiming is not paused."""
        with self._lock:
            seconds = self._until - clock.now()
            if seconds <= 0 or not self._reason:
                return ""
            return f"does not claim runs for another {seconds:.0f} s: {self._reason}"
