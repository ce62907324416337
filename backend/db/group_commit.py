"""Writers of one process on SQLite: one at a time, and those that wait while another writes share its commit.

A commit waits for the disk, for longer than most writers write. Whoever ends while others wait leaves the transaction
open to the next, in a savepoint of its own, and the last commits for all. Nobody goes on before that.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import OperationalError

_TOGETHER = 32
"""At most so many writers share a commit, so that under a load without end the first of them is answered too."""


class GroupCommit:
    """The writers of an engine, each with the connection in turn.

    Args:
        engine: of SQLite, where ``execution_options(dkd_begin=…)`` says how a transaction begins.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine.execution_options(dkd_begin="BEGIN IMMEDIATE")
        self._connection: Connection | None = None
        self._lock = threading.Lock()  # of what follows
        self._waiting: deque[_Turn] = deque()
        self._writing = False

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection in a writing transaction, which is on the disk when the block has been left.

        Raises what the block raises, having undone what it wrote, and what the database says to the commit.
        """
        group = self._entered()
        try:
            group = group or self._begun()
            with group.member() as connection:
                yield connection
        finally:
            self._left(group)
        group.wait()

    @contextmanager
    def at_rest(self, *, opened: bool = True) -> Iterator[Connection | None]:
        """The writers' connection outside any transaction, which has the newest pages at hand; None where one writes.

        For what takes no time: whoever is to write next waits for it.

        Args:
            opened: where there is none yet, open one.
        """
        with self._lock:
            busy, self._writing = self._writing, True
        if busy:
            yield None
            return
        try:
            yield self._connected() if opened else self._connection
        finally:
            self._left(None)

    def _connected(self) -> Connection:
        """The one connection that writes, kept open: taking one for each transaction is a good part of a short one."""
        if self._connection is None or self._connection.closed:
            self._connection = self._engine.connect()
        return self._connection

    def close(self) -> None:
        """Give the connection back, unless somebody is writing with it; the next writer opens another one."""
        with self.at_rest(opened=False) as connection:
            if connection is not None:
                connection.close()

    def _entered(self) -> _Group | None:
        """Wait for one's turn; returns the group to write in, None where it is to be a new one."""
        with self._lock:
            if not self._writing:
                self._writing = True
                return None
            turn = _Turn()
            self._waiting.append(turn)
        try:
            turn.came.wait()
        except BaseException:  # Ctrl-C
            with self._lock:
                still_waits = turn in self._waiting
                if still_waits:
                    self._waiting.remove(turn)
            if not still_waits:
                self._left(turn.group)
            raise
        if turn.error is not None:
            raise OperationalError("BEGIN IMMEDIATE", None, turn.error)
        return turn.group

    def _begun(self) -> _Group:
        try:
            return _Group(self._connected())
        except OperationalError as error:
            if isinstance(error.orig, sqlite3.OperationalError) and error.orig.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                self._refuse_waiting(error.orig)
            raise

    def _refuse_waiting(self, error: sqlite3.OperationalError) -> None:
        """They have waited for the same lock; one after the other each would wait for it as long again."""
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                turn.error = error
                turn.came.set()

    def _left(self, group: _Group | None) -> None:
        """Hand on the turn, with the group where it may grow; else commit it first."""
        with self._lock:
            if group and group.may_grow and self._handed_on(group):
                return
        try:
            if group:
                group.end()
        finally:
            with self._lock:
                self._writing = self._handed_on(None)

    def _handed_on(self, group: _Group | None) -> bool:
        """Give the turn to whoever has waited longest; False where nobody waits. To be called under the lock."""
        if not self._waiting:
            return False
        turn = self._waiting.popleft()
        turn.group = group
        turn.came.set()
        return True


class _Turn:
    """One writer's place in the queue."""

    def __init__(self) -> None:
        self.came = threading.Event()
        self.group: _Group | None = None
        self.error: sqlite3.OperationalError | None = None


class _Group:
    """Writers of one transaction, one after the other. Raises what the database says to its beginning."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        try:
            self._transaction = connection.begin()
        except BaseException:
            connection.close()
            raise
        self._members = 0
        self._ended = threading.Event()
        self._error: BaseException | None = None

    @property
    def may_grow(self) -> bool:
        return self._members < _TOGETHER and not self._connection.closed and _in_transaction(self._connection)

    @contextmanager
    def member(self) -> Iterator[Connection]:
        """For the next of them. The first has nothing of others to leave untouched, and needs no savepoint."""
        self._members += 1
        own = self._connection.begin_nested() if self._members > 1 else None
        try:
            yield self._connection
            if own:
                own.commit()
        except BaseException:
            (own or self._transaction).rollback()
            raise

    def end(self) -> None:
        """Commit for all; the only member may have undone it."""
        try:
            if self._transaction.is_active and not _in_transaction(self._connection):
                raise OperationalError("COMMIT", None, sqlite3.OperationalError("the transaction was undone"))
            if self._transaction.is_active:
                self._transaction.commit()
            elif _in_transaction(self._connection):  # one that the block began by itself
                self._connection.close()
        except BaseException as error:  # noqa: BLE001 (raised in every member's thread)
            self._error = error
            # SQLite leaves a transaction open that it refused to commit, and SQLAlchemy takes it for ended: the next
            # who borrows the connection would be in it.
            self._connection.invalidate()
            self._connection.close()
        finally:
            self._ended.set()

    def wait(self) -> None:
        """Until all is on the disk. Raises what the database said to the commit."""
        self._ended.wait()
        if self._error is not None:
            raise self._error


def _in_transaction(connection: Connection) -> bool:
    """SQLite ends a transaction by itself where it can't write: what came after would be kept, what was before not."""
    driver: Any = connection.connection.driver_connection
    return bool(driver.in_transaction)
