"""A supervisor with its heartbeat against the fake backend, and a way to see that no process is left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from core.protocol.worker import Registration
from tests.waiting import until
from tests.worker.fake import FakeBackend
from worker.artifact_transfer import Transfer
from worker.devices import Devices, training_environment
from worker.gpus import Guard, Monitor
from worker.health import Condition
from worker.heartbeat import HeartbeatThread
from worker.supervisor import Plan, Supervisor
from worker.training_monitor import Limits

STANDIN = (sys.executable, str(Path(__file__).with_name("standin.py")))
WORKER_ID = "11111111-2222-3333-4444-555555555555"


class Rig:
    """One worker in this process.

    Attributes:
        behaviour: of the trainings started from now on.
    """

    def __init__(
        self,
        artifacts: Path,
        slots: int = 1,
        limits: Limits | None = None,
        lease: float = 60.0,
        gpus: int = 0,
        monitor: Monitor | None = None,
        transfer: Transfer | None = None,
    ) -> None:
        self.backend = FakeBackend(lease=lease)
        self.devices = Devices(tuple(map(str, range(gpus))))
        self.artifacts = artifacts
        self.behaviour = "succeed"
        self.command: tuple[str, ...] = STANDIN
        self.supervisor = Supervisor(
            self.backend,
            Plan(
                worker_id=WORKER_ID,
                artifacts=artifacts,
                command=self.command,
                environment=self._environment,
                slots=slots,
                gpus=gpus,
                guard=Guard(monitor, WORKER_ID) if monitor else None,
                disk_full=lambda: self.condition.disk_full,
                transfer=transfer,
                limits=limits or Limits(grace=20.0, margin=5.0, linger=1.0, report=1.0),
            ),
        )
        registration = Registration(worker_id=WORKER_ID, name="rig", host="here", slots=slots, device="cpu")
        self.condition = Condition()
        self.heartbeat = HeartbeatThread(
            self.backend,
            registration,
            self.supervisor,
            condition=lambda: self.condition,
            file=artifacts / "alive",
        )

    def start(self) -> FakeBackend:
        self.heartbeat.start()
        return self.backend

    def run(self, behaviour: str) -> FakeBackend:
        """Have one run trained to its end."""
        self.behaviour = behaviour
        self.backend.add()
        self.start()
        until(lambda: self.backend.outcomes, "an outcome")
        return self.backend

    def folder(self, run_id: str = "run-1", attempt: int = 1) -> Path:
        return self.artifacts / "runs" / run_id / f"attempt-{attempt}"

    def ready(self, run_id: str = "run-1", attempt: int = 1) -> None:
        """Wait until a training is under way."""
        until((self.folder(run_id, attempt) / "ready").exists, "the training is under way")

    def idle(self) -> bool:
        """Wait until no run is held."""
        return bool(until(lambda: self.supervisor.wait(0.1), "idle"))

    def close(self) -> None:
        self.supervisor.leave()
        assert self.supervisor.wait(60)
        self.heartbeat.stop()

    def _environment(self, gpus: Sequence[int]) -> dict[str, str]:
        given = training_environment(self.devices, gpus, threads=1, share=1, worker_id=WORKER_ID, cache=Path("cache"))
        return {**given, "STANDIN": self.behaviour}


@pytest.fixture
def make_rig(tmp_path: Path) -> Iterator[Callable[..., Rig]]:
    made: list[Rig] = []

    def make(**more: object) -> Rig:
        made.append(Rig(tmp_path / "artifacts", **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for rig in made:
        rig.close()


@pytest.fixture
def rig(make_rig: Callable[..., Rig]) -> Rig:
    return make_rig()


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    """After every test: no process that names its folder is left. Independent of the marks that the worker uses."""
    yield
    until(lambda: not processes_of(tmp_path), f"nothing is left: {processes_of(tmp_path)}", seconds=20)


def processes_of(folder: Path) -> list[int]:
    """Living processes whose command line names a folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        # None where the process has gone or is somebody else's.
        command = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(folder) in word for word in command):
            found.append(process.pid)
    return found
