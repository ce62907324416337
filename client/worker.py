"""The client of the worker protocol."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

import httpx
from pydantic import BaseModel

from client.address import find_token, find_url
from client.connection import API, Connection, Reply
from client.errors import BackendUnreachable
from common.home import Home
from core.protocol.worker import (
    Claim,
    ClaimReply,
    ClaimRequest,
    EventBatch,
    EventReply,
    Heartbeat,
    HeartbeatReply,
    Outcome,
    Registration,
    RegistrationReply,
)

# Errors of a request on a pooled connection that the backend had closed while it was idle.
_STALE_CONNECTION = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)

_Result = TypeVar("_Result")


class WorkerClient:
    """Registers a worker, claims runs and reports on them. A context manager; safe to use from several threads.

    A request is repeated only if its pooled connection had been closed while idle, or if its token has been rotated and
    the new text is in the token's file. Otherwise the supervisor decides
    when to repeat a request and when to give a run up. Every method raises ApiError if the backend refuses the request
    (409: the attempt is no longer the run's current one), and BackendUnreachable if it gets no usable response.

    Args:
        url: The backend's address; the default is that of ``Client``.
        token: The worker's token; by default DKD_WORKER_TOKEN, else the content of the file that DKD_WORKER_TOKEN_FILE
            names, else, for a backend on this machine, the token that its stack has written to DKD_HOME.
        timeout: Time limit of connecting, of reading and of writing, in seconds each.
        transport: Replaces the network in tests.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = 10.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url = find_url(url)
        worker_token = Home.find().worker_token
        self._connection = Connection(
            self.url,
            lambda: find_token(token, self.url, variable="DKD_WORKER_TOKEN", local=worker_token),
            timeout=timeout,
            patient=False,
            transport=transport,
        )

    def close(self) -> None:
        """Close the pooled connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def register(self, registration: Registration) -> RegistrationReply:
        """Register this worker. Runs that it held before a restart return to the queue."""
        return self._send("register", registration, RegistrationReply)

    def heartbeat(self, worker_id: str, heartbeat: Heartbeat) -> HeartbeatReply:
        """Renew the leases of the runs in the heartbeat, and return the orders for them."""
        return self._send(f"{worker_id}/heartbeat", heartbeat, HeartbeatReply)

    def claim(self, worker_id: str, request: ClaimRequest | None = None) -> Claim | None:
        """Claim the best eligible run.

        Returns:
            The claim, or None if no run is eligible. Repeating a request with the same key returns the same claim.
        """
        return self._send(f"{worker_id}/claim", request or ClaimRequest(), ClaimReply).claim

    def send_events(self, worker_id: str, run_id: str, batch: EventBatch) -> int:
        """Send event records and return the last sequence number stored for the attempt."""
        return self._send(f"{worker_id}/runs/{run_id}/events", batch, EventReply).accepted_seq

    def finish(self, worker_id: str, run_id: str, outcome: Outcome) -> None:
        """Report the outcome of an attempt. Repeating the call changes nothing."""
        path = f"{API}/worker/{worker_id}/runs/{run_id}/finish"
        self._with_fresh_connection(lambda: self._connection.send_empty("POST", path, body=outcome))

    def _send(self, path: str, body: BaseModel, reply: type[Reply]) -> Reply:
        path = f"{API}/worker/{path}"
        return self._with_fresh_connection(lambda: self._connection.send("POST", path, reply, body=body))

    @staticmethod
    def _with_fresh_connection(request: Callable[[], _Result]) -> _Result:
        """Send a request, and repeat it once if its connection had been closed while idle."""
        try:
            return request()
        except BackendUnreachable as error:
            if not isinstance(error.__cause__, _STALE_CONNECTION):
                raise
            return request()
