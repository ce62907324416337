"""Metrics of runs as a page holds them: asked for once, then only what is new.

Each browser session keeps the curves it has drawn. A tick sends the cursor of the last reply, and what comes back is
merged. The whole history is asked for again only where it has changed under the page: the backend has gone over to a
coarser resolution, the run was tried again from the start, or the curve has grown to more points than one asks for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from client import Client
from core.protocol.public import TERMINAL, MetricsReply, RunSummary, Series

MAX_POINTS = 2000
"""Points of one curve that go to the browser, at most about half as many again."""
_TOO_MANY = MAX_POINTS + MAX_POINTS // 2
# Curves of this many runs stay in a session; the run looked at longest ago goes first.
_KEPT = 400


@dataclass
class Curve:
    """One metric of one run, ordered by step. The lists have equal length; ``low`` and ``high`` equal ``value`` where
    an entry is a single point."""

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
        """Take in what is new. False where the backend has gone over to a coarser resolution: ask for all again."""
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
            # A late point, or the bucket that was not full yet: the newer entry replaces that of the same step.
            known = zip(self.step, self.epoch, self.elapsed, self.value, self.low, self.high, strict=True)
            rows = sorted({row[0]: row for row in (*known, *rows)}.values(), key=lambda row: row[0])
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
    """What a session holds of one run.

    Attributes:
        cursor: of the newest reply.
        version: grows whenever a curve has changed, so that a figure is rebuilt only then.
        complete: the run had ended when the newest reply was made; nothing can follow.
    """

    curves: dict[str, Curve] = field(default_factory=dict)
    cursor: int = 0
    version: int = 0
    attempt: int = 0
    complete: bool = False
    seen: tuple[str, int, int] | None = None

    def take(self, reply: MetricsReply) -> bool:
        """Merge a reply. False where the history has changed and must be asked for from the start."""
        if reply.cursor < self.cursor:
            return False
        for series in reply.series:
            curve = self.curves.setdefault(series.name, Curve(series.name))
            before = len(curve)
            if not curve.merge(series) or (before and len(curve) > _TOO_MANY):
                return False
        if any(series.step for series in reply.series):
            self.version += 1
        self.cursor = reply.cursor
        self.complete = reply.state in TERMINAL
        return True

    def forget(self) -> None:
        """Before asking for the history again; the version goes on."""
        self.curves.clear()
        self.cursor = 0
        self.version += 1


class CurveStore:
    """The curves of every run that a session has drawn. One is kept in the session state."""

    def __init__(self) -> None:
        self._runs: dict[tuple[str, tuple[str, ...]], RunCurves] = {}

    def of(self, run_id: str, names: Sequence[str] = ()) -> RunCurves:
        """What is held of a run, possibly nothing yet. Asks nobody."""
        key = (run_id, tuple(names))
        held = self._runs.pop(key, None) or RunCurves()
        self._runs[key] = held  # to the end of the line: the newest are kept
        while len(self._runs) > _KEPT:
            del self._runs[next(iter(self._runs))]
        return held

    def update(self, client: Client, run: RunSummary, names: Sequence[str] = ()) -> RunCurves:
        """Ask for what is new of a run, unless nothing can be.

        Args:
            names: of the metrics; none: all.

        Raises ApiError and BackendUnreachable as the client does; what is held stays.
        """
        held = self.of(run.id, names)
        seen = (run.state, run.attempt, run.step)
        if seen == held.seen and (held.complete or run.state != "running"):
            return held
        if run.attempt != held.attempt:
            # A new attempt may begin before what is held; its points replace the old ones.
            held.forget()
            held.attempt = run.attempt
        reply = client.metrics(run.id, names=names or None, since=held.cursor, max_points=MAX_POINTS)
        if not held.take(reply):
            held.forget()
            held.take(client.metrics(run.id, names=names or None, since=0, max_points=MAX_POINTS))
        held.seen = seen
        return held

    def update_some(
        self, client: Client, runs: Iterable[RunSummary], names: Sequence[str], budget: int
    ) -> dict[str, RunCurves]:
        """Curves of several runs by id. At most ``budget`` requests a call: a large comparison fills in tick by tick
        rather than keep the page waiting."""
        found: dict[str, RunCurves] = {}
        for run in runs:
            held = self.of(run.id, names)
            waits = run.state in ("waiting", "queued") and run.step == 0
            stale = held.seen != (run.state, run.attempt, run.step)
            if budget > 0 and stale and not waits:
                held = self.update(client, run, names)
                budget -= 1
            found[run.id] = held
        return found


def seconds_left(run: RunSummary, curves: Iterable[Curve]) -> float | None:
    """Training time left at the pace so far, in seconds; None where there is no pace yet.

    The pace is training seconds a step, earlier attempts included, so that waiting and queueing do not count.
    """
    if run.state != "running" or not run.total_steps or not run.step:
        return None
    newest = max((curve for curve in curves if curve.step), key=lambda curve: curve.step[-1], default=None)
    if newest is None or newest.step[-1] <= 0:
        return None
    return max(run.total_steps - run.step, 0) * newest.elapsed[-1] / newest.step[-1]
