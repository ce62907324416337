"""The client of the worker's protocol."""

from __future__ import annotations

from types import TracebackType
from typing import Self

import httpx
from pydantic import BaseModel

from client.connection import API, Connection, Reply, find_token, find_url
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

# What a connection that the backend closed while it lay idle looks like at the next request.
_DROPPED = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)


class WorkerClient:
    """Registers, claims and reports. A context manager; safe to use from several threads.

    Nothing is repeated here but a request on a connection that had been closed while idle: when to try again, and
    when to give a run up, is the supervisor's to decide. Every method raises ApiError where the backend refuses (409:
    the attempt is no longer the run's own) and BackendUnreachable where nothing usable answers.

    Args:
        url: the backend's address; left out, found as ``Client`` does.
        token: the worker's; left out: DKD_WORKER_TOKEN, else the content of the file that DKD_WORKER_TOKEN_FILE names,
            else, for a backend on this machine, the token that its stack has made in DKD_HOME.
        timeout: seconds for each of connect, read and write.
        transport: another way to send, for tests.
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
        found = find_token(token, self.url, variable="DKD_WORKER_TOKEN", local=Home.find().worker_token)
        self._connection = Connection(self.url, found, timeout=timeout, transport=transport)

    def close(self) -> None:
        """Give the connections back."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def register(self, registration: Registration) -> RegistrationReply:
        """Say who this worker is. Runs that it still holds from an earlier life go back to the queue."""
        return self._send("register", registration, RegistrationReply)

    def heartbeat(self, worker_id: str, heartbeat: Heartbeat) -> HeartbeatReply:
        """Renew the lease of each run named, and hear what to do with it."""
        return self._send(f"{worker_id}/heartbeat", heartbeat, HeartbeatReply)

    def claim(self, worker_id: str, request: ClaimRequest | None = None) -> Claim | None:
        """Take the best eligible run; None where there is none. A request with a key gives the same run again."""
        return self._send(f"{worker_id}/claim", request or ClaimRequest(), ClaimReply).claim

    def send_events(self, worker_id: str, run_id: str, batch: EventBatch) -> int:
        """Send records; returns the last seq taken in for the attempt."""
        return self._send(f"{worker_id}/runs/{run_id}/events", batch, EventReply).accepted_seq

    def finish(self, worker_id: str, run_id: str, outcome: Outcome) -> None:
        """Say how an attempt ended. Saying it twice changes nothing."""
        path = f"{API}/worker/{worker_id}/runs/{run_id}/finish"
        try:
            self._connection.post(path, outcome)
        except BackendUnreachable as error:
            if not isinstance(error.__cause__, _DROPPED):
                raise
            self._connection.post(path, outcome)

    def _send(self, path: str, body: BaseModel | None, reply: type[Reply]) -> Reply:
        path = f"{API}/worker/{path}"
        try:
            return self._connection.send("POST", path, reply, body=body)
        except BackendUnreachable as error:
            if not isinstance(error.__cause__, _DROPPED):
                raise
            return self._connection.send("POST", path, reply, body=body)
