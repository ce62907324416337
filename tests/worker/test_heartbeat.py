"""Registration and heartbeats."""

from __future__ import annotations

from tests.waiting import until
from tests.worker.conftest import Rig


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
