"""The activity reply: running, waiting and failed runs, workers, and experiments to compare."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import insert, select

from backend.db import Database, new_ids
from backend.db.models import ExperimentRun, Run
from backend.db.visibility import visible_projects
from backend.experiments.activity import activity as read_activity
from tests.backend import rows
from tests.backend.lab import Json, Lab, metrics, plain, spec, started


def activity(lab: Lab, **query: Any) -> Json:
    answer = lab.admin.get("/api/v1/activity", params=query)
    assert answer.status_code == 200, answer.text
    reply: Json = answer.json()
    return reply


def test_no_activity_at_first(lab: Lab) -> None:
    reply = activity(lab)
    assert sum(reply["counts"].values()) == 0
    parts = ("running", "waiting", "failed", "workers", "compared")
    assert [reply[part] for part in parts] == [[]] * len(parts)
    assert (reply["waiting_groups"], reply["failed_groups"], reply["failed_runs"]) == (0, 0, 0)


def test_running_runs_have_a_remaining_time(lab: Lab) -> None:
    lab.register()
    lab.submit(plain("one"))
    claim = lab.claim()
    lab.events(claim, started())
    assert activity(lab)["running"][0]["seconds_left"] is None, "no pace yet"
    lab.events(claim, metrics(2, 5, {"train/loss": 1.0}))  # at step 5 of 20 after 5 s
    [item] = activity(lab)["running"]
    assert item["run"]["id"] == claim["run_id"]
    assert item["seconds_left"] == 15
    assert activity(lab)["workers"][0]["running"] == [claim["run_id"]]


def test_waiting_runs_are_grouped_by_reason(lab: Lab) -> None:
    lab.submit(spec("taught", seeds=[0, 1, 2]))
    lab.submit(plain("gpu", runs=4, resources={"device": "gpu"}, priority=5))
    lab.submit(plain("held", runs=2))
    lab.pause_experiment("held")
    reply = activity(lab)
    waiting = {(item["experiment"], item["state"]): (item["runs"], item["reason"]) for item in reply["waiting"]}
    assert waiting == {
        ("gpu", "queued"): (4, "waits for a GPU worker; none is online"),
        ("taught", "queued"): (1, "waits for a worker; none is online"),
        ("taught", "waiting"): (6, "waits for its teacher resnet8, which is queued"),
        ("held", "paused"): (2, "paused until it is resumed"),
    }
    assert reply["waiting"][0]["experiment"] == "gpu", "in the order of priority"
    assert reply["waiting_groups"] == 4
    lab.register()
    queued = {item["experiment"]: item["reason"] for item in activity(lab)["waiting"] if item["state"] == "queued"}
    assert queued["taught"] == "waits for a free slot"


def test_failed_runs_are_grouped_by_reason_until_archived(lab: Lab) -> None:
    lab.register()
    lab.submit(plain("bad", runs=3))
    for reason in ("out of memory", "loss is NaN", "out of memory"):
        lab.finish(lab.claim(), "failed", reason=reason)
    reply = activity(lab)
    assert sorted((item["runs"], item["reason"]) for item in reply["failed"]) == [
        (1, "loss is NaN"),
        (2, "out of memory"),
    ]
    assert reply["failed"][0]["newest"]["state"] == "failed"
    assert (reply["failed_groups"], reply["failed_runs"]) == (2, 3)
    lab.admin.post("/api/v1/experiments/bad/archive")
    assert activity(lab)["failed_runs"] == 0
    assert lab.admin.get("/api/v1/activity", params={"hours": 0}).status_code == 422


def test_newest_results_come_first(lab: Lab, database: Database) -> None:
    ids = [rows.experiment(database, name=name) for name in ("one", "two", "three")]
    rows.experiment(database, name="one method", methods=["kd"])
    for key in ("one method", "two", "one"):
        for run in lab.experiment(key)["runs"]:
            if run["role"] == "student" and run["seed"] == 0:
                rows.succeed(database, run["id"], [50.0])
    reply = activity(lab)["compared"]
    assert [item["name"] for item in reply] == ["one", "two"]
    assert reply[0]["id"] == ids[0]
    assert reply[0]["counts"]["succeeded"] == 2


@pytest.mark.parametrize("state", ["running", "queued"])
def test_reply_size_does_not_grow_with_the_runs(lab: Lab, database: Database, state: str) -> None:
    made = rows.experiment(database, teacher=None, methods=["ce"], seeds=list(range(120)))
    for run_id in rows.run_ids(database, made).values():
        rows.change(database, run_id, state=state)
    reply = activity(lab)
    assert reply["counts"][state] == 120
    assert len(reply["running"]) == (50 if state == "running" else 0)
    assert len(reply["waiting"]) == (0 if state == "running" else 1)


def test_stored_reasons_are_groups_of_their_own(lab: Lab, database: Database) -> None:
    made = rows.experiment(database, teacher=None, methods=["ce"], seeds=[0, 1, 2, 3])
    requeued, paused, *_ = rows.run_ids(database, made).values()
    rows.change(database, requeued, reason="its worker was lost")
    rows.change(database, paused, reason="its worker was lost", state="paused")
    lab.register()
    reply = activity(lab)
    assert sorted((item["state"], item["runs"], item["reason"]) for item in reply["waiting"]) == [
        ("paused", 1, "paused until it is resumed"),
        ("queued", 1, "its worker was lost; waits for a free slot"),
        ("queued", 2, "waits for a free slot"),
    ]
    assert reply["waiting_groups"] == 3


def test_groups_beyond_the_shown_ones_are_counted(lab: Lab, database: Database) -> None:
    made = rows.experiment(database, teacher=None, methods=["ce"], seeds=list(range(60)))
    for number, run_id in enumerate(rows.run_ids(database, made).values()):
        rows.change(database, run_id, reason=f"reason {number}")
    reply = activity(lab)
    assert (len(reply["waiting"]), reply["waiting_groups"]) == (50, 60)


@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.services)], indirect=True)
@pytest.mark.parametrize("projects", [None, frozenset({"default"})])
def test_the_rows_of_a_long_queue_are_not_read(lab: Lab, database: Database, projects: frozenset[str] | None) -> None:
    """Waiting runs are counted from indexes; their rows, which hold the specs, are ten times as long."""
    run_id = lab.submit(plain("long"))["runs"][0]["id"]
    with database.write() as session:
        row = dict(session.execute(select(*Run.__table__.c).where(Run.id == run_id)).mappings().one())
        copies = [row | {"id": key, "fingerprint": key} for key in new_ids(5000)]
        session.execute(insert(Run), copies)
        keys = {"experiment_id": row["experiment_id"], "label": ""}
        links = [keys | {"run_id": copy["id"], "position": number} for number, copy in enumerate(copies, 1)]
        session.execute(insert(ExperimentRun), links)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("VACUUM ANALYZE")  # as autovacuum does
    seen = visible_projects.set(projects)
    try:
        with database.read() as session:
            query = "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relname = 'runs'"
            before = session.connection().exec_driver_sql(query).scalar_one()
            reply = read_activity(session, 24.0)
            read = session.connection().exec_driver_sql(query).scalar_one() - before
    finally:
        visible_projects.reset(seen)
    assert [group.runs for group in reply.waiting] == [5001]
    assert read < 100
