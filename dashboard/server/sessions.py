"""Sessions of browsers: their cookie, their limits with the login mode ``address``, and the end of their sockets."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from client import ClientSettingsError
from common.browser_sessions import SessionLimits
from common.origins import address, origin_allowed

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


def device_cookie_name(scope: Scope) -> str:
    """Return the name of the cookie that keeps the browser's last session after its end."""
    return f"{cookie_name(scope)}-device"


def cookie_values(scope: Scope, name: str) -> Iterator[str]:
    """Yield the value of every cookie with that name: a page on another port may have set a second one."""
    for header in Headers(scope=scope).getlist("cookie"):
        for part in header.split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                yield value


def set_cookie(scope: Scope, value: str, seconds: int, *, root: str, origins: Iterable[str], name: str = "") -> str:
    """Return the header that sets a cookie, which scripts cannot read and other sites do not send.

    Args:
        scope: The scope of the request.
        value: The cookie's value; empty to remove it.
        seconds: Time for which the browser keeps it.
        root: Path of the dashboard.
        origins: Further origins of the dashboard, one with https if a proxy provides TLS.
        name: Name of the cookie; empty for that of a session.
    """
    host = Headers(scope=scope).get("host", "")
    secure = scope["scheme"] == "https" or any(
        item.startswith("https://") and origin_allowed(item, host, "https") for item in origins
    )
    return (
        f"{name or cookie_name(scope)}={value}; Max-Age={seconds}; Path={root}; HttpOnly; "
        f"SameSite=Strict{'; Secure' if secure else ''}"
    )


async def while_session_lasts(
    app: ASGIApp, accepts: Callable[[bool], Awaitable[bool]], scope: Scope, receive: Receive, send: Send
) -> None:
    """Run a WebSocket, and close it within seconds after its session has ended.

    Args:
        app: The application that answers.
        accepts: Returns whether the session lasts; its argument is whether this is a use of the session.
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
                ended = not await accepts(message is not None)
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
