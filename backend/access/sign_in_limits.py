"""Limits of failed sign-ins: of each name, of each network, of each name from each network, and of each known device.

An attempt takes from its buckets before the password is verified, so that many attempts at once cannot pass before the
first has failed, and one that has not failed gives back what it took. A stranger who keeps trying a name empties the
buckets of the name and of the network. A device on which the person has signed in before has a bucket of its own, so
that the stranger cannot keep that person out.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from backend.access.buckets import Buckets, Limit
from backend.access.rate_limiter import REDIS_SCHEMES, network_of, too_many
from backend.access.shared_buckets import SharedBuckets
from backend.errors import ApiError
from backend.settings import Settings

LIMITS = {
    "sign-in of a name from a network": Limit(rate=1 / 30, burst=5),
    "sign-in of a name": Limit(rate=1 / 12, burst=30),
    # A lab behind one address, or a dashboard, mistypes more often than one person.
    "sign-in from a network": Limit(rate=1 / 2, burst=60),
    "sign-in from a device": Limit(rate=1 / 30, burst=5),
}
"""Failed sign-ins per second on average, and at once."""
_PAIR, _NAME, _NETWORK, _DEVICE = LIMITS
_TEXTS = {
    _PAIR: "failed sign-ins of this person from this address",
    _NAME: "failed sign-ins of this person",
    _NETWORK: "failed sign-ins from this address",
    _DEVICE: "failed sign-ins on this device",
}
_FAILURES = (401, 403)
"""Statuses of an attempt with a wrong secret. With any other, such as 503, the service refused to compare it."""
_MAX_KNOWN = 10_000


class SignInLimits:
    """Counts failed sign-ins and refuses further ones with 429 and ``Retry-After``.

    Args:
        settings: The backend's settings. Replicas share the limits over Redis if it is the broker.
        clock: Returns the time in seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._shared: dict[str, SharedBuckets] = {}
        self._buckets: dict[str, Buckets] = {}
        if settings.broker_url.startswith(REDIS_SCHEMES):
            # Without a share of each replica: a sign-in may wait for Redis, and what it gives back has one place.
            self._shared = {
                name: SharedBuckets(name, limit, settings.broker_url, clock, local_share=0.0)
                for name, limit in LIMITS.items()
            }
        else:
            self._buckets = {name: Buckets(limit, clock) for name, limit in LIMITS.items()}
        self._known: dict[str, None] = {}

    async def close(self) -> None:
        """Close the connections to Redis."""
        for shared in self._shared.values():
            await shared.close()

    @asynccontextmanager
    async def attempt(self, name: str, client: str, device: str = "") -> AsyncIterator[None]:
        """Count an attempt as failed, and give back what it took unless its body raises an ApiError of a wrong secret.

        Args:
            name: The name that was sent, which need not be a person's.
            client: Address of the sender.
            device: Key of a device on which the person of this name has signed in before; empty for none.

        Raises:
            ApiError: 429 above a limit.
        """
        # A hash, because people type passwords into the field of the name.
        person = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
        network = network_of(client)
        pair = f"{person}@{network}"
        taken = (
            [(_DEVICE, device)]
            if device
            else [(_PAIR, pair), (_NETWORK, network), *([] if pair in self._known else [(_NAME, person)])]
        )
        # What an attempt took before a refusal is not given back: whoever keeps trying uses up the own buckets first,
        # and leaves most of the name's to others.
        for limit, key in taken:
            if wait := await self._take(limit, key):
                raise too_many(_TEXTS[limit], wait)
        try:
            yield
        except Exception as error:
            if not (isinstance(error, ApiError) and error.status in _FAILURES):
                await self._give_back(taken)
            raise
        await self._give_back(taken)
        if len(self._known) >= _MAX_KNOWN:
            self._known.pop(next(iter(self._known)))
        self._known[pair] = None

    async def count_failure(self, client: str) -> None:
        """Count a failure with a secret that cannot be guessed, such as an ID token, after it was compared.

        Args:
            client: Address of the sender.

        Raises:
            ApiError: 429 above the limit of the network.
        """
        if wait := await self._take(_NETWORK, network_of(client)):
            raise too_many(_TEXTS[_NETWORK], wait)

    async def _take(self, limit: str, key: str) -> float:
        if (buckets := self._buckets.get(limit)) is not None:
            return buckets.take(key)
        return await self._shared[limit].take(key)

    async def _give_back(self, taken: list[tuple[str, str]]) -> None:
        for limit, key in taken:
            if (buckets := self._buckets.get(limit)) is not None:
                buckets.give_back(key)
            else:
                await self._shared[limit].give_back(key)
