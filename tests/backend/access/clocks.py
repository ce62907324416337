"""A clock that tests set."""

from __future__ import annotations


class FakeClock:
    """A clock that moves only when a test moves it.

    Attributes:
        now: The time in seconds.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
