"""Token buckets: limits of the average rate of requests and of how many may come at once.

The form is the generic cell rate algorithm (GCRA), which needs one number for each key: the time at which its bucket is
full again. The reasons against a library are in docs/adr/0100-rate-limits-are-token-buckets.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

BURST_SECONDS = 10.0
"""A bucket holds the requests of this time, so that a limit concerns the average and not a page that loads."""
_MIN_KEYS_TO_PRUNE = 1_000
_ROUNDING_SECONDS = 1e-6


@dataclass(frozen=True)
class Limit:
    """A limit of requests.

    Attributes:
        rate: Requests per second on average, more than 0.
        burst: Requests that may come at once, at least 1.
    """

    rate: float
    burst: float

    @classmethod
    def of(cls, rate: float) -> Limit:
        """Return the limit of an average rate, averaged over ``BURST_SECONDS``."""
        return cls(rate, max(rate * BURST_SECONDS, 1.0))

    def share(self, part: float) -> Limit:
        """Return a part of the limit."""
        return Limit(self.rate * part, max(self.burst * part, 1.0))


class Buckets:
    """Buckets of one limit in the memory of this process. For one thread.

    Args:
        limit: The limit.
        clock: Returns the time in seconds.
    """

    def __init__(self, limit: Limit, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self._clock = clock
        self._full_at: dict[str, float] = {}
        self._prune_at = _MIN_KEYS_TO_PRUNE

    def take(self, key: str) -> float:
        """Take one request from a bucket.

        Returns:
            0 if the request is admitted; else the seconds after which it would be, and the bucket does not change.
        """
        now = self._clock()
        wait = self._wait(key, now)
        if wait > 0:
            return wait
        self._full_at[key] = max(self._full_at.get(key, now), now) + 1 / self.limit.rate
        if len(self._full_at) > self._prune_at:
            self._prune(now)
        return 0.0

    def wait(self, key: str) -> float:
        """Return the seconds after which a request would be admitted; 0 for now. The bucket does not change."""
        return self._wait(key, self._clock())

    def give_back(self, key: str) -> None:
        """Return a request that was taken."""
        now = self._clock()
        full_at = self._full_at.get(key, now) - 1 / self.limit.rate
        if full_at > now:
            self._full_at[key] = full_at
        else:
            self._full_at.pop(key, None)

    def _wait(self, key: str, now: float) -> float:
        full_at = max(self._full_at.get(key, now), now)
        wait = full_at - now - (self.limit.burst - 1) / self.limit.rate
        return wait if wait > _ROUNDING_SECONDS else 0.0

    def _prune(self, now: float) -> None:
        """Forget full buckets, which are equal to absent ones."""
        self._full_at = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        self._prune_at = max(2 * len(self._full_at), _MIN_KEYS_TO_PRUNE)
