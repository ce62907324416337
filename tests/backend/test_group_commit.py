"""Writers on SQLite that share a commit: each keeps or loses its own, and none goes on before all is on the disk."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from backend.db import Database
from backend.db.group_commit import _TOGETHER, GroupCommit

Writes = Callable[[Session], None]


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/x.db")
    with database.write() as session:
        session.execute(text("CREATE TABLE parent (id INTEGER PRIMARY KEY)"))
        session.execute(text("CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED)"))
    yield database
    database.dispose()


def kept(database: Database) -> set[int]:
    with database.read() as session:
        return set(session.scalars(text("SELECT id FROM parent")))


def adds(number: int) -> Writes:
    def work(session: Session) -> None:
        session.execute(text(f"INSERT INTO parent VALUES ({number})"))

    return work


def fails(number: int) -> Writes:
    def work(session: Session) -> None:
        adds(number)(session)
        raise ZeroDivisionError

    return work


def without_parent(session: Session) -> None:
    """What the database finds out with the commit."""
    session.execute(text("INSERT INTO child VALUES (77)"))


def undone_by_the_database(session: Session) -> None:
    """As SQLite does by itself where the disk is full."""
    driver: Any = session.connection().connection.driver_connection
    driver.execute("ROLLBACK")


class Together:
    """Writers that all wait while the first of them has its turn, then follow one another."""

    def __init__(self, database: Database, *works: Writes) -> None:
        self.commits = 0
        waiting: GroupCommit | None = database._writers
        assert waiting is not None
        gate, first_in = threading.Event(), threading.Event()

        def count(_: object) -> None:
            self.commits += 1

        def write(work: Writes, *, first: bool = False) -> None:
            with database.write() as session:
                work(session)
                if first:
                    first_in.set()
                    assert gate.wait(30)

        event.listen(database.engine, "commit", count)
        with ThreadPoolExecutor(len(works)) as pool:
            self.futures: list[Future[None]] = [pool.submit(write, works[0], first=True)]
            assert first_in.wait(30)
            for number, work in enumerate(works[1:], 1):
                self.futures.append(pool.submit(write, work))
                while len(waiting._waiting) < number:  # in this order
                    threading.Event().wait(0.001)
            gate.set()
        event.remove(database.engine, "commit", count)

    def error(self, index: int) -> type[BaseException] | None:
        found = self.futures[index].exception()
        return type(found) if found else None


def test_those_who_waited_share_one_commit(database: Database) -> None:
    together = Together(database, *(adds(number) for number in range(8)))
    assert [together.error(index) for index in range(8)] == [None] * 8
    assert kept(database) == set(range(8))
    assert together.commits == 1


def test_a_group_has_an_end(database: Database) -> None:
    together = Together(database, *(adds(number) for number in range(_TOGETHER + 1)))
    assert kept(database) == set(range(_TOGETHER + 1))
    assert together.commits == 2


@pytest.mark.parametrize("failing", range(1, 4))
def test_who_fails_loses_only_its_own(database: Database, failing: int) -> None:
    works = [adds(number) for number in range(4)]
    works[failing] = fails(failing)
    together = Together(database, *works)
    assert [together.error(index) for index in range(4)] == [
        ZeroDivisionError if index == failing else None for index in range(4)
    ]
    assert kept(database) == {0, 1, 2, 3} - {failing}


def test_a_first_that_fails_takes_nobody_along(database: Database) -> None:
    with suppress(ZeroDivisionError), database.write() as session:
        fails(0)(session)
    with database.write() as session:
        adds(1)(session)
    assert kept(database) == {1}


def test_nobody_goes_on_before_the_commit(database: Database) -> None:
    answered = threading.Event()
    seen: list[bool] = []

    def first(session: Session) -> None:
        adds(0)(session)

    def second(session: Session) -> None:
        seen.append(answered.wait(0.2) or 0 in kept(database))
        adds(1)(session)

    def answer(_: object) -> None:
        answered.set()

    event.listen(database.engine, "commit", answer)
    Together(database, first, second)
    assert seen == [False]
    assert answered.is_set()


def test_a_refused_commit_is_told_to_all(database: Database) -> None:
    together = Together(database, adds(0), without_parent, adds(2))
    assert [together.error(index) for index in range(3)] == [IntegrityError] * 3
    assert kept(database) == set()
    with database.write() as session:
        adds(3)(session)
    assert kept(database) == {3}


def test_a_transaction_that_the_database_undid_is_told_to_all_in_it(database: Database) -> None:
    together = Together(database, adds(0), undone_by_the_database, adds(2))
    assert [together.error(index) for index in range(3)] == [OperationalError, OperationalError, None]
    assert kept(database) == {2}


def test_a_database_that_cannot_be_opened_stops_nobody_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = database._writers
    assert writers is not None
    writers.close()
    with monkeypatch.context() as patch:
        patch.setattr(writers._engine, "connect", lambda: (_ for _ in ()).throw(OperationalError("", None, OSError())))
        with pytest.raises(OperationalError), database.write():
            pass
    with database.write() as session:
        adds(1)(session)
    assert kept(database) == {1}


def test_a_transaction_that_cannot_begin_is_sqlalchemys_error(database: Database) -> None:
    with database.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN")
        with pytest.raises(OperationalError, match="within a transaction"):
            connection.begin()
        driver.execute("ROLLBACK")


def test_a_writer_that_cannot_begin_leaves_a_connection_that_can(database: Database) -> None:
    writers = database._writers
    assert writers is not None
    driver: Any = writers._connected().connection.driver_connection
    driver.execute("BEGIN")
    with pytest.raises(OperationalError, match="within a transaction"), database.write():
        pass
    with database.write() as session:
        adds(1)(session)
    assert kept(database) == {1}


def asked(database: Database) -> set[int]:
    """As ``kept``, by the driver itself."""
    with database.driver() as driver:
        return {number for (number,) in driver.execute("SELECT id FROM parent").fetchall()}


def test_a_question_sees_what_is_on_the_disk_and_no_more(database: Database) -> None:
    assert asked(database) == set()
    with database.write() as session:
        adds(1)(session)
        assert asked(database) == set()
    assert asked(database) == {1}


def waiting_writer(pool: ThreadPoolExecutor, database: Database, work: Writes) -> Future[None]:
    """Another writer, which has begun to wait for its turn."""
    writers = database._writers
    assert writers is not None

    def write() -> None:
        with database.write() as session:
            work(session)

    writing = pool.submit(write)
    while not writers._waiting:
        threading.Event().wait(0.001)
    return writing


def test_who_writes_during_a_question_has_its_turn_after_it(database: Database) -> None:
    with ThreadPoolExecutor(1) as pool:
        with database.driver() as driver:
            writing = waiting_writer(pool, database, adds(1))
            assert not driver.in_transaction
        writing.result(30)
    assert asked(database) == {1}


def test_a_database_that_is_closed_leaves_whoever_writes_to_the_end(database: Database) -> None:
    with ThreadPoolExecutor(1) as pool, database.write() as session:
        adds(1)(session)
        waiting = waiting_writer(pool, database, adds(2))
        database.dispose()
    waiting.result(30)
    assert kept(database) == {1, 2}


def test_a_transaction_that_a_block_begins_by_itself_is_nobody_elses(database: Database) -> None:
    with database.writing() as connection:
        connection.rollback()
        driver: Any = connection.connection.driver_connection
        driver.execute("BEGIN")
        driver.execute("INSERT INTO parent VALUES (9)")
    assert asked(database) == set()
    with database.write() as session:
        adds(1)(session)
    assert kept(database) == {1}


@pytest.mark.parametrize("late", [False, True])
def test_who_gives_up_waiting_leaves_the_turn_to_the_next(database: Database, late: bool) -> None:
    """Ctrl-C reaches a thread that waits, before its turn has come or just after."""
    writers = database._writers
    assert writers is not None
    interrupted = threading.Event()

    def given_up() -> None:
        turn_came = threading.Event.wait

        def wait(self: threading.Event, timeout: float | None = None) -> bool:
            if late:
                turn_came(self, 30)
            else:
                assert len(writers._waiting) == 1
            interrupted.set()
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr("backend.db.group_commit._Turn", lambda: _Interrupted(wait))
            with database.write() as session:
                adds(9)(session)

    with ThreadPoolExecutor(1) as pool, database.write() as session:
        adds(0)(session)
        pool.submit(given_up)
        if late:
            while not writers._waiting:
                threading.Event().wait(0.001)
        else:
            assert interrupted.wait(30)
    with database.write() as session:
        adds(1)(session)
    assert kept(database) == {0, 1}


class _Interrupted:
    """A place in the queue whose waiting ends as told."""

    def __init__(self, wait: Callable[[threading.Event], bool]) -> None:
        self.group = None
        self.came = threading.Event()
        self.came.wait = lambda timeout=None: wait(self.came) if timeout is None else True  # type: ignore[method-assign]


def test_writers_that_wait_while_another_program_holds_the_lock_are_refused_together(
    database: Database, tmp_path: Path
) -> None:
    other = sqlite3.connect(tmp_path / "x.db")
    other.execute("BEGIN IMMEDIATE")

    def tries(number: int) -> str:
        try:
            with database.write() as session:
                adds(number)(session)
        except OperationalError as error:
            return str(error.orig)
        return "written"

    with ThreadPoolExecutor(6) as pool:
        started = [pool.submit(tries, number) for number in range(6)]
        said = [future.result(timeout=20) for future in started]  # one after the other they would take 30 s
    assert said == ["database is locked"] * 6
    other.rollback()
    other.close()
    assert tries(7) == "written"
    assert kept(database) == {7}
