"""The worker's interface to the backend, and a connection that reads its address and token again after a failure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from client import ApiError, BackendUnreachable, ClientSettingsError
from core.protocol.worker import (
    Claim,
    ClaimRequest,
    EventBatch,
    Heartbeat,
    HeartbeatReply,
    Outcome,
    Registration,
    RegistrationReply,
)

Reply = TypeVar("Reply")

FENCED = 409
"""HTTP status of the reply to a report from an attempt that is no longer the run's current attempt."""
NOT_FOUND = 404
"""HTTP status of the reply if the backend has no such worker or run."""
_RETRYABLE = frozenset({401, 403, 408, 425, 429})
_MAX_DEMANDED_SECONDS = 20.0


class WorkerApi(Protocol):
    """The worker's side of the protocol; ``client.WorkerClient`` implements it over HTTP.

    Every method raises ApiError if the backend refuses the request, and BackendUnreachable if no usable reply arrives.
    """

    def register(self, registration: Registration) -> RegistrationReply:
        """Register the worker. Runs that it held before a restart return to the queue."""

    def heartbeat(self, worker_id: str, heartbeat: Heartbeat) -> HeartbeatReply:
        """Renew the leases of the runs in ``heartbeat``, and return an order for each."""

    def claim(self, worker_id: str, request: ClaimRequest) -> Claim | None:
        """Claim the best eligible run; None if there is none. A request with the same key returns the same run."""

    def send_events(self, worker_id: str, run_id: str, batch: EventBatch) -> int:
        """Report events of a training; return the highest sequence number that the backend has stored."""

    def finish(self, worker_id: str, run_id: str, outcome: Outcome) -> None:
        """Report the end of an attempt."""


def is_transient(error: ApiError) -> bool:
    """Return whether the same request may succeed later: a server error, or a token that is not valid yet."""
    return error.status >= 500 or error.status in _RETRYABLE


def demanded_wait(error: ApiError) -> float:
    """Return the seconds for which the backend asks not to repeat a request; limited, so that a lease does not end."""
    return min(error.retry_after, _MAX_DEMANDED_SECONDS)


class BackendLink:
    """A ``WorkerApi`` that connects on first use and reconnects after a failure.

    The backend writes the token on its first start, and ``dkd up`` writes the address. Both may happen after the worker
    has started, and both values may change while the worker runs.

    Args:
        connect: Creates a connection with the current address and token.
    """

    def __init__(self, connect: Callable[[], WorkerApi]) -> None:
        self._connect = connect
        self._api: WorkerApi | None = None

    def register(self, registration: Registration) -> RegistrationReply:
        return self._call(lambda api: api.register(registration))

    def heartbeat(self, worker_id: str, heartbeat: Heartbeat) -> HeartbeatReply:
        return self._call(lambda api: api.heartbeat(worker_id, heartbeat))

    def claim(self, worker_id: str, request: ClaimRequest) -> Claim | None:
        return self._call(lambda api: api.claim(worker_id, request))

    def send_events(self, worker_id: str, run_id: str, batch: EventBatch) -> int:
        return self._call(lambda api: api.send_events(worker_id, run_id, batch))

    def finish(self, worker_id: str, run_id: str, outcome: Outcome) -> None:
        self._call(lambda api: api.finish(worker_id, run_id, outcome))

    def _call(self, request: Callable[[WorkerApi], Reply]) -> Reply:
        # Stored in a local variable, since another thread may reset the attribute during the request.
        api = self._api
        if api is None:
            try:
                api = self._api = self._connect()
            except ClientSettingsError as error:
                raise BackendUnreachable("its address", str(error)) from error
        try:
            return request(api)
        except BackendUnreachable:
            self._api = None
            raise
        except ApiError as error:
            if error.status in (401, 403):
                self._api = None
            raise
