"""Fills a database with finished experiments: planned by the project's own code, then inserted in bulk.

Every run has the same number of points, whatever the number of runs, since the time to show one run is to be constant.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from itertools import islice
from typing import Any

from sqlalchemy import Table, insert, select, text, update

from backend.db import Database, models, now
from backend.experiments.planning import create
from core.specs import parse_experiment

METHODS = (
    "dkd",
    "kd",
    {"name": "dkd_align", "params": {"reduction": "sample", "epsilon": 0.1}},
    "ce",
    "nkd",
    "dist",
    "rld",
)
SEEDS = 7
RUNS_PER_EXPERIMENT = len(METHODS) * SEEDS + 1
"""Its students and one teacher."""
NAMES = ("train/loss", "train/top1", "test/loss", "test/top1", "lr")
POINTS_PER_RUN = 1_000
LONG_POINTS = 100_000
"""Points of one series of the first run, like a loss that is logged at every step."""
LOG_LINES = 200
_CHUNK = 20_000
_WORKER = "filled-worker"


def fill(database: Database, runs: int) -> None:
    """Make ``runs`` runs with 1,000 points each. Of every 20 students one has failed and one is queued."""
    experiments = runs // RUNS_PER_EXPERIMENT
    for start in range(0, experiments, 20):
        with database.write_connection() as connection:
            specs = [("", parse_experiment(_spec(number))) for number in range(start, min(start + 20, experiments))]
            create(connection, specs, submitted_by="benchmark")
    _finish(database)
    with database.read() as session:
        run_ids = list(
            session.scalars(select(models.Run.id).where(models.Run.state != "queued").order_by(models.Run.id))
        )
        ids = dict(session.execute(select(models.MetricName.name, models.MetricName.id)).all())
    names = [ids[name] for name in NAMES]
    _copy(database, models.MetricPoint, _points(run_ids, names))
    _copy(database, models.MetricPoint, _series(run_ids[0], ids["train/step_loss"], LONG_POINTS))
    _copy(database, models.MetricLatest, _latest([*run_ids], names, ids["train/step_loss"]))
    if not database.is_sqlite:  # as autovacuum would within about a minute; SQLite has no such thing
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE"))


def _spec(number: int) -> dict[str, Any]:
    return {
        "name": f"experiment {number:05}",
        "dataset": "digits",
        "teacher": {"model": "resnet8", "seed": number},
        "student": {"model": "small_cnn"},
        "methods": list(METHODS),
        "seeds": list(range(SEEDS)),
        "training": {"epochs": 200},
        "tags": ["growth", f"batch-{number % 10}"],
    }


def _finish(database: Database) -> None:
    """Insert the worker and the names of the metrics, and give every run its state, an attempt and log lines."""
    with database.write() as session:
        current_time = now(session)
        worker = {"name": "filled", "host": "here", "slots": 4, "device": "cpu", "state": "offline"}
        times = {"registered_at": current_time, "last_heartbeat": current_time}
        session.execute(insert(models.Worker).values(id=_WORKER, **worker, **times))
        session.execute(insert(models.MetricName), [{"name": name} for name in (*NAMES, "train/step_loss")])
        rows = session.execute(select(models.Run.id, models.Run.role).order_by(models.Run.id)).all()
        states = {}
        for number, (run_id, role) in enumerate(rows):
            unusual = {7: "failed", 13: "queued"}.get(number % 20) if role == "student" else None
            states[run_id] = unusual or "succeeded"
        for state in ("succeeded", "failed", "queued"):
            same_state = [run_id for run_id, run_state in states.items() if run_state == state]
            for chunk in _chunks(same_state):
                values: dict[str, Any] = {"state": state, "teacher_failed": False}
                if state != "queued":
                    values |= {
                        "attempt": 1,
                        "epoch": 200.0,
                        "step": 2000,
                        "total_steps": 2000,
                        "ingest": 200,
                        "started_at": current_time - timedelta(hours=1),
                        "ended_at": current_time,
                        "environment": {"torch": "2.14.0", "packages": "numpy==2.4.0\n" * 120, "diff": ""},
                    }
                session.execute(update(models.Run).where(models.Run.id.in_(chunk)).values(**values))
    started = [run_id for run_id, state in states.items() if state != "queued"]
    base = {"number": 1, "worker_id": _WORKER, "worker_name": "filled", "host": "here", "device": "cpu"}
    _copy(
        database,
        models.Attempt,
        ({"run_id": run_id, **base, "started_at": current_time, "outcome": "succeeded"} for run_id in started),
    )
    line = {"attempt": 1, "time": current_time, "level": "info"}
    _copy(
        database,
        models.LogLine,
        (
            {"run_id": run_id, "number": number, "message": f"epoch {number} of {LOG_LINES} has ended", **line}
            for run_id in started
            for number in range(1, LOG_LINES + 1)
        ),
    )


def _points(run_ids: Sequence[str], names: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Yield points in the order of the primary key, in which both databases insert them fastest."""
    for run_id in run_ids:
        for name in names:
            yield from _series(run_id, name, POINTS_PER_RUN // len(names))


def _series(run_id: str, name: int, count: int) -> Iterator[dict[str, Any]]:
    for step in range(count):
        yield {
            "run_id": run_id,
            "name_id": name,
            "step": step,
            "epoch": float(step),
            "elapsed": step * 1.5,
            "value": 2.3 * math.exp(-3 * step / count) + 0.01 * math.sin(step + name),
            "kind": 0,
            "ingest": 1 + step * 200 // count,
        }


def _latest(run_ids: Sequence[str], names: Sequence[int], long: int) -> Iterator[dict[str, Any]]:
    rows = [(run_id, name) for run_id in run_ids for name in names] + [(run_ids[0], long)]
    for number, (run_id, name) in enumerate(rows):
        last = LONG_POINTS if name == long else POINTS_PER_RUN // len(names)
        yield {
            "run_id": run_id,
            "name_id": name,
            "step": last - 1,
            "epoch": float(last - 1),
            "value": 60 + number % 3001 / 100,
            "kind": 0,
        }


def _copy(database: Database, model: type[models.Base], rows: Iterable[dict[str, Any]]) -> None:
    """Insert rows, with COPY on PostgreSQL. A column without a value gets its default."""
    table: Table = model.__table__  # type: ignore[assignment]
    if database.is_sqlite:
        with database.write() as session:
            for chunk in _chunks(rows):
                session.connection().execute(table.insert(), chunk)
        return
    rows = iter(rows)
    first = next(rows)
    defaults = {
        column.name: column.default.arg  # type: ignore[attr-defined]
        for column in table.c
        if column.default is not None and column.name not in first
    }
    columns = [*first, *defaults]
    raw = database.engine.raw_connection()
    try:
        with raw.cursor().copy(f"COPY {table.name} ({', '.join(columns)}) FROM STDIN") as copy:
            copy.write_row([first.get(name, defaults.get(name)) for name in columns])
            for row in rows:
                copy.write_row([row.get(name, defaults.get(name)) for name in columns])
        raw.commit()
    finally:
        raw.close()


def _chunks(rows: Iterable[Any]) -> Iterator[list[Any]]:
    rows = iter(rows)
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk
