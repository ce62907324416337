"""Access checks of every request to the dashboard: for pages, files and the WebSocket.

A request must be addressed to a host name of this server and must not come from a page of another origin. With the
login mode ``address`` it must also carry the cookie that a one-time address sets (``common.one_time_address``). Every
response has security headers that forbid loading, running or framing content of other origins.
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
# Streamlit creates inline styles, and modules of components from text (blob:).
_POLICY = (
    "default-src 'self'; script-src 'self' blob:{scripts}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; media-src 'self' data: blob:; connect-src 'self'; "
    "worker-src 'self' blob:; frame-src 'none'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
_INLINE = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
_HEALTH = "_stcore/health"
_REFUSAL_PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>DKD Lab</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body {{ font: 16px/1.5 sans-serif; max-width: 40em; margin: 10vh auto; color-scheme: light dark }}
code {{ background: #8883; padding: 0.1em 0.3em; border-radius: 0.2em }}</style></head>
<body><h1>{title}</h1><p>{text}</p></body></html>"""
_INSTRUCTIONS = (
    "This dashboard is opened with a one-time address. The account that runs DKD Lab gets a new address with "
    "<code>dkd open</code> on the machine (<code>dkd up</code> prints the first). Open it in this browser; afterwards "
    "every link works here. If you have opened the dashboard before and followed a link from another site, "
    '<a href="">try again</a>.'
)


def policy(page: bytes = b"") -> str:
    """Return the content security policy, which allows the inline scripts of a page and no others.

    Args:
        page: The HTML of the response.
    """
    return _POLICY.format(scripts="".join(f" 'sha256-{_digest(script)}'" for script in _INLINE.findall(page)))


@lru_cache(64)
def _digest(script: bytes) -> str:
    return b64encode(sha256(script).digest()).decode()


class Gate:
    """ASGI middleware that checks every request to the dashboard."""

    def __init__(self, app: ASGIApp) -> None:
        base = str(st.get_option("server.baseUrlPath") or "").strip("/")
        self._app = app
        self._root = f"/{base}/" if base else "/"
        self._hosts = tuple(_option_list("server.allowedHosts"))
        self._origins = tuple(_option_list("server.corsAllowedOrigins"))
        try:
            by_address = login.mode() == "address"
        except ClientSettingsError:  # every page shows only this error
            by_address = False
        self._access = DashboardAccess(Home.find()) if by_address else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that is refused; pass every other request to the dashboard."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        response = self._check_origin(scope) or self._check_cookie(scope)
        if response is None:
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
            return _refusal_response(403, "Not this server", "The dashboard does not answer to this host name.")
        if not origin_allowed(headers.get("origin", ""), host, scope["scheme"], self._origins):
            return _refusal_response(403, "Cross-origin request", "Pages of other origins may not use the dashboard.")
        # Scripts and images embedded in a page of another origin are requested without Origin. Links are allowed.
        foreign = headers.get("sec-fetch-site", "none") not in ("none", "same-origin")
        link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if foreign and not link:
            return _refusal_response(403, "Cross-origin request", "Pages of other origins may not use the dashboard.")
        return None

    def _check_cookie(self, scope: Scope) -> Response | None:
        """With the login mode ``address``, redeem a one-time address and refuse requests without its cookie."""
        if self._access is None:
            return None
        path = scope["path"].removeprefix(self._root)
        has_cookie = any(
            self._access.accepts_cookie(value) for value in _cookie_values(scope, self._cookie_name(scope))
        )
        if scope["type"] == "http" and scope["method"] == "GET" and path.startswith(PREFIX):
            ticket, _, page = path.removeprefix(PREFIX).partition("/")
            if not self._access.redeem(ticket) and not has_cookie:
                return _refusal_response(401, "This address has already been used", _INSTRUCTIONS)
            return self._redirect_with_cookie(scope, page, self._access.cookie())
        if has_cookie or (scope["type"] == "http" and path == _HEALTH):
            return None
        return _refusal_response(401, "Not opened yet", _INSTRUCTIONS)

    def _redirect_with_cookie(self, scope: Scope, page: str, cookie: str) -> Response:
        # Exactly one leading slash, because an address with two would lead to another server.
        query = scope.get("query_string", b"").decode("latin-1")
        target = self._root + quote(page.lstrip("/\\")) + (f"?{query}" if query else "")
        response = RedirectResponse(target, HTTPStatus.SEE_OTHER, headers={"cache-control": "no-store"})
        host = Headers(scope=scope).get("host", "")
        secure = scope["scheme"] == "https" or any(
            item.startswith("https://") and origin_allowed(item, host, "https") for item in self._origins
        )
        response.headers["set-cookie"] = (
            f"{self._cookie_name(scope)}={cookie}; Max-Age={COOKIE_SECONDS}; Path={self._root}; HttpOnly; "
            f"SameSite=Strict{'; Secure' if secure else ''}"
        )
        return response

    def _cookie_name(self, scope: Scope) -> str:
        """Return the cookie's name. It contains the port as browsers see it, because they share cookies among ports."""
        requested = address(Headers(scope=scope).get("host", ""), scope["scheme"])
        return f"dkd-dashboard-{requested.port if requested else 0}"


def _option_list(option: str) -> Iterable[str]:
    return [str(item) for item in st.get_option(option) or () if item]


def _cookie_values(scope: Scope, name: str) -> Iterable[str]:
    """Yield the value of every cookie with that name: a page on another port may have set a second one."""
    for header in Headers(scope=scope).getlist("cookie"):
        for part in header.split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                yield value


def _refusal_response(status: int, title: str, text: str) -> Response:
    return HTMLResponse(_REFUSAL_PAGE.format(title=title, text=text), status, headers={"cache-control": "no-store"})


def _with_security_headers(send: Send) -> Send:
    """Return a ``send`` that adds the security headers to responses."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=[*message["headers"]])
            for name, value in _HEADERS.items():
                headers[name] = value
            headers.setdefault("content-security-policy", policy())
            message = {**message, "headers": headers.raw}
        await send(message)

    return send_with_headers
