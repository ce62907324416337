"""Requests that take long end within seconds after their token has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest
from starlette.types import Message, Receive, Scope, Send

from backend.access.middleware import ACCESS, RECHECK_SECONDS, AccessControl, RequestAccess, TokenEndedError
from backend.access.rate_limiter import RateLimiter
from backend.db import Database, now
from backend.db.models import Token
from backend.settings import Settings
from backend.tokens import identify
from tests.backend.access.clocks import FakeClock
from tests.backend.conftest import ADMIN_TOKEN

End = Callable[[Database], None]


def revoke(database: Database) -> None:
    with database.write() as session:
        token = session.query(Token).where(Token.name == "admin").one()
        token.revoked_at = now(session)


def expire(database: Database) -> None:
    with database.write() as session:
        token = session.query(Token).where(Token.name == "admin").one()
        token.expires_at = now(session) - timedelta(seconds=1)


class Exchange:
    """One request with the admin's token whose application sends or receives a part each second of a fake clock."""

    def __init__(self, database: Database, settings: Settings) -> None:
        self.database = database
        self.clock = FakeClock()
        self.settings = settings
        self.sent: list[Message] = []
        self.received = 0
        self.after: dict[int, End] = {}

    async def _pass(self, part: int) -> None:
        self.clock.now += 1.0
        if part in self.after:
            self.after[part](self.database)

    async def send_parts(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._authorize(scope)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for part in range(20):
            await self._pass(part)
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    async def receive_parts(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._authorize(scope)
        for part in range(20):
            await self._pass(part)
            await receive()
            self.received += 1

    def _authorize(self, scope: Scope) -> None:
        access: RequestAccess = scope[ACCESS]
        access.token, access.principal = ADMIN_TOKEN, identify(self.database, ADMIN_TOKEN)

    def run(self, app: Callable[[Scope, Receive, Send], object]) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": b"x", "more_body": True}

        async def send(message: Message) -> None:
            self.sent.append(message)

        control = AccessControl(app, self.database, RateLimiter(self.settings), self.clock)  # type: ignore[arg-type]
        scope = {"type": "http", "method": "GET", "path": "/x", "client": ("10.0.0.1", 1), "headers": []}
        asyncio.run(control(scope, receive, send))


@pytest.fixture
def exchange(database: Database, settings: Settings) -> Exchange:
    return Exchange(database, settings)


@pytest.mark.parametrize("end", [revoke, expire])
def test_download_ends_within_seconds_and_is_not_complete(exchange: Exchange, end: End) -> None:
    exchange.after = {10: end}
    exchange.run(exchange.send_parts)
    assert 10 <= len(exchange.sent) - 1 <= 10 + RECHECK_SECONDS
    assert exchange.sent[-1].get("more_body"), "the server closes a connection whose answer is not complete"


def test_download_with_a_valid_token_is_complete(exchange: Exchange) -> None:
    exchange.run(exchange.send_parts)
    assert len(exchange.sent) == 22
    assert not exchange.sent[-1].get("more_body")


@pytest.mark.parametrize("end", [revoke, expire])
def test_upload_ends_within_seconds_with_401(exchange: Exchange, end: End) -> None:
    exchange.after = {10: end}
    with pytest.raises(TokenEndedError) as caught:
        exchange.run(exchange.receive_parts)
    assert caught.value.status == 401
    assert 10 <= exchange.received <= 10 + RECHECK_SECONDS


def test_other_errors_of_a_response_are_not_hidden(exchange: Exchange) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("ours")

    with pytest.raises(ValueError, match="ours"):
        exchange.run(broken)
