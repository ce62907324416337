"""Concurrent requests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from starlette.testclient import TestClient

from tests.backend.lab import Lab

T = TypeVar("T")


def concurrently(lab: Lab, count: int, work: Callable[[Lab, int], T]) -> list[T]:
    """Return the results of ``work(lab, index)`` in ``count`` threads that start together, each with new clients."""
    barrier = threading.Barrier(count)

    def one(index: int) -> T:
        admin, worker = (TestClient(lab.app, headers=dict(client.headers)) for client in (lab.admin, lab.worker))
        barrier.wait()
        return work(Lab(lab.app, admin, worker), index)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))
