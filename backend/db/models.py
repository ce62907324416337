"""The tables. Every change comes with a migration; a test checks that both agree."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from backend.db.access_models import AuditEntry as AuditEntry
from backend.db.access_models import EarlierTokenText as EarlierTokenText
from backend.db.access_models import Invitation as Invitation
from backend.db.access_models import Membership as Membership
from backend.db.access_models import Person as Person
from backend.db.access_models import PersonIdentity as PersonIdentity
from backend.db.access_models import Project as Project
from backend.db.access_models import Token as Token
from backend.db.access_models import UsedIdToken as UsedIdToken
from backend.db.base import ID
from backend.db.base import Base as Base
from backend.db.queue_models import QueueLane as QueueLane
from backend.db.queue_models import Share as Share
from backend.db.queue_models import SlotUsage as SlotUsage
from backend.db.types import BigInt
from core.catalog.datasets import headline_of
from core.protocol.people import DEFAULT_PROJECT

LIVE_TEACHER_CONDITION = text("role = 'teacher' AND state NOT IN ('failed','cancelled')")
"""The condition of the partial index. An INSERT with ON CONFLICT on that index has to repeat it word for word."""


LEASED_CONDITION = text("state IN ('running','cancelling')")
"""The condition of the partial index of runs that workers hold."""

_WAITING = "state IN ('waiting','queued','paused') AND reason"
WAITING_CONDITION = text(f"{_WAITING} = ''")
"""The condition of the partial index of runs that wait; texts of reasons are too long for an index."""
EXPLAINED_CONDITION = text(f"{_WAITING} <> ''")
"""The condition of the partial index of those that wait for a stored reason."""


class Experiment(Base):
    """A submitted experiment, with its resolved spec; once settings have been chosen for its methods, with these."""

    __tablename__ = "experiments"
    __table_args__ = (
        Index(
            "ix_experiments_open",
            "id",
            sqlite_where=text("seeds_open IS 1"),
            postgresql_where=text("seeds_open IS true"),
        ),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    spec: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    submitted_by: Mapped[str] = mapped_column(
        String(100), default="", server_default="", doc="Name of the token at the time of submission."
    )
    # Not a foreign key, as in the other tables of a project: the default project has a row only once it was changed.
    project: Mapped[str] = mapped_column(
        String(60), default=DEFAULT_PROJECT, server_default=DEFAULT_PROJECT, index=True, doc="Name of its project."
    )
    sweep: Mapped[str] = mapped_column(String(100), default="", server_default="", doc="Name of its sweep.")
    notes: Mapped[str] = mapped_column(Text, default="", server_default="")
    # Not a foreign key: the id of a deleted parent still says that the experiment is a copy.
    parent_id: Mapped[str | None] = mapped_column(ID, index=True, doc="Id of the experiment that it was copied from.")
    archived_at: Mapped[datetime | None]
    webhook: Mapped[str | None] = mapped_column(Text, doc="Address to notify; NULL: none.")
    webhook_state: Mapped[str] = mapped_column(
        String(12),
        default="active",
        server_default="active",
        index=True,
        doc="The state at the last check for messages: active, stalled, finished, failed or cancelled.",
    )
    seeds_open: Mapped[bool | None] = mapped_column(
        doc="Whether runs may be added: after a choice of settings, or until comparisons are decided; NULL: never."
    )
    choice: Mapped[dict[str, Any] | None] = mapped_column(
        doc="The settings that were chosen on held-out images, or why none could be; NULL: not yet, or not wanted."
    )

    @property
    def decides(self) -> bool:
        """Whether seeds are, or were, added until the comparisons are decided."""
        return self.seeds_open is not None and isinstance(self.spec["seeds"], dict)

    @property
    def headline(self) -> str:
        """The name of the metric that its results are judged by."""
        dataset = self.spec["dataset"]
        return headline_of(dataset["name"], dataset["params"])


class ExperimentTag(Base):
    """A tag of an experiment. The spec's tags are copied here; later changes are made here and not in the spec."""

    __tablename__ = "experiment_tags"
    __table_args__ = ({"sqlite_with_rowid": False},)

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    tag: Mapped[str] = mapped_column(String(40), primary_key=True, index=True)


class ExperimentRun(Base):
    """A run that an experiment uses. Several experiments may use one teacher."""

    __tablename__ = "experiment_runs"

    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), primary_key=True)
    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), primary_key=True, index=True)
    label: Mapped[str] = mapped_column(String(60))
    position: Mapped[int]
    trial: Mapped[bool] = mapped_column(
        default=False, server_default=false(), doc="Whether settings are chosen from the run, which is no result then."
    )


class Run(Base):
    """One training and its state."""

    __tablename__ = "runs"
    __table_args__ = (
        CheckConstraint(
            "state IN ('waiting','queued','paused','running','cancelling','succeeded','failed','cancelled')",
            name="state",
        ),
        CheckConstraint("role IN ('teacher','student')", name="role"),
        CheckConstraint("device IN ('any','cpu','gpu')", name="device"),
        # If two experiments with the same teacher are submitted at once, the second insert conflicts with this index,
        # so that they share one run.
        Index(
            "uq_runs_live_teacher",
            "fingerprint",
            unique=True,
            sqlite_where=LIVE_TEACHER_CONDITION,
            postgresql_where=LIVE_TEACHER_CONDITION,
        ),
        # Not with priority and id after it: PostgreSQL would look for a lane's best run in such an index, and read all
        # that is queued before it.
        Index("ix_runs_state", "state"),
        # A claim reads the runs of a lane in this order.
        Index("ix_runs_lane_claim", "lane_id", "state", text("priority DESC"), "id"),
        # The slots in use by lane, which each claim counts.
        Index(
            "ix_runs_leased",
            "lane_id",
            "gpus",
            sqlite_where=LEASED_CONDITION,
            postgresql_where=LEASED_CONDITION,
        ),
        # What the overview groups the waiting runs by, and the id, by which their projects are found: the long rows of
        # a queue are not read.
        Index(
            "ix_runs_waiting",
            *("experiment_id", "state", "lane_id", "teacher_run_id", "priority", "created_at", "not_before", "id"),
            sqlite_where=WAITING_CONDITION,
            postgresql_where=WAITING_CONDITION,
        ),
        Index(
            "ix_runs_explained",
            "experiment_id",
            sqlite_where=EXPLAINED_CONDITION,
            postgresql_where=EXPLAINED_CONDITION,
        ),
        # The columns by which lists are sorted and filtered: reading the index alone avoids reading the long rows.
        Index("ix_runs_order", "priority", "id", "started_at", "ended_at", "experiment_id"),
        Index("ix_runs_worker_id", "worker_id"),
        Index("ix_runs_teacher_run_id", "teacher_run_id"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    experiment_id: Mapped[str | None] = mapped_column(
        ForeignKey("experiments.id", ondelete="SET NULL"),
        index=True,
        doc="The first experiment that used the run.",
    )
    fingerprint: Mapped[str] = mapped_column(String(48))
    role: Mapped[str] = mapped_column(String(8))
    owner: Mapped[str] = mapped_column(
        String(100), default="", server_default="", doc="Who submitted its first experiment, for the shares."
    )
    # Not a foreign key: SQLite cannot add one in place as the models define it. Lanes are never deleted.
    lane_id: Mapped[int] = mapped_column(
        default=0, server_default="0", doc="Lane of the queue with this owner, project, device, GPUs and labels."
    )
    label: Mapped[str] = mapped_column(String(60))
    dataset: Mapped[str] = mapped_column(String(100))
    model: Mapped[str] = mapped_column(String(100))
    method: Mapped[str] = mapped_column(String(100))
    seed: Mapped[int] = mapped_column(BigInt)
    spec: Mapped[dict[str, Any]]

    state: Mapped[str] = mapped_column(String(12))
    reason: Mapped[str] = mapped_column(Text, default="")
    log_tail: Mapped[list[str]] = mapped_column(default=list)
    priority: Mapped[int] = mapped_column(default=0)
    device: Mapped[str] = mapped_column(String(8), default="any")
    gpus: Mapped[int] = mapped_column(default=1, server_default="1", doc="GPUs that the run needs on a GPU worker.")
    labels: Mapped[str] = mapped_column(
        Text, default=",", server_default=",", doc="Labels that the worker must have, as ``,a,b,``: see eligibility."
    )
    pausing: Mapped[bool] = mapped_column(
        default=False, server_default=false(), doc="The worker has to return the run, which is then paused."
    )
    queued_at: Mapped[datetime | None] = mapped_column(doc="Time at which it was queued.")
    not_before: Mapped[datetime | None]
    teacher_run_id: Mapped[str | None] = mapped_column(
        ForeignKey("runs.id"), doc="The run's teacher; the first one if there are further ones (FurtherTeacher)."
    )
    teacher_failed: Mapped[bool] = mapped_column(
        default=False, doc="The run failed because its teacher failed; reviving the teacher revives it."
    )

    attempt: Mapped[int] = mapped_column(default=0)
    faults: Mapped[int] = mapped_column(default=0, doc="Attempts lost in a row without a new checkpoint.")
    worker_id: Mapped[str | None] = mapped_column(ForeignKey("workers.id"))
    lease_expires_at: Mapped[datetime | None]
    checkpoint_path: Mapped[str] = mapped_column(Text, default="")
    checkpoint_step: Mapped[int] = mapped_column(BigInt, default=0)
    weights_path: Mapped[str] = mapped_column(Text, default="")
    weights_sha256: Mapped[str] = mapped_column(String(64), default="")

    step: Mapped[int] = mapped_column(BigInt, default=0)
    total_steps: Mapped[int] = mapped_column(BigInt, default=0)
    epoch: Mapped[float] = mapped_column(default=0.0)
    total_epochs: Mapped[int] = mapped_column(default=0)
    train_size: Mapped[int] = mapped_column(default=0)
    test_size: Mapped[int] = mapped_column(default=0)
    parameters: Mapped[int] = mapped_column(BigInt, default=0)
    environment: Mapped[dict[str, Any]] = mapped_column(default=dict)
    ingest: Mapped[int] = mapped_column(BigInt, default=0, doc="Batches of metrics stored so far.")

    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]
    reported_at: Mapped[datetime | None] = mapped_column(doc="Time of the training's last report.")


class FurtherTeacher(Base):
    """A teacher of a run besides the first one, for a run with several teachers."""

    __tablename__ = "further_teachers"
    __table_args__ = ({"sqlite_with_rowid": False},)

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    position: Mapped[int] = mapped_column(
        primary_key=True, autoincrement=False, doc="Place among the run's teachers, from 1."
    )
    teacher_run_id: Mapped[str] = mapped_column(ForeignKey("runs.id"), index=True)


class Attempt(Base):
    """One try at a run by one worker."""

    __tablename__ = "attempts"
    # A claim that is repeated after a lost answer finds by this index the attempt that it created.
    __table_args__ = (
        Index("uq_attempts_claim", "worker_id", "claim_key", unique=True),
        Index("ix_attempts_ended_at", "ended_at"),
        Index(
            "ix_attempts_unmeasured",
            "ended_at",
            sqlite_where=text("stored_bytes IS NULL"),
            postgresql_where=text("stored_bytes IS NULL"),
        ),
    )

    run_id: Mapped[str] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    worker_id: Mapped[str] = mapped_column(ForeignKey("workers.id"))
    worker_name: Mapped[str] = mapped_column(String(120), doc="The name at that time; a worker may be renamed.")
    host: Mapped[str] = mapped_column(String(200))
    device: Mapped[str] = mapped_column(Text, default="")
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str] = mapped_column(String(12), default="")
    reason: Mapped[str] = mapped_column(Text, default="")
    accepted_seq: Mapped[int] = mapped_column(BigInt, default=0)
    claim_key: Mapped[str | None] = mapped_column(String(64), doc="Key of the claim request that created the attempt.")
    waited: Mapped[float | None] = mapped_column(doc="Seconds for which the run had been ready.")
    stored_bytes: Mapped[int | None] = mapped_column(
        BigInt, doc="Size of its files, measured after its end; NULL until then."
    )


class Worker(Base):
    """A worker, identified by the id that it keeps over restarts."""

    __tablename__ = "workers"
    __table_args__ = (CheckConstraint("state IN ('online','offline')", name="state"),)

    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(120))
    host: Mapped[str] = mapped_column(String(200))
    slots: Mapped[int]
    device: Mapped[str] = mapped_column(String(8))
    version: Mapped[str] = mapped_column(String(100), default="")
    state: Mapped[str] = mapped_column(String(8), default="online")
    gpus: Mapped[int] = mapped_column(default=0, server_default="0")
    labels: Mapped[list[str]] = mapped_column(default=list, server_default="[]")
    draining: Mapped[bool] = mapped_column(
        default=False, server_default=false(), doc="The worker claims no new runs, also after a restart."
    )
    report: Mapped[dict[str, Any]] = mapped_column(
        default=dict, server_default="{}", doc="GPUs and problems in its last heartbeat."
    )
    # No foreign key: the two tables would refer to each other. Every claim checks it.
    reserved_run_id: Mapped[str | None] = mapped_column(
        ID, doc="Run over several GPUs for which the worker reserves GPUs."
    )
    # No foreign key: SQLite cannot add one in place as the models define it. A deleted token restricts nothing.
    token_id: Mapped[str | None] = mapped_column(ID, doc="Token of the registration; only it may act for the worker.")
    registered_at: Mapped[datetime]
    last_heartbeat: Mapped[datetime]


class MetricName(Base):
    """The name of a metric. Names have a separate table, so that a point stores a small number instead of a text."""

    __tablename__ = "metric_names"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(200), unique=True)


class MetricPoint(Base):
    """One value of one metric at one step.

    ``kind``: 0 a finite value, 1 NaN, 2 +infinity, 3 -infinity; ``value`` is null for 1 to 3, since SQLite stores NaN
    as NULL. ``ingest`` is the run's counter at the time of storing.
    """

    __tablename__ = "metric_points"
    __table_args__ = (
        # This index alone answers a bucketed read of one series (20 times faster than with a plain one).
        PrimaryKeyConstraint(
            "run_id", "name_id", "step", postgresql_include=["epoch", "elapsed", "value", "kind", "ingest"]
        ),
        Index("ix_metric_points_ingest", "run_id", "ingest"),
        {"sqlite_with_rowid": False},
    )

    run_id: Mapped[str] = mapped_column(ID, ForeignKey("runs.id", ondelete="CASCADE"))
    name_id: Mapped[int] = mapped_column(ForeignKey("metric_names.id"))
    step: Mapped[int] = mapped_column(BigInt)
    epoch: Mapped[float]
    elapsed: Mapped[float]
    value: Mapped[float | None]
    kind: Mapped[int] = mapped_column(SmallInteger, default=0)
    ingest: Mapped[int] = mapped_column(BigInt)


class MetricLatest(Base):
    """The newest point of a metric of a run, which lists show without reading the series."""

    __tablename__ = "metric_latest"
    __table_args__ = ({"sqlite_with_rowid": False},)

    run_id: Mapped[str] = mapped_column(ID, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    name_id: Mapped[int] = mapped_column(ForeignKey("metric_names.id"), primary_key=True, autoincrement=False)
    step: Mapped[int] = mapped_column(BigInt)
    epoch: Mapped[float]
    value: Mapped[float | None]
    kind: Mapped[int] = mapped_column(SmallInteger, default=0)


class LogLine(Base):
    """A line of a training's log; ``number`` counts from 1 within the run, over all attempts."""

    __tablename__ = "log_lines"
    __table_args__ = ({"sqlite_with_rowid": False},)

    run_id: Mapped[str] = mapped_column(ID, ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(BigInt, primary_key=True, autoincrement=False)
    attempt: Mapped[int]
    time: Mapped[datetime]
    level: Mapped[str] = mapped_column(String(8))
    message: Mapped[str] = mapped_column(Text)


class Upload(Base):
    """Uploaded weights; the hash is the name of the file."""

    __tablename__ = "uploads"

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(100), unique=True)
    size: Mapped[int] = mapped_column(BigInt)
    tensors: Mapped[int]
    parameters: Mapped[int] = mapped_column(BigInt)
    submitted_by: Mapped[str] = mapped_column(String(100))
    project: Mapped[str] = mapped_column(String(60), default=DEFAULT_PROJECT, server_default=DEFAULT_PROJECT)
    created_at: Mapped[datetime]


class WebhookDelivery(Base):
    """A message about an experiment that is to be sent or has been sent. It is kept for a week."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (Index("ix_webhook_deliveries_due", "done", "not_before"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    experiment_id: Mapped[str] = mapped_column(ForeignKey("experiments.id", ondelete="CASCADE"), index=True)
    event: Mapped[str] = mapped_column(String(12))
    url: Mapped[str] = mapped_column(Text)
    body: Mapped[dict[str, Any]]
    attempts: Mapped[int] = mapped_column(default=0)
    not_before: Mapped[datetime]
    done: Mapped[bool] = mapped_column(default=False)
    error: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime]


class BoardLayout(Base):
    """A layout of Compare's board, stored by its name."""

    __tablename__ = "board_layouts"

    name: Mapped[str] = mapped_column(String(60), primary_key=True)
    layout: Mapped[dict[str, Any]]
    project: Mapped[str] = mapped_column(String(60), default=DEFAULT_PROJECT, server_default=DEFAULT_PROJECT)
    saved_at: Mapped[datetime]
    saved_by: Mapped[str] = mapped_column(
        String(100), default="", server_default="", doc="Name of the token that stored it."
    )


class IdempotencyKey(Base):
    """A completed POST request, so that a repetition gets the same answer."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (UniqueConstraint("token_id", "key"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    token_id: Mapped[str] = mapped_column(ForeignKey("tokens.id", ondelete="CASCADE"))
    key: Mapped[str] = mapped_column(String(200))
    body_sha256: Mapped[str] = mapped_column(String(64))
    made: Mapped[list[str]] = mapped_column(doc="Ids of the experiments.")
    created_at: Mapped[datetime] = mapped_column(index=True)
