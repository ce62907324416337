"""The last use of a token: noted in memory, written rarely and never by a request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import OperationalError

from backend.access.last_use import INTERVAL_SECONDS, LastUse
from backend.db import Database
from backend.db.models import Token
from tests.backend.access.clocks import FakeClock
from tests.backend.lab import Lab, metrics, plain, started


def last_used(database: Database, name: str) -> datetime | None:
    with database.read() as session:
        return session.scalars(select(Token.last_used_at).where(Token.name == name)).one()


def token_id(database: Database, name: str) -> str:
    with database.read() as session:
        return session.scalars(select(Token.id).where(Token.name == name)).one()


@contextmanager
def token_updates(database: Database) -> Iterator[list[str]]:
    """Yield the statements that change tokens meanwhile."""
    statements: list[str] = []

    def record(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement.upper().startswith("UPDATE TOKENS"):
            statements.append(statement)

    event.listen(database.engine, "before_cursor_execute", record)
    try:
        yield statements
    finally:
        event.remove(database.engine, "before_cursor_execute", record)


def test_a_use_is_written_once_in_five_minutes(database: Database) -> None:
    clock = FakeClock()
    uses = LastUse(database, clock)
    worker = token_id(database, "worker")

    async def work() -> list[datetime | None]:
        times = []
        for seconds in (0.0, 1.0, INTERVAL_SECONDS - 2.0, 1.5):
            clock.now += seconds
            for _ in range(100):
                uses.note(worker)
            await uses.flush()
            times.append(last_used(database, "worker"))
        return times

    with token_updates(database) as statements:
        first, second, third, fourth = asyncio.run(work())
    assert first is not None
    assert first == second == third
    assert fourth is not None
    assert fourth > first
    assert len(statements) == 2
    assert last_used(database, "admin") is None


def test_no_request_writes_the_last_use(lab: Lab, database: Database) -> None:
    """A claim, a heartbeat and reports only look into a dictionary."""
    with token_updates(lab.app.state.database) as statements:
        lab.register()
        lab.submit(plain())
        claim = lab.claim()
        lab.heartbeat(claim)
        for seq in range(2, 12):
            lab.events(claim, *([started()] if seq == 2 else []), metrics(seq, seq, {"train/loss": 1.0}))
        assert statements == []
        items = {item["name"]: item for item in lab.admin.get("/api/v1/tokens").json()["items"]}
        assert len(statements) == 1, "the list writes what is noted, so that it is current"
    for name in ("admin", "worker"):
        used = datetime.fromisoformat(items[name]["last_used_at"])
        assert abs(datetime.now(UTC) - used) < timedelta(minutes=5)


def test_a_refused_token_leaves_no_trace(lab: Lab) -> None:
    made = lab.admin.post("/api/v1/tokens", json={"name": "unused", "scopes": ["read"]}).json()
    lab.admin.delete(f"/api/v1/tokens/{made['id']}")
    lab.admin.get("/api/v1/runs", headers={"Authorization": f"Bearer {made['token']}"})
    items = {item["name"]: item for item in lab.admin.get("/api/v1/tokens").json()["items"]}
    assert items["unused"]["last_used_at"] is None


def test_a_database_that_does_not_answer_delays_the_write(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    uses = LastUse(database)
    uses.note(token_id(database, "admin"))

    async def fails(_: object) -> None:
        raise OperationalError("UPDATE", {}, Exception("the disk is full"))

    with monkeypatch.context() as broken:
        broken.setattr(database, "write_async", fails)
        asyncio.run(uses.flush())
    assert last_used(database, "admin") is None
    asyncio.run(uses.flush())
    assert last_used(database, "admin") is not None


def test_uses_are_written_when_the_backend_stops(database: Database) -> None:
    async def run() -> None:
        uses = LastUse(database)
        stop = asyncio.Event()
        task = asyncio.create_task(uses.run_until(stop))
        await asyncio.sleep(0)
        uses.note(token_id(database, "admin"))
        stop.set()
        await task

    asyncio.run(run())
    assert last_used(database, "admin") is not None
