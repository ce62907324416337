"""Eight claimers at once on a long queue, while the backend is killed under them."""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from benchmarks.chaos.load import Load, insist, played
from benchmarks.chaos.stack import Stack
from client import ApiError, BackendUnreachable, WorkerClient
from core.protocol.worker import ArtifactRef, Claim, Outcome, Registration

CLAIMERS = 8
CLAIMED = "claimed"
"""Name of their experiment."""
_ANY_DIGEST = "0" * 64


@dataclass(frozen=True)
class Claimed:
    """What eight claimers did.

    Attributes:
        runs: submitted.
        finished: that a claimer finished.
        twice: runs that two claimers had at the same time, or one attempt that was given to two.
    """

    runs: int
    finished: int
    twice: int


@dataclass(frozen=True)
class _Hold:
    """One claim, from the answer until its end is reported."""

    worker: str
    attempt: int
    began: float
    ended: float


class Claimers:
    """Each claims a run, holds it for a moment and finishes it, until none is left."""

    def __init__(self, stack: Stack, load: Load, runs: int) -> None:
        self._stack = stack
        self._lock = threading.Lock()
        self._held: defaultdict[str, list[_Hold]] = defaultdict(list)
        self._finished: set[str] = set()
        with stack.client() as client:
            made = load.submit(client, played(CLAIMED, list(range(runs)), 1))
        self._wanted = {run.id for run in made.runs}

    def run(self, disturb: Callable[[], None], seconds: float) -> Claimed:
        """``disturb`` is called while they claim."""
        end = time.monotonic() + seconds
        with ThreadPoolExecutor(CLAIMERS) as pool:
            work = [pool.submit(self._claim_all, index, end) for index in range(CLAIMERS)]
            disturb()
            for each in work:
                each.result()
        return Claimed(len(self._wanted), len(self._finished & self._wanted), self._twice())

    def _claim_all(self, index: int, end: float) -> None:
        worker_id = f"claimer-{index}"
        registration = Registration(worker_id=worker_id, name=worker_id, host="here", slots=1, device="cpu")
        with self._stack.worker_client() as api:
            insist(lambda: api.register(registration))
            while time.monotonic() < end and not self._wanted <= self._finished:
                try:
                    claim = api.claim(worker_id)
                except (BackendUnreachable, ApiError):
                    claim = None
                if claim is None:  # none is left, or some wait for the leases of claims whose answers were lost
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
            insist(lambda: api.finish(worker_id, claim.run_id, outcome), self._stack.terms.lease / 2)
        except BackendUnreachable:
            finished = False
        except ApiError as error:
            if error.status != 409:
                raise
            finished = False  # its lease ran out meanwhile
        with self._lock:
            self._held[claim.run_id].append(_Hold(worker_id, claim.attempt, began, ended))
            if finished:
                self._finished.add(claim.run_id)

    def _twice(self) -> int:
        twice = 0
        for those in self._held.values():
            those.sort(key=lambda hold: hold.began)
            twice += any(
                second.began < first.ended or (second.attempt == first.attempt and second.worker != first.worker)
                for first, second in itertools.pairwise(those)
            )
        return twice
