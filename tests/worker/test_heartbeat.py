"""Registration and heartbeats."""

from __future__ import annotations

from core.protocol.worker import Registration
from tests.waiting import until
from tests.worker.conftest import Rig
from tests.worker.fake import refusal
from worker.heartbeat import HeartbeatThread

REGISTRATION = Registration(worker_id="worker-one", name="w", host="h", slots=1, device="cpu")


def test_registers_when_the_backend_responds(rig: Rig) -> None:
    rig.backend.down = True
    rig.backend.add()
    rig.start()
    until((rig.artifacts / "alive").exists, "the heartbeat file, even without a reply")
    assert rig.backend.registrations == []
    assert rig.supervisor.run_next() == 0
    rig.backend.down = False
    until(lambda: rig.backend.outcomes, "the run is done")
    assert len(rig.backend.registrations) == 1


def test_registers_again_if_the_backend_has_lost_the_registration(rig: Rig) -> None:
    rig.start()
    until(lambda: rig.backend.heartbeats)
    rig.backend.forgotten = True
    until(lambda: len(rig.backend.registrations) == 2, "a second registration")
    rig.backend.add()
    until(lambda: rig.backend.outcomes, "the work continues")


def test_heartbeat_reply_replaces_a_lost_nudge(rig: Rig) -> None:
    rig.start()
    until(lambda: rig.backend.heartbeats)
    rig.backend.add()
    until(lambda: rig.backend.outcomes, "claimed without any nudge")


def test_heartbeat_names_every_leased_run(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add(attempt=3)
    rig.start()
    holdings = until(lambda: rig.backend.heartbeats[-1].holding if rig.backend.heartbeats else None, "a leased run")
    assert [(item.run_id, item.attempt) for item in holdings] == [("run-1", 3)]


def test_next_heartbeat_waits_as_long_as_the_backend_demands(rig: Rig) -> None:
    """A limited heartbeat costs nothing: the lease is longer than the longest wait that is obeyed."""
    thread = HeartbeatThread(rig.backend, REGISTRATION, rig.supervisor)
    assert thread._beat() == rig.backend.heartbeat_seconds

    def limited(*_: object) -> None:
        raise refusal(429, "too many requests", retry_after=rig.backend.retry_after)

    rig.backend.heartbeat = limited  # type: ignore[assignment, method-assign]
    for demanded, least, most in ((0.0, 0.1, 0.1), (5.0, 5.0, 7.5), (3600.0, 20.0, 30.0)):
        rig.backend.retry_after = demanded
        assert least <= thread._beat() <= most
