"""ASGI middleware around the check of the token: the limit of each address, and the end of a token.

The routes check the token once, when a request begins. A download may take hours and an upload minutes: while their
bytes pass, the token is checked again, so that they end within seconds of its revocation.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from backend.access.rate_limiter import RateLimiter
from backend.db import Database
from backend.errors import ApiError, problem_response, shown_path
from backend.tokens import Principal, identify
from core.protocol.access import EXPIRY_HEADER

_log = structlog.get_logger(__name__)

ACCESS = "dkd.access"
"""Key of the ``RequestAccess`` in a request's scope."""
RECHECK_SECONDS = 2.0
"""Time after which the token of a request that is still being received or answered is checked again."""


class TokenEndedError(ApiError):
    """The token of a request has ended while the request was being received or answered."""

    def __init__(self) -> None:
        super().__init__(
            401,
            "this token was revoked or has expired during the request",
            headers={"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )


@dataclass
class RequestAccess:
    """What is known about the sender of a request.

    Attributes:
        client: Address of the client.
        principal: Principal of the request's token; None before the token has been checked.
        token: Text of that token.
        checked_at: Time at which the token was checked last.
        cut_off: Whether the response was ended because the token has ended.
    """

    client: str
    principal: Principal | None = None
    token: str = field(default="", repr=False)
    checked_at: float = 0.0
    cut_off: bool = False


async def look_up(database: Database, token: str) -> Principal | None:
    """Return the principal of a token: on SQLite on the event loop, over a network in a thread.

    Reading a row of a local file takes less time than handing the query to a thread.
    """
    return identify(database, token) if database.is_sqlite else await run_in_threadpool(identify, database, token)


class AccessControl:
    """Limits the requests of each address, ends requests whose token ends, and announces the end of a token.

    Args:
        app: The application behind this middleware.
        database: The database.
        limiter: Counts the requests.
        clock: Returns the time in seconds.
    """

    def __init__(
        self, app: ASGIApp, database: Database, limiter: RateLimiter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.app = app
        self._database = database
        self._limiter = limiter
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        client = scope.get("client")
        access = scope[ACCESS] = RequestAccess(client[0] if client else "", checked_at=self._clock())
        try:
            await self._limiter.count_request(access.client)
        except ApiError as error:
            await problem_response(error.status, error.detail, headers=error.headers)(scope, receive, send)
            return

        async def receive_while_valid() -> Message:
            message = await receive()
            if message["type"] == "http.request":
                await self._recheck(access)
            return message

        async def send_while_valid(message: Message) -> None:
            if message["type"] == "http.response.start":
                end = access.principal.announced_end(datetime.now(UTC)) if access.principal else None
                if end is not None:
                    name_and_value = (EXPIRY_HEADER.lower().encode(), end.header().encode())
                    message = {**message, "headers": [*message["headers"], name_and_value]}
            elif message.get("more_body"):  # the last part is not worth a check
                try:
                    await self._recheck(access)
                except TokenEndedError:
                    access.cut_off = True
                    raise
            await send(message)

        try:
            await self.app(scope, receive_while_valid, send_while_valid)
        except Exception:
            # The server closes the connection of an answer that is not complete, so that the client does not take what
            # it has received for the whole.
            if not access.cut_off:
                raise
            _log.info("response cut off: its token has ended", path=shown_path(scope))

    async def _recheck(self, access: RequestAccess) -> None:
        """Check the token again if its last check is some seconds ago.

        Raises:
            TokenEndedError: The token was revoked or has expired.
        """
        now = self._clock()
        if access.principal is None or now - access.checked_at < RECHECK_SECONDS:
            return
        access.checked_at = now
        if await look_up(self._database, access.token) is None:
            raise TokenEndedError
