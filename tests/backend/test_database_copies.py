"""``python -m backend db copy``, migrations from the first version, and ``pg_dump`` with ``pg_restore``."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import inspect, make_url, select, text
from typer.testing import CliRunner

from backend.__main__ import cli
from backend.db import Database, migrate, models
from backend.db.copying import copy_database, digest_of
from backend.db.models import Base
from tests import services
from tests.backend import filled, rows
from tests.backend.lab import Lab

TABLES = Base.metadata.sorted_tables


def contents(database: Database) -> dict[str, Any]:
    with database.engine.connect() as connection:
        return {table.name: digest_of(connection, table) for table in TABLES}


@pytest.fixture
def empty_postgres(postgres_server: str) -> Iterator[str]:
    with services.postgres_database(postgres_server) as url:
        yield url


@pytest.fixture
def full(lab: Lab, database: Database) -> dict[str, str]:
    run_ids = filled.fill(lab, database)
    assert all(table.rows for table in contents(database).values()), "something is in every table"
    return run_ids


@pytest.mark.services
def test_a_database_is_copied_to_postgresql_and_back(
    database: Database, database_url: str, full: dict[str, str], empty_postgres: str, tmp_path: Path
) -> None:
    back_url = f"sqlite:///{tmp_path / 'back.sqlite3'}"
    before = contents(database)
    for source, target in ((database_url, empty_postgres), (empty_postgres, back_url)):
        result = CliRunner().invoke(cli, ["db", "copy", "--from", source], env={"DKD_TARGET_URL": target})
        assert result.exit_code == 0, result.output
        assert f"runs: {before['runs'].rows} rows" in result.output
    for url in (empty_postgres, back_url):
        copied = Database(url)
        try:
            assert contents(copied) == before
            with copied.read() as session:
                run = session.get_one(models.Run, full["done"])
                assert (run.state, run.weights_sha256) == ("succeeded", "a" * 64)
            # A new metric gets an unused number: the copy can be used.
            rows.insert_records(copied, full["held"], rows.metrics(10, {"a/new_name": 1.0}))
            with copied.read() as session:
                ids = session.scalars(select(models.MetricName.id)).all()
                assert len(ids) == before["metric_names"].rows + 1
        finally:
            copied.dispose()


@pytest.mark.services
def test_copy_to_a_target_with_rows_is_refused(
    database: Database, database_url: str, full: dict[str, str], empty_postgres: str, tmp_path: Path
) -> None:
    for url in (empty_postgres, f"sqlite:///{tmp_path / 'used.sqlite3'}"):
        target = Database(url)
        try:
            migrate.upgrade(target)
            rows.experiment(target)
            before = contents(target)
            result = CliRunner().invoke(cli, ["db", "copy", "--from", database_url, "--to", url])
            assert result.exit_code == 2
            assert "already contains rows" in result.output
            assert contents(target) == before
        finally:
            target.dispose()


@pytest.mark.services
def test_copy_with_a_refused_row_leaves_the_target_empty(
    database: Database, database_url: str, full: dict[str, str], postgres_server: str, tmp_path: Path
) -> None:
    """SQLite accepts texts longer than their column, and PostgreSQL does not."""
    if not database.is_sqlite:
        return
    rows.change(database, full["done"], label="x" * 100)
    with services.postgres_database(postgres_server) as url:
        result = CliRunner().invoke(cli, ["db", "copy", "--from", database_url, "--to", url])
        assert result.exit_code == 2
        assert "refuses a row of runs" in result.output
        target = Database(url)
        assert not any(table.rows for table in contents(target).values())
        target.dispose()


def test_copy_from_another_version_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Database(f"sqlite:///{tmp_path / name}").dispose()
    result = CliRunner().invoke(
        cli, ["db", "copy", "--from", f"sqlite:///{tmp_path / 'a'}", "--to", f"sqlite:///{tmp_path / 'b'}"]
    )
    assert result.exit_code == 2
    assert "backend migrate" in result.output


@pytest.mark.services
def test_pg_restore_restores_a_pg_dump(
    database: Database, database_url: str, full: dict[str, str], empty_postgres: str, tmp_path: Path
) -> None:
    if database.is_sqlite:
        return
    if shutil.which("pg_dump") is None:
        pytest.skip("pg_dump is not installed: apt-get install postgresql-client")
    file = tmp_path / "dkd.dump"
    for line in (
        ["pg_dump", "--format=custom", f"--file={file}", _plain(database_url)],
        ["pg_restore", "--no-owner", "--exit-on-error", f"--dbname={_plain(empty_postgres)}", str(file)],
    ):
        subprocess.run(line, check=True, env={**os.environ, "PGCONNECT_TIMEOUT": "10"}, capture_output=True)
    restored = Database(empty_postgres)
    assert contents(restored) == contents(database)
    assert migrate.current_revision(restored) == migrate.head_revision()
    rows.insert_records(restored, full["held"], rows.metrics(10, {"a/new_name": 1.0}))
    restored.dispose()


def _plain(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def test_migrations_keep_the_data_of_the_first_version(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The database is created at 0001 and filled with rows that a backend of that version wrote."""
    url = (
        f"sqlite:///{tmp_path / 'old.sqlite3'}" if kind == "sqlite" else str(request.getfixturevalue("empty_postgres"))
    )
    database = Database(url)
    try:
        with database.engine.connect() as connection:
            config = migrate._config()
            config.attributes["connection"] = connection
            command.upgrade(config, "0001")
        statements = Path(__file__).with_name("version_0001.sql").read_text(encoding="utf-8")
        # SQLite stores no zone; psycopg reads a per cent sign as a placeholder.
        statements = statements.replace("+00:00", "") if kind == "sqlite" else statements.replace("%", "%%")
        with database.engine.begin() as connection:
            for statement in statements.split(";\n"):
                if statement.strip():
                    connection.exec_driver_sql(statement.strip().removesuffix(";"))
        columns = _old_columns(database)
        before = {name: _rows(database, name, columns[name]) for name in columns}
        assert all(before.values()), "something is in every table"
        migrate.upgrade(database)
        assert migrate.current_revision(database) == migrate.head_revision()

        after = {name: _rows(database, name, columns[name]) for name in columns if name != "idempotency_keys"}
        # A migration changes the scope "write" to "admin".
        scopes = [row.pop("scopes") for row in after["tokens"]]
        assert [row.pop("scopes") for row in before["tokens"]] == [["read", "write"], ["worker"]]
        assert scopes == [["admin"], ["worker"]]
        assert after == {name: before[name] for name in after}
        with database.read() as session:
            run = session.get_one(models.Run, "06f0000000000002")
            assert (run.gpus, run.labels, run.queued_at) == (1, ",", run.created_at)
            experiment = session.scalars(select(models.Experiment)).one()
            assert experiment.project == "default"
            assert experiment.notes == "a note – with 100% of its “signs”"
            assert sorted(session.scalars(select(models.ExperimentTag.tag))) == ["baseline", "digits"]
            assert set(session.scalars(select(models.Token.person_id))) == {None}
            worker = session.scalars(select(models.Worker)).one()
            assert (worker.gpus, worker.draining) == (2, False)
            used = session.scalars(select(models.SlotUsage)).all()
            kept = {(row.run_id, row.attempt): (row.started_at, row.ended_at) for row in used}
            attempts = session.scalars(select(models.Attempt)).all()
            assert kept == {(row.run_id, row.number): (row.started_at, row.ended_at) for row in attempts}
            assert {(row.project, row.device, row.slots) for row in used} == {("default", worker.device, 1)}
        rows.insert_records(database, "06f0000000000002", rows.metrics(10, {"a/new_name": 1.0}))
        assert copy_of(database, tmp_path) == contents(database), "and this version's commands work on it"
    finally:
        database.dispose()


def copy_of(database: Database, folder: Path) -> dict[str, Any]:
    target = Database(f"sqlite:///{folder / 'copy-of-upgraded.sqlite3'}")
    try:
        copy_database(database, target)
        return contents(target)
    finally:
        target.dispose()


def _old_columns(database: Database) -> dict[str, list[str]]:
    inspector = inspect(database.engine)
    return {
        name: [column["name"] for column in inspector.get_columns(name)]
        for name in inspector.get_table_names()
        if name != "alembic_version"
    }


def _rows(database: Database, table: str, columns: list[str]) -> list[dict[str, Any]]:
    """Read a table's rows with the types of this version's models."""
    known = Base.metadata.tables[table].c
    names = [name for name in columns if name in known]
    with database.engine.connect() as connection:
        query = select(*[known[name] for name in names]).order_by(text("1"), text("2"))
        return [dict(row) for row in connection.execute(query).mappings()]
