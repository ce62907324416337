"""A supervisor with its heartbeat on the fake backend, and a check that no process is left."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from core.protocol.worker import Registration
from tests.waiting import until
from tests.worker.fake import FakeBackend
from worker.artifact_transfer import ArtifactTransfer
from worker.attempt_runner import SupervisorConfig
from worker.devices import Devices, training_environment
from worker.gpus import GpuGuard, GpuMonitor
from worker.health import Health
from worker.heartbeat import HeartbeatThread
from worker.supervisor import Supervisor
from worker.training_monitor import TimeLimits

STANDIN = (sys.executable, str(Path(__file__).with_name("standin.py")))
WORKER_ID = "11111111-2222-3333-4444-555555555555"


class Rig:
    """One worker in this process.

    Attributes:
        behaviour: Behaviour of the trainings started from now on.
    """

    def __init__(
        self,
        artifacts: Path,
        slots: int = 1,
        limits: TimeLimits | None = None,
        lease: float = 60.0,
        gpus: int = 0,
        monitor: GpuMonitor | None = None,
        transfer: ArtifactTransfer | None = None,
        command: Sequence[str] = STANDIN,
        group_command: Sequence[str] | None = None,
    ) -> None:
        self.backend = FakeBackend(lease=lease)
        self.devices = Devices(tuple(map(str, range(gpus))))
        self.artifacts = artifacts
        self.behaviour = "succeed"
        self.supervisor = Supervisor(
            self.backend,
            SupervisorConfig(
                worker_id=WORKER_ID,
                artifacts=artifacts,
                command=command,
                environment=self._environment,
                slots=slots,
                gpus=gpus,
                group_command=group_command,
                gpu_guard=GpuGuard(monitor, WORKER_ID) if monitor else None,
                disk_full=lambda: self.health.disk_full,
                transfer=transfer,
                limits=limits or TimeLimits(grace=20.0, margin=5.0, linger=1.0, report=1.0),
            ),
        )
        registration = Registration(worker_id=WORKER_ID, name="rig", host="here", slots=slots, device="cpu")
        self.health = Health()
        self.heartbeat = HeartbeatThread(
            self.backend,
            registration,
            self.supervisor,
            health=lambda: self.health,
            heartbeat_file=artifacts / "alive",
        )

    def start(self) -> FakeBackend:
        self.heartbeat.start()
        return self.backend

    def run(self, behaviour: str) -> FakeBackend:
        """Train one run to its end."""
        self.behaviour = behaviour
        self.backend.add()
        self.start()
        until(lambda: self.backend.outcomes, "an outcome")
        return self.backend

    def folder(self, run_id: str = "run-1", attempt: int = 1) -> Path:
        return self.artifacts / "runs" / run_id / f"attempt-{attempt}"

    def ready(self, run_id: str = "run-1", attempt: int = 1) -> None:
        """Wait until a training has started."""
        until((self.folder(run_id, attempt) / "ready").exists, "the training has started")

    def idle(self) -> bool:
        """Wait until no run is leased."""
        return bool(until(lambda: self.supervisor.wait(0.1), "idle"))

    def close(self) -> None:
        self.supervisor.begin_shutdown()
        assert self.supervisor.wait(60)
        self.heartbeat.stop()

    def _environment(self, gpus: Sequence[int]) -> dict[str, str]:
        environment = training_environment(
            self.devices, gpus, threads=1, share=1, worker_id=WORKER_ID, cache=Path("cache")
        )
        return {**environment, "STANDIN": self.behaviour}


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
def no_process_left(tmp_path: Path) -> Iterator[None]:
    """Check after every test that no process with its folder is left, without using the worker's marks."""
    yield
    until(lambda: not processes_of(tmp_path), f"nothing is left: {processes_of(tmp_path)}", seconds=20)


def processes_of(folder: Path) -> list[int]:
    """Return the ids of processes whose command line contains the folder."""
    pids = []
    for process in psutil.process_iter(["cmdline", "status"]):
        # None if the process has ended or is another user's.
        command = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(folder) in word for word in command):
            pids.append(process.pid)
    return pids
