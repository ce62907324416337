"""The login mode ``password``: sign-in with name and password, and a session of the backend in a cookie.

The cookie contains the token of the session, which scripts of the page cannot read. The dashboard's own script reads it
from a header that this module adds to the WebSocket's handshake. Nothing is stored here, so a restart signs nobody out.
A second cookie keeps the token of the browser's last session after its end. At the next sign-in it shows that the
person has used this browser before, so that failed attempts of strangers do not count there.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from itertools import islice
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qs, quote

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from client import ApiError, BackendUnreachable, Client, ClientSettingsError, SpecError
from core.protocol.sessions import CreatedSession
from dashboard.server import sessions, sign_in_page
from dashboard.server.content_policy import policy
from dashboard.wording import sentence

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

T = TypeVar("T")

HEADER = "x-dkd-session"
"""Header of the handshake in which the dashboard's script finds the session."""
_CHECK_SECONDS = 5.0
"""Time for which the backend's answer about a session is used again."""
_TIMEOUT_SECONDS = 6.0
_MAX_BODY = 16 * 1024
_MAX_TOKEN = 200
_MAX_CHECKS = 10_000
_MAX_COOKIES = 3
"""Sessions of one request that are checked; a page on another port may have set a second one."""
_DEVICE_SECONDS = 400 * 24 * 3600  # the longest time for which browsers keep a cookie
_HEALTH = "_stcore/health"


class PasswordSessions:
    """Admits requests with a session; answers all others with the sign-in page.

    Args:
        root: Path of the dashboard.
        origins: Further origins of the dashboard.
    """

    def __init__(self, root: str, origins: tuple[str, ...]) -> None:
        self._root = root
        self._origins = origins
        # By the hash of a token: when the backend was asked, and whether it accepted the token.
        self._checked: dict[str, tuple[float, bool]] = {}

    async def admit(
        self, app: ASGIApp, scope: Scope, receive: Receive, send: Send, secured: Callable[[Send], Send]
    ) -> None:
        """Answer a request: with ``app`` if it has a session.

        Args:
            app: The dashboard.
            scope: The scope of the request.
            receive: Receives its body, or messages of the browser.
            send: Sends the response.
            secured: Adds the security headers to a ``send``.
        """
        path = scope["path"].removeprefix(self._root)
        own = [item for item in scope["headers"] if item[0].lower() != HEADER.encode()]
        scope = {**scope, "headers": own}
        if path == _HEALTH and scope["type"] == "http":
            await app(scope, receive, secured(send))
            return
        try:
            token = "" if _submits_form(scope, path) else await self._session(scope)
        except BackendUnreachable:
            token = None
        if scope["type"] == "websocket":
            if not token:
                await send({"type": "websocket.close", "code": 1008})
                return
            scope["headers"].append((HEADER.encode(), token.encode()))

            async def accepts(_: bool) -> bool:
                try:
                    return await self._is_accepted(scope, token)
                except BackendUnreachable:  # it has accepted the session before, and now decides each request itself
                    return True

            await sessions.while_session_lasts(app, accepts, scope, receive, send)
            return
        if token and path not in _OWN_PATHS:
            await app(scope, receive, secured(send))
            return
        response = (
            _page(503, sign_in_page.unavailable()) if token is None else await self._answer(scope, receive, path, token)
        )
        await response(scope, receive, secured(send))

    async def _answer(self, scope: Scope, receive: Receive, path: str, token: str) -> Response:
        """Return the answer to a request without a session, or for one of the pages of this module."""
        headers = Headers(scope=scope)
        if path == sessions.END_PATH and scope["method"] == "GET":
            if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
                return _page(403, sign_in_page.opened_from_elsewhere())  # a page of others must not sign anybody out
            return await self._end(scope, token)
        if path in _FORM_PATHS:
            if _submits_form(scope, path):
                form = await _form(Request(scope, receive))
                submit = self._sign_in if path == sign_in_page.SIGN_IN_PATH else self._redeem
                return await submit(scope, form)
            if path == sign_in_page.INVITATION_PATH:
                code = Request(scope).query_params.get("code", "")
                return _page(200, sign_in_page.invitation(self._root, code))
            if token:
                return RedirectResponse(self._root, HTTPStatus.SEE_OTHER)
            return _page(200, sign_in_page.sign_in(self._root, ""))
        if headers.get("sec-fetch-site") == "cross-site":
            return _page(200, sign_in_page.opened_from_elsewhere())
        query = scope.get("query_string", b"").decode("latin-1")
        page = quote(path.lstrip("/\\")) + (f"?{query}" if query else "")
        note = "Your session has ended." if _cookie(scope) else ""
        response = _page(401, sign_in_page.sign_in(self._root, page, note=note))
        # An open page also requests files after its session has ended; the next visit of a page is to say so.
        if note and headers.get("sec-fetch-mode", "navigate") == "navigate":
            response.headers["set-cookie"] = self._set_cookie(scope, "", 0)
        return response

    async def _sign_in(self, scope: Scope, form: Mapping[str, str]) -> Response:
        person, page = form.get("person", "").strip(), form.get("page", "")
        earlier = next(_well_formed(scope, sessions.device_cookie_name(scope)), None)
        try:
            created = await _call(
                scope,
                lambda client: client.sessions.sign_in(
                    person, form.get("password", ""), client=_client_name(scope), earlier_session=earlier
                ),
            )
        except _FAILURES as error:
            status, text = _reason(error, "The name or the password is wrong.")
            return _page(status, sign_in_page.sign_in(self._root, page, person=person, error=text))
        return self._begun(scope, created, page)

    async def _redeem(self, scope: Scope, form: Mapping[str, str]) -> Response:
        code, password = form.get("code", ""), form.get("password", "")
        if password != form.get("again", ""):
            text = "The two passwords differ."
            return _page(422, sign_in_page.invitation(self._root, code, error=text))
        try:
            created = await _call(
                scope, lambda client: client.sessions.sign_in_invited(code, password, client=_client_name(scope))
            )
        except _FAILURES as error:
            ended = "This link was used, or has ended. An admin of this DKD Lab gives you a new one."
            status, text = _reason(error, ended)
            return _page(status, sign_in_page.invitation(self._root, code, error=text))
        return self._begun(scope, created, "")

    def _begun(self, scope: Scope, created: CreatedSession, page: str) -> Response:
        # Exactly one leading slash, because an address with two would lead to another server.
        response = RedirectResponse(self._root + page.lstrip("/\\"), HTTPStatus.SEE_OTHER)
        seconds = int((created.ends_at - created.created_at).total_seconds())
        response.headers["set-cookie"] = self._set_cookie(scope, created.token, seconds)
        device = self._set_cookie(scope, created.token, _DEVICE_SECONDS, name=sessions.device_cookie_name(scope))
        response.headers.append("set-cookie", device)
        response.headers["cache-control"] = "no-store"
        self._remember(_digest(created.token), accepted=True)
        return response

    async def _end(self, scope: Scope, token: str) -> Response:
        if token:
            self._checked.pop(_digest(token), None)
            try:
                await _call(scope, lambda client: client.sessions.end(), token)
            except ApiError:  # it has ended meanwhile
                pass
            except (BackendUnreachable, ClientSettingsError):
                return _page(503, sign_in_page.unavailable())
        note = "You have signed out." if token else "Your session has ended."
        response = _page(200, sign_in_page.sign_in(self._root, "", note=note))
        response.headers["set-cookie"] = self._set_cookie(scope, "", 0)
        return response

    def _set_cookie(self, scope: Scope, value: str, seconds: int, *, name: str = "") -> str:
        return sessions.set_cookie(scope, value, seconds, root=self._root, origins=self._origins, name=name)

    async def _session(self, scope: Scope) -> str:
        """Return the token of a session that lasts; empty without one.

        Raises:
            BackendUnreachable: The backend does not answer, and has not accepted the token before.
        """
        for token in islice(_well_formed(scope, sessions.cookie_name(scope)), _MAX_COOKIES):
            if await self._is_accepted(scope, token):
                return token
        return ""

    async def _is_accepted(self, scope: Scope, token: str) -> bool:
        """Return whether the backend accepts a token; during an outage, what it answered before.

        Raises:
            BackendUnreachable: The backend does not answer, and has not answered about the token before.
        """
        key = _digest(token)
        known = self._checked.get(key)
        if known is not None and time.monotonic() - known[0] < _CHECK_SECONDS:
            return known[1]
        try:
            await _call(scope, lambda client: client.sessions.get(), token)
            accepted = True
        except (ApiError, BackendUnreachable, ClientSettingsError) as error:
            if isinstance(error, ApiError) and error.status in _ENDED:
                accepted = False
            elif known is not None:
                accepted = known[1]
            else:
                raise BackendUnreachable("", str(error)) from error
        self._remember(key, accepted=accepted)
        return accepted

    def _remember(self, key: str, *, accepted: bool) -> None:
        """Remember what the backend answered about a token; many refused ones do not replace those of sessions."""
        self._checked.pop(key, None)
        if len(self._checked) >= _MAX_CHECKS:
            self._checked = {other: answer for other, answer in self._checked.items() if answer[1]}
        if len(self._checked) >= _MAX_CHECKS:
            self._checked.pop(next(iter(self._checked)))  # the one that was asked about first
        self._checked[key] = (time.monotonic(), accepted)


_FORM_PATHS = (sign_in_page.SIGN_IN_PATH, sign_in_page.INVITATION_PATH)
_OWN_PATHS = (sessions.END_PATH, *_FORM_PATHS)
_ENDED = (401, 403, 404, 409)
"""Statuses with which the backend says that a token is of no session that lasts."""
_FAILURES = (ApiError, BackendUnreachable, ClientSettingsError, SpecError)


async def _call(scope: Scope, request: Callable[[Client], T], token: str = "") -> T:
    """Send a request to the backend in a thread, on behalf of the browser that sends this one."""
    sender = scope.get("client")

    def send() -> T:
        with Client(
            # No token of the dashboard's is sent for somebody who has not signed in.
            token=token or "none",
            timeout=_TIMEOUT_SECONDS,
            use_login=False,
            patient=False,
            forwarded_for=sender[0] if sender else None,
        ) as client:
            return request(client)

    return await asyncio.to_thread(send)


async def _form(request: Request) -> Mapping[str, str]:
    """Return the fields of a form, of which each is sent once; empty if the body is too long."""
    body = b""
    async for block in request.stream():
        body += block
        if len(body) > _MAX_BODY:
            return {}
    text = body.decode("ascii", "replace")
    return {name: values[0] for name, values in parse_qs(text, keep_blank_values=True, max_num_fields=10).items()}


def _reason(error: Exception, refused: str) -> tuple[int, str]:
    """Return the status and the sentence for a failed sign-in."""
    if isinstance(error, ApiError) and error.status == 401:
        return 401, refused
    if isinstance(error, ApiError) and error.status == 429:
        return 429, f"There were too many failed attempts. Try again in {error.retry_after:.0f} seconds."
    if isinstance(error, ApiError) and error.status == 422 and error.problem.errors:
        return 422, sentence(f"the password {error.problem.errors[0].message}")
    if isinstance(error, SpecError):  # a field is empty or too long
        return 401, refused
    return 503, "The backend does not answer. Try again in a minute."


def _submits_form(scope: Scope, path: str) -> bool:
    """Return whether a request needs no session, since it is to begin one."""
    return scope["type"] == "http" and scope["method"] == "POST" and path in _FORM_PATHS


def _well_formed(scope: Scope, name: str) -> Iterator[str]:
    """Yield the tokens in the cookies of a name."""
    return (text for text in sessions.cookie_values(scope, name) if 0 < len(text) <= _MAX_TOKEN and text.isascii())


def _cookie(scope: Scope) -> bool:
    return any(sessions.cookie_values(scope, sessions.cookie_name(scope)))


def _client_name(scope: Scope) -> str:
    """Return what the list of sessions shows of a browser."""
    agent = Headers(scope=scope).get("user-agent", "")
    browser = next((name for mark, name in _BROWSERS if mark in agent), "browser")
    system = next((name for mark, name in _SYSTEMS if mark in agent), "")
    return f"dashboard, {browser}{f' on {system}' if system else ''}"


_BROWSERS = (("Firefox/", "Firefox"), ("Edg/", "Edge"), ("Chrome/", "Chrome"), ("Safari/", "Safari"))
_SYSTEMS = (
    *(("Android", "Android"), ("iPhone", "iOS"), ("iPad", "iOS")),
    *(("Windows", "Windows"), ("Mac OS", "macOS"), ("Linux", "Linux")),
)


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _page(status: int, page: str) -> Response:
    headers = {"cache-control": "no-store", "content-security-policy": policy(page.encode())}
    return HTMLResponse(page, status, headers=headers)
