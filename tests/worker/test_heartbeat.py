"""Registration and heartbeat."""

from __future__ import annotations

from tests.waiting import until
from tests.worker.conftest import Rig


def test_registers_once_the_backend_is_up(rig: Rig) -> None:
    rig.backend.down = True
    rig.backend.add()
    rig.start()
    until((rig.artifacts / "alive").exists, "the heartbeat file, also while nobody answers")
    assert rig.backend.registrations == []
    assert rig.supervisor.run_next() == 0
    rig.backend.down = False
    until(lambda: rig.backend.outcomes, "the run is done")
    assert len(rig.backend.registrations) == 1


def test_registers_anew_where_the_backend_forgot_it(rig: Rig) -> None:
    rig.start()
    until(lambda: rig.backend.heartbeats)
    rig.backend.forgotten = True
    until(lambda: len(rig.backend.registrations) == 2, "a second registration")
    rig.backend.add()
    until(lambda: rig.backend.outcomes, "work goes on")


def test_reply_nudges_where_the_broker_is_deaf(rig: Rig) -> None:
    rig.start()
    until(lambda: rig.backend.heartbeats)
    rig.backend.add()
    until(lambda: rig.backend.outcomes, "claimed without any nudge")


def test_names_every_run_that_is_held(rig: Rig) -> None:
    rig.behaviour = "train"
    rig.backend.add(attempt=3)
    rig.start()
    held = until(lambda: rig.backend.heartbeats and rig.backend.heartbeats[-1].holding, "a run is named")
    assert [(item.run_id, item.attempt) for item in held] == [("run-1", 3)]
