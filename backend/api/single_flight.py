"""Answers that many ask for at once are computed once for all of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class _Computation:
    """What a thread computes, in the context of the first request that asked, for all who wait for the future."""

    work: Callable[[], Any]
    context: Context
    future: Future[Any]


class SingleFlight:
    """Lets requests with equal keys share a computation that begins after each of them has arrived.

    Requests that arrive while one is being computed share the next one, because the present one may have read the
    database before a change that they have made. So at most one computation of a key runs at a time, however many ask.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: dict[Hashable, _Computation | None] = {}

    async def run(self, key: Hashable, work: Callable[[], T]) -> T:
        """Return the result of ``work``, or of that of another request with this key.

        Args:
            key: Everything on which the result depends.
            work: Called in a thread, in the context of the first of the requests.

        Raises:
            Exception: What ``work`` has raised, to all who share it.
        """
        with self._lock:
            idle = key not in self._next
            computation = self._next.get(key)
            if computation is None:
                computation = self._next[key] = _Computation(work, copy_context(), Future())
        if idle:
            asyncio.get_running_loop().run_in_executor(None, self._compute, key)
        # A client that leaves must not cancel it for the others.
        result: T = await asyncio.shield(asyncio.wrap_future(computation.future))
        return result

    def _compute(self, key: Hashable) -> None:
        """Compute one after another, until nobody waits."""
        while True:
            with self._lock:
                computation = self._next[key]
                if computation is None:
                    del self._next[key]
                    return
                self._next[key] = None
            try:
                computation.future.set_result(computation.context.run(computation.work))
            except Exception as error:  # noqa: BLE001 (raised in every request that waits)
                computation.future.set_exception(error)

    @property
    def idle(self) -> bool:
        """Whether nothing is being computed."""
        with self._lock:
            return not self._next
