"""What is kept of a run so that it can be repeated, and of an experiment: every run of it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from core.events import AnyFloat
from core.protocol.base import Message, RunState
from core.protocol.public import AttemptInfo


class TeacherRecord(Message):
    """The teacher that a run learned from."""

    run_id: str
    fingerprint: str
    spec: dict[str, Any] = Field(
        description="As it was resolved: a RunSpec. Plain data, since it may be older than this."
    )
    weights: str = Field("", description="Where its weights are in the artifact store.")
    weights_sha256: str = ""


class RunRecord(Message):
    """Everything needed to repeat one run."""

    format: int = Field(1, description="Of this record.")
    run_id: str
    label: str
    state: RunState
    reason: str = ""
    experiment: str
    spec: dict[str, Any]
    fingerprint: str
    repeat: dict[str, Any] | None = Field(
        None,
        description="An ExperimentSpec that, submitted or given to `python -m core run`, trains this one run again.",
    )
    teacher: TeacherRecord | None = None
    environment: dict[str, str] = Field(description="Python, torch, processor, and what was chosen for speed.")
    packages: list[str] = Field(description="name==version of every installed package.")
    commit: str = Field("", description="Of the code; ends in +changes where there was a difference to it.")
    diff: str = Field("", description="That difference, as git shows it.")
    attempts: list[AttemptInfo] = Field(description="With host and device.")
    parameters: int
    train_size: int
    test_size: int
    weights: str = ""
    weights_sha256: str = ""
    metrics: dict[str, AnyFloat] = Field(description="The last value of every metric.")
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None


class ExperimentRecord(Message):
    """An experiment with the records of all its runs, the teacher's first."""

    format: int = 1
    experiment_id: str
    name: str
    spec: dict[str, Any]
    created_at: datetime
    runs: list[RunRecord]
