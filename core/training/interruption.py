"""How a training is run and how it is told to stop, neither of which changes its numbers."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace


class StopRequested(BaseException):
    """A stop was asked for in a block that may be broken off.

    Not an Exception, as KeyboardInterrupt is none: whoever turns a failed download or a damaged file into a readable
    reason must not take it for one.
    """


class Interruption:
    """Breaks off what cannot poll whether it is to stop: reading a data set, a pass over the test images.

    Between steps a training polls; these take minutes, and whoever sends SIGTERM sends SIGKILL soon after.
    """

    def __init__(self) -> None:
        self._asked = False
        self._breaking = False

    def requested(self) -> bool:
        return self._asked

    def request(self) -> None:
        """Stop; called by a signal's handler, that is between two instructions of the main thread."""
        self._asked = True
        if self._breaking:
            self._breaking = False
            raise StopRequested

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """A block that ``request`` ends with StopRequested, at once where it was asked before."""
        try:
            self._breaking = True
            if self._asked:
                raise StopRequested
            yield
        finally:
            self._breaking = False

    @contextmanager
    def shielded(self) -> Iterator[None]:
        """A part of such a block that must not be left half done."""
        breaking, self._breaking = self._breaking, False
        yield
        self._breaking = breaking
        if breaking and self._asked:
            self._breaking = False
            raise StopRequested


@dataclass(frozen=True)
class TrainOptions:
    """How a training is run.

    Attributes:
        checkpoint_seconds: least time between two checkpoints; they are written between steps.
        stop_asked: polled between steps; True ends the training with a checkpoint.
        interruption: ends what lies outside of the steps.
    """

    checkpoint_seconds: float = 60.0
    stop_requested: Callable[[], bool] = lambda: False
    interruption: Interruption = field(default_factory=Interruption)


@contextmanager
def stop_on_sigterm(options: TrainOptions) -> Iterator[TrainOptions]:
    """Options whose training stops with a checkpoint when the process gets SIGTERM or SIGINT."""
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
    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)
