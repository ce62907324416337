"""Rows for tests of queries: experiments with runs as ``planning`` creates them, and their reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from sqlalchemy import select

from backend.db import Database, models, now
from backend.experiments import planning
from backend.metrics import log_store, point_store
from core.events import Log, Metrics, Record
from core.specs import parse_experiment

SPEC: dict[str, Any] = {
    "name": "rows",
    "dataset": "digits",
    "teacher": {"model": "resnet8"},
    "student": {"model": "small_cnn"},
    "methods": ["kd", {"name": "dkd", "params": {"beta": 2.0}}],
    "seeds": [0, 1, 2],
    "training": {"epochs": 4},
}


def experiment(database: Database, **changes: Any) -> str:
    """Create an experiment; return its id."""
    with database.write() as session:
        specs = [("", parse_experiment(SPEC | changes))]
        return planning.create(session.connection(), specs, submitted_by="")[0].id


def run_ids(database: Database, experiment_id: str) -> dict[tuple[str, int], str]:
    """Return an experiment's run ids by label and seed."""
    run, used = models.Run, models.ExperimentRun
    query = select(used.label, run.seed, run.id).join(run, run.id == used.run_id)
    with database.read() as session:
        result = session.execute(query.where(used.experiment_id == experiment_id))
        return {(label, seed): run_id for label, seed, run_id in result}


def one_run(database: Database, **changes: Any) -> str:
    """Create an experiment; return the id of a student's run."""
    return run_ids(database, experiment(database, **changes))["kd", 0]


def metrics(step: int, values: dict[str, float], *, seq: int = 1, epoch: float | None = None) -> Record:
    """Return a record of metrics. Ten steps are an epoch, unless ``epoch`` says otherwise."""
    event = Metrics(step=step, epoch=step / 10 if epoch is None else epoch, elapsed=step / 100, values=values)
    return Record(seq=seq, time=1_700_000_000.0 + seq, event=event)


def log(
    message: str,
    seq: int = 1,
    time: float = 1_700_000_000.0,
    level: Literal["debug", "info", "warning", "error"] = "info",
) -> Record:
    return Record(seq=seq, time=time, event=Log(message=message, level=level))


def insert_records(database: Database, run_id: str, *records: Record, attempt: int = 1) -> None:
    """Insert one batch of a run's records."""
    with database.write() as session:
        run = session.get_one(models.Run, run_id, with_for_update=True)
        run.ingest = point_store.insert(session.connection(), run.id, run.ingest, records)
        log_store.insert(session.connection(), run.id, attempt, records)


def change(database: Database, run_id: str, **columns: Any) -> None:
    with database.write() as session:
        run = session.get_one(models.Run, run_id)
        for name, value in columns.items():
            setattr(run, name, value)
        if columns.get("state") in ("succeeded", "failed", "cancelled"):
            run.ended_at = now(session)


def succeed(
    database: Database, run_id: str, curve: list[float], metrics_of: Sequence[str] = ("test/top1",), **columns: Any
) -> None:
    """Let a run report one value of each metric per epoch, of further ones 10 more each, and succeed."""
    insert_records(
        database,
        run_id,
        *(
            metrics(epoch * 10, {name: value + 10 * n for n, name in enumerate(metrics_of)}, epoch=epoch)
            for epoch, value in enumerate(curve, 1)
        ),
    )
    change(database, run_id, state="succeeded", test_size=899, **columns)
