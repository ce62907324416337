"""Workers and teachers, as the lists of the API and the dashboard show them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from common.report_bounds import Bytes, Finite, clamped, fitted_to
from core.events import AnyFloat
from core.protocol.base import Message, RequestBody, RunState


class DrainChange(RequestBody):
    """The body of /workers/{key}/drain."""

    draining: bool = Field(True, description="True: the worker takes no new runs. False: it takes runs again.")


class GpuUse(Message):
    """One GPU as its driver describes it. A value that the driver does not report is null."""

    index: Annotated[int, clamped(0, 10_000)]
    name: Annotated[str, fitted_to(200, lines=False)] = ""
    use: Annotated[float | None, clamped(0, 100)] = Field(
        None, description="Share of the last second, approximately, in which the GPU was computing, %."
    )
    memory_used: Bytes = Field(None, description="Bytes.")
    memory_total: Bytes = Field(None, description="Bytes.")
    foreign: Annotated[int, clamped(0, 1_000_000)] = Field(
        0, description="Number of processes on the GPU that do not belong to this worker."
    )


class WorkerRun(Message):
    """A run in one of a worker's slots."""

    run_id: str
    label: str
    seed: int
    experiment: str
    state: RunState
    gpus: int = 1
    epoch: Finite = 0.0
    total_epochs: int = 0


class Worker(Message):
    """A worker, with its runs and GPUs as of its last heartbeat."""

    id: str
    name: str
    host: str
    slots: int
    device: str = Field(description="cpu or gpu.")
    state: Literal["online", "offline"]
    draining: bool = Field(False, description="The worker takes no new runs until draining is switched off.")
    labels: list[str] = Field(default_factory=list)
    running: list[str] = Field(default_factory=list, description="Ids of the worker's runs.")
    runs: list[WorkerRun] = Field(default_factory=list, description="The worker's runs, with their progress.")
    busy: int = Field(0, description="Number of slots that the worker's runs occupy.")
    gpus: list[GpuUse] = Field(
        default_factory=list, description="The worker's GPUs as of the last heartbeat; empty if they are not known."
    )
    problems: list[str] = Field(
        default_factory=list, description="Problems that the worker reports and that keep it from working well."
    )
    reserved_for: str | None = Field(
        None, description="Id of the run over several GPUs that the worker reserves freed GPUs for."
    )
    last_heartbeat: datetime
    version: str = ""


class WorkerList(Message):
    items: list[Worker]


class TeacherInfo(Message):
    """A teacher: a run that students wait for and share."""

    weights: str | None = Field(
        None,
        description="Source of its weights, as in the spec's `teacher.weights.source`; null if it was trained here.",
    )
    fine_tuned: bool = Field(False, description="The training continued from those weights.")
    reason: str = Field("", description="Why the teacher failed or does not continue.")
    epoch: Finite = 0.0
    total_epochs: int = 0
    created_at: datetime
    experiments: int = Field(description="Number of experiments that use it.")
    example: str | None = Field(None, description="Id of the newest experiment that uses it.")

    run_id: str
    fingerprint: str
    model: str
    dataset: str
    seed: int
    state: RunState
    headline: str = Field(
        "", description="Name of the metric by which it is judged: test/top1, val/top1 on held-out images, …"
    )
    top1: AnyFloat | None = Field(None, description="That metric after its last epoch, as the test accuracy in %.")
    students: int = Field(description="Number of runs that use it.")


class TeacherList(Message):
    items: list[TeacherInfo]
