"""Access checks of every request to the dashboard: for pages, files and the WebSocket.

A request must be addressed to a host name of this server and must not come from a page of another origin. With the
login modes ``address`` and ``password`` it must also carry the cookie of a session, which a one-time address or the
sign-in page begins (``dashboard.server.sessions``, ``dashboard.server.password_sessions``). Every response has security
headers that forbid loading, running or framing content of other origins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response

from client import ClientSettingsError
from common.browser_sessions import BrowserSessions
from common.home import Home
from common.one_time_address import PREFIX, OneTimeAddresses
from common.origins import address, host_allowed, origin_allowed
from common.security_headers import BROWSER_HEADERS
from dashboard.server import login, sessions
from dashboard.server.content_policy import policy
from dashboard.server.password_sessions import PasswordSessions

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEALTH = "_stcore/health"
_PLAIN_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>DKD Lab</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ font: 16px/1.5 sans-serif; max-width: 40em; margin: 10vh auto; padding: 0 1rem }}
:root {{ color-scheme: light dark }}
code {{ background: #8883; padding: 0.1em 0.3em; border-radius: 0.2em }}</style></head>
<body><h1>{title}</h1><p>{text}</p></body></html>"""
_ENDED = "You signed out, the dashboard was not used for a long time, or DKD Lab was started again."
_INSTRUCTIONS = (
    "This dashboard is opened with a one-time address. The account that runs DKD Lab gets a new address with "
    "<code>dkd open</code> on the machine (<code>dkd up</code> prints the first). Open it in this browser; afterwards "
    "every link works here. If you have opened the dashboard before and followed a link from another site, "
    '<a href="">try again</a>.'
)


class Gate:
    """ASGI middleware that checks every request to the dashboard."""

    def __init__(self, app: ASGIApp) -> None:
        base = str(st.get_option("server.baseUrlPath") or "").strip("/")
        self._app = app
        self._root = f"/{base}/" if base else "/"
        self._hosts = tuple(_option_list("server.allowedHosts"))
        self._origins = tuple(_option_list("server.corsAllowedOrigins"))
        try:
            mode = login.mode()
        except ClientSettingsError:  # every page shows only this error
            mode = "none"
        by_address = mode == "address"
        self._passwords = PasswordSessions(self._root, self._origins) if mode == "password" else None
        self._tickets = OneTimeAddresses(Home.find()) if by_address else None
        self._sessions = BrowserSessions(Home.find(), sessions.limits_or_default()) if by_address else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused; pass every other request to the dashboard."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        response = self._check_origin(scope)
        if response is None and self._passwords is not None:
            await self._passwords.admit(self._app, scope, receive, send, _with_security_headers)
            return
        cookie = self._session_cookie(scope)
        response = response or self._check_session(scope, cookie)
        if response is None and scope["type"] == "websocket" and self._sessions is not None:
            await sessions.while_session_lasts(self._app, self._accepts(cookie), scope, receive, send)
        elif response is None:
            await self._app(scope, receive, _with_security_headers(send) if scope["type"] == "http" else send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before acceptance: the browser gets status 403
        else:
            await response(scope, receive, _with_security_headers(send))

    def _check_origin(self, scope: Scope) -> Response | None:
        """Return a refusal for a request to another host name or from a page of another origin."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        requested = address(host, scope["scheme"])
        if requested is None or (self._hosts and not host_allowed(requested.host, self._hosts)):
            return _plain_page(403, "Not this server", "The dashboard does not answer to this host name.")
        if not origin_allowed(headers.get("origin", ""), host, scope["scheme"], self._origins):
            return _plain_page(403, "Cross-origin request", "Pages of other origins may not use the dashboard.")
        # Scripts and images embedded in a page of another origin are requested without Origin. Links are allowed.
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if foreign and not link:
            return _plain_page(403, "Cross-origin request", "Pages of other origins may not use the dashboard.")
        return None

    def _session_cookie(self, scope: Scope) -> str:
        """Return the cookie of a session that lasts; empty without one."""
        if self._sessions is None:
            return ""
        values = sessions.cookie_values(scope, sessions.cookie_name(scope))
        return next((value for value in values if self._sessions.accepts(value)), "")

    def _check_session(self, scope: Scope, cookie: str) -> Response | None:
        """With the login mode ``address``, begin and end sessions, and refuse requests without one."""
        if self._sessions is None or self._tickets is None:
            return None
        path = scope["path"].removeprefix(self._root)
        if scope["type"] == "http" and scope["method"] == "GET" and path.startswith(PREFIX):
            ticket, _, page = path.removeprefix(PREFIX).partition("/")
            if not self._tickets.redeem(ticket) and not cookie:
                return _plain_page(401, "This address has already been used", _INSTRUCTIONS)
            return self._redirect_with_cookie(scope, page, self._sessions.begin())
        if cookie and scope["type"] == "http" and path == sessions.END_PATH:
            self._sessions.end(cookie)
            response = _plain_page(200, "Signed out", _INSTRUCTIONS)
            response.headers["set-cookie"] = self._cookie(scope, "", 0)
            return response
        if cookie or (scope["type"] == "http" and path == _HEALTH):
            return None
        if any(sessions.cookie_values(scope, sessions.cookie_name(scope))):
            response = _plain_page(401, "This session has ended", f"{_ENDED} {_INSTRUCTIONS}")
            response.headers["set-cookie"] = self._cookie(scope, "", 0)
            return response
        return _plain_page(401, "Not opened yet", _INSTRUCTIONS)

    def _redirect_with_cookie(self, scope: Scope, page: str, cookie: str) -> Response:
        # Exactly one leading slash, because an address with two would lead to another server.
        query = scope.get("query_string", b"").decode("latin-1")
        target = self._root + quote(page.lstrip("/\\")) + (f"?{query}" if query else "")
        response = RedirectResponse(target, HTTPStatus.SEE_OTHER, headers={"cache-control": "no-store"})
        assert self._sessions is not None
        response.headers["set-cookie"] = self._cookie(scope, cookie, int(self._sessions.limits.total_seconds))
        return response

    def _cookie(self, scope: Scope, value: str, seconds: int) -> str:
        return sessions.set_cookie(scope, value, seconds, root=self._root, origins=self._origins)

    def _accepts(self, cookie: str) -> Callable[[bool], Awaitable[bool]]:
        async def accepts(use: bool) -> bool:
            return self._sessions is not None and self._sessions.accepts(cookie, use=use)

        return accepts


def _option_list(option: str) -> Iterable[str]:
    return [str(item) for item in st.get_option(option) or () if item]


def _plain_page(status: int, title: str, text: str) -> Response:
    page = _PLAIN_PAGE.format(title=title, text=text)
    headers = {"cache-control": "no-store", "content-security-policy": policy(page.encode())}
    return HTMLResponse(page, status, headers=headers)


def _with_security_headers(send: Send) -> Send:
    """Return a ``send`` that adds the security headers to responses."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=[*message["headers"]])
            for name, value in BROWSER_HEADERS.items():
                headers[name] = value
            headers.setdefault("content-security-policy", policy())
            if "immutable" not in headers.get("cache-control", ""):  # all but the files of the frontend
                headers["cache-control"] = "no-store"
            message = {**message, "headers": headers.raw}
        await send(message)

    return send_with_headers
