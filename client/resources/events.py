"""Server-sent events of a run, with reconnection after a lost connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from client.connection import Connection
from client.errors import ApiError, BackendUnreachable
from client.failures import TOO_MANY_REQUESTS

# The backend sends a comment line at intervals; after four missed ones the connection counts as dead.
_READ_TIMEOUT_SECONDS = 60.0
_RECONNECT_SECONDS = 0.5


@dataclass(frozen=True)
class ServerEvent:
    """One event of a stream.

    Attributes:
        id: Id of the event, with which ``last_event_id`` continues after it; empty if the backend sent none.
        event: The kind of event.
        data: The content in JSON, as the backend sent it.
    """

    id: str
    event: str
    data: str


def read_events(connection: Connection, path: str, last_event_id: str | None) -> Iterator[ServerEvent]:
    """Yield the events of one stream until the backend closes it.

    Args:
        connection: Connection to the backend.
        path: The stream's path.
        last_event_id: Id of the event after which the stream continues.

    Raises:
        BackendUnreachable: The connection was lost.
    """
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store"}
    if last_event_id is not None:
        headers["Last-Event-ID"] = last_event_id
    with connection.event_source(path, headers=headers, read_timeout=_READ_TIMEOUT_SECONDS) as source:
        for event in source.iter_sse():
            if event.data:  # httpx-sse also yields the empty event after a keep-alive comment
                yield ServerEvent(id=event.id, event=event.event or "message", data=event.data)


def follow_events(
    connect: Callable[[str | None], Iterator[ServerEvent]], last_event_id: str | None, patience: float
) -> Iterator[ServerEvent]:
    """Yield events until the event ``end``; after a lost connection, continue after the last event that was read.

    Args:
        connect: Opens the stream after the event with a given id.
        last_event_id: Id of the event after which the stream begins; None for the complete stream.
        patience: Seconds without an event after which a lost connection is no longer retried.

    Raises:
        BackendUnreachable: No connection could be made for ``patience`` seconds.
        ApiError: The backend refused the request; for that long, if it refused it because there are too many.
    """
    last_event_time = time.monotonic()
    while True:
        pause = _RECONNECT_SECONDS
        try:
            for event in connect(last_event_id):
                last_event_time = time.monotonic()
                last_event_id = event.id or last_event_id
                yield event
                if event.event == "end":
                    return
        except BackendUnreachable:
            if time.monotonic() - last_event_time > patience:
                raise
        except ApiError as error:
            if error.status != TOO_MANY_REQUESTS or time.monotonic() - last_event_time > patience:
                raise
            pause = max(pause, error.retry_after)
        # Closed before the run's end: the backend is being restarted.
        time.sleep(pause)
