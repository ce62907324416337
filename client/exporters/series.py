"""All metric points of a run, in the form that the exporters need."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from client.client import Client
from core.protocol.records import RunRecord

# Longer than any usual series, so that no series is downsampled, because an export is permanent.
_ALL_POINTS = 20_000


@dataclass(frozen=True)
class ExportedPoint:
    """One value of a metric.

    Attributes:
        name: The metric.
        step: The training step.
        epoch: The epoch.
        time: Seconds since 1970: the start of the training plus the elapsed time.
        value: The value.
    """

    name: str
    step: int
    epoch: float
    time: float
    value: float


class DownsampledError(Exception):
    """A series is too long to be read completely."""


def points(client: Client, run: RunRecord) -> Iterator[ExportedPoint]:
    """Yield all points of a run, series by series.

    Raises:
        DownsampledError: A series has more than 20,000 points.
    """
    started = (run.started_at or run.created_at).timestamp()
    for series in client.runs.metrics(run.run_id, max_points=_ALL_POINTS).series:
        if series.resolution != 1:
            raise DownsampledError(f"{series.name} of run {run.run_id} has more than {_ALL_POINTS:,} points")
        for step, epoch, elapsed, value in zip(series.step, series.epoch, series.elapsed, series.value, strict=True):
            yield ExportedPoint(series.name, step, epoch, started + elapsed, value)
