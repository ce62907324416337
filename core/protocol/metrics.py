"""Metrics and logs of a run."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from common.report_bounds import Finite
from core.events import AnyFloat
from core.protocol.base import Message, RunState

LogLevel = Literal["debug", "info", "warning", "error"]
LOG_LEVELS: tuple[LogLevel, ...] = ("debug", "info", "warning", "error")


class MetricValue(Message):
    """The newest value of one metric."""

    value: AnyFloat
    step: int
    epoch: Finite


class Series(Message):
    """One metric of one run. All lists have the same length.

    If ``resolution`` is 1, each entry is a point. If it is greater, each entry is a bucket of that many steps, aligned
    to multiples of it: ``value`` is the mean, ``low`` and ``high`` are the least and the greatest value, and ``step``
    is the last step in the bucket.
    """

    name: str
    step: list[int]
    epoch: list[float]
    elapsed: list[float] = Field(description="Seconds of training.")
    value: list[AnyFloat]
    low: list[AnyFloat] | None = None
    high: list[AnyFloat] | None = None
    resolution: int = 1


class MetricsReply(Message):
    """Metrics of one run. A request with ``since=cursor`` returns only the points that have come since."""

    run_id: str
    state: RunState
    cursor: int = Field(description="Counts the batches of events that were stored for this run.")
    series: list[Series]


class LogLine(Message):
    number: int = Field(description="Counts from 1 within the run. Request after=number for the lines that follow.")
    attempt: int
    time: datetime
    level: str
    message: str


class LogsReply(Message):
    run_id: str
    lines: list[LogLine]
    total: int | None = Field(
        None, description="Number of lines of the whole log that match search and level; null unless count is true."
    )
