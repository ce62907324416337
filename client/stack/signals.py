"""Stop signals that never interrupt the start of a process half-way."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or a closed terminal. Like KeyboardInterrupt it is no Exception, so that no handler swallows it.

    Attributes:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class StopSignals:
    """Records stop signals while it is open; ``check`` raises StopRequested for them. Only for the main thread.

    A signal handler that raised could do so between a process's start and its registration, and leave it behind.

    Attributes:
        count: Number of signals received.
    """

    def __init__(self) -> None:
        self.count = 0
        self._number = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _HANDLED:
                self._previous[number] = signal.signal(number, self._record)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()

    def check(self) -> None:
        """Check for signals.

        Raises:
            StopRequested: One has been received.
        """
        if self.count:
            raise StopRequested(self._number)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._number = number
