"""The one thread that writes to a SQLite database.

SQLite has one writer at a time, and a commit waits for the disk for longer than most units of work take. All writers of
this process therefore queue for one thread. It runs the units that wait in one transaction and commits once for the
whole group. Every unit but the first has a savepoint of its own; if the first fails, the transaction is rolled back,
and the next unit begins another group.
"""

from __future__ import annotations

import sqlite3
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

from sqlalchemy import Connection, Engine, ExceptionContext, Transaction, event
from sqlalchemy.exc import OperationalError

R = TypeVar("R")

MAX_GROUP = 32
"""The most units of work that share a commit, so that a continuous load cannot delay the first answer for ever."""
_LOCKED = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class WriterThread:
    """A queue of units of work, and the thread that runs them in groups.

    A unit's future gets its result once the group's commit is on the disk. A unit that raises loses only its own
    changes; an error of the commit is the error of every unit in the group. The thread starts with the first unit.

    Args:
        engine: An engine on SQLite whose ``dkd_begin`` execution option is the statement that begins a transaction.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(dkd_begin="BEGIN IMMEDIATE")
        self._connection: Connection | None = None  # only the thread uses it
        self._ended_by: sqlite3.Error | None = None  # the error with which SQLite itself ended the transaction
        event.listen(engine, "handle_error", self._keep_first_error)
        self._changed = threading.Condition()  # guards the attributes below
        self._waiting: deque[_Unit[Any]] = deque()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._borrower: int | None = None

    def submit(self, work: Callable[[Connection], R]) -> Future[R]:
        """Queue a unit of work.

        Args:
            work: Called in the writer thread with a connection in a transaction, which it must not end.

        Returns:
            A future of the result of ``work``. Cancelling it before the unit has begun removes the unit from the queue.

        Raises:
            RuntimeError: The calling thread runs a unit itself, so that waiting for another one would never end.
        """
        unit = _Unit(work)
        with self._changed:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sqlite-writer", daemon=True)
                self._thread.start()
            elif threading.get_ident() in (self._borrower, self._thread.ident):
                raise RuntimeError("this thread is writing to the database already; write transactions do not nest")
            self._waiting.append(unit)
            self._changed.notify()
        return unit.future

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Run the ``with`` block as a unit of work. The writer thread lends its connection to the calling thread.

        Yields:
            The connection, in a transaction that is committed when the block ends.
        """
        turn: Future[Connection] = Future()
        end: Future[None] = Future()

        def lend(connection: Connection) -> None:
            turn.set_result(connection)
            end.result()

        def refuse(unit: Future[None]) -> None:
            if not unit.cancelled() and not turn.done():
                turn.set_exception(unit.exception())

        unit = self.submit(lend)
        unit.add_done_callback(refuse)  # if no transaction could begin
        try:
            connection = turn.result()
            self._borrower = threading.get_ident()
            try:
                yield connection
            finally:
                self._borrower = None
            end.set_result(None)
        except BaseException:
            if not unit.cancel():
                end.cancel()  # the writer thread rolls the savepoint back
            raise
        unit.result()

    def close(self) -> None:
        """Wait until the queue is empty, then end the thread and its connection. The next unit starts a new thread."""
        with self._changed:
            thread = self._thread
            if thread is not None and threading.get_ident() in (self._borrower, thread.ident):
                raise RuntimeError("this thread is writing to the database; it cannot be closed now")
            self._closing = thread is not None
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while (unit := self._wait_for_unit()) is not None:
            self._run_group(unit)

    def _wait_for_unit(self) -> _Unit[Any] | None:
        """Return the next unit; None if the thread has to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closing)
            if self._waiting:
                return self._waiting.popleft()
            self._disconnect()
            self._thread, self._closing = None, False
            return None

    def _take_waiting(self, limit: int) -> list[_Unit[Any]]:
        with self._changed:
            return [self._waiting.popleft() for _ in range(min(limit, len(self._waiting)))]

    def _run_group(self, first: _Unit[Any]) -> None:
        """Run a unit and those queued behind it, until the queue is empty or the group is full, and commit them."""
        self._ended_by = None
        try:
            connection = self._connect()
            transaction = connection.begin()
        except BaseException as error:  # noqa: BLE001 (raised in the threads that wait for the units)
            self._disconnect()
            refused = [first]
            if isinstance(error, OperationalError) and is_locked(error.orig):
                # Otherwise each queued unit would wait for the same lock, one after the other, for as long.
                refused += self._take_waiting(sys.maxsize)
            for unit in refused:
                unit.refuse(error)
            return
        group: list[_Unit[Any]] = []
        joining = [first]
        try:
            while joining:
                group += joining
                joining[0].run(connection, transaction if joining[0] is first else None)
                if joining[0] is first and _is_idle(connection):
                    break  # it was rolled back, and with it the whole transaction
                # SQLite ends a transaction by itself if it cannot write, for example when the disk is full.
                if not (transaction.is_active and _in_transaction(connection)):
                    reason = self._ended_by or sqlite3.OperationalError("the transaction was rolled back")
                    raise OperationalError("COMMIT", None, reason)
                joining = self._take_waiting(1) if len(group) < MAX_GROUP else []
            if transaction.is_active:
                transaction.commit()
        except BaseException as error:  # noqa: BLE001 (raised in the threads that wait for the units)
            # SQLite keeps a transaction open whose commit it refused, while SQLAlchemy believes that it has ended.
            self._disconnect()
            for unit in group:
                unit.finish(error)
        else:
            for unit in group:
                unit.finish()

    def _keep_first_error(self, context: ExceptionContext) -> OperationalError | None:
        """Store the error with which SQLite itself ended the transaction, for example a full disk.

        Later errors that follow from it, such as that of a rollback to a savepoint that no longer exists, are replaced
        by the stored error.
        """
        error, connection = context.original_exception, context.connection
        if connection is None or connection is not self._connection or not isinstance(error, sqlite3.Error):
            return None
        if connection.invalidated or _in_transaction(connection):
            return None
        if self._ended_by is None:
            self._ended_by = error
            return None
        return OperationalError(context.statement, None, self._ended_by)

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect()
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None and not self._connection.closed:
            self._connection.invalidate()
            self._connection.close()
        self._connection = None


class _Unit(Generic[R]):
    """A unit of work with its outcome, which the caller receives when the group has ended."""

    def __init__(self, work: Callable[[Connection], R]) -> None:
        self._work = work
        self._result: R | None = None
        self._error: BaseException | None = None
        self.future: Future[R] = Future()

    def run(self, connection: Connection, transaction: Transaction | None = None) -> None:
        """Do the work, unless the caller has cancelled it.

        An exception of the work is stored, and its changes are rolled back. An exception of the savepoint is raised,
        because it ends the group.

        Args:
            connection: In a transaction.
            transaction: This transaction if the unit is its first, which needs no savepoint: if the work fails, the
                whole transaction is rolled back. None makes a savepoint.
        """
        if not self.future.set_running_or_notify_cancel():
            return
        undone_by = transaction or connection.begin_nested()
        try:
            self._result = self._work(connection)
        except BaseException as error:  # noqa: BLE001 (raised in the thread that waits for the unit)
            self._error = error
            if undone_by.is_active:  # a failed flush has rolled it back
                undone_by.rollback()
        else:
            if transaction is None and undone_by.is_active:  # the work may have rolled back its own session
                undone_by.commit()

    def refuse(self, error: BaseException) -> None:
        """End a unit that has not been run."""
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def finish(self, group_error: BaseException | None = None) -> None:
        """Set the future to the outcome; ``group_error`` is the error that ended the group's transaction, if any."""
        if self.future.cancelled():
            return
        error = self._error or group_error
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(self._result)  # type: ignore[arg-type]  # the result of the work


def is_locked(error: BaseException | None) -> bool:
    """Return whether the error means that another program holds the lock of the SQLite database."""
    return isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _LOCKED


def _is_idle(connection: Connection) -> bool:
    """Return whether the connection is open, and neither SQLAlchemy nor SQLite has a transaction in it."""
    return not (connection.closed or connection.in_transaction() or _in_transaction(connection))


def _in_transaction(connection: Connection) -> bool:
    driver: Any = connection.connection.driver_connection
    return bool(driver.in_transaction)
