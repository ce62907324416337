"""The audit log: each change of each route leaves one entry, in its transaction, and nothing changes an entry."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select, update
from sqlalchemy.exc import DBAPIError

from backend import audit_log
from backend.audit import Change, Refusals
from backend.audit.refusals import MAX_KINDS, WINDOW_SECONDS
from backend.db import Database, now
from backend.db.models import AuditEntry, Run
from backend.operations.retention import RetentionPolicy, apply, plan_removal
from tests.backend.conftest import TestClient
from tests.backend.lab import Json, Lab, plain, spec
from tests.backend.test_files import safetensors


def entries(lab: Lab, **filters: Any) -> list[Json]:
    """Return the entries of the audit log, oldest first."""
    answer = lab.admin.get("/api/v1/audit", params={"limit": 500, **filters})
    assert answer.status_code == 200, answer.text
    items: list[Json] = answer.json()["items"]
    return items[::-1]


def other_token(lab: Lab, *scopes: str, name: str = "other") -> TestClient:
    made = lab.admin.post("/api/v1/tokens", json={"name": name, "scopes": list(scopes)}).json()
    return TestClient(lab.app, headers={"Authorization": f"Bearer {made['token']}"})


Call = Callable[[Lab], Any]


def _experiment(lab: Lab) -> str:
    key: str = lab.submit(plain())["id"]
    return key


def _cancelled(lab: Lab) -> str:
    key = _experiment(lab)
    lab.cancel_experiment(key)
    return key


def _run(lab: Lab) -> str:
    run_id: str = lab.submit(plain())["runs"][0]["id"]
    return run_id


def _cancelled_run(lab: Lab) -> str:
    run_id = _run(lab)
    lab.cancel(run_id)
    return run_id


def _token(lab: Lab) -> str:
    token_id: str = lab.admin.post("/api/v1/tokens", json={"name": "t", "scopes": ["read"]}).json()["id"]
    return token_id


def _upload(lab: Lab) -> str:
    assert lab.admin.post("/api/v1/teachers/uploads?name=w", content=safetensors()).status_code == 201
    return "w"


def _layout(lab: Lab) -> str:
    layout = {"figures": [{"metric": "test/top1"}]}
    assert lab.admin.post("/api/v1/layouts", json={"name": "board", "layout": layout}).status_code == 201
    return "board"


def _worker(lab: Lab) -> str:
    lab.register()
    return "worker-one"


def _owner(lab: Lab) -> str:
    lab.submit(plain())
    return "admin"


def _project(lab: Lab) -> str:
    assert lab.admin.post("/api/v1/projects", json={"name": "p"}).status_code == 201
    return "p"


def _person(lab: Lab) -> str:
    assert lab.admin.post("/api/v1/people", json={"name": "anna"}).status_code == 201
    return "anna"


def _member(lab: Lab) -> str:
    path = f"{_project(lab)}/members/{_person(lab)}"
    assert lab.admin.put(f"/api/v1/projects/{path}", json={"role": "reader"}).status_code == 200
    return path


def _nothing(lab: Lab) -> str:
    return ""


SWEEP = {"name": "s", "experiment": {k: v for k, v in plain().items() if k != "name"}, "grid": {"training.epochs": [1]}}
CASES: dict[str, tuple[Callable[[Lab], str], Any, str, str]] = {
    "POST /experiments": (_nothing, plain(), "experiments.submit", "experiment"),
    "POST /experiments/bulk": (
        _nothing,
        {"experiments": [plain("a"), plain("b")]},
        "experiments.submit_many",
        "experiment",
    ),
    "POST /experiments/{key}/clone": (_experiment, {"name": "copy"}, "experiments.clone", "experiment"),
    "POST /sweeps": (_nothing, SWEEP, "experiments.sweep", "experiment"),
    "POST /experiments/{key}/cancel": (_experiment, None, "experiments.cancel", "experiment"),
    "POST /experiments/{key}/pause": (_experiment, None, "experiments.pause", "experiment"),
    "POST /experiments/{key}/resume": (_experiment, None, "experiments.resume", "experiment"),
    "POST /experiments/{key}/priority": (_experiment, {"priority": 3}, "experiments.priority", "experiment"),
    "POST /experiments/{key}/archive": (_experiment, None, "experiments.archive", "experiment"),
    "POST /experiments/{key}/unarchive": (_experiment, None, "experiments.unarchive", "experiment"),
    "PATCH /experiments/{key}": (_experiment, {"notes": "n"}, "experiments.change", "experiment"),
    "DELETE /experiments/{key}": (_cancelled, None, "experiments.delete", "experiment"),
    "POST /runs/{run_id}/cancel": (_run, None, "runs.cancel", "run"),
    "POST /runs/{run_id}/pause": (_run, None, "runs.pause", "run"),
    "POST /runs/{run_id}/resume": (_run, None, "runs.resume", "run"),
    "POST /runs/{run_id}/priority": (_run, {"priority": 3}, "runs.priority", "run"),
    "POST /runs/{run_id}/retry": (_cancelled_run, None, "runs.retry", "run"),
    "DELETE /runs/{run_id}": (_cancelled_run, None, "runs.delete", "run"),
    "POST /layouts": (
        _nothing,
        {"name": "board", "layout": {"figures": [{"metric": "test/top1"}]}},
        "layouts.save",
        "layout",
    ),
    "DELETE /layouts/{layout}": (_layout, None, "layouts.delete", "layout"),
    "POST /teachers/uploads": (_nothing, None, "teachers.upload", "upload"),
    "DELETE /teachers/uploads/{sha256}": (_upload, None, "teachers.delete_upload", "upload"),
    "POST /tokens": (_nothing, {"name": "t", "scopes": ["read"]}, "tokens.create", "token"),
    "DELETE /tokens/{token_id}": (_token, None, "tokens.revoke", "token"),
    "POST /tokens/{token_id}/rotate": (_token, {"overlap_hours": 1}, "tokens.rotate", "token"),
    "POST /projects": (_nothing, {"name": "p"}, "projects.create", "project"),
    "PATCH /projects/{project}": (_project, {"title": "t"}, "projects.change", "project"),
    "PATCH /projects/{project}/quota": (_project, {"slots": 2}, "projects.change_quota", "project"),
    "PUT /projects/{project}/members/{person}": (_member, {"role": "admin"}, "projects.set_role", "person"),
    "DELETE /projects/{project}/members/{person}": (_member, None, "projects.remove_member", "person"),
    "POST /people": (_nothing, {"name": "anna"}, "people.create_person", "person"),
    "PATCH /people/{person}": (_person, {"disabled": True}, "people.change_person", "person"),
    "PUT /people/{person}/password": (
        _person,
        {"password": "a sentence of anna's"},
        "people.set_password",
        "person",
    ),
    "DELETE /people/{person}/password": (_person, None, "people.remove_password", "person"),
    "POST /people/{person}/invitation": (_person, {}, "people.invite_person", "person"),
    "DELETE /people/{person}/identities": (_person, None, "people.forget_identities", "person"),
    "POST /workers/{key}/drain": (_worker, None, "workers.drain", "worker"),
    "POST /shares": (_owner, {"owner": "admin", "weight": 2}, "workers.set_share", "owner"),
}
"""For each changing route: what is made first, the body, and the action and kind of its entry."""
OF_PEOPLE = {
    "POST /sessions",
    "POST /sessions/invitation",
    "POST /sessions/oidc",
    "DELETE /sessions",
    "DELETE /sessions/{session}",
    "PUT /account/password",
}
"""Changes that only a person makes; their entries are tested in test_sessions.py and test_oidc.py."""
PREVIEWS = {"POST /experiments/preview", "POST /experiments/{key}/clone/preview", "POST /sweeps/preview"}


def request(lab: Lab, route: str, key: str, body: Any) -> Any:
    method, _, path = route.partition(" ")
    head, brace, tail = path.partition("{")
    if "/members/" in tail:  # two objects are in the path
        tail = ""
    url = f"/api/v1{head}{key}{tail.partition('}')[2]}" if brace else f"/api/v1{path}"
    if route == "POST /teachers/uploads":
        return lab.admin.post(f"{url}?name=w", content=safetensors())
    return lab.admin.request(method, url, json=body)


def test_every_changing_route_has_a_case(lab: Lab) -> None:
    paths = lab.app.openapi()["paths"]
    changing = {
        f"{method.upper()} {path.removeprefix('/api/v1')}"
        for path, methods in paths.items()
        for method in methods
        if method not in ("get", "head") and not path.startswith("/api/v1/worker/")
    }
    assert changing == CASES.keys() | PREVIEWS | OF_PEOPLE


@pytest.mark.parametrize("route", CASES)
def test_a_change_leaves_exactly_one_entry(lab: Lab, route: str) -> None:
    make, body, action, kind = CASES[route]
    key = make(lab)
    before = len(entries(lab))
    answer = request(lab, route, key, body)
    assert answer.status_code < 300, answer.text
    found = entries(lab)[before:]
    assert [(item["action"], item["kind"], item["status"]) for item in found] == [(action, kind, 200)]
    (entry,) = found
    assert entry["object"]
    assert entry["token"] == "admin"
    assert entry["address"] == "testclient"
    assert entry["request_id"] == answer.headers["x-request-id"]


def test_reads_previews_and_worker_reports_leave_no_entry(lab: Lab) -> None:
    lab.submit(plain())
    before = len(entries(lab))
    lab.experiments()
    assert lab.admin.post("/api/v1/experiments/preview", json=plain("p")).status_code == 200
    lab.register()
    claim = lab.claim()
    lab.heartbeat(claim)
    lab.succeed(claim)
    assert len(entries(lab)) == before


def test_entry_and_change_are_one_transaction(lab: Lab, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change whose entry cannot be stored is not made; an entry of a change that fails is not kept."""
    run_id = lab.submit(plain())["runs"][0]["id"]
    before = len(entries(lab))
    client = TestClient(lab.app, headers=dict(lab.admin.headers), raise_server_exceptions=False)

    def broken(self: Change, connection: Any, status: int) -> None:
        raise RuntimeError("the log cannot be written")

    with monkeypatch.context() as patch:
        patch.setattr(Change, "insert", broken)
        assert client.post(f"/api/v1/runs/{run_id}/cancel").status_code == 500
    assert lab.run(run_id)["state"] == "queued"
    assert lab.admin.delete(f"/api/v1/runs/{run_id}").status_code == 409  # it has not ended
    assert len(entries(lab)) == before


def test_a_repeated_submission_is_marked(lab: Lab) -> None:
    headers = {"Idempotency-Key": "once"}
    for _ in range(2):
        assert lab.admin.post("/api/v1/experiments", json=plain(), headers=headers).status_code == 201
    first, second = entries(lab, action="experiments.")
    assert first["object"] == second["object"]
    assert "repeated" not in first["details"]
    assert second["details"]["repeated"] is True


def test_refused_attempts_are_recorded_and_counted(lab: Lab) -> None:
    reader = other_token(lab, "read", name="reader")
    run_id = lab.submit(plain())["runs"][0]["id"]
    for _ in range(3):
        assert reader.post(f"/api/v1/runs/{run_id}/cancel").status_code == 403
    assert TestClient(lab.app).delete("/api/v1/layouts/x").status_code == 401
    assert reader.get("/api/v1/tokens").status_code == 403  # a read
    forbidden, unauthorized = entries(lab, refused="true")
    assert (forbidden["action"], forbidden["status"], forbidden["token"]) == ("runs.cancel", 403, "reader")
    assert forbidden["object"] == run_id
    assert (unauthorized["action"], unauthorized["status"], unauthorized["token"]) == ("layouts.delete", 401, "")
    asyncio.run(lab.app.state.refusals.flush(everything=True))
    assert entries(lab, refused="true")[-1]["details"] == {"repeated": 2}
    assert len(entries(lab, refused="true")) == 3


def test_a_flood_of_refusals_leaves_few_rows(database: Database) -> None:
    seconds = [0.0]
    refusals = Refusals(database, clock=lambda: seconds[0])

    async def flood() -> None:
        for number in range(3 * MAX_KINDS):
            await refusals.record(Change("runs.cancel", address=f"10.0.{number // 250}.{number % 250}"), 401)
        await refusals.flush()  # no window has ended
        seconds[0] = WINDOW_SECONDS
        await refusals.flush()

    asyncio.run(flood())
    with database.read() as session:
        rows = list(session.scalars(select(AuditEntry).order_by(AuditEntry.id)))
    assert len(rows) == MAX_KINDS + 2
    assert rows[-1].details["repeated"] == 2 * MAX_KINDS - 1
    assert rows[-1].action == "several"


def test_filters_and_pages(lab: Lab) -> None:
    lab.submit(plain("one", runs=2))
    lab.submit(plain("two"))
    run_id = lab.experiment("one")["runs"][0]["id"]
    lab.cancel(run_id)
    assert [item["object"] for item in entries(lab, action="runs.")] == [run_id]
    assert [item["action"] for item in entries(lab, object=run_id)] == ["runs.cancel"]
    assert len(entries(lab, kind="experiment", token="admin")) == 2
    assert entries(lab, token="nobody") == []
    assert entries(lab, until="2020-01-01") == []
    assert len(entries(lab, since="2020-01-01T00:00:00Z")) == 3
    first = lab.admin.get("/api/v1/audit", params={"limit": 2, "count": "true"}).json()
    rest = lab.admin.get("/api/v1/audit", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert first["total"] == 3
    assert rest["next_cursor"] is None
    ids = [item["id"] for item in (*first["items"], *rest["items"])]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == 3
    assert lab.admin.get("/api/v1/audit", params={"cursor": "?"}).status_code == 422


def test_export_has_all_entries_oldest_first(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_log, "EXPORT_ROWS", 2)
    empty = lab.admin.get("/api/v1/audit?format=csv").text.splitlines()
    assert len(empty) == 1
    for name in ("one", "two", "=three"):
        lab.submit(plain(name))
    lines = lab.admin.get("/api/v1/audit?format=jsonl").text.splitlines()
    assert [json.loads(line)["details"]["names"] for line in lines] == [["one"], ["two"], ["=three"]]
    rows = list(csv.DictReader(io.StringIO(lab.admin.get("/api/v1/audit?format=csv&limit=1").text)))
    assert list(rows[0]) == empty[0].split(",")
    assert [row["action"] for row in rows] == ["experiments.submit"] * 3
    assert {row["token"] for row in rows} == {"admin"}


def test_only_admins_read_the_log(lab: Lab) -> None:
    submitter = other_token(lab, "submit")
    assert submitter.get("/api/v1/audit").status_code == 403
    assert lab.worker.get("/api/v1/audit").status_code == 403
    methods = lab.app.openapi()["paths"]["/api/v1/audit"]
    assert methods.keys() == {"get"}


def test_entries_cannot_be_changed(lab: Lab, database: Database) -> None:
    lab.submit(plain())
    with pytest.raises(DBAPIError, match="append-only"), database.write() as session:
        session.execute(update(AuditEntry).values(action="nothing"))
    assert [item["action"] for item in entries(lab)] == ["experiments.submit"]


def test_retention_removes_old_entries_only(lab: Lab, database: Database) -> None:
    lab.submit(plain())
    with database.write() as session:
        old = {"at": now(session) - timedelta(days=401), "action": "old", "status": 200}
        session.execute(insert(AuditEntry).values(**old))
    policy = RetentionPolicy(audit_days=400)
    store = lab.app.state.store
    plan = plan_removal(database, store, policy)
    assert plan.rows == {"audit log entries": 1}
    apply(database, store, plan, policy)
    assert [item["action"] for item in entries(lab)] == ["experiments.submit"]
    newest = entries(lab)[-1]["id"]
    apply(database, store, plan, RetentionPolicy(audit_days=0))
    assert entries(lab) == []
    lab.submit(plain("later"))
    assert entries(lab)[-1]["id"] > newest  # a number is not used again


def test_long_details_are_cut(database: Database) -> None:
    change = Change("x", object="o" * 500, details={"names": ["n" * 500] * 50, "at": datetime(2026, 1, 1, tzinfo=UTC)})
    with database.write() as session:
        change.insert(session.connection(), 200)
    with database.read() as session:
        stored = session.scalars(select(AuditEntry)).one()
    assert len(stored.object) == 120
    assert len(stored.details["names"]) == 21
    assert len(json.dumps(stored.details)) < 10_000


def test_two_replicas_write_one_log(lab: Lab, make_lab: Callable[..., Lab], database: Database) -> None:
    """Replicas share PostgreSQL; on SQLite the second stands for a backend that was started again."""
    second = make_lab()
    lab.submit(spec("first"))
    second.submit(spec("second"))
    assert [item["details"]["names"] for item in entries(lab)] == [["first"], ["second"]]
    assert entries(lab) == entries(second)
    with database.read() as session:
        assert session.scalars(select(Run.id)).all()
