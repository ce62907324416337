"""Empty databases in which a backup is restored in order to check it, and which are removed afterwards."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL, create_engine, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from backend.db.backups import BackupError
from backend.db.models import Base

_INSUFFICIENT_PRIVILEGE = "42501"


@contextmanager
def scratch_database(beside: str | URL, folder: Path) -> Iterator[str | URL]:
    """Create an empty database of the same kind as another one, and remove it at the end.

    Args:
        beside: URL of the other database. On PostgreSQL the new one is on the same server.
        folder: Folder for a SQLite file.

    Raises:
        BackupError: The role may not create databases.
    """
    url = make_url(beside)
    if url.get_backend_name() == "sqlite":
        with tempfile.TemporaryDirectory(dir=folder, prefix=".verify-") as temporary:
            yield URL.create("sqlite", database=str(Path(temporary) / "restored.sqlite3"))
        return
    name = f"dkd_verify_{secrets.token_hex(6)}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 10})
    try:
        with engine.connect() as connection:
            try:
                # template1 cannot be copied while somebody is connected to it.
                connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0"))
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", "") != _INSUFFICIENT_PRIVILEGE:
                    raise
                raise BackupError(
                    f"the role {url.username} may not create a scratch database; give an empty one with --scratch"
                ) from None
        try:
            yield url.set(database=name)
        finally:
            with engine.connect() as connection:
                connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        engine.dispose()


@contextmanager
def given_scratch(target: str | URL) -> Iterator[str | URL]:
    """Use an empty database that a person has named, and empty it at the end.

    Raises:
        BackupError: It is not empty.
    """
    url = make_url(target)
    if url.get_backend_name() == "sqlite":
        file = Path(url.database or "")
        if file.exists():
            raise BackupError(f"the scratch database {file} exists; name a new file")
        try:
            yield target
        finally:
            for suffix in ("", "-wal", "-shm"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
        return
    engine = create_engine(url, connect_args={"connect_timeout": 10})
    try:
        with engine.connect() as connection:
            if tables := inspect(connection).get_table_names():
                raise BackupError(f"the scratch database is not empty: it has the table {sorted(tables)[0]}")
        try:
            yield target
        finally:
            with engine.begin() as connection:
                Base.metadata.drop_all(connection)
                connection.execute(text("DROP TABLE IF EXISTS alembic_version"))
    finally:
        engine.dispose()
