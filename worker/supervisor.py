"""Claims runs, and supervises each of them until it has ended, with one training process per slot."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Sequence

import structlog

from client import ApiError, BackendUnreachable
from core.protocol.worker import Claim, ClaimRequest, LeaseRenewal, RunOrder
from worker import clock
from worker.attempt_runner import AttemptRunner, SupervisorConfig
from worker.backend_link import NOT_FOUND, WorkerApi, is_transient
from worker.claim_backoff import ClaimBackoff
from worker.leased_run import LeasedRun, StopIntent
from worker.slots import SlotPool

log = structlog.get_logger()

_SHUTDOWN = "the worker is shutting down"


class Supervisor:
    """Claims and trains runs. Used by Celery's threads, which call ``run_next``, and by the heartbeat thread.

    Args:
        api: The backend.
        config: Configuration of this worker.
    """

    def __init__(self, api: WorkerApi, config: SupervisorConfig) -> None:
        self._api = api
        self._config = config
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._slots = SlotPool(config.slots, config.gpus)
        # Held during a claim. The request contains the number of free GPUs, and no other claim may occupy them before
        # the reply arrives.
        self._claiming = threading.Lock()
        self._unanswered_key: str | None = None
        # The key contains the attempt, since this worker may get a run's next attempt before it has reported the end of
        # the previous one.
        self._leased: dict[tuple[str, int], LeasedRun] = {}
        self._registered = False
        self._shutting_down = threading.Event()
        self._active_threads = 0
        self._backoff = ClaimBackoff()
        self._runner = AttemptRunner(api, config, self._backoff, self._shutting_down)

    def set_registered(self, registered: bool) -> None:
        """Set whether this worker is registered at the backend. It claims runs only while it is registered."""
        self._registered = registered

    def run_next(self) -> int:
        """Claim and train runs one after another until no run is eligible or no slot is free.

        Returns:
            The number of trained runs.
        """
        runs = 0
        with self._lock:
            self._active_threads += 1
        try:
            while (claimed := self._claim()) is not None:
                run, slots = claimed
                try:
                    self._train(run, slots)
                    runs += 1
                finally:
                    with self._lock:
                        self._slots.release(slots)
        finally:
            with self._lock:
                self._active_threads -= 1
                self._idle.notify_all()
        return runs

    def start_claiming(self, eligible: int) -> None:
        """Start one thread per eligible run, at most one per free slot, since the broker's nudge may never arrive."""
        with self._lock:
            # The backend may have granted a claim whose reply was lost; no other worker can then claim that run.
            count = min(max(eligible, int(self._unanswered_key is not None)), self._slots.free)
        for _ in range(count):
            threading.Thread(target=self.run_next, name="run-next", daemon=True).start()

    def holdings(self) -> list[LeaseRenewal]:
        """Return the runs whose leases the next heartbeat renews."""
        with self._lock:
            return [run.holding for run in self._leased.values()]

    def occupied_gpus(self) -> frozenset[int]:
        """Return the GPUs on which a run of this worker is training."""
        with self._lock:
            return self._slots.occupied_gpus

    def problems(self) -> list[str]:
        """Return sentences for a person about the reasons why this worker does not claim runs."""
        problem = self._backoff.problem()
        return [problem] if problem else []

    def apply_orders(self, orders: Sequence[RunOrder], lease_end: float) -> None:
        """Apply the orders of a heartbeat's reply. Orders for runs that are no longer held are ignored.

        Args:
            orders: One order per run.
            lease_end: End of the renewed leases on ``clock.now()``.
        """
        with self._lock:
            leased = dict(self._leased)
        for order in orders:
            run = leased.get((order.run_id, order.attempt))
            if run is None:
                continue
            if order.order == "lost":
                run.request_stop(StopIntent.DISCARD, "the run is no longer this worker's")
                continue
            run.renew(lease_end)
            if order.order == "cancel":
                run.request_stop(StopIntent.CANCEL, "cancelled")
            elif order.pause:
                run.request_stop(StopIntent.REQUEUE, "paused")

    def begin_shutdown(self) -> None:
        """Stop claiming runs, and request that every run returns to the queue with a checkpoint. Does not wait."""
        with self._lock:
            self._shutting_down.set()
            leased = list(self._leased.values())
        for run in leased:
            run.request_stop(StopIntent.REQUEUE, _SHUTDOWN)

    def wait(self, seconds: float) -> bool:
        """Wait at most ``seconds`` until no thread claims or trains runs. Return whether that is so."""
        with self._idle:
            return self._idle.wait_for(lambda: self._active_threads == 0, seconds)

    def _claim(self) -> tuple[LeasedRun, tuple[int, ...]] | None:
        """Claim a run. Return it with its slots; None if no run is eligible, or if no slot or GPU is free."""
        with self._claiming:
            with self._lock:
                may_claim = (
                    self._registered
                    and not self._shutting_down.is_set()
                    and not self._backoff.active
                    and not self._config.disk_full()
                )
                occupied = self._slots.occupied_gpus
                if not may_claim or not self._slots.free:
                    return None
            excluded = self._excluded_gpus(occupied)
            with self._lock:
                free_gpus = self._slots.free_gpus(excluded)
                request = ClaimRequest(key=self._unanswered_key or uuid.uuid4().hex)
                if self._config.gpus:
                    usable_gpus = self._config.gpus - len(excluded)
                    request = request.model_copy(update={"free_gpus": free_gpus, "usable_gpus": usable_gpus})
            if self._config.gpus and not free_gpus:
                return None
            sent_at = clock.now()
            claim = self._send_claim(request)
            return None if claim is None else self._lease(claim, sent_at, excluded)

    def _excluded_gpus(self, occupied: frozenset[int]) -> frozenset[int]:
        """Return the GPUs that are not used, since a process of somebody else uses them."""
        if self._config.gpu_guard is None or self._config.share_gpus:
            return frozenset()
        return self._config.gpu_guard.in_foreign_use(occupied)

    def _send_claim(self, request: ClaimRequest) -> Claim | None:
        """Send a claim. If its reply is lost, the next claim has the same key, and the backend returns the same run."""
        self._unanswered_key = request.key
        try:
            claim = self._api.claim(self._config.worker_id, request)
        except BackendUnreachable:
            return None
        except ApiError as error:
            if error.status == NOT_FOUND:
                self.set_registered(False)
            if not is_transient(error):
                self._unanswered_key = None
            log.warning("claim refused", reason=str(error))
            return None
        self._unanswered_key = None
        return claim

    def _lease(self, claim: Claim, sent_at: float, excluded: frozenset[int]) -> tuple[LeasedRun, tuple[int, ...]]:
        run = LeasedRun(claim, sent_at + claim.lease_seconds)
        with self._lock:
            slots = self._slots.acquire(claim.gpus, excluded)
            self._leased[claim.run_id, claim.attempt] = run
            shutting_down = self._shutting_down.is_set()
        if shutting_down:  # the shutdown began during the claim
            run.request_stop(StopIntent.REQUEUE, _SHUTDOWN)
        elif slots is None:  # the first reply to this claim was lost, and another process now uses the GPUs
            self._backoff.start(f"fewer than {claim.gpus} GPUs are free")
            run.request_stop(StopIntent.REQUEUE, f"the worker no longer has {claim.gpus} free GPUs")
        return run, slots or ()

    def _train(self, run: LeasedRun, slots: tuple[int, ...]) -> None:
        claim = run.claim
        log.info("run started", run=claim.run_id, attempt=claim.attempt, label=claim.label)
        try:
            outcome = self._runner.run(run, self._slots.gpus_of(slots))
            if outcome is None:
                log.info("run released without a report", run=claim.run_id, reason=run.reason)
            else:
                log.info("run ended", run=claim.run_id, outcome=outcome.outcome, reason=outcome.reason)
        finally:
            with self._lock:
                del self._leased[claim.run_id, claim.attempt]
