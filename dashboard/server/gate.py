"""What every request to the dashboard passes first, pages, files and the socket alike.

It is addressed to a name of this server, it comes from no page of another origin, and with the login ``address`` it
carries the cookie of a browser that was opened by a one-time address (``common.one_time_address``). Every
answer tells the browser that nothing of it runs, loads or frames what is not the dashboard's own.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable
from functools import lru_cache
from hashlib import sha256
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, RedirectResponse, Response

from client import ClientSettingsError
from common.home import Home
from common.one_time_address import COOKIE_SECONDS, PREFIX, DashboardAccess
from common.origins import address, host_allowed, origin_allowed
from dashboard.server import login

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
# Streamlit makes its styles in the page, and modules of components from text (blob:).
_POLICY = (
    "default-src 'self'; script-src 'self' blob:{scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self' blob:; frame-src 'none'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_HEALTH = "_stcore/health"
_CLOSED = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>DKD Lab</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ font: 16px/1.5 sans-serif; max-width: 40em; margin: 10vh auto; color-scheme: light dark }}
code {{ background: #8883; padding: 0.1em 0.3em; border-radius: 0.2em }}</style></head>
<body><h1>{title}</h1><p>{text}</p></body></html>"""
_HOW = (
    "This dashboard opens by a one-time address. The account that runs DKD Lab gets a new one with "
    "<code>dkd open</code> on the machine (<code>dkd up</code> prints the first). Open it in this browser; afterwards "
    'every link works here. If you were here before and followed a link from elsewhere: <a href="">try again</a>.'
)


def policy(page: bytes = b"") -> str:
    """The content security policy, which lets the scripts in the page's own text run and no other text.

    Args:
        page: HTML as it is sent.
    """
    return _POLICY.format(scripts="".join(f" 'sha256-{_digest(script)}'" for script in _INLINE.findall(page)))


@lru_cache(64)
def _digest(script: bytes) -> str:
    return b64encode(sha256(script).digest()).decode()


class Gate:
    """ASGI middleware around all of the dashboard."""

    def __init__(self, app: ASGIApp) -> None:
        base = str(st.get_option("server.baseUrlPath") or "").strip("/")
        self._app = app
        self._root = f"/{base}/" if base else "/"
        self._hosts = tuple(_listed("server.allowedHosts"))
        self._origins = tuple(_listed("server.corsAllowedOrigins"))
        try:
            by_address = login.mode() == "address"
        except ClientSettingsError:  # the pages say so, and show nothing else
            by_address = False
        self._door = DashboardAccess(Home.find()) if by_address else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that may not pass; hand every other one on."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        answer = self._refusal(scope) or self._ask(scope)
        if answer is None:
            await self._app(scope, receive, _guarded(send) if scope["type"] == "http" else send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: status 403
        else:
            await answer(scope, receive, _guarded(send))

    def _refusal(self, scope: Scope) -> Response | None:
        """What a request is answered that is for another server, or from another server's page."""
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        found = address(host, scope["scheme"])
        if found is None or (self._hosts and not host_allowed(found.host, self._hosts)):
            return _closed(403, "Not this server", "The dashboard does not answer to this name.")
        if not origin_allowed(headers.get("origin", ""), host, scope["scheme"], self._origins):
            return _closed(403, "Another page's request", "Pages of other origins may not use the dashboard.")
        # Without an Origin header: what a page of another origin embeds, as a script or a picture. Links may lead here.
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if foreign and not link:
            return _closed(403, "Another page's request", "Pages of other origins may not use the dashboard.")
        return None

    def _ask(self, scope: Scope) -> Response | None:
        """With the login ``address``: what a request without the cookie is answered, or one that brings a ticket."""
        if self._door is None:
            return None
        path = scope["path"].removeprefix(self._root)
        known = any(self._door.accepts_cookie(value) for value in _values(scope, self._cookie_name(scope)))
        if scope["type"] == "http" and scope["method"] == "GET" and path.startswith(PREFIX):
            ticket, _, page = path.removeprefix(PREFIX).partition("/")
            if not self._door.redeem(ticket) and not known:
                return _closed(401, "This address has been used", _HOW)
            return self._let_in(scope, page, self._door.cookie())
        if known or (scope["type"] == "http" and path == _HEALTH):
            return None
        return _closed(401, "Not opened yet", _HOW)

    def _let_in(self, scope: Scope, page: str, cookie: str) -> Response:
        # One slash at its beginning: with two it would be the address of another server.
        query = scope.get("query_string", b"").decode("latin-1")
        target = self._root + quote(page.lstrip("/\\")) + (f"?{query}" if query else "")
        answer = RedirectResponse(target, HTTPStatus.SEE_OTHER, headers={"cache-control": "no-store"})
        host = Headers(scope=scope).get("host", "")
        secure = scope["scheme"] == "https" or any(
            item.startswith("https://") and origin_allowed(item, host, "https") for item in self._origins
        )
        answer.headers["set-cookie"] = (
            f"{self._cookie_name(scope)}={cookie}; Max-Age={COOKIE_SECONDS}; Path={self._root}; HttpOnly; "
            f"SameSite=Strict{'; Secure' if secure else ''}"
        )
        return answer

    def _cookie_name(self, scope: Scope) -> str:
        """Browsers send a cookie to every port of a name, so the port is in its own name, as the browser sees it."""
        found = address(Headers(scope=scope).get("host", ""), scope["scheme"])
        return f"dkd-dashboard-{found.port if found else 0}"


def _listed(option: str) -> Iterable[str]:
    return [str(item) for item in st.get_option(option) or () if item]


def _values(scope: Scope, name: str) -> Iterable[str]:
    """Every cookie of that name: a page on another port may have set one of the same name beside ours."""
    for header in Headers(scope=scope).getlist("cookie"):
        for part in header.split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                yield value


def _closed(status: int, title: str, text: str) -> Response:
    return HTMLResponse(_CLOSED.format(title=title, text=text), status, headers={"cache-control": "no-store"})


def _guarded(send: Send) -> Send:
    """Sends an answer with what browsers are to make of it."""

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=[*message["headers"]])
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("content-security-policy", policy())
            message = {**message, "headers": headers.raw}
        await send(message)

    return with_headers
