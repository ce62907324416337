"""A run that this worker holds: what is wanted of it, and until when it is ours."""

from __future__ import annotations

import threading
from enum import IntEnum

from core.protocol.worker import Claim, LeaseRenewal
from worker import clock


class Want(IntEnum):
    """What is wanted of a training, the more pressing the greater. It never becomes less pressing."""

    GO_ON = 0
    HAND_BACK = 1
    """Write a checkpoint, end, and go back to the queue: the worker leaves, or the lease cannot be renewed."""
    GIVE_UP = 2
    """End it: the backend refuses what it reports."""
    CANCEL = 3
    """End it: a person asked for that."""
    DROP = 4
    """End it at once and say nothing: the run is no longer ours."""


class HeldRun:
    """Shared by the thread that supervises the training, the one that reports, and the heartbeat.

    Args:
        claim: what the backend gave.
        lease_end: by ``clock.now()``.
    """

    def __init__(self, claim: Claim, lease_end: float) -> None:
        self.claim = claim
        self.token = LeaseRenewal(run_id=claim.run_id, attempt=claim.attempt)
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._want = Want.GO_ON
        self._reason = ""
        self._lease_end = lease_end

    @property
    def want(self) -> Want:
        return self._want

    @property
    def reason(self) -> str:
        """Why it is to end; empty while it is not."""
        return self._reason

    @property
    def lease_end(self) -> float:
        return self._lease_end

    def ask(self, want: Want, reason: str) -> None:
        """Want something more pressing; a wish less pressing than the present one changes nothing."""
        with self._lock:
            if want > self._want:
                self._want, self._reason = want, reason
                self._changed.set()

    def renew(self, lease_end: float) -> None:
        with self._lock:
            self._lease_end = max(self._lease_end, lease_end)

    def left(self) -> float:
        """Seconds until the lease ends; negative after that."""
        return self._lease_end - clock.now()

    def wait(self, seconds: float) -> None:
        """Until something new is wanted, but not longer than ``seconds``."""
        if self._changed.wait(seconds):
            self._changed.clear()
