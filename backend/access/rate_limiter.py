"""Limits of requests: of each token, of each address, and of the refused requests of an address."""

from __future__ import annotations

import ipaddress
import math
import time
from collections.abc import Callable
from functools import lru_cache

from backend.access.buckets import Buckets, Limit
from backend.access.shared_buckets import SharedBuckets
from backend.errors import ApiError
from backend.settings import Settings

_MAX_KNOWN_TOKENS = 10_000
REDIS_SCHEMES = ("redis://", "rediss://")


class RateLimiter:
    """Counts requests and refuses those above a limit with 429 and ``Retry-After``.

    A request without a valid token takes from a small bucket of its address. While that bucket is empty, the address
    may not try further tokens: only tokens that this process has accepted before are looked up. Guessing is therefore
    slow, and cannot lock out the people and workers behind the same address.

    Args:
        settings: The backend's settings. Replicas share the limits over Redis if it is the broker.
        clock: Returns the time in seconds.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self._rates = {
            "token": settings.rate_per_token,
            "address": settings.rate_per_address,
            "refused": settings.rate_of_refused,
        }
        self._shared: dict[str, SharedBuckets] = {}
        self._buckets: dict[str, Buckets] = {}
        for name, rate in self._rates.items():
            if rate and settings.broker_url.startswith(REDIS_SCHEMES):
                self._shared[name] = SharedBuckets(name, Limit.of(rate), settings.broker_url, clock)
            elif rate:
                self._buckets[name] = Buckets(Limit.of(rate), clock)
        # When an address whose bucket of refused requests is empty may try again.
        self._blocked_until: dict[str, float] = {}
        self._known: dict[str, None] = {}
        self._clock = clock

    async def close(self) -> None:
        """Close the connections to Redis."""
        for shared in self._shared.values():
            await shared.close()

    async def count_request(self, client: str) -> None:
        """Count a request of an address, before anything else is done for it.

        Raises:
            ApiError: 429 above the limit.
        """
        if wait := await self._take("address", network_of(client)):
            raise too_many(
                f"requests from this address: at most {self._rates['address']:g} per second on average", wait
            )

    async def count_token(self, token_id: str, sha256: str) -> None:
        """Count a request with a valid token, and remember the token.

        Raises:
            ApiError: 429 above the limit.
        """
        self.remember(sha256)
        if wait := await self._take("token", token_id):
            raise too_many(f"requests with this token: at most {self._rates['token']:g} per second on average", wait)

    def remember(self, sha256: str) -> None:
        """Remember a token that is valid, such as that of a session that begins."""
        if sha256 not in self._known:
            if len(self._known) >= _MAX_KNOWN_TOKENS:
                self._known.pop(next(iter(self._known)))
            self._known[sha256] = None

    def check_unknown(self, client: str, sha256: str) -> None:
        """Refuse to look up a token that this process has not accepted yet while too many requests are refused.

        Raises:
            ApiError: 429 in this case.
        """
        if not self._blocked_until or sha256 in self._known:
            return
        network = network_of(client)
        wait = self._blocked_until.get(network, 0.0) - self._clock()
        if wait > 0:
            raise self._too_many_refused(wait)
        self._blocked_until.pop(network, None)

    async def count_refused(self, client: str, sha256: str | None) -> None:
        """Count a request without a valid token.

        Args:
            client: Address of the client.
            sha256: Hash of the text that it sent as a token; None if it sent none.

        Raises:
            ApiError: 429 above the limit.
        """
        if sha256 is not None:
            self._known.pop(sha256, None)
        network = network_of(client)
        if wait := await self._take("refused", network):
            now = self._clock()
            self._blocked_until = {name: until for name, until in self._blocked_until.items() if until > now}
            self._blocked_until[network] = now + wait
            raise self._too_many_refused(wait)

    async def _take(self, name: str, key: str) -> float:
        if (buckets := self._buckets.get(name)) is not None:
            return buckets.take(key)
        shared = self._shared.get(name)
        return await shared.take(key) if shared else 0.0

    def _too_many_refused(self, wait: float) -> ApiError:
        return too_many("requests without a valid token from this address", wait)


def too_many(what: str, wait: float) -> ApiError:
    """Return a 429 whose ``Retry-After`` is the time until a request is admitted again."""
    seconds = max(math.ceil(wait), 1)
    return ApiError(429, f"too many {what}; try again in {seconds} s", headers={"Retry-After": str(seconds)})


@lru_cache(4096)
def network_of(client: str) -> str:
    """Return the key of an address: an IPv4 address, or the /64 network of an IPv6 address, which one host may own."""
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    mapped = address.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((address, 64), strict=False).network_address)
