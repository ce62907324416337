"""Engines, connections and transactions. Readers see one snapshot; on SQLite one thread writes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from pathlib import Path
from typing import TypeVar

import anyio.to_thread
from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from backend.db.types import to_json
from backend.db.visibility import limited, seeing, visible_projects
from backend.db.writer import WriterThread

R = TypeVar("R")

finishing: ContextVar[Callable[[Connection], None] | None] = ContextVar("finishing", default=None)
"""Called at the end of each writing transaction that is opened in this context, before its commit."""

_POOL_SIZE = 10
# A PostgreSQL server accepts about 100 connections from all replicas; a request waits if the pool is exhausted.
_OVERFLOW_POSTGRESQL = 40
# How long to wait for another program that holds SQLite's lock: less than a client waits for its answer, which then
# contains the reason.
_BUSY_SECONDS = 5
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    f"busy_timeout={_BUSY_SECONDS}000",
    # The unit is pages; 4000 pages have 16 MB. A page that is written often is copied to the database file once per
    # checkpoint, and the commit that starts a checkpoint waits for it.
    "wal_autocheckpoint=4000",
)


class Database:
    """An engine with two kinds of transaction.

    ``read()`` never waits for a writer, and sees only what the sender of the present request may see. ``write()`` sees
    everything, because teachers and names are shared by all projects; its callers check rights themselves. It commits
    at the end of the block and rolls back on an exception. On SQLite all writing transactions pass through one thread
    (``WriterThread``), where they share commits and must not be nested; on PostgreSQL they are ordinary transactions.

    Args:
        url: The address of the database in SQLAlchemy's form. A missing SQLite file is created, private to its user.
    """

    def __init__(self, url: str | URL) -> None:
        self.url = url
        self.is_sqlite = make_url(url).get_backend_name() == "sqlite"
        self.engine = _sqlite_engine(url) if self.is_sqlite else _postgresql_engine(url)
        self._limited = limited(self.engine)
        self._writer = WriterThread(self.engine) if self.is_sqlite else None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a session for reading; its changes are not stored."""
        with self.session() as session:
            yield session

    def session(self) -> Session:
        """Return a session for reading that the caller closes. It takes a connection with its first query.

        It sees the projects of ``visible_projects`` only.
        """
        projects = visible_projects.get()
        engine = self.engine if projects is None else seeing(self._limited, projects)
        return Session(engine, expire_on_commit=False, autoflush=False)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a session in a writing transaction."""
        with self.write_connection() as connection, session_on(connection) as session:
            yield session

    @contextmanager
    def write_connection(self) -> Iterator[Connection]:
        """Open a writing transaction without a session, which costs as much as inserting a few rows."""
        with self._writer.transaction() if self._writer else self.engine.begin() as connection:
            yield connection
            if (finish := finishing.get()) is not None:
                finish(connection)

    async def write_async(self, work: Callable[[Connection], R]) -> R:
        """Run ``work`` in a writing transaction without blocking the event loop.

        Args:
            work: Called with the connection, in the writer thread (SQLite) or in a thread of the pool (PostgreSQL).

        Returns:
            The result of ``work``, after the commit.
        """
        if (finish := finishing.get()) is not None:
            work = _finished(work, finish)
        if self._writer is None:
            return await anyio.to_thread.run_sync(self._run, work)
        return await asyncio.wrap_future(self._writer.submit(work))

    def dispose(self) -> None:
        """Wait for the queued writing transactions, then close all connections."""
        if self._writer:
            self._writer.close()
        self.engine.dispose()

    def _run(self, work: Callable[[Connection], R]) -> R:
        with self.engine.begin() as connection:
            return work(connection)


def _finished(work: Callable[[Connection], R], finish: Callable[[Connection], None]) -> Callable[[Connection], R]:
    """Return the work followed by ``finish``. The writer thread, which may run it, gets the caller's context."""

    def both(connection: Connection) -> R:
        result = work(connection)
        finish(connection)
        return result

    context = copy_context()
    return lambda connection: context.run(both, connection)


@contextmanager
def session_on(connection: Connection) -> Iterator[Session]:
    """Open a session within the transaction of a connection, and flush it at the end of the block."""
    with Session(connection, expire_on_commit=False, join_transaction_mode="rollback_only") as session:
        yield session
        session.flush()


def _postgresql_engine(url: str | URL) -> Engine:
    return create_engine(
        url,
        pool_size=_POOL_SIZE,
        max_overflow=_OVERFLOW_POSTGRESQL,
        json_serializer=to_json,
        pool_pre_ping=True,  # replaces a connection that the server has closed before a request gets it
        connect_args={"connect_timeout": 10},
    )


def _sqlite_engine(url: str | URL) -> Engine:
    file = make_url(url).database
    if file and file != ":memory:":
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        # The database holds hashes of tokens. SQLite gives its companion files (-wal, -shm) the same mode.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    engine = create_engine(
        url,
        json_serializer=to_json,
        pool_size=_POOL_SIZE,
        max_overflow=-1,  # as many as there are threads that read: a connection is a file handle
        pool_use_lifo=True,  # the connection used last has the newest pages in its cache
        connect_args={"timeout": _BUSY_SECONDS, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _: object) -> None:
        connection.isolation_level = None  # otherwise the driver would begin transactions by itself
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}").close()

    # A writer begins with BEGIN IMMEDIATE: SQLite refuses with "database is locked", without waiting, a transaction
    # that has read and then begins to write while another one writes.
    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        begin = connection.get_execution_options().get("dkd_begin", "BEGIN")
        driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
        try:
            driver.execute(begin)
        except sqlite3.Error as error:
            raise DBAPIError.instance(begin, [], error, sqlite3.Error, dialect=engine.dialect) from error

    return engine
