"""Every point of a run, as other programs want it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from client.client import Client
from core.protocol.records import RunRecord

# More than any series has: nothing is downsampled, since what is exported is kept.
_ALL_POINTS = 20_000


@dataclass(frozen=True)
class Point:
    """One value.

    Attributes:
        time: seconds since 1970 by when the training started; its own clock is not kept.
    """

    name: str
    step: int
    epoch: float
    time: float
    value: float


class DownsampledError(Exception):
    """A series is too long to be read whole."""


def points(client: Client, run: RunRecord) -> Iterator[Point]:
    """All points of a run, series by series. Raises DownsampledError where one has more than 20,000."""
    began = run.started_at or run.created_at
    for series in client.metrics(run.run_id, max_points=_ALL_POINTS).series:
        if series.resolution != 1:
            raise DownsampledError(f"{series.name} of run {run.run_id} has more than {_ALL_POINTS:,} points")
        for step, epoch, elapsed, value in zip(series.step, series.epoch, series.elapsed, series.value, strict=True):
            yield Point(series.name, step, epoch, began.timestamp() + elapsed, value)


def finite(value: float) -> bool:
    return math.isfinite(value)
