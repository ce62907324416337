"""Records of runs and experiments: everything that is needed to repeat them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from core.events import AnyFloat
from core.protocol.base import Message, RunState
from core.protocol.runs import AttemptInfo


class TeacherRecord(Message):
    """The teacher of a run."""

    run_id: str
    fingerprint: str
    spec: dict[str, Any] = Field(
        description="The complete RunSpec, as plain data, because it may be older than this version."
    )
    weights: str = Field("", description="Path of its weights in the artifact store.")
    weights_sha256: str = ""


class RunRecord(Message):
    """Everything needed to repeat one run."""

    format: int = Field(1, description="Version of the record's format.")
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
    environment: dict[str, str] = Field(
        description="Versions of Python and torch, the processor, and the choices that were made for speed."
    )
    packages: list[str] = Field(description="name==version of every installed package.")
    commit: str = Field(
        "", description="Git commit of the code; it ends in +changes if the working tree differed from it."
    )
    diff: str = Field("", description="Difference of the working tree to the commit, as a git diff.")
    attempts: list[AttemptInfo] = Field(description="All attempts, with host and device.")
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
