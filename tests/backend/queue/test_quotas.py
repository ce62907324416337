"""Quotas of projects: what waits for them, what passes them, and that slots are never exceeded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select, update
from sqlalchemy.exc import OperationalError

from backend.db import Database, models, new_ids, now
from backend.db.models import QueueLane, Run, SlotUsage
from backend.operations.stored_sizes import StoredSizes
from backend.queue import quotas
from backend.queue.claim import claim
from backend.queue.worker_registry import heartbeat
from core.protocol.worker import ClaimRequest, Heartbeat
from tests.backend.lab import Json, Lab, plain, spec
from tests.backend.test_files import safetensors
from tests.backend.test_people import person

API = "/api/v1"


@pytest.fixture(autouse=True)
def counted_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each claim read GPU-hours and bytes."""
    monkeypatch.setattr(quotas, "_KEPT_SECONDS", 0.0)


def ok(answer: Any, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()


def project(lab: Lab, name: str, **limits: float | None) -> None:
    ok(lab.admin.post(f"{API}/projects", json={"name": name}), 201)
    quota(lab, name, **limits)


def quota(lab: Lab, name: str, **limits: float | None) -> Json:
    changed: Json = ok(lab.admin.patch(f"{API}/projects/{name}/quota", json=limits))
    return changed


def submit(lab: Lab, place: str, body: Json) -> Json:
    made: Json = ok(lab.admin.post(f"{API}/experiments", json=body, params={"project": place}), 201)
    return made


def place_of(lab: Lab, claim: Json) -> str:
    place: str = lab.experiment(lab.run(claim["run_id"])["experiment_id"])["project"]
    return place


def test_runs_beyond_the_slots_wait_and_say_so_while_other_projects_pass(lab: Lab) -> None:
    project(lab, "small", slots=2)
    lab.register(slots=8)
    first = submit(lab, "small", plain("first", 5, priority=9))
    lab.submit(plain("second", 3))
    claims = [lab.claim() for _ in range(5)]
    assert sorted(place_of(lab, claim) for claim in claims) == ["default"] * 3 + ["small"] * 2
    assert lab.try_claim() is None
    assert lab.heartbeat(*claims)["eligible"] == 0
    reason = "waits for the quota of the project small: 2 of 2 slots are in use"
    queued = next(run for run in lab.experiment(first["id"])["runs"] if run["state"] == "queued")
    assert queued["reason"] == reason
    assert lab.run(queued["id"])["reason"] == reason
    (waiting,) = ok(lab.admin.get(f"{API}/activity"))["waiting"]
    assert waiting["reason"] == reason
    done = next(claim for claim in claims if place_of(lab, claim) == "small")
    lab.succeed(done)
    assert lab.heartbeat()["eligible"] == 3
    assert place_of(lab, lab.claim()) == "small"
    assert lab.try_claim() is None


def test_raised_and_removed_limits_hold_from_the_next_claim_on(lab: Lab) -> None:
    project(lab, "small", slots=0)
    lab.register()
    submit(lab, "small", plain("first", 4))
    assert lab.try_claim() is None
    quota(lab, "small", slots=1)
    lab.claim()
    assert lab.try_claim() is None
    assert quota(lab, "small", slots=None)["slots_limit"] is None
    lab.claim()


def test_run_on_several_gpus_needs_as_many_slots(lab: Lab) -> None:
    project(lab, "small", slots=2)
    lab.register("gpu-node", device="gpu", slots=4, gpus=4)
    large = submit(lab, "small", plain("large", 1, resources={"device": "gpu", "gpus": 4}))["runs"][0]
    submit(lab, "small", plain("fits", 3, resources={"device": "gpu"}))
    assert lab.run(large["id"])["reason"].endswith("0 of 2 slots are in use, and the run needs 4")
    assert [lab.claim("gpu-node", free_gpus=4 - taken)["gpus"] for taken in range(2)] == [1, 1]
    assert lab.try_claim("gpu-node", free_gpus=2) is None


def concurrent_claims(apps: list[Lab], workers: list[str], each: int) -> list[Json]:
    """Return what workers claim at the same time, each over the backend of its turn."""
    from starlette.testclient import TestClient

    barrier = threading.Barrier(len(workers))

    def one(index: int) -> list[Json]:
        lab = apps[index % len(apps)]
        client = Lab(lab.app, lab.admin, TestClient(lab.app, headers=dict(lab.worker.headers)))
        barrier.wait()
        return [claim for _ in range(each) if (claim := client.try_claim(workers[index])) is not None]

    with ThreadPoolExecutor(len(workers)) as pool:
        return [claim for claims in pool.map(one, range(len(workers))) for claim in claims]


def test_slots_are_exact_under_claims_at_once_from_two_backends(lab: Lab, make_lab: Callable[..., Lab]) -> None:
    """On SQLite one backend has the database; its claims still come from many threads at once."""
    replicas = [lab] if lab.app.state.database.is_sqlite else [lab, make_lab()]
    project(lab, "small", slots=5)
    project(lab, "other", slots=3)
    submit(lab, "small", plain("first", 30))
    submit(lab, "other", plain("second", 30))
    workers = [f"worker-{number}" for number in range(8)]
    for worker in workers:
        lab.register(worker, slots=4)
    claims = concurrent_claims(replicas, workers, 4)
    places = [place_of(lab, claim) for claim in claims]
    assert (places.count("small"), places.count("other")) == (5, 3)
    assert len({claim["run_id"] for claim in claims}) == 8


def used(database: Database, claim: Json, hours: float, *, ended: float | None = 0.0) -> None:
    """Change an attempt's times: it took some hours, and ended some hours ago, or still runs."""
    with database.write() as session:
        end = now(session) - timedelta(hours=ended or 0.0)
        values = {"started_at": end - timedelta(hours=hours), "ended_at": None if ended is None else end}
        session.execute(update(SlotUsage).where(SlotUsage.run_id == claim["run_id"]).values(**values))


def test_gpu_hours_of_seven_days_count_with_those_of_running_trainings(lab: Lab, database: Database) -> None:
    project(lab, "small", gpu_hours=10.0)
    lab.register("gpu-node", device="gpu", slots=4, gpus=4)
    submit(lab, "small", plain("gpu", 8, resources={"device": "gpu", "gpus": 2}))
    old, running = lab.claim("gpu-node", free_gpus=4), lab.claim("gpu-node", free_gpus=2)
    lab.succeed(old, "gpu-node")
    used(database, old, 4.0, ended=7 * 24 - 1.0)  # one hour of which is within the week, on two GPUs
    used(database, running, 3.5, ended=None)
    state = ok(lab.admin.get(f"{API}/projects/small/quota"))
    assert state["gpu_hours_used"] == pytest.approx(9.0, abs=0.1)
    next_one = lab.claim("gpu-node", free_gpus=2)
    lab.finish(next_one, "interrupted", "gpu-node", fault=False)
    used(database, running, 5.0, ended=None)
    assert lab.try_claim("gpu-node", free_gpus=2) is None
    reason = lab.run(next_one["run_id"])["reason"]
    assert "waits for the quota of the project small: 12.0 of 10 GPU-hours of seven days are used" in reason
    assert lab.heartbeat(running, worker_id="gpu-node")["orders"][0]["order"] == "continue"


def test_cpu_workers_use_no_gpu_hours(lab: Lab) -> None:
    project(lab, "small", gpu_hours=0.0)
    lab.register()
    lab.register("gpu-node", device="gpu", slots=1, gpus=1)
    run = submit(lab, "small", plain("any", 1))["runs"][0]
    assert lab.try_claim("gpu-node", free_gpus=1) is None
    assert lab.run(run["id"])["reason"].endswith("are used (a CPU worker may take it)")
    assert lab.claim()["run_id"] == run["id"]


def test_full_disk_quota_refuses_what_is_new_and_keeps_what_is_stored(lab: Lab, database: Database) -> None:
    project(lab, "small", disk_bytes=1000)
    lab.register()
    made = submit(lab, "small", plain("first", 2))
    claim = lab.claim()
    store = lab.app.state.store
    folder = store.root / claim["folder"]
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(bytes(900))
    (folder / "journal").write_bytes(bytes(300))
    lab.succeed(claim)
    meter = StoredSizes(database, store, lab.app.state.settings)
    assert meter.run_once() == 1
    assert meter.run_once() == 0
    state = ok(lab.admin.get(f"{API}/projects/small/quota"))
    assert (state["disk_bytes_used"], state["disk_bytes_limit"]) == (1200, 1000)
    assert lab.try_claim() is None
    waiting = next(run for run in made["runs"] if run["id"] != claim["run_id"])
    assert lab.run(waiting["id"])["reason"].endswith("1.2 kB of 1.0 kB are stored")
    refused = lab.admin.post(f"{API}/experiments", json=plain("second"), params={"project": "small"})
    assert refused.status_code == 409
    assert "the project small stores 1.2 kB of its quota of 1.0 kB" in refused.json()["detail"]
    upload = {"name": "mine", "project": "small"}
    assert lab.admin.post(f"{API}/teachers/uploads", content=safetensors(), params=upload).status_code == 409
    assert lab.run(claim["run_id"])["state"] == "succeeded"
    assert (folder / "weights.safetensors").stat().st_size == 900
    lab.submit(plain("elsewhere"))
    lab.cancel_experiment(made["id"])
    assert lab.admin.delete(f"{API}/experiments/{made['id']}").status_code == 204
    assert ok(lab.admin.get(f"{API}/projects/small/quota"))["disk_bytes_used"] == 0
    submit(lab, "small", plain("third"))


def test_upload_that_does_not_fit_is_refused(lab: Lab) -> None:
    content = safetensors()
    project(lab, "small", disk_bytes=len(content))
    upload = {"name": "mine", "project": "small"}
    ok(lab.admin.post(f"{API}/teachers/uploads", content=content, params=upload), 201)
    ok(lab.admin.post(f"{API}/teachers/uploads", content=content, params=upload), 201)  # it is stored already
    quota(lab, "small", disk_bytes=len(content) + 1)
    other = safetensors(4)
    answer = lab.admin.post(f"{API}/teachers/uploads", content=other, params=upload | {"name": "other"})
    assert answer.status_code == 409
    assert "more" in answer.json()["detail"]


def test_moved_experiment_counts_in_its_new_project(lab: Lab) -> None:
    project(lab, "small", slots=1)
    lab.register()
    made = lab.submit(plain("first", 3))
    lab.claim()
    ok(lab.admin.patch(f"{API}/experiments/{made['id']}", json={"project": "small"}))
    assert ok(lab.admin.get(f"{API}/projects/small/quota"))["slots_used"] == 1
    assert lab.try_claim() is None
    ok(lab.admin.patch(f"{API}/experiments/{made['id']}", json={"project": "default"}))
    lab.claim()


def test_shared_teacher_is_in_the_lane_of_its_requirements_and_of_the_remaining_project(
    lab: Lab, database: Database
) -> None:
    project(lab, "small", slots=4)
    made = submit(lab, "small", spec("first", resources={"device": "gpu"}))
    lab.submit(spec("second", resources={"device": "cpu"}))
    teacher = next(run for run in made["runs"] if run["role"] == "teacher")["id"]
    assert lane(database, teacher) == ("small", "any")
    lab.cancel_experiment("first")
    assert lab.admin.delete(f"{API}/experiments/{made['id']}").status_code == 204
    assert lane(database, teacher) == ("default", "any")


def lane(database: Database, run_id: str) -> tuple[str, str]:
    query = select(QueueLane.project, QueueLane.device).join(Run, Run.lane_id == QueueLane.id)
    with database.read() as session:
        row = session.execute(query.where(Run.id == run_id)).one()
    return row.project, row.device


def test_members_read_the_quota_and_lab_admins_set_it(lab: Lab) -> None:
    project(lab, "small", slots=3)
    member = person(lab, "anna", small="admin")
    stranger = person(lab, "eve")
    address = f"{API}/projects/small/quota"
    assert ok(member.get(address))["slots_limit"] == 3
    assert stranger.get(address).status_code == 404
    assert member.patch(address, json={"slots": 9}).status_code == 403
    assert ok(lab.admin.get(address))["slots_limit"] == 3
    entries = ok(lab.admin.get(f"{API}/audit", params={"action": "projects.change_quota", "refused": False}))["items"]
    assert [(entry["object"], entry["details"]) for entry in entries] == [("small", {"slots": 3, "slots_before": None})]
    assert lab.admin.patch(f"{API}/projects/none/quota", json={"slots": 1}).status_code == 404


@pytest.mark.parametrize("body", [{"slots": -1}, {"gpu_hours": -0.5}, {"disk_bytes": -1}, {"slots": 1.5}, {"x": 1}])
def test_bad_limits_are_refused_with_their_path(lab: Lab, body: Json) -> None:
    answer = lab.admin.patch(f"{API}/projects/default/quota", json=body)
    assert answer.status_code == 422
    assert [item["path"] for item in answer.json()["errors"]] == list(body)


def test_series_of_projects_with_limits(lab: Lab) -> None:
    assert "dkd_project_quota_limit{" not in lab.admin.get("/metrics").text
    project(lab, "small", slots=3, disk_bytes=10)
    text = lab.admin.get("/metrics").text
    assert 'dkd_project_quota_limit{project="small",quota="slots"} 3.0' in text
    assert 'dkd_project_quota_used{project="small",quota="disk_bytes"} 0.0' in text
    assert 'quota="gpu_hours"' not in text


@pytest.fixture
def statements(database: Database, lab: Lab) -> Iterator[list[str]]:
    """The statements on the queue of the lab's backend since the list was cleared."""
    sent: list[str] = []
    engine = lab.app.state.database.engine

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "runs" in statement or "queue_lanes" in statement:
            sent.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


def many_queued(database: Database, run_id: str, count: int) -> None:
    """Insert copies of a queued run."""
    with database.write() as session:
        row = dict(session.execute(select(*Run.__table__.c).where(Run.id == run_id)).mappings().one())
        copies = [row | {"id": key, "fingerprint": key} for key in new_ids(count)]
        session.execute(insert(models.Run), copies)


def test_claim_and_heartbeat_send_as_many_statements_whatever_the_length_of_a_full_queue(
    lab: Lab, database: Database, statements: list[str]
) -> None:
    project(lab, "full", slots=0)
    lab.register()
    full = submit(lab, "full", plain("full"))["runs"][0]["id"]
    lab.submit(plain("open", 4))
    lengths = []
    for more in (1, 1, 3000):
        many_queued(database, full, more)
        statements.clear()
        lab.claim()
        lab.heartbeat()
        lengths.append(len(statements))
    # The first claim also reads what is then kept for a while, and on a slow machine a later one reads it again.
    assert lengths[2] <= max(lengths[:2])
    with database.read() as session:
        assert (session.scalar(select(func.count()).select_from(Run).where(Run.state == "queued")) or 0) > 3000


@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.services)], indirect=True)
def test_claim_and_heartbeat_read_few_rows_of_a_long_queue(lab: Lab, database: Database) -> None:
    """What a claim and a heartbeat read does not grow with the queue, also if most of it waits for a quota."""
    project(lab, "full", slots=0)
    lab.register()
    full = submit(lab, "full", plain("full"))["runs"][0]["id"]
    opened = lab.submit(plain("open", 2))["runs"][0]["id"]
    many_queued(database, full, 5000)
    many_queued(database, opened, 5000)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE runs, queue_lanes")
    query = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'runs'"
    with database.write() as session:
        connection = session.connection()
        before = connection.exec_driver_sql(query).scalar_one()
        settings = lab.app.state.settings
        assert claim(session, "worker-one", ClaimRequest(), settings) is not None
        assert heartbeat(session, "worker-one", Heartbeat(), settings).eligible == 16
        assert connection.exec_driver_sql(query).scalar_one() - before < 100


@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.services)], indirect=True)
def test_claims_wait_for_each_other_only_at_projects_with_free_slots(lab: Lab, database: Database) -> None:
    project(lab, "full", slots=0)
    project(lab, "free", slots=1)
    lab.register()
    submit(lab, "full", plain("full"))
    lab.submit(plain("open"))
    settings = lab.app.state.settings
    locking = select(models.Project.name).with_for_update(key_share=True)

    def claimed() -> bool:
        with database.write() as session:
            session.connection().exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
            return claim(session, "worker-one", ClaimRequest(), settings) is not None

    with database.write() as other:
        other.execute(locking).all()
        assert claimed()
        submitted = submit(lab, "free", plain("free"))["runs"]
        with pytest.raises(OperationalError, match="lock timeout"):
            claimed()
    assert claimed()
    assert lab.run(submitted[0]["id"])["state"] == "running"
