"""The reconciler: expired leases, silent workers and lost nudges."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy import update
from sqlalchemy.orm import Session

from backend.db import Database, now
from backend.db.models import Run, Worker
from backend.queue.nudge import Nudger
from backend.queue.reconciler import Reconciler, send_nudges
from backend.settings import Settings
from common.celery_config import NUDGE_TASK
from tests import services
from tests.backend.lab import Json, Lab, checkpoint, plain, started
from tests.waiting import until


@pytest.fixture
def worker_lab(lab: Lab) -> Lab:
    """Return a backend with a registered worker."""
    lab.register()
    return lab


def expire_leases(database: Database) -> None:
    """Move the end of every lease into the past."""
    with database.write() as session:
        session.execute(update(Run).values(lease_expires_at=now(session) - timedelta(hours=1)))


def timed(lab: Lab, *seconds: float) -> Reconciler:
    """Return a reconciler whose monotonic clock gives these seconds, one per pass."""
    state, ticks = lab.app.state, iter(seconds)
    return Reconciler(state.database, state.nudger, state.settings, monotonic=lambda: next(ticks))


class Clock:
    """The database's clock, which the test can set forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def now(self, session: Session) -> datetime:
        return now(session) + timedelta(seconds=self.ahead)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in ("reconciler", "claim", "worker_registry"):
        monkeypatch.setattr(f"backend.queue.{module}.now", clock.now)
    return clock


def test_clock_set_forward_requeues_no_run(lab: Lab, clock: Clock) -> None:
    lab.register()
    lab.submit(plain(runs=2))
    renewed, silent = lab.claim(), lab.claim()
    passes = timed(lab, 0.0, 310.0, 320.0, 630.0)
    passes.run_once()
    clock.ahead = 310.0
    assert lab.orders(renewed, silent) == ["continue", "continue"]
    assert passes.run_once().requeued == 0
    clock.ahead = 4000.0  # every lease seems to have expired
    assert passes.run_once().requeued == 0
    assert lab.orders(renewed) == ["continue"]
    clock.ahead = 4310.0
    assert lab.orders(renewed) == ["continue"]
    assert passes.run_once().requeued == 1
    assert (lab.run(renewed["run_id"])["state"], lab.run(silent["run_id"])["state"]) == ("running", "queued")


def test_clock_set_back_delays_nothing(make_lab: Callable[..., Lab], clock: Clock) -> None:
    lab = make_lab(retry_delay_seconds=100.0)
    lab.register()
    lab.submit(plain(runs=2))
    clock.ahead = 3600.0
    lost, delayed = lab.claim(), lab.claim()
    with lab.app.state.database.write() as session:
        session.get_one(Run, delayed["run_id"]).state = "queued"
        session.get_one(Run, delayed["run_id"]).not_before = clock.now(session) + timedelta(hours=1)
    passes = timed(lab, 0.0, 10.0, 320.0, 630.0)
    passes.run_once()
    clock.ahead = 0.0
    passes.run_once()
    with lab.app.state.database.read() as session:
        limit = now(session) + timedelta(seconds=601)
        for claim in (lost, delayed):
            run = session.get_one(Run, claim["run_id"])
            assert (run.lease_expires_at if claim is lost else run.not_before) < limit
    clock.ahead = 310.0
    assert passes.run_once().requeued == 1


def test_run_that_repeatedly_loses_workers_is_delayed_and_then_fails(lab: Lab) -> None:
    run_id = lab.submit(plain())["runs"][0]["id"]
    lab.register()
    for attempt in range(1, 6):
        if attempt > 2:
            assert lab.try_claim() is None, "delayed after each loss"
            with lab.app.state.database.write() as session:
                assert session.get_one(Run, run_id).not_before is not None
                session.get_one(Run, run_id).not_before = None
        lab.claim()
        lab.register()  # the run has killed its worker, which is restarted
    run = lab.run(run_id)
    assert (run["state"], run["attempt"]) == ("failed", 5)
    assert run["reason"].endswith("was restarted; failed after 5 attempts in a row without a new checkpoint")
    assert lab.try_claim() is None


def test_run_with_an_expired_lease_is_requeued(worker_lab: Lab, database: Database) -> None:
    worker_lab.submit(plain())
    claim = worker_lab.claim()
    worker_lab.events(claim, started(1), checkpoint(2, 10))
    expire_leases(database)
    passes = timed(worker_lab, 0.0, 1000.0)
    passes.run_once()
    assert passes.run_once().requeued == 1
    run = worker_lab.run(claim["run_id"])
    assert (run["state"], run["attempts"][0]["outcome"]) == ("queued", "lost")
    assert "lease" in run["reason"]
    assert worker_lab.orders(claim) == ["lost"]
    assert worker_lab.post_finish(claim, "failed").status_code == 409
    again = worker_lab.claim()
    assert (again["run_id"], again["attempt"]) == (claim["run_id"], 2)
    assert again["checkpoint"]["path"] == f"{claim['folder']}/checkpoint.pt"


def test_no_run_is_requeued_within_one_lease_of_the_start(worker_lab: Lab, database: Database) -> None:
    worker_lab.submit(plain())
    claim = worker_lab.claim()
    expire_leases(database)
    passes = timed(worker_lab, 0.0, worker_lab.app.state.settings.lease_seconds - 1)
    for _ in range(2):
        assert passes.run_once().requeued == 0, "leases could not be renewed while the backend was down"
    assert worker_lab.orders(claim) == ["continue"]


def test_run_with_a_renewed_lease_is_kept(lab: Lab, database: Database) -> None:
    lab.register()
    lab.submit(plain(runs=2))
    renewed, lost = lab.claim(), lab.claim()
    expire_leases(database)
    passes = timed(lab, 0.0, 1000.0)
    assert lab.orders(renewed) == ["continue"]
    passes.run_once()
    assert passes.run_once().requeued == 1
    assert (lab.run(renewed["run_id"])["state"], lab.run(lost["run_id"])["state"]) == ("running", "queued")


def test_run_being_cancelled_is_cancelled_when_its_lease_expires(worker_lab: Lab, database: Database) -> None:
    worker_lab.submit(plain())
    claim = worker_lab.claim()
    assert worker_lab.cancel(claim["run_id"])["state"] == "cancelling"
    expire_leases(database)
    passes = timed(worker_lab, 0.0, 1000.0)
    passes.run_once()
    passes.run_once()
    assert worker_lab.run(claim["run_id"])["state"] == "cancelled"


def test_run_that_kills_every_worker_finally_fails(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(max_attempts=2)
    run_id = lab.submit(plain())["runs"][0]["id"]
    for _ in range(2):
        lab.register()
        lab.claim()
    lab.register()
    run = lab.run(run_id)
    assert (run["state"], run["attempt"]) == ("failed", 2)
    assert "restarted" in run["reason"]


def test_silent_worker_is_offline_until_its_next_heartbeat(worker_lab: Lab, database: Database) -> None:
    def state() -> str:
        return str(worker_lab.workers()[0]["state"])

    assert state() == "online"
    with database.write() as session:
        session.execute(update(Worker).values(last_heartbeat=now(session) - timedelta(hours=1)))
    passes = timed(worker_lab, 0.0, 10.0)
    passes.run_once()
    assert state() == "offline"
    assert passes.run_once().offline == 0, "counted once"
    worker_lab.heartbeat()
    assert state() == "online"


class Nudges(Nudger):
    """Counts nudges instead of sending them."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.sent = 0

    def send(self, count: int) -> None:
        self.sent += count


def test_nudges_are_limited_by_eligible_runs_and_free_slots(lab: Lab, database: Database, settings: Settings) -> None:
    def sent() -> int:
        nudges = Nudges(settings)
        assert send_nudges(database, nudges) == nudges.sent
        return nudges.sent

    lab.submit(plain("cpu", runs=3))
    lab.submit(plain("gpu", runs=3, resources={"device": "gpu"}))
    assert sent() == 0, "no worker is online"
    lab.register(slots=2)
    assert sent() == 2
    lab.claim()
    assert sent() == 1
    lab.claim()
    assert sent() == 0
    lab.register("gpu-worker", device="gpu", slots=10)
    assert sent() == 4
    lab.submit(plain("many", runs=30))
    lab.register(slots=50)
    assert sent() == 8, "a few per worker: a nudged worker claims as many runs as it can"
    with database.write() as session:
        session.execute(update(Worker).values(state="offline"))
    assert sent() == 0


def test_nudge_carries_no_work(make_lab: Callable[..., Lab], settings: Settings) -> None:
    lab = make_lab(broker_url="filesystem://")
    lab.register(slots=2)
    lab.submit(plain(runs=2))
    folder = settings.broker_folder / "messages"
    until(lambda: len(list(folder.glob("*"))) == 2, "one message per run")
    messages = list(folder.iterdir())
    headers = json.loads(messages[0].read_text())["headers"]
    assert headers["task"] == NUDGE_TASK
    assert headers["argsrepr"] == "()"
    lab.app.state.nudger.send(2)
    assert len(list(folder.iterdir())) == 2, "two messages are not consumed yet"


def test_consumed_messages_are_deleted_later(settings: Settings) -> None:
    nudger = Nudger(settings.model_copy(update={"broker_url": "filesystem://"}))
    nudger.send(1)
    processed = settings.broker_folder / "processed"
    (processed / "new").touch()
    old = processed / "old"
    old.touch()
    os.utime(old, (0, 0))
    nudger.prune()
    assert [path.name for path in processed.iterdir()] == ["new"]
    nudger.close()


def test_unreachable_broker_fails_no_request(make_lab: Callable[..., Lab]) -> None:
    lab = make_lab(broker_url=f"redis://127.0.0.1:{services.free_port()}/0")
    lab.register()
    assert lab.submit(plain())["counts"]["queued"] == 1
    claim: Json = lab.claim()
    lab.finish(claim, "failed", reason="x")
    assert lab.retry(claim["run_id"])["state"] == "queued"
    assert Reconciler(lab.app.state.database, lab.app.state.nudger, lab.app.state.settings).run_once().nudges == 1


@pytest.mark.services
def test_nudges_reach_redis(make_lab: Callable[..., Lab]) -> None:
    from redis import Redis

    try:
        with services.redis() as url:
            lab = make_lab(broker_url=url)
            lab.register(slots=3)
            lab.submit(plain(runs=2))
            with Redis.from_url(url) as redis:
                until(lambda: redis.llen("dkd") == 2, "one message per run")
            lab.app.state.nudger.close()
    except services.ServiceMissing as missing:
        pytest.skip(str(missing))
