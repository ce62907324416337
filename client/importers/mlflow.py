"""Reads MLflow stores without MLflow: folders of files (``mlruns``), and SQLite databases (``mlflow.db``)."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from client.importers.foreign import ForeignPoint, ForeignRun, ImportSourceError

SOURCE = "mlflow"
_STATES = {"FINISHED": "succeeded", "FAILED": "failed", "KILLED": "cancelled", "RUNNING": "running"}
# The file store writes the position in this list, the database the name.
_STATUS_NUMBERS = {1: "RUNNING", 2: "SCHEDULED", 3: "FINISHED", 4: "FAILED", 5: "KILLED"}
_SQLITE = b"SQLite format 3\x00"


def read(path: Path) -> Iterator[ForeignRun]:
    """Yield the runs of a store; deleted runs are left out.

    Args:
        path: A folder ``mlruns``, or an SQLite file.

    Raises:
        ImportSourceError: The path is neither, or a file is damaged.
        OSError: A file cannot be read.
    """
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(_SQLITE)) != _SQLITE:
                raise ImportSourceError(f"{path} is not an SQLite database of MLflow")
        runs = _read_database(path)
    elif path.is_dir():
        runs = _read_folder(path)
    else:
        raise ImportSourceError(f"{path} does not exist")
    try:
        yield from runs
    except (ValueError, TypeError, AttributeError, yaml.YAMLError, sqlite3.DatabaseError) as error:
        raise ImportSourceError(f"{path} is not a store of MLflow, or is damaged: {error}") from error


def _read_folder(store: Path) -> Iterator[ForeignRun]:
    """Yield the runs of ``mlruns/EXPERIMENT/RUN``."""
    found = False
    for meta in sorted(store.glob("*/*/meta.yaml")):
        fields: dict[str, Any] = yaml.safe_load(meta.read_text(encoding="utf-8")) or {}
        if "run_id" not in fields or fields.get("lifecycle_stage") == "deleted":
            continue
        found = True
        folder = meta.parent
        tags, params = _texts(folder / "tags"), _texts(folder / "params")
        status = fields.get("status")
        yield ForeignRun(
            source=SOURCE,
            id=str(fields["run_id"]),
            name=str(fields.get("run_name") or tags.get("mlflow.runName") or fields["run_id"]),
            group=_experiment_name(folder.parent),
            config=params,
            points=list(_file_points(folder / "metrics")),
            state=_STATES.get(_STATUS_NUMBERS.get(status, "") if isinstance(status, int) else str(status), ""),
            started_at=_time(fields.get("start_time")),
            ended_at=_time(fields.get("end_time")),
        )
    if not found:
        raise ImportSourceError(f"{store} has no runs of MLflow (EXPERIMENT/RUN/meta.yaml)")


def _experiment_name(folder: Path) -> str:
    meta = folder / "meta.yaml"
    fields = yaml.safe_load(meta.read_text(encoding="utf-8")) if meta.is_file() else None
    return str((fields or {}).get("name") or folder.name)


def _texts(folder: Path) -> dict[str, str]:
    """Return the content of each file by its path, which is the name of a parameter or a tag."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


def _file_points(folder: Path) -> Iterator[ForeignPoint]:
    """Yield the points of ``metrics/NAME``, a line "time value step" each."""
    for name, text in _texts(folder).items():
        for number, line in enumerate(text.splitlines()):
            time, value, *step = line.split()
            yield ForeignPoint(name, int(step[0]) if step else number, int(time) / 1000, float(value))


def _read_database(path: Path) -> Iterator[ForeignRun]:
    # Read-only, so that a database that a server uses is not changed, and none is created.
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        runs = connection.execute(
            "SELECT r.run_uuid, r.name, e.name, r.status, r.start_time, r.end_time "
            "FROM runs r JOIN experiments e USING (experiment_id) "
            "WHERE r.lifecycle_stage = 'active' ORDER BY r.start_time, r.run_uuid"
        ).fetchall()
        for run_id, name, experiment, status, start, end in runs:
            params = connection.execute("SELECT key, value FROM params WHERE run_uuid = ?", (run_id,)).fetchall()
            points = connection.execute(
                "SELECT key, step, timestamp, value, is_nan FROM metrics WHERE run_uuid = ? ORDER BY key, step",
                (run_id,),
            )
            yield ForeignRun(
                source=SOURCE,
                id=run_id,
                name=name or run_id,
                group=experiment,
                config=dict(params),
                points=[
                    ForeignPoint(key, step, time / 1000, float("nan") if is_nan else value)
                    for key, step, time, value, is_nan in points
                ],
                state=_STATES.get(status, ""),
                started_at=_time(start),
                ended_at=_time(end),
            )


def _time(milliseconds: Any) -> datetime | None:
    return datetime.fromtimestamp(int(milliseconds) / 1000, UTC) if milliseconds else None
