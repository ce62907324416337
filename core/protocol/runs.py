"""Runs: one training each."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from common.report_bounds import Finite
from core.events import IMAGES_KEY, rank_count
from core.protocol.base import Message, Page, ProblemField, RequestBody, RunState
from core.protocol.metrics import MetricValue


class PriorityChange(RequestBody):
    """The body of …/priority."""

    priority: int = Field(ge=-100, le=100, description="Runs of higher priority start first.")


class AttemptInfo(Message):
    """One attempt of one worker to train a run."""

    number: int
    worker: str = Field(description="Name of the worker.")
    host: str
    device: str = ""
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str = Field(
        "", description="succeeded, failed, cancelled, interrupted or lost; empty while the attempt is running."
    )
    reason: str = ""


class RunSummary(Message):
    """A run as lists show it."""

    id: str
    label: str = Field(description='The method\'s label, or "teacher".')
    role: Literal["teacher", "student"]
    experiment_id: str = Field(description="Id of the experiment that created the run.")
    experiment: str = Field(description="Name of that experiment.")
    state: RunState
    reason: str = Field("", description="Why the run failed, waits or was put back in the queue; otherwise empty.")
    dataset: str
    model: str
    method: str
    seed: int
    teacher_run_id: str | None = None
    priority: int = 0
    pausing: bool = Field(
        False, description="The run is still training; it is paused when its worker has handed it back."
    )
    attempt: int = Field(0, description="Number of attempts so far.")
    worker: str = ""
    step: int = 0
    total_steps: int = Field(0, description="0 until the training has started.")
    epoch: Finite = 0.0
    total_epochs: int = 0
    headline: str = Field(
        "",
        description="Name of the metric by which the run is judged: test/top1, …, or val/top1, … if it was measured on "
        "held-out images alone.",
    )
    latest: dict[str, MetricValue] = Field(
        default_factory=dict,
        description="The newest values of the headline metric, on each split that is measured, and of train/loss.",
    )
    trial: bool = Field(
        False, description="In an experiment: settings are chosen from this run, which is none of its results."
    )
    archived: bool = Field(
        False,
        description="Every experiment that uses the run is archived, so that it can be neither resumed nor retried.",
    )
    test_size: int = Field(0, description="Number of test images; 0 until the training has started.")
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None


class Run(RunSummary):
    """A run with all its details."""

    spec: dict[str, Any] = Field(
        description="The RunSpec as it was stored. It is plain data, so that it can be shown even if a plug-in that it "
        "names is not loaded."
    )
    fingerprint: str
    experiments: list[str] = Field(default_factory=list, description="Ids of all experiments that use the run.")
    attempts: list[AttemptInfo] = Field(default_factory=list)
    environment: dict[str, str] = Field(
        default_factory=dict, description="Versions and settings of the newest attempt."
    )
    parameters: int = Field(0, description="Number of parameters of the network that the run leaves.")
    train_size: int = 0
    weights: str = Field("", description="Path of the weights in the artifact store, after the run has succeeded.")
    log_tail: list[str] = Field(default_factory=list, description="Last lines of the log, if the run failed.")
    warnings: list[ProblemField] = Field(
        default_factory=list, description="What must be known to interpret the run's metrics."
    )

    @property
    def images(self) -> str:
        """The hash of the images that the run was trained and tested on; empty if it was not recorded."""
        return self.environment.get(IMAGES_KEY, "")

    @property
    def ranks(self) -> int:
        """The number of processes that trained together, each on one GPU if there are GPUs."""
        return rank_count(self.environment)


class RunPage(Page):
    items: list[RunSummary]


class RunProgress(Message):
    """A run's progress: the ``state`` events of its event stream and, after it has ended, the ``end`` event."""

    run_id: str
    state: RunState
    pausing: bool = False
    reason: str = ""
    attempt: int = 0
    step: int = 0
    total_steps: int = Field(0, description="0 until the training has started.")
    epoch: Finite = 0.0
    total_epochs: int = 0
