"""Runs one attempt: prepares its folder, monitors the training, uploads its files and reports the outcome."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from client import ApiError, BackendUnreachable
from core.events import MACHINE_EXIT
from core.protocol.worker import Claim, Outcome
from worker import clock
from worker.artifact_transfer import ArtifactTransfer, AttemptUpload
from worker.attempt_folder import AttemptFolder, ClaimError, prepare_attempt
from worker.backend_link import FENCED, NOT_FOUND, WorkerApi, demanded_wait, is_transient
from worker.claim_backoff import ClaimBackoff
from worker.gpus import GpuGuard
from worker.leased_run import LeasedRun, StopIntent
from worker.outcome import AttemptEnd, build_outcome
from worker.reporter import Reporter
from worker.training_groups import TrainingGroups
from worker.training_monitor import TimeLimits, monitor_training
from worker.training_process import Files, ProcessSpawner, Training

log = structlog.get_logger()

_FIRST_WAIT = 0.5
_MAX_WAIT = 5.0
_GPU_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class SupervisorConfig:
    """Configuration of a worker's trainings.

    Attributes:
        worker_id: Id under which the worker is registered.
        artifacts: Root of the artifact store, or of the local folder that replaces it during training.
        command: Training command without the arguments that name the run.
        environment: Returns the environment of a training on the given GPUs, counted from 0. A CPU worker passes no
            GPUs.
        slots: Number of concurrent trainings.
        gpus: Number of GPUs that the slots use; 0 on a CPU worker.
        group_command: Command of a process in which several runs train; None if each run trains in its own.
        gpu_guard: Finds other people's processes on the GPUs; None if the driver cannot be queried.
        share_gpus: Whether to use GPUs that other people's processes use.
        disk_full: Returns without waiting whether the disk is so full that a run would fail. No run is claimed then.
            Otherwise a disk that is full over a weekend would make every run in the queue fail, after five attempts
            each.
        transfer: Copies files between the local folder and the store; None if the store is the folder.
        limits: Time limits.
    """

    worker_id: str
    artifacts: Path
    command: Sequence[str]
    environment: Callable[[Sequence[int]], Mapping[str, str]]
    slots: int = 1
    gpus: int = 0
    group_command: Sequence[str] | None = None
    gpu_guard: GpuGuard | None = None
    share_gpus: bool = False
    disk_full: Callable[[], bool] = lambda: False
    transfer: ArtifactTransfer | None = None
    limits: TimeLimits = field(default_factory=TimeLimits)


class AttemptRunner:
    """Runs attempts. Thread-safe: several threads may run one attempt each.

    Args:
        api: The backend.
        config: Configuration of this worker.
        backoff: The pause in claiming, started after a fault of the worker itself.
        shutting_down: Set when the worker shuts down. Reports are then tried for at most ``limits.report`` seconds.
    """

    def __init__(
        self, api: WorkerApi, config: SupervisorConfig, backoff: ClaimBackoff, shutting_down: threading.Event
    ) -> None:
        self._api = api
        self._config = config
        self._backoff = backoff
        self._shutting_down = shutting_down
        self._spawner = ProcessSpawner()
        self._groups = TrainingGroups(config.group_command, self._spawner) if config.group_command else None

    def run(self, run: LeasedRun, gpus: tuple[int, ...]) -> Outcome | None:
        """Train the run until it has ended, and report the outcome.

        Args:
            run: The run.
            gpus: GPUs to train on, counted from 0; empty on a CPU worker.

        Returns:
            The outcome; None if no outcome is to be reported or the training's events could not be reported.
        """
        outcome = self._train(run, gpus)
        if outcome is not None:
            self._report_outcome(run, outcome)
        return outcome

    def _train(self, run: LeasedRun, gpus: tuple[int, ...]) -> Outcome | None:
        attempt = run.claim.attempt
        if run.intent is StopIntent.REQUEUE:
            return Outcome(attempt=attempt, outcome="interrupted", reason=run.reason, fault=False)
        try:
            return self._train_with_store(run, gpus)
        except ClaimError as error:
            return Outcome(attempt=attempt, outcome="failed", reason=str(error))
        except Exception as error:
            # This is a fault of the worker, such as a full disk, and not of the run.
            log.exception("the worker could not run a training", run=run.claim.run_id)
            self._backoff.start(str(error))
            reason = f"the worker {self._config.worker_id} could not run it: {error}"
            return Outcome(attempt=attempt, outcome="interrupted", reason=reason)

    def _train_with_store(self, run: LeasedRun, gpus: tuple[int, ...]) -> Outcome | None:
        """Train the run. If the store is not a folder, fetch the input files first and upload the output files."""
        claim, transfer = run.claim, self._config.transfer
        if transfer:
            transfer.fetch_inputs(claim)
        folder = prepare_attempt(self._config.artifacts, claim)
        upload = transfer.start_upload(claim, folder.path) if transfer else None
        try:
            return self._train_in(folder, run, gpus, upload)
        finally:
            if upload:
                upload.close()

    def _train_in(
        self, folder: AttemptFolder, run: LeasedRun, gpus: tuple[int, ...], upload: AttemptUpload | None
    ) -> Outcome | None:
        """Run the training in an attempt's folder; return its outcome, or None if the run was taken away."""
        claim = run.claim
        guard = self._config.gpu_guard
        pids_before = guard.processes(gpus) if guard else frozenset[int]()
        process = self._start(folder, claim, gpus)
        reporter = Reporter(self._api, self._config.worker_id, run, folder.journal, upload)
        reporter.start()
        try:
            process_exit, surviving_pids = monitor_training(process, run, reporter, self._config.limits)
        except BaseException:
            process.kill()
            reporter.abandon()
            raise
        if surviving_pids:
            log.error("processes could not be killed", run=claim.run_id, pids=sorted(surviving_pids))
        reporter.training_ended()
        gpu_pids = self._wait_for_gpu_memory(run, gpus, pids_before, process.seen_pids) if guard else set[int]()
        if not self._wait_for_reports(run, reporter):
            return None
        end = AttemptEnd(process_exit, reporter.final_event, surviving_pids, reporter.log_lines(), gpu_pids)
        outcome = build_outcome(run, folder, end)
        if upload:
            outcome = self._upload_files(run, upload, outcome)
        if process_exit.code == MACHINE_EXIT and outcome.outcome == "interrupted":
            self._backoff.start(outcome.reason)
        else:
            self._backoff.reset()
        return outcome

    def _start(self, folder: AttemptFolder, claim: Claim, gpus: tuple[int, ...]) -> Training:
        """Start the training: in the group process of its kind if it may share one, else in a process of its own."""
        environment = {**self._config.environment(gpus), "DKD_UPLOADS": str(self._config.artifacts / "uploads")}
        files = Files(folder.stdout, folder.stderr)
        if self._groups:
            member = self._groups.start(claim, gpus, folder.arguments, environment, files)
            if member is not None:
                return member
        return self._spawner.start([*self._config.command, *folder.arguments], environment=environment, files=files)

    def _wait_for_gpu_memory(
        self, run: LeasedRun, gpus: tuple[int, ...], pids_before: Collection[int], training_pids: Collection[int]
    ) -> set[int]:
        """Wait until the GPU memory of an ended training is free, since the next training may need all of it.

        Returns:
            Ids of the processes whose memory was not freed in time.
        """
        guard, limits = self._config.gpu_guard, self._config.limits.within(run.claim.lease_seconds)
        assert guard is not None
        deadline = clock.now() + limits.gpu
        exclusive = self._config.slots <= self._config.gpus
        while pids := guard.unfreed_processes(gpus, pids_before, training_pids, exclusive=exclusive):
            if clock.now() >= deadline or run.lease_seconds_left() <= limits.margin:
                break
            time.sleep(_GPU_POLL_SECONDS)
        if pids:
            log.error("GPU memory was not freed", run=run.claim.run_id, pids=sorted(pids))
        return pids

    def _wait_for_reports(self, run: LeasedRun, reporter: Reporter) -> bool:
        """Wait until every event is sent. An outage of the backend is waited for without a limit.

        Returns:
            Whether the outcome is to be reported; False if the backend withdrew the run or the worker shuts down.
        """
        deadline = self._report_deadline()
        while not reporter.wait(0.2):
            deadline = deadline or self._report_deadline()
            if run.intent is StopIntent.DISCARD or (deadline and clock.now() > deadline):
                reporter.abandon()
                return False
        return run.intent is not StopIntent.DISCARD

    def _upload_files(self, run: LeasedRun, upload: AttemptUpload, outcome: Outcome) -> Outcome:
        """Upload the attempt's files to the store, and return the outcome.

        A run that succeeded is reported as interrupted if the upload fails, since its weights would be missing.
        """
        give_up_at = clock.now() + self._config.limits.store
        wait = _FIRST_WAIT
        while True:
            try:
                upload.put_all()
            except OSError as error:
                log.warning("the store does not accept a run's files", run=run.claim.run_id, reason=str(error))
                reason = str(error)
            else:
                upload.remove_local_files()
                return outcome
            deadline = self._report_deadline()
            give_up_at = min(give_up_at, deadline) if deadline else give_up_at
            if outcome.outcome != "succeeded" or run.intent is StopIntent.DISCARD or clock.now() + wait > give_up_at:
                break
            time.sleep(wait * random.uniform(0.8, 1.2))
            wait = min(wait * 2, _MAX_WAIT)
        if outcome.outcome != "succeeded":
            return outcome
        self._backoff.start(reason)
        return Outcome(attempt=run.claim.attempt, outcome="interrupted", reason=f"trained, but {reason}")

    def _report_outcome(self, run: LeasedRun, outcome: Outcome) -> None:
        """Report the outcome until the backend accepts or refuses it, or the time for it is over."""
        deadline = self._report_deadline()
        wait = _FIRST_WAIT
        while run.intent is not StopIntent.DISCARD:
            demanded = 0.0
            try:
                self._api.finish(self._config.worker_id, run.claim.run_id, outcome)
                return
            except ApiError as error:
                if error.status in (FENCED, NOT_FOUND):
                    return
                if not is_transient(error):
                    log.error("outcome refused", run=run.claim.run_id, reason=str(error))
                    return
                demanded = demanded_wait(error)
            except BackendUnreachable as error:
                log.warning("outcome not reported yet", run=run.claim.run_id, reason=str(error))
            deadline = deadline or self._report_deadline()
            if deadline and clock.now() > deadline:
                return
            time.sleep(wait * random.uniform(0.8, 1.2) + demanded)
            wait = min(wait * 2, _MAX_WAIT)

    def _report_deadline(self) -> float | None:
        """Return the time on ``clock.now()`` after which no report is tried; None unless the worker shuts down."""
        return clock.now() + self._config.limits.report if self._shutting_down.is_set() else None
