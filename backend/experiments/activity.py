"""The present activity, from a few queries whose results do not grow with the number of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, bindparam, case, false, func, literal_column, or_, select, union_all
from sqlalchemy.orm import Session, aliased

from backend.db import models, now
from backend.db.models import Experiment, ExperimentRun, MetricLatest, MetricPoint, QueueLane, Run
from backend.experiments import serializers
from backend.metrics.point_store import HAS_VALUE
from backend.queue import worker_queries
from backend.queue.leased import LEASED_STATES
from backend.queue.wait_reasons import WaitReasons
from core.protocol.activity import Activity, FailedRuns, RunningRun, WaitingRuns
from core.protocol.public import ExperimentSummary, StateCounts

_MAX_RUNNING, _MAX_WAITING, _MAX_FAILED, _MAX_COMPARED = 50, 50, 20, 6
_WAITING_STATES = ("waiting", "queued", "paused")
_TIMED_METRIC = "train/loss"
"""Every training reports it from its first steps on, with its training time in seconds."""


def activity(session: Session, hours: float) -> Activity:
    """Return running and waiting runs, recent failures, online workers and experiments to compare.

    Args:
        session: A read transaction.
        hours: Age limit of failed runs.
    """
    timestamp = now(session)
    since = timestamp - timedelta(hours=hours)
    waiting, waiting_groups = _waiting_runs(session, timestamp)
    failed, failed_groups, failed_runs = _failed_runs(session, since)
    return Activity(
        time=timestamp,
        counts=_counts(session),
        running=_running_runs(session),
        waiting=waiting,
        waiting_groups=waiting_groups,
        failed_since=since,
        failed=failed,
        failed_groups=failed_groups,
        failed_runs=failed_runs,
        workers=[worker for worker in worker_queries.list_workers(session) if worker.state == "online"],
        compared=_comparable(session),
    )


def _counts(session: Session) -> StateCounts:
    rows = session.execute(select(Run.state, func.count()).group_by(Run.state))
    return StateCounts.model_validate(dict(rows.all()))


def _running_runs(session: Session) -> list[RunningRun]:
    query = (
        serializers.RUN_QUERY.where(Run.state.in_(LEASED_STATES)).order_by(Run.started_at, Run.id).limit(_MAX_RUNNING)
    )
    connection = session.connection()
    runs = serializers.run_summaries(connection, connection.execute(query).all())
    per_step = seconds_per_step(session, [run.id for run in runs])
    running = []
    for run in runs:
        seconds_left = None
        if run.state == "running" and run.id in per_step and run.total_steps:
            seconds_left = max(run.total_steps - run.step, 0) * per_step[run.id]
        running.append(RunningRun.model_construct(run=run, seconds_left=seconds_left))
    return running


def seconds_per_step(session: Session, run_ids: Sequence[str]) -> dict[str, float]:
    """Return training seconds per step over all attempts, without the time in the queue."""
    latest, point = MetricLatest, MetricPoint
    same_point = and_(point.run_id == latest.run_id, point.name_id == latest.name_id, point.step == latest.step)
    name = select(models.MetricName.id).where(models.MetricName.name == _TIMED_METRIC).scalar_subquery()
    query = (
        select(point.run_id, point.elapsed, point.step)
        .join(latest, same_point)
        .where(latest.run_id.in_(run_ids), latest.name_id == name, HAS_VALUE)
    )
    rows = session.execute(query)
    return {run_id: elapsed / step for run_id, elapsed, step in rows if step > 0 and math.isfinite(elapsed)}


def _waiting_runs(session: Session, timestamp: datetime) -> tuple[list[WaitingRuns], int]:
    """Return groups of waiting runs, at most ``_MAX_WAITING``, and the number of groups."""
    columns = (
        Run.experiment_id,
        Run.state,
        Run.lane_id,
        case((Run.state == "waiting", Run.teacher_run_id)).label("teacher"),
        func.coalesce(Run.not_before > timestamp, false()).label("held_back"),
        Run.priority,
        Run.created_at,
        Run.not_before,
    )
    # Only queued runs have a stored reason, why they were requeued; other reasons follow from the group.
    stored_reason = case((Run.state == "queued", Run.reason), else_="")
    # Two conditions in the form of the two partial indexes, of which the first has all of these columns.
    no_reason: ColumnElement[str] = literal_column("''")
    waiting_run = (
        union_all(
            select(*columns, no_reason.label("reason")).where(_is_waiting(), Run.reason == no_reason),
            select(*columns, stored_reason.label("reason")).where(_is_waiting(), Run.reason != no_reason),
        )
        .subquery()
        .c
    )
    keys = (
        waiting_run.experiment_id,
        waiting_run.state,
        waiting_run.lane_id,
        waiting_run.teacher,
        waiting_run.held_back,
        waiting_run.reason,
    )
    priority = func.max(waiting_run.priority).label("priority")
    since = func.min(waiting_run.created_at).label("since")
    # Limited before the joins, so that a teacher is looked up for each group and not for each run.
    groups = (
        select(
            *keys,
            priority,
            since,
            func.count().label("runs"),
            func.min(waiting_run.not_before).label("not_before"),
            func.count().over().label("groups"),
        )
        .group_by(*keys)
        .order_by(priority.desc(), since, waiting_run.state)
        .limit(_MAX_WAITING)
        .subquery()
    )
    teacher = aliased(Run)
    query = (
        select(
            groups,
            QueueLane.device,
            QueueLane.gpus,
            QueueLane.labels,
            Experiment.name.label("experiment"),
            teacher.model.label("teacher_model"),
            teacher.state.label("teacher_state"),
            teacher.epoch.label("teacher_epoch"),
            teacher.total_epochs.label("teacher_epochs"),
        )
        .join(QueueLane, QueueLane.id == groups.c.lane_id)
        .outerjoin(Experiment, Experiment.id == groups.c.experiment_id)
        .outerjoin(teacher, teacher.id == groups.c.teacher)
        .order_by(groups.c.priority.desc(), groups.c.since, groups.c.state)
    )
    rows = session.execute(query).all()
    reasons = WaitReasons.read(session.connection())
    shown = [
        WaitingRuns(
            experiment_id=row.experiment_id if row.experiment is not None else "",
            experiment=row.experiment or "",
            state=row.state,
            runs=row.runs,
            reason=_waiting_reason(row, reasons),
            teacher_run_id=row.teacher,
            priority=row.priority,
            since=row.since,
        )
        for row in rows
    ]
    return shown, rows[0].groups if rows else 0


def _is_waiting() -> ColumnElement[bool]:
    """Return the condition for runs that wait, in the form of the indexes of these runs."""
    return Run.state.in_(bindparam("waiting_states", _WAITING_STATES, expanding=True, literal_execute=True))


def _waiting_reason(row: Row[Any], wait: WaitReasons) -> str:
    if row.state == "paused":
        return "paused until it is resumed"
    if row.state == "waiting":
        progress = f", epoch {row.teacher_epoch:.0f} of {row.teacher_epochs}" if row.teacher_state == "running" else ""
        return f"waits for its teacher {row.teacher_model}, which is {row.teacher_state}{progress}"
    reasons = [row.reason] if row.reason else []
    missing = wait.of(row)
    if missing:
        reasons.append(missing)
    elif row.held_back:
        reasons.append(f"is retried at {row.not_before:%H:%M} UTC")
    else:
        reasons.append("waits for a free slot")
    return "; ".join(reasons)


def _failed_runs(session: Session, since: datetime) -> tuple[list[FailedRuns], int, int]:
    """Return groups of failed runs, at most ``_MAX_FAILED``, the number of groups, and the number of runs in them."""
    shown = or_(Experiment.archived_at.is_(None), Experiment.id.is_(None))
    grouped = (
        select(Run.experiment_id, Run.reason, func.count().label("runs"), func.max(Run.ended_at).label("newest"))
        .outerjoin(Experiment, Experiment.id == Run.experiment_id)
        .where(Run.state == "failed", Run.ended_at >= since, shown)
        .group_by(Run.experiment_id, Run.reason)
        .subquery()
    )
    groups, runs = session.execute(select(func.count(), func.sum(grouped.c.runs)).select_from(grouped)).one()
    newest_run = (
        select(func.max(Run.id))
        .where(
            Run.state == "failed",
            Run.experiment_id.is_not_distinct_from(grouped.c.experiment_id),
            Run.reason == grouped.c.reason,
            Run.ended_at == grouped.c.newest,
        )
        .correlate(grouped)
        .scalar_subquery()
    )
    rows = session.execute(
        select(newest_run.label("run_id"), grouped.c.runs).order_by(grouped.c.newest.desc()).limit(_MAX_FAILED)
    ).all()
    counts = {row.run_id: row.runs for row in rows}
    connection = session.connection()
    summaries = {
        run.id: run for run in serializers.run_summaries(connection, serializers.rows_of_runs(connection, counts))
    }
    failed = [
        FailedRuns(
            experiment_id=summaries[run_id].experiment_id,
            experiment=summaries[run_id].experiment,
            runs=counts[run_id],
            reason=summaries[run_id].reason,
            newest=summaries[run_id],
        )
        for run_id in counts
        if run_id in summaries
    ]
    return failed, groups, int(runs or 0)


def _comparable(session: Session) -> list[ExperimentSummary]:
    newest = func.max(Run.ended_at).label("newest")
    # Only the id, by which it is grouped: in a session that sees some projects, the experiments are no table with a key
    # from which PostgreSQL could tell that their other columns depend on it.
    query = (
        select(Experiment.id, newest)
        .join(ExperimentRun, ExperimentRun.experiment_id == Experiment.id)
        .join(Run, Run.id == ExperimentRun.run_id)
        .where(Run.state == "succeeded", Run.role == "student", Experiment.archived_at.is_(None))
        .group_by(Experiment.id)
        .having(func.count(Run.label.distinct()) > 1)
        .order_by(newest.desc())
        .limit(_MAX_COMPARED)
    )
    ids = [experiment_id for experiment_id, _ in session.execute(query)]
    found = {item.id: item for item in session.scalars(select(Experiment).where(Experiment.id.in_(ids)))}
    return serializers.experiment_summaries(session, [found[key] for key in ids if key in found])
