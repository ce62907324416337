"""The catalog, workers, teachers and Prometheus metrics."""

from __future__ import annotations

from datetime import timedelta

from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from backend.db import Database, models, now
from backend.queue.reconciler import LEASE_EXPIRED
from core.catalog import METHODS
from core.protocol.public import Catalog, TeacherList, WorkerList
from core.specs import parse_experiment
from tests.backend import rows


def _worker(database: Database, worker_id: str, **columns: object) -> None:
    with database.write() as session:
        values = {"name": worker_id, "host": "h", "slots": 2, "device": "cpu"}
        values |= dict.fromkeys(("registered_at", "last_heartbeat"), now(session))
        session.add(models.Worker(id=worker_id, **values | columns))


def test_catalog_describes_every_form_field(api: TestClient) -> None:
    catalog = Catalog.model_validate(api.get("/api/v1/catalog").json())
    assert [method["name"] for method in catalog.methods] == [entry.name for entry in METHODS]
    assert "temperature" in catalog.methods[1]["params"]["properties"]
    assert {"digits", "synthetic"} <= {dataset["name"] for dataset in catalog.datasets}
    assert any(metric["name"] == "test/top1" and metric["unit"] == "%" for metric in catalog.metrics)
    assert set(catalog.experiment_schema["required"]) == {"name", "dataset", "student", "methods", "seeds", "training"}
    assert parse_experiment(rows.SPEC).name == "rows"


def test_workers_show_their_runs(database: Database, api: TestClient) -> None:
    assert WorkerList.model_validate(api.get("/api/v1/workers").json()).items == []
    _worker(database, "worker-bbb", version="1")
    _worker(database, "worker-aaa", state="offline")
    experiment = rows.experiment(database)
    ids = rows.run_ids(database, experiment)
    rows.change(database, ids["kd", 0], state="running", worker_id="worker-bbb")
    rows.change(database, ids["kd", 1], state="cancelling", worker_id="worker-bbb")
    rows.change(database, ids["kd", 2], state="succeeded", worker_id="worker-bbb")
    online, offline = WorkerList.model_validate(api.get("/api/v1/workers").json()).items
    assert (online.id, online.state, online.slots, online.version) == ("worker-bbb", "online", 2, "1")
    assert online.running == sorted([ids["kd", 0], ids["kd", 1]])
    assert (offline.state, offline.running) == ("offline", [])


def test_teachers_show_their_students(database: Database, api: TestClient) -> None:
    first = rows.experiment(database)
    rows.experiment(database, name="second", seeds=[7])  # shares the teacher of the first
    other = rows.experiment(database, name="other", teacher={"model": "resnet14", "seed": 3}, seeds=[0])
    shared = rows.run_ids(database, first)["teacher", 0]
    rows.succeed(database, shared, [50.0, 90.0])
    newest, oldest = TeacherList.model_validate(api.get("/api/v1/teachers").json()).items
    assert (newest.run_id, newest.model, newest.seed) == (rows.run_ids(database, other)["teacher", 3], "resnet14", 3)
    assert (newest.students, newest.top1, newest.state) == (2, None, "queued")
    assert (oldest.run_id, oldest.students, oldest.top1, oldest.state) == (shared, 8, 90.0, "succeeded")
    assert (oldest.model, oldest.dataset) == ("resnet8", "digits")
    assert {newest.headline, oldest.headline} == {"test/top1"}


def test_a_teacher_on_held_out_images_is_judged_on_them(database: Database, api: TestClient) -> None:
    dataset = {"name": "digits", "params": {"val_fraction": 0.2, "evaluate": "validation"}}
    teacher = rows.run_ids(database, rows.experiment(database, dataset=dataset))["teacher", 0]
    rows.succeed(database, teacher, [50.0, 80.0], ("val/top1",), attempt=1)
    both = rows.run_ids(database, rows.experiment(database, name="both"))["teacher", 0]
    rows.succeed(database, both, [60.0, 70.0], ("test/top1", "val/top1"), attempt=1)
    found = TeacherList.model_validate(api.get("/api/v1/teachers").json()).items
    shown = {item.run_id: (item.headline, item.top1) for item in found}
    assert shown == {teacher: ("val/top1", 80.0), both: ("test/top1", 70.0)}
    listed = api.get("/api/v1/runs", params={"sort": "-headline", "role": "teacher"}).json()["items"]
    assert [(run["id"], run["headline"]) for run in listed] == [(teacher, "val/top1"), (both, "test/top1")]
    body = rows.SPEC | {"name": "planned", "dataset": dataset}
    [planned] = api.post("/api/v1/experiments/preview", json=body).json()["teachers"]
    assert (planned["run_id"], planned["top1"]) == (teacher, 80.0)


def _samples(api: TestClient) -> dict[tuple[str, str], float]:
    answer = api.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, "".join(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_prometheus_metrics_are_read_from_the_database(database: Database, api: TestClient) -> None:
    empty = _samples(api)
    assert empty["dkd_runs", "queued"] == 0
    assert empty["dkd_queue_oldest_seconds", ""] == 0
    assert empty["dkd_queue_wait_seconds_count", ""] == 0
    _worker(database, "worker-bbb")
    _worker(database, "worker-aaa", state="offline")
    ids = rows.run_ids(database, rows.experiment(database))
    with database.write() as session:
        timestamp = now(session)
        for run in session.query(models.Run):
            run.queued_at = timestamp - timedelta(seconds=100)
        ends = (("lost", LEASE_EXPIRED), ("lost", "worker b was restarted"), ("succeeded", ""))
        for number, (outcome, reason) in enumerate(ends, 1):
            session.add(
                models.Attempt(
                    run_id=ids["kd", 0],
                    number=number,
                    worker_id="worker-bbb",
                    worker_name="b",
                    host="h",
                    started_at=timestamp - timedelta(seconds=60 / number),
                    waited=40.0 if number == 1 else 2.0,
                    outcome=outcome,
                    reason=reason,
                )
            )
    samples = _samples(api)
    assert (samples["dkd_runs", "waiting"], samples["dkd_runs", "queued"], samples["dkd_runs", "running"]) == (6, 1, 0)
    active = {labels: count for (name, labels), count in samples.items() if name == "dkd_runs_by_device"}
    assert set(active) == {f"{device}{state}" for state in ("queued", "running") for device in ("any", "cpu", "gpu")}
    assert (active["anyqueued"], sum(active.values())) == (1, 1)
    assert 100 <= samples["dkd_queue_oldest_seconds", ""] < 1000
    assert (samples["dkd_queue_wait_seconds_sum", ""], samples["dkd_queue_wait_seconds_count", ""]) == (44, 3)
    below = {top: count for (name, top), count in samples.items() if name == "dkd_queue_wait_seconds_bucket"}
    assert (below["1.0"], below["5.0"], below["15.0"], below["60.0"], below["+Inf"]) == (0, 2, 2, 3, 3)
    assert (samples["dkd_attempts_total", "lost"], samples["dkd_attempts_total", "succeeded"]) == (2, 1)
    assert samples["dkd_lease_expiries_total", ""] == 1
    assert (samples["dkd_workers", "online"], samples["dkd_workers", "offline"], samples["dkd_worker_slots", ""]) == (
        1,
        1,
        2,
    )
    assert samples["dkd_workers_draining", ""] == 0


def test_every_route_requires_a_token(api: TestClient) -> None:
    del api.headers["Authorization"]
    for path in ("catalog", "workers", "teachers", "comparisons?experiment=x", "runs/x/metrics", "runs/x/logs"):
        answer = api.get(f"/api/v1/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (401, "application/problem+json")
    assert api.get("/metrics").status_code == 401
