"""Sessions of the login mode ``address``: their cookie, their limits, their end, and the sockets that end with them."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from client import ClientSettingsError
from common.browser_sessions import BrowserSessions, SessionLimits
from common.origins import address

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

END_PATH = "end-session"
"""Path below the dashboard's root at which a browser ends its session (``assets/sign_out.js``)."""
_COOKIE = "dkd-dashboard-"
RECHECK_SECONDS = 2.0
"""Time after which an open socket whose session has ended is closed."""
_POLICY_VIOLATION = 1008


def limits() -> SessionLimits:
    """Return when sessions end by themselves: ``DKD_DASHBOARD_IDLE_HOURS`` and ``DKD_DASHBOARD_SESSION_HOURS``.

    Raises:
        ClientSettingsError: One of them is not a positive number.
    """
    default = SessionLimits()
    return SessionLimits(
        _seconds("DKD_DASHBOARD_IDLE_HOURS", default.idle_seconds),
        _seconds("DKD_DASHBOARD_SESSION_HOURS", default.total_seconds),
    )


def limits_or_default() -> SessionLimits:
    """Return ``limits()``, or the default ones if the settings are invalid; every page then shows only the error."""
    try:
        return limits()
    except ClientSettingsError:
        return SessionLimits()


def cookie_name(scope: Scope) -> str:
    """Return the cookie's name. It contains the port as browsers see it, because they share cookies among ports."""
    requested = address(Headers(scope=scope).get("host", ""), scope["scheme"])
    return f"{_COOKIE}{requested.port if requested else 0}"


def cookie_values(scope: Scope, name: str) -> Iterator[str]:
    """Yield the value of every cookie with that name: a page on another port may have set a second one."""
    for header in Headers(scope=scope).getlist("cookie"):
        for part in header.split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                yield value


async def while_session_lasts(
    app: ASGIApp, sessions: BrowserSessions, cookie: str, scope: Scope, receive: Receive, send: Send
) -> None:
    """Run a WebSocket, and close it within seconds after its session has ended.

    Args:
        app: The application that answers.
        sessions: The sessions of the home.
        cookie: Cookie of the session.
        scope: The connection's scope.
        receive: Receives messages of the browser, each of which is a use of the session.
        send: Sends messages to the browser.
    """
    pending: asyncio.Future[Message] | None = None
    checked_at = time.monotonic()
    ended = False

    async def receive_while_it_lasts() -> Message:
        nonlocal pending, checked_at, ended
        while not ended:
            if pending is None:
                pending = asyncio.ensure_future(receive())
            await asyncio.wait({pending}, timeout=RECHECK_SECONDS)
            message = pending.result() if pending.done() else None
            if time.monotonic() - checked_at >= RECHECK_SECONDS:
                checked_at = time.monotonic()
                ended = not sessions.accepts(cookie, use=message is not None)
            if ended:
                break
            if message is not None:
                pending = None
                return message
        await send({"type": "websocket.close", "code": _POLICY_VIOLATION, "reason": "the session has ended"})
        return {"type": "websocket.disconnect", "code": _POLICY_VIOLATION}

    async def send_while_it_lasts(message: Message) -> None:
        if not ended:  # otherwise the socket is closed
            await send(message)

    try:
        await app(scope, receive_while_it_lasts, send_while_it_lasts)
    finally:
        if pending is not None:
            pending.cancel()


def _seconds(variable: str, default: float) -> float:
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours <= 1e5:
        raise ClientSettingsError(f"{variable} is {text!r}; it must be hours, more than 0 and at most 100000")
    return hours * 3600.0
