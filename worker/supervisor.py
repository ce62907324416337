"""Claims runs and sees each to its end: one training process per slot."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from client import ApiError, BackendUnreachable
from core.wire.worker import Claim, Holding, Order, Outcome
from worker import clock
from worker.api import FENCED, UNKNOWN, WorkerApi, is_passing
from worker.attempt import ClaimError, prepare
from worker.held import HeldRun, Want
from worker.outcome import Ending, outcome_of
from worker.process import Spawner
from worker.reporter import Reporter
from worker.watch import Limits, watch

log = structlog.get_logger()

_FIRST_WAIT = 0.5
_LONGEST_WAIT = 5.0
_FIRST_PAUSE = 30.0
_LONGEST_PAUSE = 600.0


@dataclass(frozen=True)
class Plan:
    """How this worker trains.

    Attributes:
        worker_id: as registered.
        artifacts: root of the artifact store.
        command: what trains, without the arguments that name the run.
        environment: of the training in a slot, counted from 0.
        slots: trainings at one time.
    """

    worker_id: str
    artifacts: Path
    command: Sequence[str]
    environment: Callable[[int], Mapping[str, str]]
    slots: int = 1
    limits: Limits = field(default_factory=Limits)


class Supervisor:
    """Shared by Celery's threads, which call ``run_next``, and by the heartbeat, which passes on the orders."""

    def __init__(self, api: WorkerApi, plan: Plan) -> None:
        self._api = api
        self._plan = plan
        self._spawner = Spawner()
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._free = list(range(plan.slots))
        self._held: dict[str, HeldRun] = {}
        self._known = False
        self._leaving = threading.Event()
        self._active = 0
        self._pause = _FIRST_PAUSE
        self._paused_until = 0.0

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
            while (slot := self._take_slot()) is not None:
                try:
                    held = self._claim()
                    if held is None:
                        break
                    self._run(held, slot)
                    done += 1
                finally:
                    self._give_slot(slot)
        finally:
            with self._lock:
                self._active -= 1
                self._idle.notify_all()
        return done

    def start(self, eligible: int) -> None:
        """Have runs claimed by threads of our own: the broker's nudge may never come."""
        with self._lock:
            wanted = min(eligible, len(self._free))
        for _ in range(wanted):
            threading.Thread(target=self.run_next, name="run-next", daemon=True).start()

    def holding(self) -> list[Holding]:
        """The runs to name in a heartbeat."""
        with self._lock:
            return [held.token for held in self._held.values()]

    def obey(self, orders: Sequence[Order], lease_end: float) -> None:
        """Do what a heartbeat's reply says; an order about a run that is not held any more is passed over.

        Args:
            lease_end: by ``clock.now()``, of the runs that go on.
        """
        with self._lock:
            held_runs = dict(self._held)
        for order in orders:
            held = held_runs.get(order.run_id)
            if held is None or held.token.attempt != order.attempt:
                continue
            if order.order == "lost":
                held.ask(Want.DROP, "the run is no longer ours")
                continue
            held.renew(lease_end)
            if order.order == "cancel":
                held.ask(Want.CANCEL, "cancelled")

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

    def _take_slot(self) -> int | None:
        with self._lock:
            usable = self._known and not self._leaving.is_set() and clock.now() >= self._paused_until
            return self._free.pop(0) if usable and self._free else None

    def _give_slot(self, slot: int) -> None:
        with self._lock:
            self._free = sorted([*self._free, slot])

    def _claim(self) -> HeldRun | None:
        sent = clock.now()
        try:
            claim = self._api.claim(self._plan.worker_id)
        except BackendUnreachable:
            return None
        except ApiError as error:
            if error.status == UNKNOWN:
                self.set_known(False)
            log.warning("claim refused", reason=str(error))
            return None
        if claim is None:
            return None
        held = HeldRun(claim, sent + claim.lease_seconds)
        with self._lock:
            self._held[claim.run_id] = held
            leaving = self._leaving.is_set()
        if leaving:  # told so while the claim was on its way
            held.ask(Want.HAND_BACK, "the worker was told to leave")
        return held

    def _run(self, held: HeldRun, slot: int) -> None:
        claim = held.claim
        log.info("run started", run=claim.run_id, attempt=claim.attempt, label=claim.spec.method.label)
        try:
            outcome = self._train(held, slot)
            if outcome is not None:
                self._finish(held, outcome)
                log.info("run ended", run=claim.run_id, outcome=outcome.outcome, reason=outcome.reason)
            else:
                log.info("run let go", run=claim.run_id, reason=held.reason)
        finally:
            with self._lock:
                del self._held[claim.run_id]

    def _train(self, held: HeldRun, slot: int) -> Outcome | None:
        """See one training through. None where nothing is to be reported, or nobody is there to hear it."""
        claim = held.claim
        if held.want is Want.HAND_BACK:
            return Outcome(attempt=claim.attempt, outcome="interrupted", reason=held.reason)
        try:
            return self._supervise(claim, held, slot)
        except ClaimError as error:
            return Outcome(attempt=claim.attempt, outcome="failed", reason=str(error)[:4000])
        except Exception as error:
            # The worker's own fault, as a full disk: not the run's. Without a pause it would spoil the whole queue.
            log.exception("the worker could not run a training", run=claim.run_id)
            self._rest()
            reason = f"the worker {self._plan.worker_id} could not run it: {error}"
            return Outcome(attempt=claim.attempt, outcome="interrupted", reason=reason[:4000])

    def _supervise(self, claim: Claim, held: HeldRun, slot: int) -> Outcome | None:
        attempt = prepare(self._plan.artifacts, claim)
        process = self._spawner.start(
            [*self._plan.command, *attempt.arguments],
            environment=self._plan.environment(slot),
            stdout=attempt.stdout,
            stderr=attempt.stderr,
        )
        self._pause = _FIRST_PAUSE
        reporter = Reporter(self._api, self._plan.worker_id, held, attempt.journal)
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
        if not self._reported(held, reporter):
            return None
        return outcome_of(held, attempt, Ending(end, reporter.ending, left, reporter.log_lines()))

    def _reported(self, held: HeldRun, reporter: Reporter) -> bool:
        """Wait until all is sent, however long the backend is away. False where there is nobody to tell."""
        deadline = self._deadline()
        while not reporter.done(0.2):
            deadline = deadline or self._deadline()
            if held.want is Want.DROP or (deadline and clock.now() > deadline):
                reporter.abandon()
                return False
        return held.want is not Want.DROP

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

    def _rest(self) -> None:
        with self._lock:
            self._paused_until = clock.now() + self._pause
            self._pause = min(self._pause * 2, _LONGEST_PAUSE)
