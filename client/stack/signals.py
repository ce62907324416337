"""Handling of stop signals that cannot interrupt the start of a process."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

_HANDLED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StackStopRequested(KeyboardInterrupt):
    """Ctrl-C, SIGTERM or a closed terminal. It is not a subclass of Exception, so that no handler swallows it.

    Attributes:
        number: The signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class StopSignals:
    """Records stop signals within a ``with`` block; ``check`` raises StackStopRequested. Only for the main thread.

    The signal handler does not raise, because an exception between the start of a process and its registration would
    leave the process running.

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
            StackStopRequested: A signal has been received.
        """
        if self.count:
            raise StackStopRequested(self._number)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self._number = number
