"""Threads for work of sign-ins that may take long, so that it never holds the threads of all routes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TypeVar, TypeVarTuple, Unpack

import anyio

from backend.errors import ApiError

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")

_WAITING = 50


class FewThreads:
    """Runs functions in threads, few at a time.

    Args:
        at_once: How many may run at the same time.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._taken = 0

    @cached_property
    def _limiter(self) -> anyio.CapacityLimiter:
        return anyio.CapacityLimiter(self._at_once)  # belongs to the event loop

    async def run(self, function: Callable[[Unpack[Arguments]], T], *args: *Arguments) -> T:
        """Return what a function returns for arguments.

        Raises:
            ApiError: 503 if too many wait for theirs.
        """
        # Counted here, because the limiter counts a request only some steps of the event loop after it was made.
        if self._taken >= self._at_once + _WAITING:
            raise ApiError(503, "too many sign-ins at once; try again", headers={"Retry-After": "5"})
        self._taken += 1
        try:
            return await anyio.to_thread.run_sync(function, *args, limiter=self._limiter)
        finally:
            self._taken -= 1
