"""Current activity in one answer of bounded size, which the dashboard's Overview page requests repeatedly."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from core.protocol.base import Message, RunState
from core.protocol.experiments import ExperimentSummary, StateCounts
from core.protocol.fleet import Worker
from core.protocol.runs import RunSummary


class RunningRun(Message):
    """A run that is training."""

    run: RunSummary
    seconds_left: float | None = Field(
        None, description="Estimated seconds of training left; null until there is a rate to estimate from."
    )


class WaitingRuns(Message):
    """Runs of one experiment that wait for the same reason."""

    experiment_id: str
    experiment: str
    state: RunState = Field(description="State of the runs: waiting, queued or paused.")
    runs: int = Field(description="Number of runs.")
    reason: str = Field(description="Why the runs wait, as a sentence.")
    teacher_run_id: str | None = Field(None, description="Id of the teacher that the runs wait for.")
    priority: int = Field(description="The highest priority of these runs.")
    since: datetime = Field(description="When the first of these runs was created.")


class FailedRuns(Message):
    """Runs of one experiment that failed for the same reason."""

    experiment_id: str
    experiment: str
    runs: int = Field(description="Number of runs.")
    reason: str
    newest: RunSummary = Field(description="The run that failed last.")


class Activity(Message):
    """Runs that are training, waiting or have failed recently, online workers, and experiments to compare."""

    time: datetime = Field(description="Time of this answer, by the backend's clock.")
    counts: StateCounts = Field(description="Counts of all runs.")
    running: list[RunningRun] = Field(
        description="Runs that are training or being cancelled, the earliest started first; at most 50."
    )
    waiting: list[WaitingRuns] = Field(description="Groups of waiting runs, the highest priority first; at most 50.")
    waiting_groups: int = Field(description="Number of all groups of waiting runs.")
    failed_since: datetime = Field(description="Runs that failed before this time are not included.")
    failed_runs: int = Field(
        description="Number of runs that have failed since then, in experiments that are not archived."
    )
    failed: list[FailedRuns] = Field(description="Groups of failed runs, the newest first; at most 20.")
    failed_groups: int = Field(description="Number of all groups of failed runs.")
    workers: list[Worker] = Field(description="Workers that are online.")
    compared: list[ExperimentSummary] = Field(
        description="Experiments in which students of two methods have succeeded, the newest result first."
    )
