"""Tokens: the routes of each scope, expiry, revocation, and secrecy after their creation."""

from __future__ import annotations

import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from alembic import command
from sqlalchemy import text
from sqlalchemy.exc import DatabaseError
from typer.testing import CliRunner

from backend.__main__ import cli
from backend.db import Database, migrate, models
from tests.backend.conftest import TestClient
from tests.backend.lab import Lab, plain


def make(lab: Lab, name: str = "script", scopes: tuple[str, ...] = ("read",), **more: Any) -> dict[str, Any]:
    answer = lab.admin.post("/api/v1/tokens", json={"name": name, "scopes": list(scopes), **more})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


def client_of(lab: Lab, made: dict[str, Any]) -> TestClient:
    return TestClient(lab.app, headers={"Authorization": f"Bearer {made['token']}"})


READ = ("GET", "/api/v1/runs", None)
SUBMIT = ("POST", "/api/v1/experiments/preview", plain())
WORK = (
    "POST",
    "/api/v1/worker/register",
    {"worker_id": "another-one", "name": "another", "host": "node", "slots": 1, "device": "cpu"},
)
ADMINISTER = ("GET", "/api/v1/tokens", None)


@pytest.mark.parametrize(
    ("scope", "opened"),
    [
        ("read", [READ]),
        ("submit", [READ, SUBMIT]),
        ("worker", [WORK]),
        ("admin", [READ, SUBMIT, ADMINISTER]),
    ],
)
def test_scope_allows_its_routes_only(lab: Lab, scope: str, opened: list[Any]) -> None:
    lab.register()
    client = client_of(lab, make(lab, scopes=(scope,)))
    for request in (READ, SUBMIT, WORK, ADMINISTER):
        method, url, body = request
        answer = client.request(method, url, json=body)
        assert (answer.status_code == 403) == (request not in opened), (scope, url, answer.text)
        if request in opened:
            assert answer.status_code == 200


def test_experiment_records_its_submitter(lab: Lab) -> None:
    client_of(lab, make(lab, "nightly sweep", ("submit",))).post("/api/v1/experiments", json=plain("theirs"))
    lab.submit(plain("mine"))
    assert [item["submitted_by"] for item in lab.experiments()] == ["admin", "nightly sweep"]
    assert lab.experiment("theirs")["submitted_by"] == "nightly sweep"


def test_a_revoked_token_is_refused_at_once_and_stays_listed(lab: Lab) -> None:
    made = make(lab)
    client = client_of(lab, made)
    assert client.get("/api/v1/runs").status_code == 200
    for _ in range(2):
        answer = lab.admin.delete(f"/api/v1/tokens/{made['id']}")
        assert (answer.status_code, answer.json()["state"]) == (200, "revoked")
    assert client.get("/api/v1/runs").status_code == 401
    listed = lab.admin.get("/api/v1/tokens").json()["items"]
    assert (listed[0]["name"], listed[0]["state"]) == ("script", "revoked")
    assert listed[0]["created_by"] == "admin"


def test_a_token_expires(lab: Lab, database: Database) -> None:
    made = make(lab, expires_in_days=2)
    client = client_of(lab, made)
    assert client.get("/api/v1/runs").status_code == 200
    with database.write() as session:
        token = session.get_one(models.Token, made["id"])
        assert token.expires_at is not None
        token.expires_at -= timedelta(days=2)
    assert client.get("/api/v1/runs").status_code == 401
    assert lab.admin.get("/api/v1/tokens").json()["items"][0]["state"] == "expired"
    assert make(lab)["name"] == "script", "the name of a token that is over is free again"


def test_token_is_shown_only_at_its_creation(lab: Lab, database: Database) -> None:
    with structlog.testing.capture_logs() as logged:
        made = make(lab)
        client_of(lab, made).get("/api/v1/runs")
        refused = TestClient(lab.app, headers={"Authorization": f"Bearer {made['token']}x"}).get("/api/v1/runs")
    assert made["token"].startswith("dkd_")
    with database.read() as session:
        stored = " ".join(str(row) for row in session.execute(text("SELECT * FROM tokens")))
    for place in (lab.admin.get("/api/v1/tokens").text, stored, str(logged), refused.text):
        assert made["token"] not in place
        assert made["token"][4:] not in place


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"name": "", "scopes": ["read"]}, "name"),
        ({"name": "a\0b", "scopes": ["read"]}, "name"),
        ({"name": "x", "scopes": []}, "scopes"),
        ({"name": "x", "scopes": ["write"]}, "scopes.0"),
        ({"name": "x", "scopes": ["read"], "expires_in_days": 0}, "expires_in_days"),
        ({"name": "x", "scopes": ["read"], "expire": 1}, "expire"),
    ],
)
def test_invalid_token_request_is_refused_with_its_path(lab: Lab, body: dict[str, Any], path: str) -> None:
    answer = lab.admin.post("/api/v1/tokens", json=body)
    assert answer.status_code == 422
    assert path in [error["path"] for error in answer.json()["errors"]]


def test_taken_name_and_revocation_of_the_own_token_are_refused(lab: Lab) -> None:
    make(lab)
    assert lab.admin.post("/api/v1/tokens", json={"name": "script", "scopes": ["read"]}).status_code == 409
    admin_token = next(item for item in lab.admin.get("/api/v1/tokens").json()["items"] if item["name"] == "admin")
    assert lab.admin.delete(f"/api/v1/tokens/{admin_token['id']}").status_code == 409
    assert lab.admin.delete("/api/v1/tokens/none").status_code == 404


def test_migration_from_the_first_schema_keeps_rows(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/old.sqlite3")
    with database.engine.connect() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    with database.engine.begin() as connection:
        moment = "2025-01-01 00:00:00.000000"
        spec = '{"tags": ["a", "b", "a"], "notes": "mine"}'
        connection.execute(text(f"INSERT INTO experiments VALUES ('e', 'old', '{spec}', '{moment}')"))
        for name, scopes in (("admin", '["read", "write"]'), ("worker", '["worker"]')):
            row = f"('{name}', '{name}', '{name}-hash', '{scopes}', '{moment}', NULL)"
            connection.execute(text(f"INSERT INTO tokens VALUES {row}"))
    migrate.upgrade(database)
    with database.read() as session:
        stored = {token.name: token.scopes for token in session.query(models.Token)}
        tags = [item.tag for item in session.query(models.ExperimentTag)]
        assert session.query(models.Experiment).one().notes == "mine"
    database.dispose()
    assert stored == {"admin": ["admin"], "worker": ["worker"]}
    assert sorted(tags) == ["a", "b"]


@pytest.mark.parametrize("command", ["migrate", "bootstrap"])
def test_damaged_database_file_is_reported_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str
) -> None:
    monkeypatch.setenv("DKD_HOME", str(tmp_path))
    (tmp_path / "dkd.sqlite3").write_bytes(b"not a database at all, but long enough to be taken for one" * 40)
    result = CliRunner().invoke(cli, [command])
    assert result.exit_code == 2
    assert "is damaged, or the file is not a database" in result.output
    assert "Traceback" not in result.output
    assert len(result.output.splitlines()) == 1


def test_unreachable_database_is_reported_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DKD_DATABASE_URL", "postgresql://dkd:geheim@127.0.0.1:9/none")
    result = CliRunner().invoke(cli, ["migrate"])
    assert result.exit_code == 2
    assert "cannot use the database" in result.output
    assert "geheim" not in result.output


def test_spec_with_an_unloaded_plugin_is_shown_as_stored(lab: Lab, database: Database) -> None:
    made = lab.submit(plain("foreign"))
    with database.write() as session:
        for row in (*session.query(models.Run), *session.query(models.Experiment)):
            row.spec = {**row.spec, "dataset": {"name": "from-a-plugin", "params": {}}}
    run = lab.run(made["runs"][0]["id"])
    assert run["spec"]["dataset"]["name"] == "from-a-plugin"
    shown = lab.experiment("foreign")
    assert shown["spec"]["dataset"]["name"] == "from-a-plugin"
    assert "cannot parse the stored spec" in shown["warnings"][0]["message"]


def test_damage_found_by_a_request_is_a_problem_response(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise DatabaseError("SELECT", {}, sqlite3.DatabaseError("database disk image is malformed"))

    monkeypatch.setattr("backend.routes.experiments.find", broken)
    answer = lab.admin.get("/api/v1/experiments/x")
    assert answer.status_code == 503
    assert "damaged" in answer.json()["detail"]
