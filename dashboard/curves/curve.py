"""Curves of one run, merged from the backend's replies."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from core.protocol.public import TERMINAL, MetricsReply, RunSummary, Series

MAX_POINTS = 2000
"""Number of points requested for one curve. The stored curve may have half as many more before it is reloaded."""
_RELOAD_ABOVE = MAX_POINTS + MAX_POINTS // 2


@dataclass
class Curve:
    """One metric of one run, ordered by step.

    The lists have equal length. If an entry is a single point, ``low`` and ``high`` equal ``value``.
    """

    name: str
    step: list[int] = field(default_factory=list)
    epoch: list[float] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    low: list[float] = field(default_factory=list)
    high: list[float] = field(default_factory=list)
    resolution: int = 1

    def __len__(self) -> int:
        return len(self.step)

    def merge(self, new: Series) -> bool:
        """Add new points.

        Returns:
            False if the backend now sends a coarser resolution. The complete curve must then be requested again.
        """
        if not new.step:
            return True
        if self.step and new.resolution > self.resolution:
            return False
        if not self.step:
            self.resolution = new.resolution
        rows = list(
            zip(
                new.step,
                new.epoch,
                new.elapsed,
                new.value,
                new.low if new.low is not None else new.value,
                new.high if new.high is not None else new.value,
                strict=True,
            )
        )
        if self.step and rows[0][0] <= self.step[-1]:
            # A late point, or a bucket that was incomplete before: the newer entry replaces the one with the same step.
            stored = zip(self.step, self.epoch, self.elapsed, self.value, self.low, self.high, strict=True)
            rows = sorted({row[0]: row for row in (*stored, *rows)}.values(), key=lambda row: row[0])
            for column in self._columns():
                column.clear()
        for row in rows:
            for column, value in zip(self._columns(), row, strict=True):
                column.append(value)
        return True

    def _columns(self) -> tuple[list[float], ...]:
        return (self.step, self.epoch, self.elapsed, self.value, self.low, self.high)  # type: ignore[return-value]


@dataclass
class RunCurves:
    """The curves of one run, by metric.

    Attributes:
        curves: Curves by metric.
        cursor: Cursor of the newest reply.
        attempt: Attempt of the run that the points belong to.
        complete: Whether the run had ended at the newest reply, so that no points can follow.
        summary_key: State, attempt and step of the run at the last update.
    """

    curves: dict[str, Curve] = field(default_factory=dict)
    cursor: int = 0
    attempt: int = 0
    complete: bool = False
    summary_key: tuple[str, int, int] | None = None

    def update(self, attempt: int, fetch_since: Callable[[int], MetricsReply]) -> None:
        """Request and merge new points; request the complete history if it has changed.

        The history changes if the run starts a new attempt, which may begin before the stored points, if the backend
        switches to a coarser resolution, or if a curve has grown to too many points.

        Args:
            attempt: Current attempt of the run.
            fetch_since: Requests the points after a cursor; 0 requests all points.
        """
        if attempt != self.attempt:
            self.clear()
            self.attempt = attempt
        if not self.merge(fetch_since(self.cursor)):
            self.clear()
            self.merge(fetch_since(0))

    def merge(self, reply: MetricsReply) -> bool:
        """Merge a reply.

        Returns:
            False if the history has changed and must be requested from the start.
        """
        if reply.cursor < self.cursor:
            return False
        for series in reply.series:
            curve = self.curves.setdefault(series.name, Curve(series.name))
            stored = len(curve)
            if not curve.merge(series) or (stored and len(curve) > _RELOAD_ABOVE):
                return False
        self.cursor = reply.cursor
        self.complete = reply.state in TERMINAL
        return True

    def clear(self) -> None:
        """Discard all points before the history is requested again."""
        self.curves.clear()
        self.cursor = 0


def seconds_left(run: RunSummary, curves: Iterable[Curve]) -> float | None:
    """Return the estimated remaining training time in seconds; None before the first measurement.

    The estimate uses the training seconds per step over all attempts, so time in the queue does not count.
    """
    if run.state != "running" or not run.total_steps or not run.step:
        return None
    newest = max((curve for curve in curves if curve.step), key=lambda curve: curve.step[-1], default=None)
    if newest is None or newest.step[-1] <= 0:
        return None
    return max(run.total_steps - run.step, 0) * newest.elapsed[-1] / newest.step[-1]
