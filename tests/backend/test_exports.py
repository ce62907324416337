"""Records: everything needed to repeat a run, and rows for other programs."""

from __future__ import annotations

import csv
import io

from fastapi.testclient import TestClient

from backend.db import Database
from core.protocol.records import ExperimentRecord, RunRecord
from core.specs import RunSpec, parse_experiment
from tests.backend import lab, rows
from tests.backend.lab import Lab


def test_run_record_contains_what_repeats_the_run(lab: Lab) -> None:
    lab.submit(_spec())
    lab.register()
    environment = {"torch": "2.14.0", "packages": "numpy==2.1\ntorch==2.14.0", "commit": "abc+changes", "diff": "+1"}
    teacher = lab.claim()
    lab.events(teacher, _started(environment), _metrics(91.0))
    lab.succeed(teacher)
    student = lab.claim()
    lab.events(student, _started(environment), _metrics(88.0))
    lab.succeed(student)
    record = RunRecord.model_validate(lab.admin.get(f"/api/v1/exports/runs/{student['run_id']}").json())
    assert RunSpec.model_validate(record.spec).fingerprint() == record.fingerprint
    assert record.packages == ["numpy==2.1", "torch==2.14.0"]
    assert (record.commit, record.diff, record.environment) == ("abc+changes", "+1", {"torch": "2.14.0"})
    assert (record.attempts[0].host, record.attempts[0].device) == ("node", "cpu")
    assert record.metrics["test/top1"] == 88.0
    assert record.teacher is not None
    assert record.teacher.run_id == teacher["run_id"]
    assert record.spec["teacher"] == record.teacher.fingerprint
    # The spec in ``repeat`` plans this run and its teacher.
    assert record.repeat is not None
    plan = parse_experiment(record.repeat).plan()
    assert [planned.spec.fingerprint() for planned in plan] == [record.teacher.fingerprint, record.fingerprint]
    # The long parts are only in the record, and not in the reply that pages poll.
    assert lab.run(student["run_id"])["environment"] == {"torch": "2.14.0", "commit": "abc+changes"}


def test_experiment_is_exported_as_records_and_as_csv(database: Database, api: TestClient) -> None:
    experiment = rows.experiment(database, seeds=[0])
    ids = rows.run_ids(database, experiment)
    rows.succeed(database, ids["kd", 0], [50.0, 60.0])
    record = ExperimentRecord.model_validate(
        api.get("/api/v1/exports/experiment", params={"experiment": "rows"}).json()
    )
    assert [run.label for run in record.runs] == ["teacher", "kd", "dkd"]
    assert record.runs[0].repeat is None
    assert parse_experiment(record.spec).name == "rows"
    text = api.get("/api/v1/exports/experiment", params={"experiment": "rows", "format": "csv"})
    assert text.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(io.StringIO(text.text)))
    assert [(line["label"], line["state"], line["test/top1"]) for line in lines] == [
        ("teacher", "queued", ""),
        ("kd", "succeeded", "60.0"),
        ("dkd", "waiting", ""),
    ]


def test_exports_of_unknown_ids_are_404(api: TestClient) -> None:
    assert api.get("/api/v1/exports/runs/nobody").status_code == 404
    assert api.get("/api/v1/exports/experiment", params={"experiment": "nobody"}).status_code == 404


def _spec() -> lab.Json:
    return lab.spec(methods=["dkd"])


def _started(environment: dict[str, str]) -> lab.Json:
    return lab.started(environment=environment)


def _metrics(top1: float) -> lab.Json:
    return lab.metrics(2, 20, {"test/top1": top1})
