"""Writes experiments as four Parquet tables, which DuckDB, pandas and other programs read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from client.client import Client
from client.exporters.packages import MissingPackageError
from client.exporters.series import points
from common.atomic_write import atomic_path
from core.protocol.experiments import ExperimentSummary
from core.protocol.records import ExperimentRecord, RunRecord

TABLES = ("experiments", "experiment_runs", "runs", "metrics")
"""Names of the tables; each is a file NAME.parquet."""
OWN = "dkd-lab"
"""The column ``source`` of runs that DKD Lab has trained."""


class Tables:
    """The tables of a folder, which are written row by row. A context manager.

    Files of an earlier export in the same folder are replaced when the block ends without an error.

    Args:
        folder: The folder; it is created if it is missing.

    Raises:
        MissingPackageError: Pyarrow, of the extra ``export``, is not installed.
        OSError: The folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise MissingPackageError("pyarrow") from None
        folder.mkdir(parents=True, exist_ok=True)
        self.counts = dict.fromkeys(TABLES, 0)
        self._table_of = pa.Table.from_pylist
        self._schemas = _schemas(pa)
        self._writers: dict[str, Any] = {}
        with ExitStack() as stack:
            for name, schema in self._schemas.items():
                partial = stack.enter_context(atomic_path(folder / f"{name}.parquet"))
                writer = pq.ParquetWriter(partial, schema, compression="zstd")
                self._writers[name] = stack.enter_context(writer)
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Add rows to a table. Columns that a row lacks are null."""
        if rows:
            self._writers[name].write_table(self._table_of(rows, schema=self._schemas[name]))
            self.counts[name] += len(rows)


def write(client: Client, experiments: Iterable[ExperimentSummary], folder: Path) -> dict[str, int]:
    """Write experiments with their runs and all metric points into a folder.

    A teacher that several experiments use is written once.

    Args:
        client: The client.
        experiments: The experiments.
        folder: The folder.

    Returns:
        The number of rows of each table.

    Raises:
        MissingPackageError: Pyarrow, of the extra ``export``, is not installed.
        DownsampledError: A series has more than 20,000 points.
        OSError: The folder cannot be written.
    """
    written: set[str] = set()
    with Tables(folder) as tables:
        for summary in experiments:
            record = client.experiments.record(summary.id)
            new = [run for run in record.runs if run.run_id not in written]
            written |= {run.run_id for run in new}
            tables.add("experiments", [_experiment_row(summary, record)])
            tables.add("experiment_runs", [_link_row(record, run) for run in record.runs])
            tables.add("runs", [_run_row(run) for run in new])
            for run in new:
                tables.add("metrics", list(_metric_rows(client, run)))
    return tables.counts


def _schemas(pa: Any) -> Mapping[str, Any]:
    text, number, count, time = pa.string(), pa.float64(), pa.int64(), pa.timestamp("us", tz="UTC")
    tables: dict[str, dict[str, Any]] = {
        "experiments": {
            "experiment_id": text,
            "name": text,
            "state": text,
            "dataset": text,
            "teacher_model": text,
            "student_model": text,
            "tags": pa.list_(text),
            "notes": text,
            "submitted_by": text,
            "created_at": time,
            "spec": text,
        },
        "experiment_runs": {"experiment_id": text, "run_id": text, "label": text},
        "runs": {
            "run_id": text,
            "source": text,
            "label": text,
            "role": text,
            "method": text,
            "model": text,
            "dataset": text,
            "seed": count,
            "state": text,
            "reason": text,
            "teacher_run_id": text,
            "parameters": count,
            "train_size": count,
            "test_size": count,
            "fingerprint": text,
            "commit": text,
            "weights_sha256": text,
            "created_at": time,
            "started_at": time,
            "ended_at": time,
            "spec": text,
            "environment": text,
        },
        "metrics": {
            "run_id": text,
            "name": text,
            "step": count,
            "epoch": number,
            "time": time,
            "value": number,
        },
    }
    return {name: pa.schema(list(columns.items())) for name, columns in tables.items()}


def _experiment_row(summary: ExperimentSummary, record: ExperimentRecord) -> dict[str, Any]:
    return {
        "experiment_id": summary.id,
        "name": summary.name,
        "state": summary.state,
        "dataset": summary.dataset,
        "teacher_model": summary.teacher_model,
        "student_model": summary.student_model,
        "tags": list(summary.tags),
        "notes": summary.notes,
        "submitted_by": summary.submitted_by,
        "created_at": summary.created_at,
        "spec": json.dumps(record.spec),
    }


def _link_row(record: ExperimentRecord, run: RunRecord) -> dict[str, Any]:
    return {"experiment_id": record.experiment_id, "run_id": run.run_id, "label": run.label}


def _run_row(run: RunRecord) -> dict[str, Any]:
    same = (
        *("run_id", "label", "state", "reason", "parameters", "train_size", "test_size", "fingerprint", "commit"),
        *("weights_sha256", "created_at", "started_at", "ended_at"),
    )
    spec = run.spec
    return {name: getattr(run, name) for name in same} | {
        "source": OWN,
        "role": spec["role"],
        "method": spec["method"]["name"],
        "model": spec["model"]["name"],
        "dataset": spec["dataset"]["name"],
        "seed": spec["seed"],
        "teacher_run_id": run.teacher.run_id if run.teacher else None,
        "spec": json.dumps(spec),
        "environment": json.dumps(run.environment),
    }


def _metric_rows(client: Client, run: RunRecord) -> Iterator[dict[str, Any]]:
    for point in points(client, run):
        yield {
            "run_id": run.run_id,
            "name": point.name,
            "step": point.step,
            "epoch": point.epoch,
            "time": round(point.time * 1e6),
            "value": point.value,
        }
