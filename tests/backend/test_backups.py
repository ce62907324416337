"""``python -m backend db backup|verify|restore``, on both kinds of database."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import create_engine, func, make_url, select, text
from typer.testing import CliRunner, Result

from backend.__main__ import cli
from backend.artifacts.run_files import open_store
from backend.db import Database, migrate, models
from backend.db.backups import back_up, manifest_path, read_manifest
from backend.db.copying import digest_of
from backend.db.models import Base
from backend.operations.artifact_copies import check_artifacts
from tests import services
from tests.backend import filled, rows
from tests.backend.lab import Lab
from tests.waiting import until

TABLES = Base.metadata.sorted_tables


def contents(database: Database) -> dict[str, Any]:
    with database.engine.connect() as connection:
        return {table.name: digest_of(connection, table) for table in TABLES}


def run(database_url: str, *arguments: object, **environment: str) -> Result:
    return CliRunner().invoke(
        cli, ["db", *map(str, arguments)], env={"DKD_DATABASE_URL": database_url, "COLUMNS": "200", **environment}
    )


def databases_on(server_url: str) -> set[str]:
    engine = create_engine(server_url)
    with engine.connect() as connection:
        names = set(connection.execute(text("SELECT datname FROM pg_database")).scalars())
    engine.dispose()
    return names


@pytest.fixture
def full(lab: Lab, database: Database) -> dict[str, str]:
    return filled.fill(lab, database)


@pytest.fixture
def full_backup(database_url: str, full: dict[str, str], tmp_path: Path) -> Path:
    """Return a backup of a database with rows in every table."""
    file = tmp_path / "backups" / "full.sqlite3"
    made = run(database_url, "backup", file)
    assert made.exit_code == 0, made.output
    return file


@pytest.fixture
def home_url(tmp_path: Path) -> str:
    """Return the address of a SQLite database that does not exist."""
    return f"sqlite:///{tmp_path / 'home' / 'dkd.sqlite3'}"


@pytest.fixture
def backup(migrated_file: Path, tmp_path: Path) -> Path:
    """Return a backup of a small SQLite database."""
    source = tmp_path / "source.sqlite3"
    shutil.copy(migrated_file, source)
    database = Database(f"sqlite:///{source}")
    run_id = rows.one_run(database)
    for step in range(1, 1000, 50):
        values = {f"a/{number}": float(step) for number in range(50)}
        rows.insert_records(database, run_id, rows.metrics(step, values, seq=step), rows.log("a line", seq=step + 1))
    file = tmp_path / "backups" / "dkd.sqlite3"
    back_up(database, file)
    database.dispose()
    return file


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'restored' / 'dkd.sqlite3'}"
        return
    with services.postgres_database(request.getfixturevalue("postgres_server")) as url:
        yield url


def test_a_backup_has_no_unfinished_transaction_and_is_never_overwritten(
    database: Database, database_url: str, full: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "backups" / "dkd.sqlite3"
    before = contents(database)
    with database.write() as session:
        session.get_one(models.Run, full["done"]).label = "changed"
        session.flush()
        made = run(database_url, "backup", file)
        assert made.exit_code == 0, made.output
    assert sorted(path.name for path in file.parent.iterdir()) == ["dkd.sqlite3", "dkd.sqlite3.manifest.json"]
    assert file.stat().st_mode & 0o077 == 0, "hashes of tokens are in it"
    again = run(database_url, "backup", file)
    assert (again.exit_code, "exists" in again.output) == (2, True)

    manifest = read_manifest(file)
    assert manifest is not None
    assert manifest.tables is not None
    assert {name: entry.rows for name, entry in manifest.tables.items()} == {
        name: digest.rows for name, digest in before.items()
    }
    copy = tmp_path / "copy.sqlite3"
    shutil.copy(file, copy)
    restored = Database(f"sqlite:///{copy}")
    assert contents(restored) == before
    restored.dispose()


def test_verification_says_what_was_compared_and_leaves_nothing(
    database: Database, database_url: str, full: dict[str, str], tmp_path: Path
) -> None:
    before = set() if database.is_sqlite else databases_on(database_url)
    file = tmp_path / "backups" / "dkd.sqlite3"
    done = run(database_url, "backup", file, "--verify")
    assert done.exit_code == 0, done.output
    kind = "SQLite" if database.is_sqlite else "PostgreSQL"
    assert f"rows of {len(TABLES)} tables were restored into a scratch database ({kind})" in done.output
    assert "are equal in the original database" in done.output
    for table, digest in contents(database).items():
        assert f"{digest.rows:,} rows  {digest.hex}" in next(
            line for line in done.output.splitlines() if line.startswith(f"{table} ")
        )
    assert {path.name for path in file.parent.iterdir()} == {file.name, manifest_path(file).name}
    assert before == (set() if database.is_sqlite else databases_on(database_url))


def test_a_backup_is_one_snapshot_while_writers_write(
    database: Database, database_url: str, full: dict[str, str], tmp_path: Path
) -> None:
    """Each transaction stores a point and increments the run's counter. In a torn copy they would differ."""
    run_id = rows.one_run(database, name="written")
    stop = threading.Event()
    written = 0

    def write() -> None:
        nonlocal written
        while not stop.is_set():
            rows.insert_records(database, run_id, rows.metrics(written + 1, {"a/b": 1.0}, seq=written + 1))
            written += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        counts: list[int] = []
        for number in range(3):
            until(lambda: written > sum(counts[-1:]), "a write since the last backup")
            file = tmp_path / "backups" / f"{number}.sqlite3"
            done = run(database_url, "backup", file, "--verify")
            assert done.exit_code == 0, done.output
            with closing(sqlite3.connect(file)) as copy:
                [ingest] = copy.execute("SELECT ingest FROM runs WHERE id = ?", [run_id]).fetchone()
                [points, newest] = copy.execute(
                    "SELECT count(*), max(step) FROM metric_points WHERE run_id = ?", [run_id]
                ).fetchone()
            assert ingest == points == newest
            counts.append(points)
    finally:
        stop.set()
        writer.join()
    assert counts == sorted(set(counts)), "rows were written between the backups"


@pytest.mark.parametrize(
    ("statement", "table"),
    [
        ("UPDATE runs SET label = 'another' WHERE role = 'teacher'", "runs"),
        ("DELETE FROM metric_points WHERE step = (SELECT max(step) FROM metric_points)", "metric_points"),
        ("UPDATE experiments SET spec = '{'", "experiments"),
        ("DROP TABLE log_lines", "log_lines"),
    ],
)
def test_a_changed_backup_is_refused_with_the_name_of_the_table(
    home_url: str, backup: Path, statement: str, table: str
) -> None:
    with closing(sqlite3.connect(backup)) as connection, connection:
        assert connection.execute(statement).rowcount != 0
    for arguments in (("verify", backup), ("restore", backup, "--to", home_url)):
        refused = run(home_url, *arguments)
        assert refused.exit_code == 1, refused.output
        assert f"is damaged: the table {table} " in refused.output
        assert refused.output.count("is damaged: the table") == 1
    assert not Path(make_url(home_url).database or "").exists()


def test_a_truncated_backup_is_refused_with_the_names_of_tables(home_url: str, backup: Path) -> None:
    whole = backup.read_bytes()
    pages = len(whole) // 4096
    named: set[str] = set()
    for kept in range(1, pages, max(1, pages // 12)):
        backup.write_bytes(whole[: kept * 4096])
        refused = run(home_url, "verify", backup)
        assert refused.exit_code == 1, refused.output
        assert "is damaged" in refused.output
        named |= {table.name for table in TABLES if f"the table {table.name} " in refused.output}
    assert {"runs", "metric_points"} <= named
    for few in (b"", whole[:10]):
        backup.write_bytes(few)
        refused = run(home_url, "verify", backup)
        assert (refused.exit_code, "does not begin as a SQLite file" in refused.output) == (1, True)


def test_a_changed_byte_that_no_table_shows_is_noticed(home_url: str, backup: Path) -> None:
    content = bytearray(backup.read_bytes())
    content[68] ^= 1  # a field of the header for applications
    backup.write_bytes(content)
    refused = run(home_url, "verify", backup)
    assert (refused.exit_code, "its SHA-256 is not that of its manifest" in refused.output) == (1, True)


def test_a_backup_is_restored_into_an_empty_database_of_either_kind(
    database: Database, database_url: str, full_backup: Path, empty_url: str
) -> None:
    done = run(database_url, "restore", full_backup, "--to", empty_url)
    assert done.exit_code == 0, done.output
    assert "every table is equal to its manifest" in done.output
    restored = Database(empty_url)
    try:
        assert contents(restored) == contents(database)
        rows.insert_records(restored, rows.one_run(restored, name="later"), rows.metrics(1, {"new/name": 1.0}))
    finally:
        restored.dispose()
    again = run(database_url, "restore", full_backup, "--to", empty_url)
    assert again.exit_code == 2
    assert "exists" in again.output or "already contains rows" in again.output


def test_a_restore_refuses_the_companions_of_a_lost_database(home_url: str, backup: Path, tmp_path: Path) -> None:
    """SQLite would apply them to the restored file."""
    target = tmp_path / "home" / "dkd.sqlite3"
    target.parent.mkdir()
    target.with_name("dkd.sqlite3-wal").write_bytes(b"of the database that is lost")
    refused = run(home_url, "restore", backup, "--to", f"sqlite:///{target}")
    assert (refused.exit_code, "dkd.sqlite3-wal exists" in refused.output) == (2, True)
    assert not target.exists()


def test_a_backup_without_a_manifest_is_restored_and_the_output_says_so(home_url: str, backup: Path) -> None:
    manifest_path(backup).unlink()
    done = run(home_url, "verify", backup)
    assert done.exit_code == 0, done.output
    assert "nothing was compared with the original database" in done.output
    manifest_path(backup).write_text('{"format": 2}')
    refused = run(home_url, "verify", backup)
    assert (refused.exit_code, "is not a manifest: format" in refused.output) == (1, True)


def test_a_named_scratch_database_must_be_empty_and_is_emptied(home_url: str, backup: Path, empty_url: str) -> None:
    done = run(home_url, "verify", backup, "--scratch", empty_url)
    assert done.exit_code == 0, done.output
    again = run(home_url, "verify", backup, DKD_SCRATCH_URL=empty_url)
    assert again.exit_code == 0, again.output
    assert run(home_url, "restore", backup, "--to", empty_url).exit_code == 0
    used = Database(empty_url)
    before = contents(used)
    refused = run(home_url, "verify", backup, "--scratch", empty_url)
    assert refused.exit_code == 1
    assert "exists; name a new file" in refused.output or "is not empty" in refused.output
    assert contents(used) == before
    used.dispose()


@pytest.mark.services
def test_a_role_that_may_not_create_databases_is_asked_for_a_scratch_database(
    postgres_server: str, backup: Path
) -> None:
    engine = create_engine(postgres_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("DROP ROLE IF EXISTS limited"))
        connection.execute(text("CREATE ROLE limited LOGIN"))
    engine.dispose()
    limited = make_url(postgres_server).set(username="limited").render_as_string(hide_password=False)
    refused = run(limited, "verify", backup)
    assert refused.exit_code == 1
    assert "the role limited may not create a scratch database; give an empty one with --scratch" in refused.output


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def test_a_backup_of_an_earlier_version_is_migrated_when_it_is_verified(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    old_url = f"sqlite:///{tmp_path / 'old.sqlite3'}"
    old = Database(old_url)
    with old.engine.connect() as connection:
        config = migrate._config()
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    statements = Path(__file__).with_name("version_0001.sql").read_text(encoding="utf-8").replace("+00:00", "")
    with old.engine.begin() as connection:
        for statement in statements.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement.strip().removesuffix(";"))
    old.dispose()
    file = tmp_path / "old-backup.sqlite3"
    made = run(old_url, "backup", file)
    assert made.exit_code == 0, made.output
    refused = run(old_url, "backup", tmp_path / "other.sqlite3", "--verify")
    assert (refused.exit_code, "backend migrate" in refused.output) == (2, True)

    place = old_url if kind == "sqlite" else str(request.getfixturevalue("postgres_server"))
    done = run(place, "verify", file)
    assert done.exit_code == 0, done.output
    assert "its schema 0001 was migrated" in done.output
    with closing(sqlite3.connect(file)) as changing, changing:
        changing.execute("UPDATE runs SET label = 'another'")
    refused = run(place, "verify", file)
    assert (refused.exit_code, "SHA-256" in refused.output) == (1, True)


def test_a_backup_of_a_later_version_is_refused(home_url: str, backup: Path) -> None:
    with closing(sqlite3.connect(backup)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    refused = run(home_url, "verify", backup)
    assert (refused.exit_code, "alembic_version has the version '9999'" in refused.output) == (1, True)
    manifest_path(backup).unlink()
    refused = run(home_url, "verify", backup)
    assert (refused.exit_code, "a later version of this program has made" in refused.output) == (1, True)


def test_a_database_that_does_not_exist_is_not_backed_up(tmp_path: Path) -> None:
    place = tmp_path / "none.sqlite3"
    refused = run(f"sqlite:///{place}", "backup", tmp_path / "backup.sqlite3")
    assert (refused.exit_code, "there is no database" in refused.output) == (2, True)
    assert not place.exists()


def stored_weights(database: Database, root: Path, run_id: str, content: bytes) -> Path:
    """Give a run that has succeeded real weights."""
    with database.read() as session:
        path = session.get_one(models.Run, run_id).weights_path
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    rows.change(database, run_id, weights_sha256=hashlib.sha256(content).hexdigest())
    return file


def test_artifacts_are_compared_with_the_backup(
    database: Database, database_url: str, full: dict[str, str], tmp_path: Path
) -> None:
    root = tmp_path / "artifacts"
    weights = stored_weights(database, root, full["done"], b"weights of a teacher")
    with database.read() as session:
        checkpoints = session.scalars(select(models.Run.checkpoint_path).where(models.Run.checkpoint_path != "")).all()
        uploads = session.scalars(select(func.count()).select_from(models.Upload)).one()
    for path in checkpoints:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"a checkpoint")
    file = tmp_path / "backup.sqlite3"
    done = run(database_url, "backup", file, "--verify", "--artifacts", root)
    assert done.exit_code == 0, done.output
    assert f"1 weights, {uploads} uploads and 0 other files" in done.output
    assert f"{len(checkpoints)} checkpoints exist" in done.output

    weights.write_bytes(b"weights of a teachex")
    (root / checkpoints[0]).unlink()
    next((root / "uploads").iterdir()).write_bytes(b"cut")
    refused = run(database_url, "verify", file, "--artifacts", root)
    assert refused.exit_code == 1
    assert f"{weights.relative_to(root)} has another SHA-256" in refused.output
    assert f"{checkpoints[0]} is missing; it is the checkpoint of" in refused.output
    assert "the upload mine has another SHA-256" in refused.output


def test_artifacts_in_a_bucket_are_compared_with_their_manifests(tmp_path: Path) -> None:
    from common.object_store import ObjectStore

    database = Database(f"sqlite:///{tmp_path / 'dkd.sqlite3'}")
    migrate.upgrade(database)
    run_id = rows.one_run(database)
    weights, journal = tmp_path / "weights.safetensors", tmp_path / "events.jsonl"
    weights.write_bytes(b"weights")
    journal.write_bytes(b"events")
    with services.s3() as address:
        objects = ObjectStore(address)
        folder = f"runs/{run_id}/attempt-1"
        entries = {path.name: objects.add(folder, path.name, path) for path in (weights, journal)}
        objects.write_manifest(folder, entries)
        rows.change(
            database,
            run_id,
            state="succeeded",
            weights_path=f"{folder}/weights.safetensors",
            weights_sha256=hashlib.sha256(b"weights").hexdigest(),
        )
        with database.read() as session:
            checked = check_artifacts(session, open_store(address))
            assert (checked.problems, checked.weights, checked.listed, checked.bytes) == ([], 1, 1, 13)
        journal.write_bytes(b"evxnts")
        objects.put(journal, f"{folder}/{entries['events.jsonl'].object}")
        with database.read() as session:
            checked = check_artifacts(session, open_store(address))
        assert checked.weights == 1
        [problem] = checked.problems
        assert problem.startswith(f"{folder}/events.jsonl has another SHA-256")
    database.dispose()
