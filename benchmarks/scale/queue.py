"""Fills the queue: one planned run of each owner, and copies of it, made by the database."""

from __future__ import annotations

from sqlalchemy import text, update

from backend.db import Database, models, now
from backend.experiments import planning
from benchmarks.scale.load import Load
from core.protocol.people import DEFAULT_PROJECT
from core.specs import parse_experiment

_KEPT = ("id", "fingerprint", "seed")
"""Columns in which a copy differs."""


def fill(database: Database, load: Load) -> None:
    """Create the projects and the queued runs, each owner's in turn."""
    projects = [DEFAULT_PROJECT, *(f"project-{number}" for number in range(1, load.projects))]
    with database.write() as session:
        for name in projects[1:]:
            session.add(models.Project(name=name, created_at=now(session)))
        session.flush()
        if len(projects) > 1:
            full = models.Project.name == projects[-1]
            session.execute(update(models.Project).where(full).values(slots_limit=0))
    for owner in range(load.owners):
        copies = load.queued // load.owners + (owner < load.queued % load.owners) - 1
        spec = {
            "name": f"experiment of owner {owner}",
            "dataset": "digits",
            "teacher": None,
            "student": {"model": "small_cnn"},
            "methods": ["ce"],
            "seeds": [0],
            "training": {"epochs": 10},
        }
        with database.write_connection() as connection:
            (created,) = planning.create(
                connection,
                [("", parse_experiment(spec))],
                submitted_by=f"owner-{owner:02d}",
                project=projects[owner % len(projects)],
            )
            columns = [column.name for column in models.Run.__table__.columns if column.name not in _KEPT]
            key = f"lpad(to_hex({(owner + 1) << 24}::bigint + n), 16, '0')"
            numbers = "generate_series(1, :copies) AS n"
            parameters = {"copies": copies, "run": created.runs[0]["id"], "experiment": created.id}
            connection.execute(
                text(
                    f"INSERT INTO runs (id, fingerprint, seed, {', '.join(columns)}) "
                    f"SELECT {key}, {key}, n, {', '.join(columns)} FROM runs, {numbers} WHERE runs.id = :run"
                ),
                parameters,
            )
            connection.execute(
                text(
                    "INSERT INTO experiment_runs (experiment_id, run_id, label, position) "
                    f"SELECT experiment_id, {key}, label, n FROM experiment_runs, {numbers} WHERE run_id = :run"
                ),
                parameters,
            )
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE"))  # as autovacuum would within about a minute
