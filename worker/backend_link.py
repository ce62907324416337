"""What the worker needs of the backend, and a link to it that finds address and token anew when they change."""

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
UNKNOWN = 404
_TO_BE_REPEATED = frozenset({401, 403, 408, 425, 429})


class WorkerApi(Protocol):
    """The worker's side of the protocol; ``client.WorkerClient`` speaks it over HTTP.

    Every method raises ApiError where the backend refuses and BackendUnreachable where nothing usable answers.
    """

    def register(self, registration: Registration) -> RegistrationReply: ...

    def heartbeat(self, worker_id: str, heartbeat: Heartbeat) -> HeartbeatReply: ...

    def claim(self, worker_id: str, request: ClaimRequest) -> Claim | None: ...

    def send_events(self, worker_id: str, run_id: str, batch: EventBatch) -> int: ...

    def finish(self, worker_id: str, run_id: str, outcome: Outcome) -> None: ...


def is_passing(error: ApiError) -> bool:
    """Whether the same request may be accepted later: the backend is in trouble, or does not know the token yet."""
    return error.status >= 500 or error.status in _TO_BE_REPEATED


class Link:
    """A ``WorkerApi`` that is connected when it is first used, and again after it has failed.

    The backend writes the token, and ``dkd up`` the address, on their first start, which may come after the worker's;
    either may change while the worker lives on.
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
        # A local name: another thread may let go of the connection meanwhile.
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
