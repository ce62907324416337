"""The application on both stacks: SQLite with nudges in files, and PostgreSQL with nudges over Redis."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from fastapi import FastAPI
from sqlalchemy import text

from backend.app import create_app
from backend.db import Database, migrate, models
from backend.settings import Settings
from backend.tokens import ADMIN_SCOPES, WORKER_SCOPES, add_token
from tests import services
from tests.backend.lab import Lab

with warnings.catch_warnings():
    # Starlette warns if httpx2 is not installed.
    warnings.filterwarnings("ignore", message="Using `httpx`")
    from fastapi.testclient import TestClient as TestClient

ADMIN_TOKEN = "admin-token"
WORKER_TOKEN = "worker-token"


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    try:
        with services.postgres() as url:
            yield url
    except services.ServiceMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def migrated_postgres(postgres_server: str) -> Iterator[Database]:
    """Yield the database of all tests, emptied before each: to create one takes ten times as long."""
    with services.postgres_database(postgres_server) as url:
        database = Database(url)
        migrate.upgrade(database)
        yield database
        database.dispose()


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a migrated SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "dkd.sqlite3"
    database = Database(f"sqlite:///{path}")
    migrate.upgrade(database)
    database.dispose()
    return path


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.services)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a migrated database without rows."""
    if request.param == "sqlite":
        path = tmp_path / "dkd.sqlite3"
        shutil.copy(request.getfixturevalue("migrated_file"), path)
        yield f"sqlite:///{path}"
        return
    database = request.getfixturevalue("migrated_postgres")
    tables = ", ".join(table.name for table in models.Base.metadata.sorted_tables)
    with database.write() as session:
        # Connections that a failed test left open would lock the tables.
        others = "pid <> pg_backend_pid() AND datname = current_database()"
        session.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
        session.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
    yield database.url


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    try:
        with services.redis() as url:
            yield url
    except services.ServiceMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def settings(database_url: str, tmp_path: Path, request: pytest.FixtureRequest) -> Settings:
    broker_url = "filesystem://"
    if not database_url.startswith("sqlite"):
        broker_url = request.getfixturevalue("redis_server")
        with redis.Redis.from_url(broker_url) as client:
            client.flushdb()  # the limits of requests of the test before
    return Settings(
        database_url=database_url,
        broker_url=broker_url,
        broker_folder=tmp_path / "broker",
        artifacts=tmp_path / "artifacts",
        admin_token_file=tmp_path / "tokens" / "admin",
        worker_token_file=tmp_path / "tokens" / "worker",
        allowed_hosts=("testserver",),
        rate_of_refused=0.0,  # tests send requests without a token as fast as they can
    )


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    with database.write() as session:
        add_token(session, ADMIN_TOKEN, "admin", ADMIN_SCOPES)
        add_token(session, WORKER_TOKEN, "worker", WORKER_SCOPES)
    yield database
    database.dispose()


@pytest.fixture
def app(settings: Settings, database: Database) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def api(app: FastAPI) -> Iterator[TestClient]:
    """Yield a client with the admin's token."""
    with TestClient(app, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}) as client:
        yield client


@pytest.fixture
def make_lab(settings: Settings, database: Database) -> Iterator[Callable[..., Lab]]:
    """Yield a function that starts a backend with changed settings, and returns its clients."""
    with ExitStack() as stack:

        def make(**changes: object) -> Lab:
            quiet = {
                "reconcile_seconds": 3600.0,
                **changes,
            }  # a reconciler's pass in the background would race with the test's
            app = create_app(Settings.model_validate(settings.model_dump() | quiet))
            admin = TestClient(app, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
            worker = TestClient(app, headers={"Authorization": f"Bearer {WORKER_TOKEN}"})
            return Lab(app, stack.enter_context(admin), worker)

        yield make


@pytest.fixture
def lab(make_lab: Callable[..., Lab]) -> Lab:
    return make_lab()
