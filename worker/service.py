"""One worker, put together: who it is, its link to the backend, its supervisor and its heartbeat."""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Callable

import structlog

from client import WorkerClient
from common.home import Home
from common.object_store import ObjectStore
from core.protocol.worker import Registration
from worker.artifact_transfer import Transfer
from worker.backend_link import Link, WorkerApi
from worker.devices import Devices, find_devices, training_environment
from worker.gpus import Guard, find_monitor
from worker.health import Condition, Observer, disk_problem
from worker.heartbeat import HeartbeatThread
from worker.identity import Identity
from worker.process_tree import WORKER_MARK, end_marked
from worker.settings import WorkerSettings
from worker.supervisor import Plan, Supervisor
from worker.training_monitor import Limits

log = structlog.get_logger()

_SWEEP_SECONDS = 10.0


class WorkerService:
    """Runs trainings as long as it is started, whatever the broker does.

    Args:
        chores: called on every heartbeat.
        connect: how the backend is reached; over HTTP unless given.

    Raises:
        DeviceError: the settings ask for a GPU, and there is none.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        identity: Identity,
        *,
        chores: Callable[[], None] = lambda: None,
        connect: Callable[[], WorkerApi] | None = None,
    ) -> None:
        self._settings = settings
        self._identity = identity
        devices = find_devices(settings.device)
        self.slots = settings.slots_on(len(devices.gpus))
        self._gpus = min(self.slots, len(devices.gpus))
        monitor = find_monitor(devices.gpus[: self._gpus])
        self._guard = Guard(monitor, identity.id) if monitor else None
        api = Link(connect or (lambda: WorkerClient(settings.api_url)))
        self.supervisor = Supervisor(api, self._plan(devices))
        self._observer = Observer(self._look)
        self._heartbeat = HeartbeatThread(
            api,
            self._registration(devices),
            self.supervisor,
            chores=chores,
            condition=lambda: self._observer.latest,
            file=settings.heartbeat_file,
        )

    def start(self) -> None:
        """End what an earlier life of this worker left behind, then register and work. Returns at once."""
        left = end_marked(WORKER_MARK, self._identity.id, seconds=_SWEEP_SECONDS)
        if left:
            log.error("processes of an earlier life could not be ended", pids=sorted(left))
        self._observer.start()
        self._heartbeat.start()

    def leave(self) -> None:
        """Begin to leave: nothing more is claimed, and every training writes its checkpoint. Returns at once."""
        self.supervisor.leave()

    def close(self) -> bool:
        """Leave, and wait until every run is handed back. False where that took longer than it may."""
        self.leave()
        settings = self._settings
        # What a kill may take is added to what the settings allow.
        done = self.supervisor.wait(settings.grace_seconds + 2 * settings.report_limit + 30.0)
        self._heartbeat.stop()
        self._observer.stop()
        return done

    def _look(self) -> Condition:
        occupied = self.supervisor.occupied()
        gpus = self._guard.report(occupied) if self._guard else []
        disk = disk_problem(self._settings.artifact_root)
        problems = [disk]
        if not self._settings.share_gpus:
            problems += [
                f"GPU {gpu.index} is left alone: {gpu.foreign} process(es) of somebody else compute on it"
                for gpu in gpus
                if gpu.foreign
            ]
        return Condition(gpus, [problem for problem in problems if problem], disk_full=bool(disk))

    def _plan(self, devices: Devices) -> Plan:
        settings, worker_id = self._settings, self._identity.id
        url = settings.artifact_url
        return Plan(
            worker_id=worker_id,
            artifacts=settings.artifact_root,
            command=settings.training_command,
            environment=lambda gpus: training_environment(
                devices,
                gpus,
                threads=settings.threads,
                share=settings.threads_share(self.slots),
                worker_id=worker_id,
                cache=Home(settings.home).cache,
            ),
            slots=self.slots,
            gpus=self._gpus,
            guard=self._guard,
            share_gpus=settings.share_gpus,
            disk_full=lambda: self._observer.latest.disk_full,
            transfer=Transfer(ObjectStore(url), settings.artifact_root) if url else None,
            limits=Limits(
                grace=settings.grace_seconds,
                margin=settings.margin_seconds,
                linger=settings.linger_seconds,
                report=settings.report_limit,
                gpu=settings.gpu_seconds,
                store=settings.store_seconds,
            ),
        )

    def _registration(self, devices: Devices) -> Registration:
        return Registration(
            worker_id=self._identity.id,
            name=self._identity.name[:100],
            host=socket.gethostname()[:200],
            slots=self.slots,
            device=devices.kind,
            gpus=self._gpus or None,
            labels=list(self._settings.labels),
            version=importlib.metadata.version("dkd-lab"),
        )
