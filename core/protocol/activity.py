"""What goes on now, in one answer of bounded size: what the dashboard's first page asks for again and again."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from core.protocol.base import Message, RunState
from core.protocol.public import ExperimentSummary, RunSummary, StateCounts, Worker


class RunningRun(Message):
    """A run that trains."""

    run: RunSummary
    seconds_left: float | None = Field(
        None, description="Of training, at the pace so far; null where there is no pace yet."
    )


class WaitingRuns(Message):
    """Runs of one experiment that wait for the same thing."""

    experiment_id: str
    experiment: str
    state: RunState = Field(description="waiting, queued or paused.")
    runs: int = Field(description="How many.")
    reason: str = Field(description="What they wait for, in words.")
    teacher_run_id: str | None = Field(None, description="That they wait for.")
    priority: int = Field(description="The highest among them.")
    since: datetime = Field(description="When the first of them was made.")


class FailedRuns(Message):
    """Runs of one experiment that failed for the same reason."""

    experiment_id: str
    experiment: str
    runs: int = Field(description="How many.")
    reason: str
    newest: RunSummary = Field(description="The one that failed last.")


class Activity(Message):
    """What runs, what waits and for what, what has failed lately, who works, and what can be compared."""

    time: datetime = Field(description="The backend's, of this answer.")
    counts: StateCounts = Field(description="Of all runs.")
    running: list[RunningRun] = Field(description="Those that train or are being cancelled, the first 50 started.")
    waiting: list[WaitingRuns] = Field(description="In groups, the highest priority first, the first 50.")
    waiting_groups: int = Field(description="How many groups there are.")
    failed_since: datetime
    failed_runs: int = Field(description="How many have failed since then, in experiments that are not archived.")
    failed: list[FailedRuns] = Field(description="In groups, the newest first, the first 20.")
    failed_groups: int = Field(description="How many groups there are.")
    workers: list[Worker] = Field(description="Those online.")
    compared: list[ExperimentSummary] = Field(
        description="Experiments in which students of two methods have succeeded, the newest result first."
    )
