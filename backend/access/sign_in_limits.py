"""Limits of failed sign-ins: of each name, of each network, and of each name from each network.

An attempt takes from all buckets before the password is verified, so that many attempts at once cannot pass before the
first has failed, and a successful one gives back what it took. The limit of a name could lock out its person; the
networks from which the person has signed in before have no part in it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from backend.access.buckets import Buckets, Limit
from backend.access.rate_limiter import REDIS_SCHEMES, network_of, too_many
from backend.access.shared_buckets import SharedBuckets
from backend.settings import Settings

LIMITS = {
    "sign-in of a name from a network": Limit(rate=1 / 30, burst=5),
    "sign-in of a name": Limit(rate=1 / 12, burst=30),
    # A lab behind one address, or a dashboard, mistypes more often than one person.
    "sign-in from a network": Limit(rate=1 / 2, burst=60),
}
"""Failed sign-ins per second on average, and at once."""
_PAIR, _NAME, _NETWORK = LIMITS
_TEXTS = {
    _PAIR: "failed sign-ins of this person from this address",
    _NAME: "failed sign-ins of this person",
    _NETWORK: "failed sign-ins from this address",
}
_MAX_KNOWN = 10_000


@dataclass(frozen=True)
class Attempt:
    """A sign-in whose outcome is not known yet.

    Attributes:
        taken: Name of the limit and the key, for each bucket from which it took.
        pair: Key of the name and the network; empty without a name.
    """

    taken: tuple[tuple[str, str], ...]
    pair: str


class SignInLimits:
    """Counts failed sign-ins and refuses further ones with 429 and ``Retry-After``.

    Args:
        settings: The backend's settings. Replicas share the limits over Redis if it is the broker.
        clock: Returns the time in seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        shared = settings.broker_url.startswith(REDIS_SCHEMES)
        self._shared = (
            {name: SharedBuckets(name, limit, settings.broker_url, clock) for name, limit in LIMITS.items()}
            if shared
            else {}
        )
        self._buckets = {} if shared else {name: Buckets(limit, clock) for name, limit in LIMITS.items()}
        self._known: dict[str, None] = {}

    async def close(self) -> None:
        """Close the connections to Redis."""
        for shared in self._shared.values():
            await shared.close()

    async def begin(self, name: str | None, client: str) -> Attempt:
        """Count an attempt as failed until ``succeed``.

        Args:
            name: The name that was sent, which need not be a person's; None if the request names nobody.
            client: Address of the sender.

        Raises:
            ApiError: 429 above a limit.
        """
        network = network_of(client)
        # A hash, because people type passwords into the field of the name.
        person = "" if name is None else hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        pair = f"{person}@{network}" if person else ""
        keys = [(_NETWORK, network)]
        if person:
            keys = [(_PAIR, pair), *keys, *([] if pair in self._known else [(_NAME, person)])]
        taken: list[tuple[str, str]] = []
        for limit, key in keys:
            if wait := await self._take(limit, key):
                self._give_back(taken)
                raise too_many(_TEXTS[limit], wait)
            taken.append((limit, key))
        return Attempt(tuple(taken), pair)

    def succeed(self, attempt: Attempt) -> None:
        """State that an attempt has not failed."""
        self._give_back(attempt.taken)
        if attempt.pair:
            if len(self._known) >= _MAX_KNOWN:
                self._known.pop(next(iter(self._known)))
            self._known[attempt.pair] = None

    async def _take(self, limit: str, key: str) -> float:
        if (buckets := self._buckets.get(limit)) is not None:
            return buckets.take(key)
        return await self._shared[limit].take(key)

    def _give_back(self, taken: list[tuple[str, str]] | tuple[tuple[str, str], ...]) -> None:
        for limit, key in taken:
            (self._buckets.get(limit) or self._shared[limit]).give_back(key)
