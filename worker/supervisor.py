"""Claims runs and sees each to its end: one training process per slot."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from client import ApiError, BackendUnreachable
from core.events import MACHINE_EXIT
from core.protocol.worker import Claim, ClaimRequest, LeaseRenewal, Outcome, RunOrder
from worker import clock
from worker.artifact_transfer import Transfer, Upload
from worker.attempt_folder import Attempt, ClaimError, prepare
from worker.backend_link import FENCED, UNKNOWN, WorkerApi, is_passing
from worker.gpus import Guard
from worker.leased_run import HeldRun, Want
from worker.outcome import Ending, outcome_of
from worker.reporter import Reporter
from worker.slots import Slots
from worker.training_monitor import Limits, watch
from worker.training_process import Spawner

log = structlog.get_logger()

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 5.0
_FIRST_PAUSE = 30.0
_LONGEST_PAUSE = 600.0
_GPU_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Plan:
    """How this worker trains.

    Attributes:
        worker_id: as registered.
        artifacts: root of the artifact store, or of what stands for it here.
        transfer: between that folder and the store; None where the folder is the store.
        command: what trains, without the arguments that name the run.
        environment: of a training on these GPUs, counted from 0; on a CPU worker on none.
        slots: trainings at one time.
        gpus: that the slots are on; 0 on a CPU worker.
        guard: sees whose processes are on the GPUs; None where nobody can tell.
        share_gpus: use GPUs that other people's processes compute on.
        disk_full: whether a run that is begun now would come to nothing; must answer at once. Nothing is claimed then,
            or a disk that is full over a weekend would spoil the queue, five attempts a run.
    """

    worker_id: str
    artifacts: Path
    command: Sequence[str]
    environment: Callable[[Sequence[int]], Mapping[str, str]]
    slots: int = 1
    gpus: int = 0
    guard: Guard | None = None
    share_gpus: bool = False
    disk_full: Callable[[], bool] = lambda: False
    transfer: Transfer | None = None
    limits: Limits = field(default_factory=Limits)


class Supervisor:
    """Shared by Celery's threads, which call ``run_next``, and by the heartbeat, which passes on the orders."""

    def __init__(self, api: WorkerApi, plan: Plan) -> None:
        self._api = api
        self._plan = plan
        self._spawner = Spawner()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._slots = Slots(plan.slots, plan.gpus)
        # Held over a claim: it says how many GPUs are free, and no other may take them before it is answered.
        self._claiming = threading.Lock()
        self._unanswered: str | None = None
        # By run and attempt: while the end of one attempt waits to be heard, the next may be given to this worker too.
        self._held: dict[tuple[str, int], HeldRun] = {}
        self._known = False
        self._leaving = threading.Event()
        self._active = 0
        self._pause = _FIRST_PAUSE
        self._paused_until = 0.0
        self._trouble = ""

    def set_known(self, known: bool) -> None:
        """Whether the backend knows this worker; nothing is claimed while it does not."""
        self._known = known

    def run_next(self) -> int:
        """Claim a run and see it to its end, and so on until nothing is eligible or no slot is free.

        Returns:
            How many runs it was.
        """
        done = 0
        with self._lock:
            self._active += 1
        try:
            while (taken := self._claim()) is not None:
                held, slots = taken
                try:
                    self._run(held, slots)
                    done += 1
                finally:
                    with self._lock:
                        self._slots.give(slots)
        finally:
            with self._lock:
                self._active -= 1
                self._idle.notify_all()
        return done

    def start(self, eligible: int) -> None:
        """Have runs claimed by threads of our own: the broker's nudge may never come."""
        with self._lock:
            # An unanswered claim may have been granted, and the run then waits for us alone.
            wanted = min(max(eligible, int(self._unanswered is not None)), self._slots.free)
        for _ in range(wanted):
            threading.Thread(target=self.run_next, name="run-next", daemon=True).start()

    def holding(self) -> list[LeaseRenewal]:
        """The runs to name in a heartbeat."""
        with self._lock:
            return [held.token for held in self._held.values()]

    def occupied(self) -> frozenset[int]:
        """GPUs that a run is on."""
        with self._lock:
            return self._slots.occupied

    def problems(self) -> list[str]:
        """What keeps this worker from working, in sentences for a person."""
        with self._lock:
            left = self._paused_until - clock.now()
            return [f"takes no runs for {left:.0f} s more: {self._trouble}"] if left > 0 and self._trouble else []

    def obey(self, orders: Sequence[RunOrder], lease_end: float) -> None:
        """Do what a heartbeat's reply says; an order about a run that is not held any more is passed over.

        Args:
            lease_end: by ``clock.now()``, of the runs that go on.
        """
        with self._lock:
            held_runs = dict(self._held)
        for order in orders:
            held = held_runs.get((order.run_id, order.attempt))
            if held is None:
                continue
            if order.order == "lost":
                held.ask(Want.DROP, "the run is no longer ours")
                continue
            held.renew(lease_end)
            if order.order == "cancel":
                held.ask(Want.CANCEL, "cancelled")
            elif order.pause:
                held.ask(Want.HAND_BACK, "paused")

    def leave(self) -> None:
        """Claim nothing more, and hand back what is held, each with a checkpoint. Returns at once."""
        with self._lock:
            self._leaving.set()
            held_runs = list(self._held.values())
        for held in held_runs:
            held.ask(Want.HAND_BACK, "the worker was told to leave")

    def wait(self, seconds: float) -> bool:
        """Wait until nothing runs any more; False where it took longer."""
        with self._idle:
            return self._idle.wait_for(lambda: self._active == 0, seconds)

    def _claim(self) -> tuple[HeldRun, tuple[int, ...]] | None:
        """A run with the slots it is trained in; None where none is to be had now."""
        with self._claiming:
            with self._lock:
                ready = clock.now() >= self._paused_until and not self._plan.disk_full()
                usable = self._known and not self._leaving.is_set() and ready
                occupied = self._slots.occupied
                if not usable or not self._slots.free:
                    return None
            shunned = self._shunned(occupied)
            with self._lock:
                free = self._slots.free_gpus(shunned)
                request = ClaimRequest(key=self._unanswered or uuid.uuid4().hex)
                if self._plan.gpus:
                    usable_gpus = self._plan.gpus - len(shunned)
                    request = request.model_copy(update={"free_gpus": free, "usable_gpus": usable_gpus})
            if self._plan.gpus and not free:
                return None
            sent = clock.now()
            claim = self._ask(request)
            return None if claim is None else self._take(claim, sent, shunned)

    def _shunned(self, occupied: frozenset[int]) -> frozenset[int]:
        """GPUs that are left alone, since somebody else computes on them."""
        if self._plan.guard is None or self._plan.share_gpus:
            return frozenset()
        return self._plan.guard.busy(occupied)

    def _ask(self, request: ClaimRequest) -> Claim | None:
        """Send a claim. One whose answer is lost is sent again with its key, and then gives the same run."""
        self._unanswered = request.key
        try:
            claim = self._api.claim(self._plan.worker_id, request)
        except BackendUnreachable:
            return None
        except ApiError as error:
            if error.status == UNKNOWN:
                self.set_known(False)
            if not is_passing(error):
                self._unanswered = None
            log.warning("claim refused", reason=str(error))
            return None
        self._unanswered = None
        return claim

    def _take(self, claim: Claim, sent: float, shunned: frozenset[int]) -> tuple[HeldRun, tuple[int, ...]]:
        held = HeldRun(claim, sent + claim.lease_seconds)
        with self._lock:
            slots = self._slots.take(claim.gpus, shunned)
            self._held[claim.run_id, claim.attempt] = held
            leaving = self._leaving.is_set()
        if leaving:  # told so while the claim was on its way
            held.ask(Want.HAND_BACK, "the worker was told to leave")
        elif slots is None:  # granted to a claim whose answer was lost, and the GPUs are somebody else's since
            self._rest(f"fewer than {claim.gpus} GPUs are free")
            held.ask(Want.HAND_BACK, f"the worker has not {claim.gpus} GPUs free any more")
        return held, slots or ()

    def _run(self, held: HeldRun, slots: tuple[int, ...]) -> None:
        claim = held.claim
        log.info("run started", run=claim.run_id, attempt=claim.attempt, label=claim.spec.method.label)
        try:
            outcome = self._train(held, slots)
            if outcome is not None:
                self._finish(held, outcome)
                log.info("run ended", run=claim.run_id, outcome=outcome.outcome, reason=outcome.reason)
            else:
                log.info("run let go", run=claim.run_id, reason=held.reason)
        finally:
            with self._lock:
                del self._held[claim.run_id, claim.attempt]

    def _train(self, held: HeldRun, slots: tuple[int, ...]) -> Outcome | None:
        """See one training through. None where nothing is to be reported, or nobody is there to hear it."""
        claim = held.claim
        if held.want is Want.HAND_BACK:
            return Outcome(attempt=claim.attempt, outcome="interrupted", reason=held.reason, fault=False)
        try:
            return self._supervise(claim, held, self._slots.on(slots))
        except ClaimError as error:
            return Outcome(attempt=claim.attempt, outcome="failed", reason=str(error))
        except Exception as error:
            # The worker's own fault, as a full disk: not the run's. Without a pause it would spoil the whole queue.
            log.exception("the worker could not run a training", run=claim.run_id)
            self._rest(str(error))
            reason = f"the worker {self._plan.worker_id} could not run it: {error}"
            return Outcome(attempt=claim.attempt, outcome="interrupted", reason=reason)

    def _supervise(self, claim: Claim, held: HeldRun, gpus: tuple[int, ...]) -> Outcome | None:
        transfer = self._plan.transfer
        if transfer:
            transfer.fetch(claim)
        attempt = prepare(self._plan.artifacts, claim)
        upload = transfer.begin(claim, attempt.folder) if transfer else None
        try:
            return self._train_in(attempt, held, gpus, upload)
        finally:
            if upload:
                upload.close()

    def _train_in(
        self, attempt: Attempt, held: HeldRun, gpus: tuple[int, ...], upload: Upload | None
    ) -> Outcome | None:
        claim = held.claim
        guard = self._plan.guard
        before = guard.processes(gpus) if guard else frozenset[int]()
        process = self._spawner.start(
            [*self._plan.command, *attempt.arguments],
            environment={**self._plan.environment(gpus), "DKD_UPLOADS": str(self._plan.artifacts / "uploads")},
            stdout=attempt.stdout,
            stderr=attempt.stderr,
        )
        reporter = Reporter(self._api, self._plan.worker_id, held, attempt.journal, upload)
        reporter.start()
        try:
            end, left = watch(process, held, reporter, self._plan.limits)
        except BaseException:
            process.end()
            reporter.abandon()
            raise
        if left:
            log.error("processes could not be ended", run=claim.run_id, pids=sorted(left))
        reporter.training_ended()
        on_gpu = self._wait_for_memory(held, gpus, before, process.known) if guard else set[int]()
        if not self._reported(held, reporter):
            return None
        outcome = outcome_of(held, attempt, Ending(end, reporter.ending, left, reporter.log_lines(), on_gpu))
        if upload:
            outcome = self._stored(held, upload, outcome)
        if end.code == MACHINE_EXIT and outcome.outcome == "interrupted":
            self._rest(outcome.reason)
        else:
            self._pause = _FIRST_PAUSE
        return outcome

    def _wait_for_memory(
        self, held: HeldRun, gpus: tuple[int, ...], before: Collection[int], known: Collection[int]
    ) -> set[int]:
        """Wait until the GPU memory of a training that has ended is free: the next one may need all of it.

        Returns:
            Processes whose memory was not freed in time.
        """
        guard, limits = self._plan.guard, self._plan.limits.within(held.claim.lease_seconds)
        assert guard is not None
        end = clock.now() + limits.gpu
        alone = self._plan.slots <= self._plan.gpus
        while left := guard.left_behind(gpus, before, known, alone=alone):
            if clock.now() >= end or held.left() <= limits.margin:
                break
            time.sleep(_GPU_LOOK_SECONDS)
        if left:
            log.error("GPU memory was not freed", run=held.claim.run_id, pids=sorted(left))
        return left

    def _reported(self, held: HeldRun, reporter: Reporter) -> bool:
        """Wait until all is sent, however long the backend is away. False where there is nobody to tell."""
        deadline = self._deadline()
        while not reporter.done(0.2):
            deadline = deadline or self._deadline()
            if held.want is Want.DROP or (deadline and clock.now() > deadline):
                reporter.abandon()
                return False
        return held.want is not Want.DROP

    def _stored(self, held: HeldRun, upload: Upload, outcome: Outcome) -> Outcome:
        """Put what the attempt has left into the store: a run has not succeeded before its weights are there."""
        end = clock.now() + self._plan.limits.store
        wait = _FIRST_WAIT
        while True:
            try:
                upload.put_all()
            except OSError as error:
                log.warning("the store does not take a run's files", run=held.claim.run_id, reason=str(error))
                reason = str(error)
            else:
                upload.remove()
                return outcome
            deadline = self._deadline()
            end = min(end, deadline) if deadline else end
            if outcome.outcome != "succeeded" or held.want is Want.DROP or clock.now() + wait > end:
                break
            time.sleep(wait * random.uniform(0.8, 1.2))
            wait = min(wait * 2, _LONGEST_WAIT)
        if outcome.outcome != "succeeded":
            return outcome
        self._rest(reason)
        return Outcome(attempt=held.claim.attempt, outcome="interrupted", reason=f"trained, but {reason}")

    def _finish(self, held: HeldRun, outcome: Outcome) -> None:
        deadline = self._deadline()
        wait = _FIRST_WAIT
        while held.want is not Want.DROP:
            try:
                self._api.finish(self._plan.worker_id, held.claim.run_id, outcome)
                return
            except ApiError as error:
                if error.status in (FENCED, UNKNOWN):
                    return
                if not is_passing(error):
                    log.error("outcome refused", run=held.claim.run_id, reason=str(error))
                    return
            except BackendUnreachable as error:
                log.warning("outcome waits for the backend", run=held.claim.run_id, reason=str(error))
            deadline = deadline or self._deadline()
            if deadline and clock.now() > deadline:
                return
            time.sleep(wait * random.uniform(0.8, 1.2))
            wait = min(wait * 2, _LONGEST_WAIT)

    def _deadline(self) -> float | None:
        """Until when a worker that leaves tries to report; None while it does not leave."""
        return clock.now() + self._plan.limits.report if self._leaving.is_set() else None

    def _rest(self, reason: str) -> None:
        """Claim nothing for a while, longer each time."""
        with self._lock:
            self._trouble = reason
            self._paused_until = clock.now() + self._pause
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
