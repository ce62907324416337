"""Being told to stop, in a way that never interrupts the start of a process half-way."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or a closed terminal. Like Ctrl-C itself it is no Exception, so that nothing swallows it.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class StopSignals:
    """While open, remembers signals; ``check`` raises StopRequested. Must be used in the main thread.

    A handler that raised would do so between a process's start and its being written down, and leave it behind.
    """

    def __init__(self) -> None:
        self.count = 0
        self._number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _HANDLED:
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def check(self) -> None:
        """Raise StopRequested where a signal has come."""
        if self.count:
            raise StopRequested(self._number)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._number = number
