"""Connections and transactions. Readers see one snapshot; writers are serialised on SQLite."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from backend.db.group_commit import GroupCommit
from backend.db.types import to_json

_POOL_SIZE = 10
# FastAPI runs 40 requests at once in threads, the short way 32 more; each may hold one connection, and so may the
# reconciler, the waker and the webhooks.
_OVERFLOW_SQLITE = 70
_OVERFLOW_POSTGRESQL = 40  # a server lets some 100 in, of all replicas together; who finds none free waits for one
# For another program to let go of SQLite's lock: shorter than a client waits for its answer, which then says why.
_BUSY_SECONDS = 5
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    f"busy_timeout={_BUSY_SECONDS}000",
    # Pages, 16 MB: what is written again and again goes to the file once, and whoever commits then waits for it.
    "wal_autocheckpoint=4000",
)
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
SQLITE = sqlite.dialect(json_serializer=to_json)


class Database:
    """An engine with two kinds of transaction.

    ``read()`` never waits for a writer. ``write()`` commits at the end of the block and rolls back on an exception.
    On SQLite a writer begins with BEGIN IMMEDIATE: a deferred transaction that turns into a writer half-way is
    refused with "database is locked" whatever the timeout. Writers of this process queue here, since SQLite's lock is a
    polling one, and share commits.
    """

    def __init__(self, url: str | URL) -> None:
        self.url = url
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgresql_engine(url)
        self._writers = GroupCommit(self.engine) if self.is_sqlite else None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A session for reading; nothing it changes is kept."""
        with self.session() as session:
            yield session

    def session(self) -> Session:
        """As of ``read``, for who closes it in another place. Takes a connection at its first question."""
        return Session(self.engine, expire_on_commit=False, autoflush=False)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A session in a writing transaction. Do not nest: SQLite has one writer."""
        with self.writing() as connection, objects(connection) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """As of ``write``, for who needs no objects: a session takes as long as writing a few rows."""
        with self._writers.connection() if self._writers else self.engine.begin() as connection:
            yield connection

    @contextmanager
    def driver(self) -> Iterator[Any]:
        """SQLite's own connection, outside any transaction, for a question that takes no time."""
        assert self._writers is not None
        with self._writers.at_rest() as connection:
            if connection is not None:
                yield connection.connection.driver_connection
                return
        borrowed = self.engine.raw_connection()
        try:
            yield borrowed.driver_connection
        finally:
            borrowed.close()

    def dispose(self) -> None:
        if self._writers:
            self._writers.close()
        self.engine.dispose()


@contextmanager
def objects(connection: Connection) -> Iterator[Session]:
    """A session within the connection's transaction, for what is easier said of objects than of rows."""
    with Session(connection, expire_on_commit=False, join_transaction_mode="rollback_only") as session:
        yield session
        session.flush()


def _postgresql_engine(url: str | URL) -> Engine:
    return create_engine(
        url,
        pool_size=_POOL_SIZE,
        max_overflow=_OVERFLOW_POSTGRESQL,
        json_serializer=to_json,
        pool_pre_ping=True,  # a connection that the server has closed is replaced, not handed to a request
        connect_args={"connect_timeout": 10},
    )


def _sqlite_engine(url: str | URL) -> Engine:
    file = make_url(url).database
    if file and file != ":memory:":
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        # Hashes of tokens are in it. Its companions (-wal, -shm) get the mode that it has.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    engine = create_engine(
        url,
        json_serializer=to_json,
        pool_size=_POOL_SIZE,
        max_overflow=_OVERFLOW_SQLITE,
        pool_use_lifo=True,  # the one that asked last has the newest pages at hand; others would read them again
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # the driver then begins no transaction of its own
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        begin = connection.get_execution_options().get("dkd_begin", "BEGIN")
        driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
        try:
            driver.execute(begin)
        except sqlite3.Error as error:
            raise refusal(begin, [], error) from error

    return engine


def is_locked(error: BaseException | None) -> bool:
    """Whether SQLite's driver refused something because another program holds the database's lock."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _LOCKED


def refusal(sql: str, values: Any, error: sqlite3.Error) -> Exception:
    """What SQLAlchemy raises where SQLite's driver raised this, for who asks the driver without SQLAlchemy."""
    return DBAPIError.instance(sql, values, error, sqlite3.Error, dialect=SQLITE)
