"""How a training is run and how it is stopped. Neither changes its numbers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace


class StopRequested(BaseException):
    """A stop was requested in an interruptible block.

    It is not an Exception, just as KeyboardInterrupt is not: code that turns a failed download or a damaged file into
    a readable reason must not catch it.
    """


class Interruption:
    """Interrupts work that cannot poll for a stop: reading a data set, a pass over the test images.

    A training polls between steps. This work takes minutes, and SIGTERM is usually followed by SIGKILL soon.
    """

    def __init__(self) -> None:
        self._requested = False
        self._interruptible = False

    def requested(self) -> bool:
        """Whether a stop was requested."""
        return self._requested

    def request(self) -> None:
        """Request a stop. A signal handler calls this, between two instructions of the main thread.

        Raises:
            StopRequested: The main thread is in an interruptible block.
        """
        self._requested = True
        if self._interruptible:
            self._interruptible = False
            raise StopRequested

    def ask(self) -> None:
        """Request a stop from another thread, which cannot interrupt this one: ``check`` does it."""
        self._requested = True

    def check(self) -> None:
        """Interrupt an interruptible block if a stop was requested.

        Raises:
            StopRequested: It was, and the training is in such a block.
        """
        if self._requested and self._interruptible:
            self._interruptible = False
            raise StopRequested

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block that ``request`` ends with StopRequested, at once if a stop was requested before."""
        try:
            self._interruptible = True
            if self._requested:
                raise StopRequested
            yield
        finally:
            self._interruptible = False

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """A part of an interruptible block that must not be left half done; a stop takes effect after it."""
        previous, self._interruptible = self._interruptible, False
        yield
        self._interruptible = previous
        if previous and self._requested:
            self._interruptible = False
            raise StopRequested


@dataclass(frozen=True)
class TrainOptions:
    """How a training is run.

    Attributes:
        checkpoint_seconds: The least time between two checkpoints, which are written between steps.
        stop_requested: Polled between steps; True ends the training with a checkpoint.
        interruption: Interrupts the work outside of the steps.
        on_prepared: Called once, when everything is ready for the first step.
    """

    checkpoint_seconds: float = 60.0
    stop_requested: Callable[[], bool] = lambda: False
    interruption: Interruption = field(default_factory=Interruption)
    on_prepared: Callable[[], None] = lambda: None


@contextmanager
def stop_on_sigterm(options: TrainOptions) -> Iterator[TrainOptions]:
    """A block in which SIGTERM and SIGINT stop a training with a checkpoint.

    Args:
        options: The options of the training.

    Yields:
        The same options, connected to the two signals.
    """
    interruption = Interruption()
    with _handling(lambda *_: interruption.request()):
        yield replace(options, stop_requested=interruption.requested, interruption=interruption)


@contextmanager
def ignore_sigterm() -> Iterator[None]:
    """A block in which SIGTERM and SIGINT do nothing."""
    with _handling(signal.SIG_IGN):
        yield


@contextmanager
def _handling(handler: Callable[..., object] | signal.Handlers) -> Iterator[None]:
    previous = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in previous.items():
            signal.signal(number, earlier)
