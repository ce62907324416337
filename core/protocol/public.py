"""The public interface: experiments, runs, metrics, comparisons. All times are UTC, in ISO 8601."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from common.report_bounds import Bytes, Finite, clamped, fitted_to
from core.events import IMAGES_KEY, AnyFloat
from core.protocol.base import TERMINAL as TERMINAL
from core.protocol.base import Message as Message
from core.protocol.base import RequestBody as RequestBody
from core.protocol.base import RunState as RunState
from core.protocol.comparisons import Comparison as Comparison
from core.protocol.comparisons import Convergence as Convergence
from core.protocol.comparisons import Interval as Interval
from core.protocol.comparisons import MethodResult as MethodResult
from core.protocol.comparisons import PairedDifference as PairedDifference


class PriorityChange(RequestBody):
    """The body of …/priority."""

    priority: int = Field(ge=-100, le=100, description="Higher runs first.")


class DrainChange(RequestBody):
    """The body of /workers/{key}/drain."""

    draining: bool = Field(True, description="False lets it take runs again.")


class ProblemField(Message):
    """One refused field: ``path`` as ``methods.1.params.alpha``."""

    path: str
    message: str


class ProblemDetails(Message):
    """An error after RFC 9457, sent as ``application/problem+json``."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    errors: list[ProblemField] = Field(default_factory=list, description="For 422: every refused field.")


class MetricValue(Message):
    """The newest value of one metric."""

    value: AnyFloat
    step: int
    epoch: Finite


class AttemptInfo(Message):
    """One try at a run by one worker."""

    number: int
    worker: str = Field(description="Name of the worker.")
    host: str
    device: str = ""
    started_at: datetime
    ended_at: datetime | None = None
    outcome: str = Field("", description="succeeded, failed, cancelled, interrupted or lost; empty while it runs.")
    reason: str = ""


class RunSummary(Message):
    """A run as a list shows it."""

    id: str
    label: str = Field(description='The method\'s label, or "teacher".')
    role: Literal["teacher", "student"]
    experiment_id: str = Field(description="Of the experiment that first asked for it.")
    experiment: str = Field(description="Name of that experiment.")
    state: RunState
    reason: str = Field("", description="Why it failed, waits or was put back; empty otherwise.")
    dataset: str
    model: str
    method: str
    seed: int
    teacher_run_id: str | None = None
    priority: int = 0
    pausing: bool = Field(False, description="It trains, and is paused once its worker has handed it back.")
    attempt: int = Field(0, description="Tries so far.")
    worker: str = ""
    step: int = 0
    total_steps: int = Field(0, description="0 until the training has started.")
    epoch: Finite = 0.0
    total_epochs: int = 0
    latest: dict[str, MetricValue] = Field(
        default_factory=dict, description="The newest value of the headline metrics: test/top1, train/loss."
    )
    created_at: datetime
    started_at: datetime | None = None
    ended_at: datetime | None = None


class Run(RunSummary):
    """A run, whole."""

    spec: dict[str, Any] = Field(
        description="As it was stored: a RunSpec. Plain data, so that it can be shown where a plugin that it names is "
        "not loaded."
    )
    fingerprint: str
    experiments: list[str] = Field(default_factory=list, description="Ids of all experiments that use it.")
    attempts: list[AttemptInfo] = Field(default_factory=list)
    environment: dict[str, str] = Field(default_factory=dict, description="Of the newest attempt: versions, settings.")
    parameters: int = Field(0, description="Trainable parameters of the network.")
    train_size: int = 0
    test_size: int = 0
    weights: str = Field("", description="Where the weights are in the artifact store, once it has succeeded.")
    log_tail: list[str] = Field(default_factory=list, description="Last lines of a run that failed.")
    warnings: list[ProblemField] = Field(default_factory=list, description="What its numbers must be read with.")

    @property
    def images(self) -> str:
        """The hash of what it was trained and tested on; empty where it was not recorded."""
        return self.environment.get(IMAGES_KEY, "")


class Page(Message):
    """Part of a list; ``next_cursor`` is opaque and null on the last page."""

    next_cursor: str | None = None
    total: int | None = Field(None, description="On all pages together; null unless asked for.")


class RunPage(Page):
    items: list[RunSummary]


class StateCounts(Message):
    """How many of an experiment's runs are in each state."""

    waiting: int = 0
    queued: int = 0
    paused: int = 0
    running: int = 0
    cancelling: int = 0
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0

    @property
    def total(self) -> int:
        return sum(self.model_dump().values())


class ExperimentSummary(Message):
    id: str
    name: str
    state: Literal["active", "finished", "failed", "cancelled"] = Field(
        description="active until every run has ended; then failed if any failed, cancelled if any was, else finished."
    )
    dataset: str
    teacher_model: str | None
    student_model: str
    methods: list[str] = Field(description="Labels, in the spec's order; the first is the baseline.")
    tags: list[str] = Field(default_factory=list)
    counts: StateCounts
    progress: Finite = Field(description="Share of all steps done, 0 to 1.")
    notes: str = ""
    sweep: str = Field("", description="Name of the sweep that it is one point of.")
    submitted_by: str = Field("", description="Name of the token that it was submitted with.")
    archived_at: datetime | None = Field(None, description="Archived ones are kept, and left out of lists.")
    created_at: datetime
    ended_at: datetime | None = None


class Experiment(ExperimentSummary):
    spec: dict[str, Any] = Field(description="As it was resolved: an ExperimentSpec. Plain data, as a run's.")
    runs: list[RunSummary]
    warnings: list[ProblemField] = Field(default_factory=list)


class ExperimentPage(Page):
    items: list[ExperimentSummary]


class PlannedRunInfo(Message):
    label: str
    role: Literal["teacher", "student"]
    model: str
    seed: int
    shared: bool = Field(False, description="A teacher that exists already and will not be trained again.")


class DeviceTime(Message):
    """Planned runs that past ones on one kind of device tell the time of."""

    device: str = Field(description='As "cpu" or "cuda NVIDIA H200".')
    seconds: float = Field(description="All of them one after the other, times the GPUs that share each.")
    runs: int = Field(description="Planned runs.")
    based_on: int = Field(description="Past runs.")


class Estimate(Message):
    """Training time by the median of past runs of the same data set, network, method and batch size."""

    times: list[DeviceTime] = Field(default_factory=list)
    unknown: int = Field(0, description="Planned runs of a kind that has not succeeded here yet.")


class FieldDifference(Message):
    """A field that keeps a teacher that exists from being the one that a spec asks for."""

    path: str = Field(description="In the spec, as `training.epochs` or `teacher.model.name`.")
    here: Any = Field(description="What the spec has.")
    there: Any = Field(description="What the teacher that exists was trained with.")


class PlannedTeacher(Message):
    """The teacher that a spec asks for: one that exists, or a new one and why it is new."""

    fingerprint: str
    model: str
    dataset: str
    seed: int
    epochs: int = Field(description="0 where its weights are used as they are.")
    run_id: str | None = Field(None, description="The run that exists and is used; null: a new one is made.")
    state: RunState | None = Field(None, description="Of that run.")
    top1: AnyFloat | None = Field(None, description="Test accuracy of that run, %.")
    nearest: str | None = Field(
        None, description="Of a new one: the run of the teacher on the same data set that differs in the fewest fields."
    )
    differences: list[FieldDifference] = Field(default_factory=list, description="In which it differs from that one.")
    sentence: str = Field(description="All of it in words.")


class Preview(Message):
    """What a spec would make, without making it."""

    spec: dict[str, Any] = Field(
        default_factory=dict, description="The spec with its preset and every default filled in."
    )
    draft: dict[str, Any] = Field(
        default_factory=dict,
        description="The same to go on writing from: labels that follow from the methods are left out, so that they "
        "follow the methods when these are changed. Of a clone, the teacher's training is written out too.",
    )
    teacher: PlannedTeacher | None = Field(None, description="null where no method needs one.")
    estimate: Estimate = Field(default_factory=Estimate)
    runs: list[PlannedRunInfo]
    warnings: list[ProblemField] = Field(default_factory=list)


class Series(Message):
    """One metric of one run. The lists have equal length.

    With ``resolution`` 1 each entry is a point; above that an entry is a bucket of that many steps, aligned to its
    multiples: ``value`` is the mean, ``low`` and ``high`` its least and greatest value, ``step`` the bucket's last.
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
    """Metrics of one run. Ask again with ``since=cursor`` for what has come since: only new points are sent then."""

    run_id: str
    state: RunState
    cursor: int = Field(description="Counts what has been taken in for this run.")
    series: list[Series]


class RunProgress(Message):
    """Where a run stands: what the stream of its events sends as ``state`` and, once it has ended, as ``end``."""

    run_id: str
    state: RunState
    pausing: bool = False
    reason: str = ""
    attempt: int = 0
    step: int = 0
    total_steps: int = Field(0, description="0 until the training has started.")
    epoch: Finite = 0.0
    total_epochs: int = 0


class LogLine(Message):
    number: int = Field(description="Counts from 1 within the run; ask with after=number for what follows.")
    attempt: int
    time: datetime
    level: str
    message: str


class LogsReply(Message):
    run_id: str
    lines: list[LogLine]


class GpuUse(Message):
    """One GPU as its driver describes it; null for what the driver does not tell."""

    index: Annotated[int, clamped(0, 10_000)]
    name: Annotated[str, fitted_to(200, lines=False)] = ""
    use: Annotated[float | None, clamped(0, 100)] = Field(
        None, description="Share of the last second or so in which it computed, %."
    )
    memory_used: Bytes = Field(None, description="Bytes.")
    memory_total: Bytes = Field(None, description="Bytes.")
    foreign: Annotated[int, clamped(0, 1_000_000)] = Field(
        0, description="Processes that compute on it and are not this worker's."
    )


class WorkerRun(Message):
    """What a worker is doing in a slot."""

    run_id: str
    label: str
    seed: int
    experiment: str
    state: RunState
    gpus: int = 1
    epoch: Finite = 0.0
    total_epochs: int = 0


class Worker(Message):
    id: str
    name: str
    host: str
    slots: int
    device: str = Field(description="cpu or gpu.")
    state: Literal["online", "offline"]
    draining: bool = Field(False, description="It takes no new runs until somebody lets it again.")
    labels: list[str] = Field(default_factory=list)
    running: list[str] = Field(default_factory=list, description="Ids of the runs it has.")
    runs: list[WorkerRun] = Field(default_factory=list, description="The same, with what they are.")
    busy: int = Field(0, description="Slots that they take.")
    gpus: list[GpuUse] = Field(default_factory=list, description="As of the last heartbeat; empty where not known.")
    problems: list[str] = Field(default_factory=list, description="What keeps it from working well, as it says.")
    reserved_for: str | None = Field(None, description="The run over several GPUs that it keeps freed GPUs for.")
    last_heartbeat: datetime
    version: str = ""


class WorkerList(Message):
    items: list[Worker]


class TeacherInfo(Message):
    """A teacher: a run that students wait for and share."""

    weights: str | None = Field(
        None, description="Where its weights come from, as the spec's `teacher.weights.source`; null: it was trained."
    )
    fine_tuned: bool = Field(False, description="Trained on from those weights.")
    reason: str = Field("", description="Why it failed, or does not go on.")
    epoch: Finite = 0.0
    total_epochs: int = 0
    created_at: datetime
    experiments: int = Field(description="That use it.")
    example: str | None = Field(None, description="Id of the newest experiment that uses it.")

    run_id: str
    fingerprint: str
    model: str
    dataset: str
    seed: int
    state: RunState
    top1: AnyFloat | None = Field(None, description="Test accuracy after its last epoch, %.")
    students: int = Field(description="Runs that use it.")


class TeacherList(Message):
    items: list[TeacherInfo]


class CatalogExample(Message):
    """A spec to begin with."""

    name: str
    group: str
    title: str
    summary: str
    spec: dict[str, Any] = Field(description="As its file has it; a preset that it names is not filled in.")


class Catalog(Message):
    methods: list[dict[str, Any]]
    models: list[dict[str, Any]]
    datasets: list[dict[str, Any]]
    metrics: list[dict[str, Any]]
    examples: list[CatalogExample] = Field(default_factory=list)
    experiment_schema: dict[str, Any] = Field(description="JSON schema of a spec.")
