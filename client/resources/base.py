"""The base class of all resources, and helpers for their methods."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from client.connection import Connection


class Resource:
    """A group of calls on one resource of the API."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection


def as_sequence(value: str | Sequence[str] | None) -> Sequence[str] | None:
    """Return one value as a sequence of one."""
    return [value] if isinstance(value, str) else value


PAGE_SIZE = 200


def items_of_pages(read_page: Callable[..., Any], **filters: Any) -> Iterator[Any]:
    """Yield the items of all pages of a list.

    Args:
        read_page: Returns a page with ``items`` and ``next_cursor``.
        filters: Further arguments of ``read_page``.
    """
    cursor: str | None = None
    while True:
        page = read_page(cursor=cursor, limit=PAGE_SIZE, **filters)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


class Deadline:
    """A time limit of a call that waits.

    Args:
        seconds: The limit in seconds; None for no limit.
    """

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def check(self, message: str, *, after: float = 0.0) -> None:
        """Check that the limit is not exceeded now, or ``after`` seconds from now.

        Raises:
            TimeoutError: The limit is exceeded; the error has the text ``message``.
        """
        if self._end is not None and time.monotonic() + after > self._end:
            raise TimeoutError(message)

    def sleep(self, seconds: float, message: str) -> None:
        """Sleep, unless the limit would be reached meanwhile.

        Raises:
            TimeoutError: The limit would be exceeded; the error has the text ``message``.
        """
        self.check(message, after=seconds)
        time.sleep(seconds)
