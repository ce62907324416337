"""What all routes share: tokens, hosts, errors, health, migrations, settings."""

from __future__ import annotations

import re
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from alembic import command
from sqlalchemy import func, inspect, select, text
from typer.testing import CliRunner

from backend.__main__ import cli
from backend.app import create_app
from backend.db import Database, migrate, new_ids
from backend.db.models import Base, MetricPoint, Run, Token
from backend.settings import Settings
from backend.tokens import bootstrap, identify
from tests.backend import rows
from tests.backend.conftest import TestClient
from tests.backend.lab import Lab, plain
from tests.services import free_port

PROBLEM = "application/problem+json"


def test_a_request_needs_a_known_token_with_the_right_scope(lab: Lab) -> None:
    def status(headers: dict[str, str], method: str = "GET", url: str = "/api/v1/experiments") -> int:
        with_token = dict(lab.admin.headers)
        lab.admin.headers.pop("Authorization")
        try:
            response = lab.admin.request(method, url, headers=headers)
        finally:
            lab.admin.headers.update(with_token)
        if response.status_code >= 400:
            assert response.headers["content-type"] == PROBLEM
        if response.status_code == 401:
            assert response.headers["www-authenticate"].startswith("Bearer")
        return response.status_code

    assert status({}) == 401
    assert status({"Authorization": "Bearer wrong"}) == 401
    assert status({"Authorization": "Bearer "}) == 401
    assert status({"Authorization": "Basic YTpi"}) == 401
    assert status({"Authorization": lab.admin.headers["Authorization"]}) == 200
    worker = {"Authorization": lab.worker.headers["Authorization"]}
    assert status(worker) == 403
    assert status(worker, "POST", "/api/v1/runs/x/cancel") == 403
    admin = {"Authorization": lab.admin.headers["Authorization"]}
    assert status(admin, "POST", "/api/v1/worker/worker-one/claim") == 403
    assert status({}, url="/healthz") == 200
    assert status({}, url="/readyz") == 200


def test_every_route_but_probes_and_sign_in_needs_a_token(lab: Lab) -> None:
    document = lab.admin.get("/openapi.json").json()
    open_routes = {
        f"{method} {path}"
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if not operation.get("security")
    }
    sign_in = {f"post /api/v1/sessions{kind}" for kind in ("", "/invitation", "/oidc")}
    assert open_routes <= {"get /healthz", "get /readyz"} | sign_in
    assert len(document["paths"]) > 15


def test_a_revoked_token_is_refused(lab: Lab, database: Database) -> None:
    with database.write() as session:
        for token in session.query(Token):
            token.revoked_at = token.created_at
    assert lab.admin.get("/api/v1/experiments").status_code == 401


@pytest.mark.parametrize(
    ("method", "url", "status"),
    [
        ("GET", "/nothing", 404),
        ("DELETE", "/healthz", 405),
        ("GET", "/api/v1/runs?limit=x", 422),
        ("POST", "/api/v1/worker/register", 422),
    ],
)
def test_framework_errors_are_problem_responses(lab: Lab, method: str, url: str, status: int) -> None:
    client = lab.worker if "worker" in url else lab.admin
    response = client.request(method, url)
    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert bool(problem["errors"]) == (status == 422)


@pytest.mark.parametrize(
    ("url", "path", "suggestion"),
    [
        ("/api/v1/comparisons?experiment=x&wich=best", "wich", "which"),
        ("/api/v1/runs?states=failed", "states", "state"),
        ("/api/v1/catalog?full=1", "full", "no parameters"),
    ],
)
def test_unknown_query_parameter_is_refused(lab: Lab, url: str, path: str, suggestion: str) -> None:
    response = lab.admin.get(url)
    assert response.status_code == 422
    (error,) = response.json()["errors"]
    assert error["path"] == path
    assert suggestion in error["message"]


def test_every_reading_route_refuses_an_unknown_query_parameter(lab: Lab) -> None:
    paths = [path for path, item in lab.app.openapi()["paths"].items() if path.startswith("/api/v1/") and "get" in item]
    assert "/api/v1/runs/{run_id}/metrics" in paths
    for path in paths:
        # An image's number is short; all other parameters may be ids.
        address = re.sub(r"\{\w+\}", "0" * 16, path.replace("{item}", "0"))
        response = lab.admin.get(address, params={"bogus": "1"})
        assert response.status_code == 422, path
        assert [error["path"] for error in response.json()["errors"]] == ["bogus"]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # PostgreSQL does not lock a whole database
def test_locked_database_is_a_503_that_names_the_reason(lab: Lab, database: Database) -> None:
    other = sqlite3.connect(str(database.engine.url.database))
    other.execute("BEGIN IMMEDIATE")
    response = lab.admin.post("/api/v1/experiments", json=plain())
    assert response.status_code == 503
    assert response.headers["content-type"] == PROBLEM
    assert response.headers["Retry-After"] == "2"
    assert "has locked the database" in response.json()["detail"]
    assert lab.experiments() == []  # reading needs no lock
    other.rollback()
    other.close()
    lab.submit(plain())


def test_internal_error_is_a_problem_response_without_its_message(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr("backend.experiments.planning.create", broken)
    client = TestClient(lab.app, headers=dict(lab.admin.headers), raise_server_exceptions=False)
    with structlog.testing.capture_logs() as logged:
        response = client.post("/api/v1/experiments", json=plain())
    assert [line["event"] for line in logged if line["log_level"] == "error"] == ["unexpected error"]
    assert response.status_code == 500
    assert response.headers["content-type"] == PROBLEM
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8000"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Host": "[::1"}, 400),
        ({"Host": ""}, 400),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "localhost:8000", "Origin": "http://LOCALHOST:8000"}, 200),
        ({"Host": "localhost:80", "Origin": "http://localhost"}, 200),
        ({"Host": "[::1]:8000", "Origin": "http://[::1]:8000"}, 200),
        # Pages of other programs on this machine.
        ({"Host": "localhost", "Origin": "http://localhost:8501"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://127.0.0.1:8000"}, 403),
        ({"Host": "localhost:8000", "Origin": "https://localhost:8000"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000.evil.example"}, 403),
        ({"Host": "localhost:8000", "Origin": "http://evil.example@localhost:8000"}, 403),
        ({"Host": "evil.example@localhost"}, 400),
        ({"Host": "localhost:port"}, 400),
        ({"Host": "localhost", "Origin": "https://evil.example"}, 403),
        ({"Host": "localhost", "Origin": "null"}, 403),
    ],
)
def test_requests_for_other_hosts_and_origins_are_refused_by_default(
    make_lab: Callable[..., Lab], headers: dict[str, str], status: int
) -> None:
    lab = make_lab(allowed_hosts=Settings.model_fields["allowed_hosts"].default)
    response = lab.admin.get("/healthz", headers=headers)
    assert response.status_code == status
    if status != 200:
        assert response.headers["content-type"] == PROBLEM


def test_configured_origin_of_a_tls_proxy_is_accepted(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(allowed_hosts="lab.example", allowed_origins="https://lab.example")
    for origin, status in (("https://lab.example", 200), ("https://lab.example:444", 403), ("https://x.example", 403)):
        reply = lab.admin.get("/healthz", headers={"Host": "lab.example", "Origin": origin})
        assert reply.status_code == status, origin


def test_page_of_another_origin_is_refused_for_any_allowed_host(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(allowed_hosts="*")
    headers = {"Host": "lab.example", "Origin": "https://evil.example"}
    assert lab.admin.get("/healthz", headers=headers).status_code == 403


def test_any_host_is_accepted_if_configured(make_lab: Callable[..., Lab]) -> None:
    assert make_lab(allowed_hosts="*").admin.get("/healthz", headers={"Host": "lab.example"}).status_code == 200


def test_token_files_are_created_once_and_private(settings: Settings, database: Database) -> None:
    bootstrap(database, settings)
    files = (settings.admin_token_file, settings.worker_token_file)
    made = [file.read_text() for file in files]
    assert made[0] != made[1]
    assert [stat.S_IMODE(file.stat().st_mode) for file in files] == [0o600, 0o600]
    assert stat.S_IMODE(files[0].parent.stat().st_mode) == 0o700
    assert [path.name for path in files[0].parent.iterdir() if path.name.startswith(".")] == []
    bootstrap(database, settings)
    assert [file.read_text() for file in files] == made
    with database.read() as session:
        stored = " ".join(str(row) for row in session.execute(text("SELECT * FROM tokens")))
    assert not any(token.strip() in stored for token in made), "only hashes are kept"
    with TestClient(create_app(settings)) as client:
        for token, path, status in ((made[0], "runs", 200), (made[1], "runs", 403)):
            headers = {"Authorization": f"Bearer {token.strip()}"}
            assert client.get(f"/api/v1/{path}", headers=headers).status_code == status


def test_revoked_built_in_token_is_replaced_once(settings: Settings, database: Database) -> None:
    bootstrap(database, settings)
    files = (settings.admin_token_file, settings.worker_token_file)
    admin, worker = (file.read_text().strip() for file in files)
    with TestClient(create_app(settings), headers={"Authorization": f"Bearer {admin}"}) as client:
        for token in client.get("/api/v1/tokens").json()["items"]:
            if token["name"] == "worker":
                assert client.delete(f"/api/v1/tokens/{token['id']}").status_code == 200
    for _ in range(2):  # the second pass keeps the new token
        bootstrap(database, settings)
        renewed = settings.worker_token_file.read_text().strip()
        assert settings.admin_token_file.read_text().strip() == admin
    assert renewed != worker
    assert stat.S_IMODE(settings.worker_token_file.stat().st_mode) == 0o600
    assert identify(database, worker) is None
    principal = identify(database, renewed)
    assert principal is not None
    assert principal.scopes == {"worker"}


def test_a_database_without_the_schema_is_not_ready(tmp_path: Path) -> None:
    settings = Settings(
        database_url=f"sqlite:///{tmp_path}/new.sqlite3", broker_folder=tmp_path, allowed_hosts=("testserver",)
    )
    app = create_app(settings)
    with TestClient(app) as client:
        assert client.get("/healthz").status_code == 200
        response = client.get("/readyz")
        assert response.status_code == 503
        assert "migrate" in response.json()["detail"]
        refused = client.get("/api/v1/runs", headers={"Authorization": "Bearer x"})
        assert (refused.status_code, refused.headers["content-type"]) == (503, PROBLEM)
        database = Database(settings.database_url)
        migrate.upgrade(database)
        database.dispose()
        assert client.get("/readyz").status_code == 200


def test_the_migrated_schema_is_that_of_the_models(database_url: str) -> None:
    """Compare every table, column, constraint and index as the database describes it."""

    def describe(database: Database) -> list[str]:
        with database.engine.connect() as connection:
            statements = connection.execute(text(_SQLITE if database.is_sqlite else _POSTGRESQL))
            rows = sorted(" ".join(str(value) for value in row) for row in statements)
        if database.is_sqlite:  # the order of a table's columns and constraints is arbitrary
            rows = sorted(part for row in rows for part in _statement_parts(row))
        return rows

    database = Database(database_url)
    try:
        migrated = describe(database)
        with database.engine.begin() as connection:
            Base.metadata.drop_all(connection)
            Base.metadata.create_all(connection)
        modelled = describe(database)
    finally:
        with database.engine.begin() as connection:
            Base.metadata.drop_all(connection)
            connection.execute(text("DROP TABLE alembic_version"))
        migrate.upgrade(database)
        database.dispose()
    assert migrated == modelled
    assert len(migrated) > 30


def test_migrations_across_slots_keep_rows_in_both_directions(database_url: str) -> None:
    """The downgrade to 0002 keeps rows and metrics, and after the upgrade this version can read them."""
    database = Database(database_url)
    try:
        run_id = rows.one_run(database)
        rows.insert_records(database, run_id, rows.metrics(10, {"train/loss": 1.5}))
        rows.change(database, run_id, state="queued")
        _migrate(database, "0002")
        with database.engine.connect() as connection:
            assert connection.execute(text("SELECT count(*) FROM metric_points")).scalar_one() == 1
            assert "queued_at" not in {column["name"] for column in inspect(connection).get_columns("runs")}
        migrate.upgrade(database)
        with database.read() as session:
            run = session.get_one(Run, run_id)
            assert (run.gpus, run.labels, run.pausing, run.queued_at) == (1, ",", False, run.created_at)
            assert session.scalars(select(func.count()).select_from(MetricPoint)).one() == 1
    finally:
        migrate.upgrade(database)
        database.dispose()


def _migrate(database: Database, revision: str) -> None:
    with database.engine.connect() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.downgrade(config, revision)


_SQLITE = "SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'alembic%'"
_POSTGRESQL = """
SELECT table_name, column_name, data_type, is_nullable, character_maximum_length, column_default
FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'
UNION ALL SELECT tablename, indexname, indexdef, '', 0, '' FROM pg_indexes
WHERE schemaname = 'public' AND tablename <> 'alembic_version'
UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', 0, '' FROM pg_constraint
WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'
"""


def _statement_parts(statement: str) -> list[str]:
    """Split a statement into ``CREATE TABLE x: …`` for each column and constraint, whatever its line breaks."""
    text = " ".join(statement.replace('"', "").split())
    head, _, body = text.partition("(")
    body, _, tail = body.rpartition(")")
    parts, depth = [""], 0
    for character in body:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [f"{head.strip()}: {part.strip()}{tail}" for part in parts]


def test_stored_time_has_its_zone(lab: Lab) -> None:
    assert lab.submit(plain())["created_at"].endswith("Z")


def test_ids_sort_by_creation_time() -> None:
    first, second = new_ids(100), new_ids(100)
    assert first == sorted(first)
    assert len({*first, *second}) == 200
    assert {len(one) for one in first} == {16}
    assert all(one.isalnum() and one == one.lower() for one in first)


def test_dashboard_token_may_submit_and_read(database: Database, tmp_path: Path) -> None:
    files = {f"{name}_token_file": tmp_path / name for name in ("admin", "worker", "dashboard")}
    bootstrap(database, Settings.model_validate({"database_url": "sqlite://", **files}))
    principal = identify(database, (tmp_path / "dashboard").read_text().strip())
    assert principal is not None
    assert principal.scopes == {"submit", "read"}


def test_command_line_creates_tokens_only_after_migration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DKD_HOME", str(tmp_path / "home"))
    run = CliRunner().invoke
    early = run(cli, ["bootstrap"])
    assert early.exit_code == 2
    assert "migrate" in early.output
    assert not (tmp_path / "home" / "tokens").exists()
    assert run(cli, ["migrate"]).exit_code == 0
    assert run(cli, ["migrate"]).exit_code == 0
    result = run(cli, ["bootstrap"])
    assert result.exit_code == 0
    assert str(tmp_path / "home" / "tokens" / "admin") in result.output


def test_a_process_waits_until_another_one_has_migrated(tmp_path: Path) -> None:
    place = tmp_path / "dkd.sqlite3"
    environment = {"DKD_DATABASE_URL": f"sqlite:///{place}"}
    early = CliRunner().invoke(cli, ["migrate", "--wait", "0.1"], env=environment)
    assert early.exit_code == 2
    assert "the database was not ready within 0.1 s: the database has no tables yet" in early.output
    database = Database(environment["DKD_DATABASE_URL"])
    later = threading.Timer(0.5, migrate.upgrade, [database])
    later.start()
    done = CliRunner().invoke(cli, ["migrate", "--wait", "60"], env=environment)
    later.join()
    database.dispose()
    assert (done.exit_code, "the database is at version" in done.output) == (0, True)
    unreachable = {"DKD_DATABASE_URL": f"postgresql://dkd@127.0.0.1:{free_port()}/dkd"}
    refused = CliRunner().invoke(cli, ["migrate", "--wait", "0"], env=unreachable)
    assert (refused.exit_code, "was not ready within 0 s: connection failed" in refused.output) == (2, True)
