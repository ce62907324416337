"""The machine's health."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.waiting import until
from tests.worker.conftest import STANDIN, Rig
from tests.worker.fake import FakeBackend
from worker.health import Health, HealthMonitor, disk_space_problem
from worker.identity import WorkerIdentity
from worker.service import WorkerService
from worker.settings import WorkerSettings


def test_nearly_full_disk_is_a_problem(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert disk_space_problem(tmp_path / "not" / "there" / "yet") == ""
    monkeypatch.setattr("worker.health.shutil.disk_usage", lambda _: SimpleNamespace(free=3 * 2**20))
    assert disk_space_problem(tmp_path) == f"does not claim runs: the disk of {tmp_path} is full, 3 MiB are left"


def test_nothing_is_claimed_while_the_disk_is_full(rig: Rig) -> None:
    rig.health = Health(disk_full=True)
    rig.backend.add()
    rig.start()
    until(lambda: len(rig.backend.heartbeats) > 2, "the worker has been nudged")
    assert rig.supervisor.run_next() == 0
    assert rig.backend.requests == []
    rig.health = Health()
    assert until(rig.backend.outcome, "the disk has space again").outcome == "succeeded"


def test_service_checks_the_disk_of_its_artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.health.shutil.disk_usage", lambda _: SimpleNamespace(free=3 * 2**20))
    settings = WorkerSettings(home=tmp_path, device="cpu", training_command=STANDIN)
    backend = FakeBackend()
    with WorkerIdentity(tmp_path, "node") as identity:
        service = WorkerService(settings, identity, connect=lambda: backend)
        service.start()
        try:
            until(lambda: any(beat.problems for beat in backend.heartbeats), "the problem is reported")
            backend.add()
            assert service.supervisor.run_next() == 0
            assert backend.requests == []
        finally:
            assert service.close()


def test_failing_health_check_is_repeated() -> None:
    healthy: list[bool] = []

    def check() -> Health:
        if not healthy:
            raise ValueError("an error of the driver")
        return Health()

    monitor = HealthMonitor(check, seconds=0.01)
    monitor.start()
    until(lambda: monitor.latest.problems, "the problem is reported")
    healthy.append(True)
    until(lambda: not monitor.latest.problems, "the check succeeds again")
    monitor.stop()
