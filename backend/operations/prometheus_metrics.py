"""Metrics for Prometheus, counted in the database at each scrape: replicas agree, and a restart loses nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session

from backend.db import Database, db_now, models
from backend.db.types import seconds_between
from backend.people import rights
from backend.queue import project_quotas, quotas
from backend.queue.reconciler import LEASE_EXPIRED
from core.protocol.public import RunState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# In seconds, from one second to three days.
_WAIT_BUCKETS = (1, 5, 15, 60, 300, 900, 3_600, 4 * 3_600, 12 * 3_600, 24 * 3_600, 72 * 3_600)
_ACTIVE = ("queued", "running")
_DEVICES = ("any", "cpu", "gpu")
_OUTCOMES = ("succeeded", "failed", "cancelled", "interrupted", "lost")


class Monitor:
    """A separate registry for each application, so that two applications in one process do not share metrics."""

    def __init__(self, database: Database) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_DatabaseCollector(database))
        ProcessCollector(registry=self._registry)

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _DatabaseCollector(Collector):
    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> list[Metric]:
        return []  # otherwise registering would query the database

    def collect(self) -> Iterator[Metric]:
        with self._database.read() as session:
            metrics = [*_runs(session), *_attempts(session), *_workers(session), *_quotas(session)]
        yield from metrics


def _runs(session: Session) -> Iterator[Metric]:
    run = models.Run
    counts = dict(session.execute(select(run.state, func.count()).group_by(run.state)).all())
    states = GaugeMetricFamily("dkd_runs", "Runs by state.", labels=["state"])
    for state in get_args(RunState):
        states.add_metric([state], counts.get(state, 0))
    yield states
    # A query of its own: that of all runs is answered by an index, which does not have the device.
    query = select(run.state, run.device, func.count()).where(run.state.in_(_ACTIVE)).group_by(run.state, run.device)
    active = {(state, device): count for state, device, count in session.execute(query)}
    devices = GaugeMetricFamily(
        "dkd_runs_by_device",
        "Queued and running runs, by the device that they require: any, cpu or gpu.",
        labels=["state", "device"],
    )
    for state in _ACTIVE:
        for device in _DEVICES:
            devices.add_metric([state, device], active.get((state, device), 0))
    yield devices
    oldest = session.scalar(select(func.max(seconds_between(run.queued_at, db_now()))).where(run.state == "queued"))
    yield GaugeMetricFamily(
        "dkd_queue_oldest_seconds",
        "Seconds since the oldest queued run was queued; 0 if none is queued.",
        oldest or 0.0,
    )


def _attempts(session: Session) -> Iterator[Metric]:
    attempt = models.Attempt
    query = select(attempt.outcome, func.count()).group_by(attempt.outcome)
    counts = dict(session.execute(query).all())
    ended = CounterMetricFamily("dkd_attempts", "Attempts that ended, by outcome.", labels=["outcome"])
    for outcome in _OUTCOMES:
        ended.add_metric([outcome], counts.get(outcome, 0))
    yield ended
    expired = select(func.count()).where(attempt.outcome == "lost", attempt.reason == LEASE_EXPIRED)
    yield CounterMetricFamily("dkd_lease_expiries", "Attempts whose lease expired.", session.scalars(expired).one())
    yield _queue_waits(session)


def _queue_waits(session: Session) -> Metric:
    waited = models.Attempt.waited
    cumulative: list[ColumnElement[Any]] = [func.sum(case((waited <= top, 1), else_=0)) for top in _WAIT_BUCKETS]
    query = select(func.count(waited), func.sum(waited), *cumulative).where(waited.is_not(None))
    count, seconds, *counts = session.execute(query).one()
    family = HistogramMetricFamily(
        "dkd_queue_wait_seconds", "Seconds between a run becoming ready and a worker claiming it, by attempt."
    )
    buckets = [(str(float(top)), float(total or 0)) for top, total in zip(_WAIT_BUCKETS, counts, strict=True)]
    family.add_metric([], [*buckets, ("+Inf", float(count))], sum_value=float(seconds or 0.0))
    return family


def _workers(session: Session) -> Iterator[Metric]:
    worker = models.Worker
    query = select(worker.state, func.count(), func.sum(worker.slots)).group_by(worker.state)
    by_state = {state: (count, slots) for state, count, slots in session.execute(query)}
    states = GaugeMetricFamily("dkd_workers", "Workers by state.", labels=["state"])
    for state in ("online", "offline"):
        states.add_metric([state], by_state.get(state, (0, 0))[0])
    yield states
    yield GaugeMetricFamily("dkd_worker_slots", "Slots of the workers online.", by_state.get("online", (0, 0))[1])
    draining = select(func.count()).select_from(worker).where(worker.state == "online", worker.draining)
    yield GaugeMetricFamily(
        "dkd_workers_draining", "Workers online that take no new runs.", session.scalars(draining).one()
    )


def _quotas(session: Session) -> Iterator[Metric]:
    """Yield limits and use of the projects that have a quota; of those that the sender of the request sees."""
    connection = session.connection()
    names = sorted(filter(rights.sees, quotas.limits_of(connection)))
    limits = GaugeMetricFamily(
        "dkd_project_quota_limit",
        "Limit of a project: slots, gpu_hours of seven days, or disk_bytes.",
        labels=["project", "quota"],
    )
    used = GaugeMetricFamily(
        "dkd_project_quota_used", "What a project uses of its limits.", labels=["project", "quota"]
    )
    for quota in project_quotas.read(connection, names) if names else ():
        values = (
            ("slots", quota.slots_limit, quota.slots_used),
            ("gpu_hours", quota.gpu_hours_limit, quota.gpu_hours_used),
            ("disk_bytes", quota.disk_bytes_limit, quota.disk_bytes_used),
        )
        for name, limit, use in values:
            if limit is not None:
                limits.add_metric([quota.project, name], limit)
                used.add_metric([quota.project, name], use)
    yield from (limits, used)
