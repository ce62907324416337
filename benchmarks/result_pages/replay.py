"""A record as a database of the backend, so that its comparisons are computed by the same code.

Ids and times of the rows are new at each call; nothing of them is on a page.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from backend.db import Database, migrate, models, now
from backend.experiments import planning
from backend.experiments.seed_planner import SeedPlanner
from backend.metrics import point_store
from backend.settings import Settings
from benchmarks.result_pages.record import Curve, Record, RecordedRun
from core.events import Metrics
from core.events import Record as JournalRecord
from core.specs import parse_experiment

RunKey = tuple[int, str, int]
"""Index of an experiment, label and seed of a run."""
_BATCH = 500


@contextmanager
def replayed(record: Record) -> Iterator[tuple[Session, list[models.Experiment]]]:
    """Yield a session for reading with the experiments of a record, in their order.

    Runs that the record does not have stay queued. Seeds that were added until comparisons were decided are added again
    by the values of the record.
    """
    with tempfile.TemporaryDirectory(prefix="dkd-replay-") as folder:
        database = Database(f"sqlite:///{Path(folder) / 'replay.sqlite3'}")
        try:
            migrate.upgrade(database)
            ids = _create(database, record)
            _end_runs(database, record, ids)
            planner = SeedPlanner(database, Settings(database_url=str(database.url)), lambda: None)
            while planner.run_once():
                _end_runs(database, record, ids)
            with database.read() as session:
                yield session, [session.get_one(models.Experiment, experiment_id) for experiment_id in ids]
        finally:
            database.dispose()


def _create(database: Database, record: Record) -> list[str]:
    # The settings have been chosen, so that there are no trials to make.
    specs = [parse_experiment({**item.spec, "tune": None}) for item in record.experiments]
    with database.write() as session:
        created = planning.create(session.connection(), [("", spec) for spec in specs], submitted_by="")
        ids = [item.id for item in created]
    with database.write() as session:
        for experiment_id, item in zip(ids, record.experiments, strict=True):
            session.get_one(models.Experiment, experiment_id).choice = item.choice
    return ids


def _end_runs(database: Database, record: Record, ids: list[str]) -> None:
    """Let every run that the record has, and that has not ended, report its curve and end."""
    recorded: dict[RunKey, RecordedRun] = {
        (index, run.label, run.seed): run for index, item in enumerate(record.experiments) for run in item.runs
    }
    run, link = models.Run, models.ExperimentRun
    for index, experiment_id in enumerate(ids):
        with database.read() as session:
            query = select(run.id, link.label, run.seed, run.state).join(link, link.run_id == run.id)
            rows = session.execute(query.where(link.experiment_id == experiment_id).order_by(link.position)).all()
        for row in rows:
            item = recorded.get((index, row.label, row.seed))
            if item is not None and row.state not in ("succeeded", "failed"):
                _end(database, row.id, item, record)


def _end(database: Database, run_id: str, item: RecordedRun, record: Record) -> None:
    points = _points(record.curves[item.curve])
    with database.write() as session:
        row = session.get_one(models.Run, run_id)
        for start in range(0, len(points), _BATCH):
            row.ingest = point_store.insert(session.connection(), row.id, row.ingest, points[start : start + _BATCH])
        row.state, row.reason = item.state, item.reason
        row.total_epochs, row.train_size, row.test_size = item.epochs, item.train_size, item.test_size
        row.parameters, row.environment = item.parameters, record.environments[item.environment]
        row.ended_at = now(session)


def _points(curve: Curve) -> list[JournalRecord]:
    return [
        JournalRecord(
            seq=index + 1,
            time=0.0,
            event=Metrics(
                step=step,
                epoch=curve.epoch[index],
                elapsed=curve.elapsed[index],
                values={name: value for name, column in curve.values.items() if (value := column[index]) is not None},
            ),
        )
        for index, step in enumerate(curve.step)
    ]
