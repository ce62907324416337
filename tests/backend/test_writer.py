"""Writers on SQLite share commits: each keeps or loses its own changes, and none continues before the commit."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, event, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from backend.db import Database, engine
from backend.db.writer import MAX_GROUP, WriterThread

Work = Callable[[Session], None]


class Base(DeclarativeBase):
    """Tables of this module."""


class Row(Base):
    """A row that a flush inserts."""

    __tablename__ = "written_row"
    id: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    with database.write() as session:
        session.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
        session.execute(text("CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"))
    yield database
    database.dispose()


def stored_ids(database: Database) -> set[int]:
    with database.read() as session:
        return set(session.scalars(text("SELECT id FROM parent")))


def insert(number: int) -> Work:
    def work(session: Session) -> None:
        session.execute(text(f"INSERT INTO parent VALUES ({number})"))

    return work


def insert_and_fail(number: int) -> Work:
    def work(session: Session) -> None:
        insert(number)(session)
        raise ZeroDivisionError

    return work


def insert_and_roll_back(number: int) -> Work:
    def work(session: Session) -> None:
        insert(number)(session)
        session.rollback()

    return work


def insert_orphan(session: Session) -> None:
    """Break a constraint that the database checks with the commit."""
    session.execute(text("INSERT INTO child VALUES (77)"))


def lose_transaction(session: Session) -> None:
    """Roll back as SQLite does by itself when the disk is full."""
    driver: Any = session.connection().connection.driver_connection
    driver.execute("ROLLBACK")


def writer_of(database: Database) -> WriterThread:
    assert database._writer is not None
    return database._writer


def write(database: Database, work: Work) -> None:
    with database.write() as session:
        work(session)


def start_waiting(pool: ThreadPoolExecutor, database: Database, work: Work) -> Future[None]:
    """Start another writer, and return once it waits for the present one."""
    waiting = writer_of(database)._waiting
    count = len(waiting)
    future = pool.submit(write, database, work)
    end = time.monotonic() + 30
    while len(waiting) == count:
        assert time.monotonic() < end
        time.sleep(0.001)
    return future


class Group:
    """Writers that all wait while the first of them runs, and then follow in order."""

    def __init__(self, database: Database, *works: Work) -> None:
        self.commits = 0

        def count(_: object) -> None:
            self.commits += 1

        event.listen(database.engine, "commit", count)
        gate, first_runs = threading.Event(), threading.Event()

        def run_first(session: Session) -> None:
            works[0](session)
            first_runs.set()
            assert gate.wait(30)

        with ThreadPoolExecutor(len(works)) as pool:
            self.futures: list[Future[None]] = [pool.submit(write, database, run_first)]
            assert first_runs.wait(30)
            self.futures += [start_waiting(pool, database, work) for work in works[1:]]
            gate.set()
        event.remove(database.engine, "commit", count)

    @property
    def errors(self) -> list[type[BaseException] | None]:
        return [type(error) if (error := future.exception()) else None for future in self.futures]


def test_waiting_writers_share_one_commit(database: Database) -> None:
    group = Group(database, *(insert(number) for number in range(8)))
    assert group.errors == [None] * 8
    assert stored_ids(database) == set(range(8))
    assert group.commits == 1


def test_group_size_is_bounded(database: Database) -> None:
    group = Group(database, *(insert(number) for number in range(MAX_GROUP + 1)))
    assert stored_ids(database) == set(range(MAX_GROUP + 1))
    assert group.commits == 2


def test_writers_run_in_the_order_of_their_arrival(database: Database) -> None:
    order: list[int] = []

    def note(number: int) -> Work:
        return lambda _: order.append(number)

    Group(database, lambda _: None, *map(note, range(10)))
    assert order == list(range(10))


@pytest.mark.parametrize("failing", range(1, 4))
def test_failing_writer_loses_only_its_own_changes(database: Database, failing: int) -> None:
    works = [insert(number) for number in range(4)]
    works[failing] = insert_and_fail(failing)
    group = Group(database, *works)
    assert group.errors == [ZeroDivisionError if index == failing else None for index in range(4)]
    assert stored_ids(database) == {0, 1, 2, 3} - {failing}


def test_first_writer_that_fails_in_its_block_loses_only_its_own_changes(database: Database) -> None:
    gate, begun = threading.Event(), threading.Event()

    def fail_late(session: Session) -> None:
        insert(0)(session)
        begun.set()
        assert gate.wait(30)
        raise ZeroDivisionError

    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(write, database, fail_late)
        assert begun.wait(30)
        others = [start_waiting(pool, database, insert(number)) for number in (1, 2)]
        gate.set()
    assert isinstance(first.exception(), ZeroDivisionError)
    assert [other.exception() for other in others] == [None, None]
    assert stored_ids(database) == {1, 2}


def test_failing_writer_does_not_affect_the_next_group(database: Database) -> None:
    with suppress(ZeroDivisionError):
        write(database, insert_and_fail(0))
    write(database, insert(1))
    assert stored_ids(database) == {1}


def test_session_rollback_undoes_only_the_changes_of_its_writer(database: Database) -> None:
    group = Group(database, insert(0), insert_and_roll_back(1), insert(2))
    assert group.errors == [None] * 3
    assert stored_ids(database) == {0, 2}


def test_first_writer_that_rolls_back_its_session_has_no_error(database: Database) -> None:
    write(database, insert_and_roll_back(0))
    write(database, insert(1))
    assert stored_ids(database) == {1}


def test_no_writer_continues_before_the_commit(database: Database) -> None:
    committed = threading.Event()
    visible: list[bool] = []

    def second(session: Session) -> None:
        visible.append(committed.wait(0.2) or 0 in stored_ids(database))
        insert(1)(session)

    def note_commit(_: object) -> None:
        committed.set()

    event.listen(database.engine, "commit", note_commit)
    Group(database, insert(0), second)
    assert visible == [False]
    assert committed.is_set()


def test_failed_commit_is_an_error_of_every_writer_in_the_group(database: Database) -> None:
    group = Group(database, insert(0), insert_orphan, insert(2))
    assert group.errors == [IntegrityError] * 3
    assert stored_ids(database) == set()
    write(database, insert(3))
    assert stored_ids(database) == {3}


def test_writer_keeps_its_own_error_when_the_commit_fails(database: Database) -> None:
    group = Group(database, insert(0), insert_and_fail(1), insert_orphan)
    assert group.errors == [IntegrityError, ZeroDivisionError, IntegrityError]
    assert stored_ids(database) == set()


def test_lost_transaction_is_an_error_of_every_writer_before_it(database: Database) -> None:
    group = Group(database, insert(0), lose_transaction, insert(2))
    assert group.errors == [OperationalError, OperationalError, None]
    assert stored_ids(database) == {2}


def test_database_that_cannot_be_opened_stops_only_the_present_writer(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = writer_of(database)
    database.dispose()
    with monkeypatch.context() as patch:
        patch.setattr(writer._engine, "connect", lambda: (_ for _ in ()).throw(OperationalError("", None, OSError())))
        with pytest.raises(OperationalError):
            write(database, insert(0))
    write(database, insert(1))
    assert stored_ids(database) == {1}


def test_refused_begin_is_an_error_of_sqlalchemy(database: Database) -> None:
    with database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN")
        with pytest.raises(OperationalError, match="within a transaction"):
            connection.begin()
        driver.execute("ROLLBACK")


def test_writer_recovers_from_a_refused_begin(database: Database) -> None:
    connection = writer_of(database)._connection
    assert connection is not None
    driver: Any = connection.connection.driver_connection
    driver.execute("BEGIN")
    with pytest.raises(OperationalError, match="within a transaction"):
        write(database, insert(0))
    write(database, insert(1))
    assert stored_ids(database) == {1}


def test_readers_see_committed_rows_only(database: Database) -> None:
    with database.write() as session:
        insert(1)(session)
        assert stored_ids(database) == set()
    assert stored_ids(database) == {1}


def test_transaction_that_a_block_begins_by_itself_is_rolled_back(database: Database) -> None:
    def restart(session: Session) -> None:
        connection = session.connection()
        connection.rollback()
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN")
        driver.execute("INSERT INTO parent VALUES (9)")

    with pytest.raises(OperationalError, match="rolled back"):
        write(database, restart)
    write(database, insert(1))
    assert stored_ids(database) == {1}


def test_writer_that_closes_its_connection_stops_nobody_else(database: Database) -> None:
    with pytest.raises(OperationalError, match="rolled back"), database.write_connection() as connection:
        connection.close()
    write(database, insert(1))
    assert stored_ids(database) == {1}


def test_nested_writing_is_refused(database: Database) -> None:
    """The inner transaction would wait for the end of the outer one."""
    with database.write() as session:
        insert(1)(session)
        with pytest.raises(RuntimeError, match="do not nest"), database.write():
            pass
        with pytest.raises(RuntimeError, match="cannot be closed"):
            database.dispose()
    assert stored_ids(database) == {1}

    def nested(_: Connection) -> None:
        write(database, insert(2))

    with pytest.raises(RuntimeError, match="do not nest"):
        asyncio.run(database.write_async(nested))
    assert stored_ids(database) == {1}


def test_dispose_waits_for_the_writers(database: Database) -> None:
    with ThreadPoolExecutor(2) as pool:
        with database.write() as session:
            insert(1)(session)
            waiting = start_waiting(pool, database, insert(2))
            disposed = pool.submit(database.dispose)
            assert not disposed.done()
        waiting.result(30)
        disposed.result(30)
    assert stored_ids(database) == {1, 2}


def test_disposed_database_writes_again(database: Database) -> None:
    database.dispose()
    database.dispose()
    write(database, insert(1))
    assert stored_ids(database) == {1}


@pytest.mark.parametrize("begun", [False, True])
def test_interrupted_writer_leaves_its_turn_to_the_next(
    database: Database, begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C reaches a thread that waits, before its unit of work has begun or just after."""
    result: Callable[..., Any] = Future.result
    interrupted = threading.Event()

    def interrupt(future: Future[Any], timeout: float | None = None) -> Any:
        if threading.current_thread().name.startswith("interrupted"):
            if begun:
                result(future, timeout)
            interrupted.set()
            raise KeyboardInterrupt
        return result(future, timeout)

    monkeypatch.setattr(Future, "result", interrupt)
    with ThreadPoolExecutor(1, "interrupted") as pool:
        with database.write() as session:
            insert(0)(session)
            future = pool.submit(write, database, insert(9))
            if not begun:
                assert interrupted.wait(30)
        assert interrupted.wait(30)
    assert isinstance(future.exception(), KeyboardInterrupt)
    write(database, insert(1))
    assert stored_ids(database) == {0, 1}


def test_writers_that_wait_for_the_lock_of_another_program_are_refused_together(
    database: Database, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "x.db")
    other.execute("BEGIN IMMEDIATE")

    def outcome(number: int) -> str:
        try:
            write(database, insert(number))
        except OperationalError as error:
            return str(error.orig)
        return "written"

    with ThreadPoolExecutor(6) as pool:
        futures = [pool.submit(outcome, number) for number in range(6)]
        outcomes = [future.result(timeout=20) for future in futures]  # sequentially they would take 30 s
    assert outcomes == ["database is locked"] * 6
    other.rollback()
    other.close()
    assert outcome(7) == "written"
    assert stored_ids(database) == {7}


class TestWriteAsync:
    """Units of work that an event loop waits for."""

    def test_result_is_returned_after_the_commit(self, database: Database) -> None:
        def work(connection: Connection) -> int:
            return int(connection.execute(text("INSERT INTO parent VALUES (5) RETURNING id")).scalar_one()) + 1

        async def run() -> tuple[int, set[int]]:
            return await database.write_async(work), stored_ids(database)

        assert asyncio.run(run()) == (6, {5})

    def test_error_is_raised_and_undoes_only_its_own_changes(self, database: Database) -> None:
        def work(number: int) -> Callable[[Connection], None]:
            def insert_even(connection: Connection) -> None:
                connection.execute(text(f"INSERT INTO parent VALUES ({number})"))
                if number % 2:
                    raise ZeroDivisionError

            return insert_even

        async def run() -> list[type[BaseException] | None]:
            units = [database.write_async(work(number)) for number in range(6)]
            outcomes = await asyncio.gather(*units, return_exceptions=True)
            return [type(outcome) if isinstance(outcome, BaseException) else None for outcome in outcomes]

        assert asyncio.run(run()) == [None, ZeroDivisionError] * 3
        assert stored_ids(database) == {0, 2, 4}

    def test_cancelled_unit_that_waits_is_not_run(self, database: Database) -> None:
        async def run() -> None:
            gate, begun = threading.Event(), threading.Event()

            def hold(_: Connection) -> None:
                begun.set()
                assert gate.wait(30)

            first = asyncio.create_task(database.write_async(hold))
            await asyncio.to_thread(begun.wait, 30)
            second = asyncio.create_task(
                database.write_async(lambda connection: connection.execute(text("INSERT INTO parent VALUES (2)")))
            )
            await asyncio.sleep(0.01)
            second.cancel()
            with suppress(asyncio.CancelledError):
                await second
            gate.set()
            await first

        asyncio.run(run())
        assert stored_ids(database) == set()


@pytest.mark.parametrize("flushed", [True, False], ids=["flush", "statement"])
def test_full_disk_is_the_error_of_every_writer_in_the_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flushed: bool
) -> None:
    """SQLite then ends the whole transaction; the savepoints that no longer exist are not the reason."""
    monkeypatch.setattr(engine, "_PRAGMAS", (*engine._PRAGMAS, "max_page_count=8"))
    database = Database(f"sqlite:///{tmp_path}/full.db")
    with database.write() as session:
        Row.metadata.create_all(session.connection())

    def fill(session: Session) -> None:
        for _ in range(20):
            row = {"text": "x" * 5000}
            if flushed:
                session.add(Row(**row))
                session.flush()  # one row a statement: SQLite undoes a longer one without ending the transaction
            else:
                session.execute(text("INSERT INTO written_row (text) VALUES (:text)"), row)

    def insert_row(session: Session) -> None:
        session.add(Row(text="small"))

    for future in Group(database, insert_row, fill).futures:
        error = future.exception()
        assert isinstance(error, OperationalError)
        assert isinstance(error.orig, sqlite3.OperationalError)
        assert error.orig.sqlite_errorcode == sqlite3.SQLITE_FULL
    with pytest.raises(OperationalError, match="full"), database.write() as session:
        fill(session)
    write(database, insert_row)
    with database.read() as session:
        assert list(session.scalars(text("SELECT text FROM written_row"))) == ["small"]
    database.dispose()
