"""Eight concurrent claimers on a long queue, while the backend is killed."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.chaos.stack import Stack
from benchmarks.chaos.submissions import Submitter, retry_until_answered, standin_experiment
from client import ApiError, BackendUnreachable, WorkerClient
from core.protocol.worker import ArtifactRef, Claim, Outcome, Registration

CLAIMERS = 8
CLAIMED_EXPERIMENT = "claimed"
"""Name of the experiment of the claimers."""
_ANY_DIGEST = "0" * 64


@dataclass(frozen=True)
class ClaimResult:
    """The outcome of the claimers.

    Attributes:
        runs: number of submitted runs.
        finished: number of runs that a claimer finished.
        twice: runs that two claimers held at the same time, or with one attempt number given to two claimers.
    """

    runs: int
    finished: int
    twice: int


@dataclass(frozen=True)
class _ClaimInterval:
    """The time of a claim, from its answer until its end is reported."""

    worker: str
    attempt: int
    began: float
    ended: float


class Claimers:
    """Eight threads that each claim a run and finish it, until none is left."""

    def __init__(self, stack: Stack, submitter: Submitter, runs: int) -> None:
        self._stack = stack
        self._lock = threading.Lock()
        self._intervals: defaultdict[str, list[_ClaimInterval]] = defaultdict(list)
        self._finished: set[str] = set()
        with stack.client() as client:
            experiment = submitter.submit(client, standin_experiment(CLAIMED_EXPERIMENT, list(range(runs)), 1))
        self._run_ids = {run.id for run in experiment.runs}

    def run(self, disturb: Callable[[], None], seconds: float) -> ClaimResult:
        """Run the claimers, and call ``disturb`` meanwhile."""
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(CLAIMERS) as pool:
            work = [pool.submit(self._claim_all, index, end) for index in range(CLAIMERS)]
            disturb()
            for future in work:
                future.result()
        return ClaimResult(len(self._run_ids), len(self._finished & self._run_ids), self._count_conflicts())

    def _claim_all(self, index: int, end: float) -> None:
        worker_id = f"claimer-{index}"
        registration = Registration(worker_id=worker_id, name=worker_id, host="here", slots=1, device="cpu")
        with self._stack.worker_client() as api:
            retry_until_answered(lambda: api.register(registration))
            while time.monotonic() < end and not self._run_ids <= self._finished:
                try:
                    claim = api.claim(worker_id)
                except (BackendUnreachable, ApiError):
                    claim = None
                if claim is None:  # none is left, or the rest waits for the leases of claims whose answers were lost
                    time.sleep(0.2)
                    continue
                self._finish(api, worker_id, claim)

    def _finish(self, api: WorkerClient, worker_id: str, claim: Claim) -> None:
        began = time.monotonic()
        weights = ArtifactRef(path=f"{claim.folder}/weights.safetensors", sha256=_ANY_DIGEST)
        outcome = Outcome(attempt=claim.attempt, outcome="succeeded", weights=weights)
        finished = True
        try:
            ended = time.monotonic()
            retry_until_answered(lambda: api.finish(worker_id, claim.run_id, outcome), self._stack.timing.lease / 2)
        except BackendUnreachable:
            finished = False
        except ApiError as error:
            if error.status != 409:
                raise
            finished = False  # its lease has expired
        with self._lock:
            self._intervals[claim.run_id].append(_ClaimInterval(worker_id, claim.attempt, began, ended))
            if finished:
                self._finished.add(claim.run_id)

    def _count_conflicts(self) -> int:
        conflicts = 0
        for intervals in self._intervals.values():
            intervals.sort(key=lambda interval: interval.began)
            conflicts += any(
                second.began < first.ended or (second.attempt == first.attempt and second.worker != first.worker)
                for first, second in itertools.pairwise(intervals)
            )
        return conflicts
