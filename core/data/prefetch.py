"""Items made ahead in a thread, so that reading a disk and training overlap."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Given = TypeVar("Given")
Made = TypeVar("Made")

DEPTH = 4
"""Batches ahead: enough for a slow read now and then, and little memory (50 MB at 64 images of 256 × 256 pixels)."""


def prefetch(make: Callable[[Given], Made], given: Iterable[Given], depth: int = DEPTH) -> Generator[Made]:
    """``map(make, given)``, up to ``depth`` items ahead of whoever reads.

    What ``make`` raises comes out at its item. The thread ends with the iterator: read to its end, closed or dropped.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    waiting: deque[Future[Made]] = deque()
    try:
        for item in given:
            waiting.append(thread.submit(make, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        thread.shutdown(cancel_futures=True)
