"""A run that this worker holds under a lease: when the lease ends, and whether the training is to stop."""

from __future__ import annotations

import threading
from enum import IntEnum

from core.protocol.worker import Claim, LeaseRenewal
from worker import clock


class StopIntent(IntEnum):
    """Whether a training has to stop, and how, in order of urgency. The intent of a run never becomes less urgent."""

    CONTINUE = 0
    REQUEUE = 1
    """Write a checkpoint, stop, and return the run to the queue: shutdown, pause, or a lease that is not renewed."""
    ABORT = 2
    """Stop: the backend refuses the training's reports."""
    CANCEL = 3
    """Stop: a person cancelled the run."""
    DISCARD = 4
    """Stop at once and report nothing: the backend no longer assigns the run to this worker."""


class LeasedRun:
    """State shared by the thread that supervises the training, its reporter and the heartbeat.

    Args:
        claim: The backend's reply to the claim.
        lease_end: End of the lease on ``clock.now()``.
    """

    def __init__(self, claim: Claim, lease_end: float) -> None:
        self.claim = claim
        self.holding = LeaseRenewal(run_id=claim.run_id, attempt=claim.attempt)
        self._lock = threading.Lock()
        self._changed = threading.Event()
        self._intent = StopIntent.CONTINUE
        self._reason = ""
        self._lease_end = lease_end

    @property
    def intent(self) -> StopIntent:
        """The most urgent intent requested so far."""
        return self._intent

    @property
    def reason(self) -> str:
        """Reason of the intent; empty while the intent is ``CONTINUE``."""
        return self._reason

    def request_stop(self, intent: StopIntent, reason: str) -> None:
        """Set the intent and its reason, unless the current intent is at least as urgent."""
        with self._lock:
            if intent > self._intent:
                self._intent, self._reason = intent, reason
                self._changed.set()

    def renew(self, lease_end: float) -> None:
        """Extend the lease, unless it already ends later than ``lease_end``."""
        with self._lock:
            self._lease_end = max(self._lease_end, lease_end)

    def lease_seconds_left(self) -> float:
        """Return the seconds until the lease ends; negative after its end."""
        return self._lease_end - clock.now()

    def wait_for_request(self, seconds: float) -> None:
        """Wait until ``request_stop`` sets a new intent, at most ``seconds``."""
        if self._changed.wait(seconds):
            self._changed.clear()
