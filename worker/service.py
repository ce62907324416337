"""One worker: its identity, its connection to the backend, its supervisor and its heartbeat."""

from __future__ import annotations

import importlib.metadata
import socket
from collections.abc import Callable, Sequence

import structlog

from client import WorkerClient
from common.home import Home
from common.mps import Mps, MpsStatus
from common.object_store import ObjectStore
from core.protocol.worker import Registration
from worker.artifact_transfer import ArtifactTransfer
from worker.attempt_runner import SupervisorConfig
from worker.backend_link import BackendLink, WorkerApi
from worker.devices import Devices, find_devices, training_environment
from worker.gpus import GpuGuard, find_gpu_monitor
from worker.health import Health, HealthMonitor, disk_space_problem
from worker.heartbeat import HeartbeatThread
from worker.identity import WorkerIdentity
from worker.process_tree import WORKER_MARK, kill_marked
from worker.settings import WorkerSettings
from worker.supervisor import Supervisor
from worker.training_groups import group_command
from worker.training_monitor import TimeLimits

log = structlog.get_logger()

_KILL_SECONDS = 10.0


class WorkerService:
    """Claims and trains runs between ``start`` and ``close``, whether or not the broker is reachable.

    Args:
        settings: The worker's settings.
        identity: Its id and name.
        chores: Called with every heartbeat, for periodic cleaning.
        connect: Creates a connection to the backend; by default an HTTP connection.

    Attributes:
        slots: Number of concurrent trainings.
        supervisor: Claims and trains runs.

    Raises:
        DeviceError: The settings require a GPU, and there is no GPU.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        identity: WorkerIdentity,
        *,
        chores: Callable[[], None] = lambda: None,
        connect: Callable[[], WorkerApi] | None = None,
    ) -> None:
        self._settings = settings
        self._identity = identity
        devices = find_devices(settings.device)
        self.slots = settings.slots_on(len(devices.gpus))
        self._gpus = min(self.slots, len(devices.gpus))
        monitor = find_gpu_monitor(devices.gpus[: self._gpus])
        self._gpu_guard = GpuGuard(monitor, identity.id) if monitor else None
        self._mps = self._find_mps(len(devices.gpus))
        self._mps_status = self._mps.start() if self._mps else MpsStatus()
        api = BackendLink(connect or (lambda: WorkerClient(settings.api_url)))
        self.supervisor = Supervisor(api, self._supervisor_config(devices))
        self._health_monitor = HealthMonitor(self._check_health)
        self._heartbeat = HeartbeatThread(
            api,
            self._registration(devices),
            self.supervisor,
            chores=chores,
            health=lambda: self._health_monitor.latest,
            heartbeat_file=settings.heartbeat_file,
        )

    def start(self) -> None:
        """Kill processes that remain from before a restart of this worker, then start to work. Does not wait."""
        surviving_pids = kill_marked(WORKER_MARK, self._identity.id, seconds=_KILL_SECONDS)
        if surviving_pids:
            log.error("processes from before the restart could not be killed", pids=sorted(surviving_pids))
        self._health_monitor.start()
        self._heartbeat.start()

    def begin_shutdown(self) -> None:
        """Stop claiming runs, and ask every training to write a checkpoint and end. Does not wait."""
        self.supervisor.begin_shutdown()

    def close(self) -> bool:
        """Shut down, and wait until every run is returned to the queue. Return False if the time limit has passed."""
        self.begin_shutdown()
        settings = self._settings
        # The limit is the sum of the settings' limits, plus 30 s to kill a training.
        finished = self.supervisor.wait(settings.grace_seconds + 2 * settings.report_limit + 30.0)
        self._heartbeat.stop()
        self._health_monitor.stop()
        if self._mps and (problem := self._mps.stop()):
            log.warning("problem", reason=problem)
        return finished

    def _check_health(self) -> Health:
        occupied = self.supervisor.occupied_gpus()
        gpus = self._gpu_guard.usage(occupied) if self._gpu_guard else []
        disk = disk_space_problem(self._settings.artifact_root)
        if self._mps:
            self._mps_status = self._mps.status()
        problems = [disk, self._mps_status.problem]
        if not self._settings.share_gpus:
            problems += [
                f"GPU {gpu.index} is not used: {gpu.foreign} process(es) of somebody else use it"
                for gpu in gpus
                if gpu.foreign
            ]
        return Health(gpus, [problem for problem in problems if problem], disk_full=bool(disk))

    def _supervisor_config(self, devices: Devices) -> SupervisorConfig:
        settings, worker_id = self._settings, self._identity.id
        url = settings.artifact_url
        return SupervisorConfig(
            worker_id=worker_id,
            artifacts=settings.artifact_root,
            command=settings.training_command,
            environment=lambda gpus: (
                training_environment(
                    devices,
                    gpus,
                    threads=settings.threads,
                    share=settings.threads_share(self.slots),
                    worker_id=worker_id,
                    cache=Home(settings.home).cache,
                )
                | (self._mps.variables(len(gpus)) if self._mps and self._mps_status.running else {})
            ),
            slots=self.slots,
            gpus=self._gpus,
            group_command=self._group_command(),
            gpu_guard=self._gpu_guard,
            share_gpus=settings.share_gpus,
            disk_full=lambda: self._health_monitor.latest.disk_full,
            transfer=ArtifactTransfer(ObjectStore(url), settings.artifact_root) if url else None,
            limits=TimeLimits(
                grace=settings.grace_seconds,
                margin=settings.margin_seconds,
                linger=settings.linger_seconds,
                report=settings.report_limit,
                gpu=settings.gpu_seconds,
                store=settings.store_seconds,
            ),
        )

    def _find_mps(self, gpus: int) -> Mps | None:
        """Return the MPS daemon whose clients the trainings may become; None without GPUs, or if it is not wanted."""
        settings = self._settings
        if not gpus or settings.mps == "off":
            return None
        return Mps(
            Home(settings.home).path / "mps" if settings.mps == "start" else None,
            thread_percentage=settings.mps_thread_percentage,
            memory_gb=settings.mps_memory_gb,
        )

    def _group_command(self) -> Sequence[str] | None:
        """Return the command of group processes; None if each run trains in a process of its own."""
        settings, mps = self._settings, self._mps_status
        shared = self.slots > max(self._gpus, 1)
        on_gpu_alone = bool(self._gpus) and not mps.running
        used = shared and (settings.group_runs == "on" or (settings.group_runs == "auto" and on_gpu_alone))
        if self._gpus:
            log.info("sharing of GPUs", slots=self.slots, mps=mps.running, groups=used)
        return group_command(settings.training_command) if used else None

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
