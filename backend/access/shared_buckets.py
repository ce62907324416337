"""Token buckets that the replicas of the backend share over Redis.

A replica admits a share of a limit, by default a tenth, from its own memory, so that the requests of a normal lab never
wait for Redis. The rest of the limit is shared. If Redis does not answer, each replica counts alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from backend.access.buckets import Buckets, Limit

_log = structlog.get_logger(__name__)

LOCAL_SHARE = 0.1
_ANSWER_SECONDS = 0.25
_PAUSE_SECONDS = 10.0
"""How long a Redis that did not answer is not asked."""
# The clock is that of Redis, so that the clocks of the replicas need not agree. Numbers are formatted here because Lua
# would otherwise shorten them to 14 digits, and Redis would cut a returned number to an integer. Shorter waits than
# 10 microseconds are errors of rounding. A stored time beyond that of an empty bucket is forged, or of a lower rate.
_TAKE = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local interval, slack = tonumber(ARGV[1]), tonumber(ARGV[2])
local full_at = math.max(tonumber(redis.call('GET', KEYS[1])) or now, now)
full_at = math.min(full_at, now + slack + interval)
local wait = full_at - now - slack
if wait > 1e-5 then return string.format('%.6f', wait) end
full_at = full_at + interval
redis.call('SET', KEYS[1], string.format('%.6f', full_at), 'PX', math.ceil((full_at - now) * 1000) + 1)
return '0'
"""
_GIVE_BACK = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
local interval, slack = tonumber(ARGV[1]), tonumber(ARGV[2])
local full_at = math.min(tonumber(redis.call('GET', KEYS[1])) or now, now + slack + interval) - interval
if full_at > now then
  redis.call('SET', KEYS[1], string.format('%.6f', full_at), 'PX', math.ceil((full_at - now) * 1000) + 1)
else
  redis.call('DEL', KEYS[1])
end
return '0'
"""


class SharedBuckets:
    """Buckets of one limit over all replicas.

    Each further replica may add its local share of the limit. The connection is made at the first request above it.

    Args:
        name: Distinguishes this limit from others in Redis.
        limit: The limit.
        url: Address of Redis.
        clock: Returns the time in seconds, for the local share.
        local_share: Part of the limit that each replica admits without Redis; 0 for none.
    """

    def __init__(
        self,
        name: str,
        limit: Limit,
        url: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        local_share: float = LOCAL_SHARE,
    ) -> None:
        self._name = name
        self._local = Buckets(limit.share(local_share), clock) if local_share else None
        self._shared_limit = limit.share(1 - local_share)
        self._alone = Buckets(self._shared_limit, clock)
        self._url = url
        self._clock = clock
        self._redis: Redis | None = None
        self._paused_until: float | None = None

    async def take(self, key: str) -> float:
        """Take one request from a bucket; see ``Buckets.take``."""
        if self._local is not None and not self._local.take(key):
            return 0.0
        reply = await self._ask(_TAKE, key)
        return self._alone.take(key) if reply is None else float(reply)

    async def give_back(self, key: str) -> None:
        """Return a request that was taken, to the shared part of the limit."""
        if await self._ask(_GIVE_BACK, key) is None:
            self._alone.give_back(key)

    async def close(self) -> None:
        """Close the connection to Redis."""
        if self._redis is not None:
            await self._redis.aclose()
            self._redis = None

    async def _ask(self, script: str, key: str) -> Any:
        """Return what a script answers; None if Redis does not."""
        if self._paused_until is not None and self._clock() < self._paused_until:
            return None
        limit = self._shared_limit
        try:
            call = self._connected().register_script(script)
            reply = await call(
                keys=[f"dkd:rate:{self._name}:{key}"], args=[1 / limit.rate, (limit.burst - 1) / limit.rate]
            )
        except (RedisError, OSError) as error:
            if self._paused_until is None:
                _log.warning("rate limits are counted by each replica alone: Redis does not answer", error=str(error))
            self._paused_until = self._clock() + _PAUSE_SECONDS
            return None
        self._paused_until = None
        return reply

    def _connected(self) -> Redis:
        if self._redis is None:
            self._redis = Redis.from_url(
                self._url,
                socket_timeout=_ANSWER_SECONDS,
                socket_connect_timeout=_ANSWER_SECONDS,
                retry=Retry(NoBackoff(), 0),  # a request must not wait for a Redis that is down
            )
        return self._redis
