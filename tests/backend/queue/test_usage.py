"""The account of used slots: what was used stays used when runs are deleted, moved or changed."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from backend.db import Database, now
from backend.db.models import SlotUsage
from backend.db.visibility import visible_projects
from backend.queue import fair_share, quotas
from tests.backend.lab import Json, Lab, plain, spec
from tests.backend.queue.test_quotas import API, ok, project, submit


@pytest.fixture(autouse=True)
def counted_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each claim read GPU-hours and used times."""
    monkeypatch.setattr(quotas, "_KEPT_SECONDS", 0.0)
    monkeypatch.setattr(fair_share, "_KEPT_SECONDS", 0.0)


def hours(lab: Lab, name: str) -> float:
    used: float = ok(lab.admin.get(f"{API}/projects/{name}/quota"))["gpu_hours_used"]
    return used


def entries(database: Database) -> list[SlotUsage]:
    with database.read() as session:
        return list(session.scalars(select(SlotUsage).order_by(SlotUsage.id)))


def start_earlier(database: Database, run_id: str, hours: float) -> None:
    """Let a run's attempts have started some hours earlier."""
    with database.write() as session:
        of_run = update(SlotUsage).where(SlotUsage.run_id == run_id)
        session.execute(of_run.values(started_at=now(session) - timedelta(hours=hours)))


def trained(lab: Lab, database: Database, name: str = "first", *, place: str = "small") -> Json:
    """Return an experiment of a project whose run took 6 hours on two GPUs."""
    made = submit(lab, place, plain(name, 1, resources={"device": "gpu", "gpus": 2}))
    claim = lab.claim("gpu-node", free_gpus=4)
    start_earlier(database, claim["run_id"], 6.0)
    lab.succeed(claim, "gpu-node")
    return made


@pytest.mark.parametrize("deleted", ["experiments", "runs"])
def test_deletion_frees_no_gpu_hours(lab: Lab, database: Database, deleted: str) -> None:
    project(lab, "small", gpu_hours=10.0)
    lab.register("gpu-node", device="gpu", slots=4, gpus=4)
    made = trained(lab, database)
    key = made["id"] if deleted == "experiments" else made["runs"][0]["id"]
    assert lab.admin.delete(f"{API}/{deleted}/{key}").status_code == 204
    assert hours(lab, "small") == pytest.approx(12.0, abs=0.1)
    waiting = submit(lab, "small", plain("second", 1, resources={"device": "gpu"}))["runs"][0]
    assert lab.try_claim("gpu-node", free_gpus=4) is None
    assert "12.0 of 10 GPU-hours of seven days are used" in lab.run(waiting["id"])["reason"]


def test_moving_what_was_trained_moves_no_gpu_hours(lab: Lab, database: Database) -> None:
    project(lab, "small", gpu_hours=10.0)
    project(lab, "other", gpu_hours=10.0)
    lab.register("gpu-node", device="gpu", slots=4, gpus=4)
    made = trained(lab, database)
    ok(lab.admin.patch(f"{API}/experiments/{made['id']}", json={"project": "other"}))
    assert hours(lab, "small") == pytest.approx(12.0, abs=0.1)
    assert hours(lab, "other") == 0.0
    ok(lab.admin.patch(f"{API}/experiments/{made['id']}", json={"project": "small"}))
    assert hours(lab, "small") == pytest.approx(12.0, abs=0.1)


def test_run_that_is_moved_while_it_trains_counts_in_each_project_for_its_time_there(
    lab: Lab, database: Database
) -> None:
    project(lab, "small", gpu_hours=10.0)
    project(lab, "other", gpu_hours=10.0)
    lab.register("gpu-node", device="gpu", slots=4, gpus=4)
    made = submit(lab, "small", plain("first", 2, resources={"device": "gpu"}))
    claim = lab.claim("gpu-node", free_gpus=4)
    start_earlier(database, claim["run_id"], 5.0)
    ok(lab.admin.patch(f"{API}/experiments/{made['id']}", json={"project": "other"}))
    assert hours(lab, "small") == pytest.approx(5.0, abs=0.1)
    assert hours(lab, "other") == pytest.approx(0.0, abs=0.1)
    lab.succeed(claim, "gpu-node")
    first, second = entries(database)
    assert (first.project, second.project) == ("small", "other")
    assert first.ended_at == second.started_at
    (attempt,) = lab.run(claim["run_id"])["attempts"]
    assert second.ended_at is not None
    assert second.ended_at.isoformat().replace("+00:00", "Z")[:23] == attempt["ended_at"][:23]
    lab.claim("gpu-node", free_gpus=3)
    assert [entry.project for entry in entries(database)] == ["small", "other", "other"]


def test_teacher_that_another_experiment_keeps_leaves_its_hours_where_it_was_trained(
    lab: Lab, database: Database
) -> None:
    project(lab, "small", gpu_hours=10.0)
    project(lab, "other", gpu_hours=10.0)
    lab.register("gpu-node", device="gpu", slots=4, gpus=4)
    made = submit(lab, "small", spec("first"))
    submit(lab, "other", spec("second"))
    teacher = lab.claim("gpu-node", free_gpus=4)
    start_earlier(database, teacher["run_id"], 3.0)
    lab.succeed(teacher, "gpu-node")
    lab.cancel_experiment(made["id"])
    assert lab.admin.delete(f"{API}/experiments/{made['id']}").status_code == 204
    assert lab.run(teacher["run_id"])["state"] == "succeeded"
    assert hours(lab, "small") == pytest.approx(3.0, abs=0.1)
    assert hours(lab, "other") == 0.0


def test_deletion_gives_an_owner_no_earlier_turn(lab: Lab, database: Database) -> None:
    project(lab, "small")
    lab.register("gpu-node", device="gpu", slots=4, gpus=4)
    made = trained(lab, database)
    before = ok(lab.admin.get(f"{API}/shares"))["items"]
    assert before[0]["used_seconds"] == pytest.approx(12 * 3600, abs=60)
    assert lab.admin.delete(f"{API}/experiments/{made['id']}").status_code == 204
    assert ok(lab.admin.get(f"{API}/shares"))["items"][0]["used_seconds"] == pytest.approx(12 * 3600, abs=60)


def test_worker_that_becomes_another_kind_changes_nothing_of_the_past(lab: Lab, database: Database) -> None:
    project(lab, "small", gpu_hours=10.0)
    lab.register("gpu-node", device="gpu", slots=4, gpus=4)
    trained(lab, database)
    lab.register("gpu-node", device="cpu", slots=1)
    assert hours(lab, "small") == pytest.approx(12.0, abs=0.1)


def test_lost_attempt_ends_in_the_account(lab: Lab, database: Database) -> None:
    lab.register("gpu-node", device="gpu", slots=1, gpus=1)
    lab.submit(plain("first"))
    claim = lab.claim("gpu-node", free_gpus=1)
    lab.finish(claim, "interrupted", "gpu-node", fault=False)
    lab.claim("gpu-node", free_gpus=1)
    first, second = entries(database)
    assert (first.attempt, first.ended_at is None) == (1, False)
    assert (second.attempt, second.ended_at) == (2, None)


def test_people_see_the_entries_of_their_projects(lab: Lab, database: Database) -> None:
    project(lab, "small")
    project(lab, "other")
    lab.register("gpu-node", device="gpu", slots=4, gpus=4)
    trained(lab, database)
    trained(lab, database, "second", place="other")
    token = visible_projects.set(frozenset(("other",)))
    try:
        assert [entry.project for entry in entries(database)] == ["other"]
    finally:
        visible_projects.reset(token)
