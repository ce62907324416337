"""The protocol between a worker and the backend, under ``/api/v1/worker``.

A worker registers, claims runs, reports events and outcomes of its trainings, and sends one heartbeat for all of
them. Every report names its attempt; a report of an attempt that is not the run's current one is refused with 409.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from common.input_bounds import SHA256_PATTERN
from common.report_bounds import (
    MOST_PATH,
    AttemptNumber,
    LogText,
    ReasonText,
    RunName,
    fitted_to,
    keep_first,
    keep_last,
)
from core.events import Record
from core.protocol.base import Message
from core.protocol.fleet import GpuUse
from core.specs import WorkerLabel as WorkerLabel  # re-exported: the worker's settings use it
from core.specs.text_rules import require_visible

ProblemText = Annotated[str, fitted_to(500)]
ShortText = Annotated[str, fitted_to(100, lines=False)]
WorkerName = Annotated[ShortText, Field(min_length=1, max_length=100, pattern=r"\S"), AfterValidator(require_visible)]
MOST_SLOTS = 1024


class Registration(Message):
    """POST /worker/register. Runs that this worker id held before a restart go back to the queue at once."""

    worker_id: str = Field(
        min_length=8, max_length=64, pattern=r"^[A-Za-z0-9-]+$", description="Id that stays the same over restarts."
    )
    name: WorkerName
    host: Annotated[str, fitted_to(200, lines=False)]
    slots: int = Field(ge=1, le=MOST_SLOTS)
    device: Literal["cpu", "gpu"]
    gpus: int | None = Field(None, ge=1, le=MOST_SLOTS, description="GPUs of its slots; by default one per slot.")
    labels: list[WorkerLabel] = Field(default_factory=list, max_length=32)
    version: ShortText = ""


class RegistrationReply(Message):
    """The backend's intervals, which the worker follows."""

    heartbeat_seconds: float
    lease_seconds: float


class LeaseRenewal(Message):
    """A run whose lease a heartbeat renews."""

    run_id: RunName
    attempt: AttemptNumber


class Heartbeat(Message):
    """POST /worker/{worker_id}/heartbeat. It renews the lease of every run in ``holding``."""

    holding: list[LeaseRenewal] = Field(default_factory=list, max_length=MOST_SLOTS)
    gpus: list[GpuUse] = Field(default_factory=list, max_length=MOST_SLOTS)
    problems: Annotated[list[ProblemText], keep_first(20)] = Field(
        default_factory=list,
        description="Problems that keep the worker from working well; the first twenty are stored.",
    )


class RunOrder(Message):
    """What a worker must do with a run: continue, cancel it, or stop it because its lease is lost."""

    run_id: str
    attempt: int
    order: Literal["continue", "cancel", "lost"]
    # This is a field of its own and not a value of ``order``, because older workers refuse unknown values.
    pause: bool = Field(False, description="With continue: write a checkpoint and hand the run back.")


class HeartbeatReply(Message):
    orders: list[RunOrder]
    eligible: int = Field(
        description="Number of runs that this worker could claim now, at most its slots; it replaces the nudge if the "
        "broker fails."
    )


class ArtifactRef(Message):
    """A file in the artifact store.

    Attributes:
        path: Path relative to the store's root, such as ``runs/ID/attempt-1/weights.safetensors``.
        sha256: SHA-256 of its content, if it is known.
    """

    path: str
    sha256: str = ""


def _with_path_and_hash(weights: ArtifactRef) -> ArtifactRef:
    """Return the weights of a run that succeeded. Raises ValueError without a path and a hash."""
    if not weights.path or len(weights.path) > MOST_PATH:
        raise ValueError(f"path has 1 to {MOST_PATH} characters")
    if not re.fullmatch(SHA256_PATTERN, weights.sha256):
        raise ValueError("sha256 is 64 hexadecimal digits")
    return weights


class ClaimRequest(Message):
    """POST /worker/{worker_id}/claim. A repeated key returns the same run, because the first answer may be lost.

    Attributes:
        key: Key of the claim.
        free_gpus: GPUs with a free slot that no other program uses; by default one.
        usable_gpus: GPUs that no other program uses, whether their slots are free or not; by default all.
    """

    key: str | None = Field(None, min_length=8, max_length=64, pattern=r"^[!-~]+$")
    free_gpus: int | None = Field(None, ge=0, le=MOST_SLOTS)
    usable_gpus: int | None = Field(None, ge=0, le=MOST_SLOTS)


class TeacherRef(Message):
    """A teacher besides the first.

    Attributes:
        weights: Its weights.
        spec: The spec of its run (RunSpec).
    """

    weights: ArtifactRef
    spec: dict[str, Any]


class Claim(Message):
    """A run that is leased to this worker.

    The specs are opaque to the worker: it writes them to files for the training, which validates them and may load
    plugins for that. The fields that the worker itself reads are listed beside the spec.
    """

    run_id: str
    attempt: int
    spec: dict[str, Any] = Field(description="The run's spec (RunSpec), for the training.")
    lease_seconds: float
    folder: str = Field(description="Folder of this attempt's files in the artifact store: runs/ID/attempt-N.")
    gpus: int = Field(1, ge=1, description="On a GPU worker: the number of GPUs to train on.")
    teacher: ArtifactRef | None = Field(None, description="The teacher's weights.")
    teacher_spec: dict[str, Any] | None = Field(
        None, description="The spec of the teacher's run (RunSpec), from which the training builds its network."
    )
    further_teachers: list[TeacherRef] = Field(
        default_factory=list, description="Of a run with several teachers, those besides the first, in their order."
    )
    checkpoint: ArtifactRef | None = Field(None, description="Checkpoint of an earlier attempt to resume from.")
    students: list[dict[str, Any]] = Field(
        default_factory=list,
        description="Of a teacher, the specs of runs that wait for it (RunSpec), one of each kind. The training checks "
        "them before its first step.",
    )
    group: str = Field(
        "", description="Runs with equal names may train in one process; empty for a run that has to train alone."
    )
    label: str = Field("", description="The method's label, for the worker's log.")
    role: str = Field("", description="teacher or student.")
    weights_source: str = Field("", description="Source of the initial weights, if the spec names one: upload:SHA256 …")
    needs_teacher: bool = Field(False, description="Whether the run cannot be trained without a teacher.")

    @model_validator(mode="before")
    @classmethod
    def _read_spec(cls, values: Any) -> Any:
        """Fill the plain fields from the spec: a backend of the previous version does not send them."""
        spec = values.get("spec") if isinstance(values, Mapping) else None
        if not isinstance(spec, Mapping):
            return values
        method, weights = spec.get("method"), spec.get("weights")
        return {
            "label": str(method.get("label", "")) if isinstance(method, Mapping) else "",
            "role": str(spec.get("role") or ""),
            "weights_source": str(weights.get("source", "")) if isinstance(weights, Mapping) else "",
            "needs_teacher": spec.get("teacher") is not None,
            **values,
        }


class ClaimReply(Message):
    """POST /worker/{worker_id}/claim. ``claim`` is null if no run is eligible."""

    claim: Claim | None = None


class EventBatch(Message):
    """POST /worker/{worker_id}/runs/{run_id}/events. Records that were stored before are ignored."""

    attempt: AttemptNumber
    records: list[Record] = Field(max_length=5000)


class EventReply(Message):
    """How far the events of an attempt are stored."""

    accepted_seq: int = Field(description="The last seq that is stored for this attempt.")


class Outcome(Message):
    """POST /worker/{worker_id}/runs/{run_id}/finish. Repeating it changes nothing.

    interrupted: the training was stopped from outside (the worker shuts down, the lease was not renewed, the process
    was killed). The run goes back to the queue with its checkpoint, up to a bounded number of attempts.
    """

    attempt: AttemptNumber
    outcome: Literal["succeeded", "failed", "cancelled", "interrupted"]
    reason: ReasonText = Field("", description="A longer reason is cut.")
    fault: bool = Field(
        True,
        description="With interrupted: the attempt counts towards the bound. False if the worker is shutting down.",
    )
    weights: Annotated[ArtifactRef, AfterValidator(_with_path_and_hash)] | None = Field(
        None, description="Required with succeeded."
    )
    log_tail: Annotated[list[LogText], keep_last(200)] = Field(
        default_factory=list, description="The last lines of its log. Long lines are cut."
    )
