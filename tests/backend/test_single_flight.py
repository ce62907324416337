"""Requests with equal keys share a computation that begins after each of them has arrived."""

from __future__ import annotations

import asyncio
import threading

import pytest
from sqlalchemy import event

from backend.api.single_flight import SingleFlight
from tests.backend.concurrently import concurrently
from tests.backend.lab import Lab, plain
from tests.backend.test_people import person


class Work:
    """Counts its calls; each waits until it is let go."""

    def __init__(self) -> None:
        self.calls = 0
        self.started, self.go = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self) -> int:
        self.calls += 1
        number = self.calls
        self.started.release()
        assert self.go.acquire(timeout=60)
        return number


async def started(work: Work) -> None:
    assert await asyncio.to_thread(work.started.acquire, timeout=60)


def test_requests_that_arrive_meanwhile_share_the_next_computation() -> None:
    async def scenario() -> None:
        flights, work = SingleFlight(), Work()
        first = asyncio.create_task(flights.run("key", work))
        await started(work)
        later = [asyncio.create_task(flights.run("key", work)) for _ in range(20)]
        await asyncio.sleep(0)
        assert work.calls == 1
        work.go.release()
        assert await first == 1
        await started(work)
        work.go.release()
        assert set(await asyncio.gather(*later)) == {2}
        while not flights.idle:
            await asyncio.sleep(0.01)

    asyncio.run(scenario())


def test_other_keys_do_not_wait() -> None:
    async def scenario() -> None:
        flights, work, other = SingleFlight(), Work(), Work()
        waiting = asyncio.create_task(flights.run("key", work))
        await started(work)
        other.go.release()
        assert await flights.run("other", other) == 1
        work.go.release()
        await waiting

    asyncio.run(scenario())


def test_client_that_leaves_does_not_end_it_for_others() -> None:
    async def scenario() -> None:
        flights, work = SingleFlight(), Work()
        first = asyncio.create_task(flights.run("key", work))
        await started(work)
        leaves = asyncio.create_task(flights.run("key", work))
        stays = asyncio.create_task(flights.run("key", work))
        await asyncio.sleep(0)
        leaves.cancel()
        work.go.release()
        work.go.release()
        assert (await first, await stays) == (1, 2)

    asyncio.run(scenario())


def test_error_goes_to_all_and_the_next_one_works() -> None:
    def fail() -> int:
        raise ValueError("no")

    async def scenario() -> None:
        flights = SingleFlight()
        results = await asyncio.gather(*(flights.run("key", fail) for _ in range(3)), return_exceptions=True)
        assert [str(result) for result in results] == ["no"] * 3
        assert await flights.run("key", lambda: 7) == 7

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["activity", "workers"])
def test_overview_of_many_is_computed_a_few_times(lab: Lab, path: str) -> None:
    """While one is computed, all others share the next."""
    lab.register()
    lab.submit(plain("first", 3))
    statements: list[str] = []
    engine = lab.app.state.database.engine
    hold = threading.Event()

    def note(_: object, __: object, statement: str, *___: object) -> None:
        if "reserved_run_id" in statement and "FROM workers" in statement:
            statements.append(statement)
            hold.wait(0.5)  # so that the others arrive meanwhile

    event.listen(engine, "before_cursor_execute", note)
    try:
        replies = concurrently(lab, 12, lambda one, _: one.admin.get(f"/api/v1/{path}").json())
    finally:
        event.remove(engine, "before_cursor_execute", note)
    assert all(reply.keys() == replies[0].keys() for reply in replies)
    assert len(statements) < 12


def test_people_of_other_projects_do_not_share_it(lab: Lab) -> None:
    lab.admin.post("/api/v1/projects", json={"name": "secret"})
    anna, eve = person(lab, "anna", secret="submitter"), person(lab, "eve")
    lab.admin.post("/api/v1/experiments", json=plain("hidden"), params={"project": "secret"})
    clients = [anna, eve] * 4
    replies = concurrently(lab, 8, lambda _, index: clients[index].get("/api/v1/activity").json())
    assert ["hidden" in str(reply) for reply in replies] == [True, False] * 4
