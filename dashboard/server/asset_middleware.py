"""Fast delivery of static files and of the HTML page, because a first visit loads sixty files before any script runs.

Streamlit reads a file from disk for each request and sends it uncompressed, and its HTML names only the files that
every app needs. This middleware

- compresses each file once and keeps the response in memory,
- adds the files that a chart needs to the HTML, so that the browser loads them while it waits for the page's script,
- adds the server's address to the HTML, because Streamlit's frontend would otherwise try a wrong address first,
- adds the dashboard's style, its fix of the browser history, and what a page needs for scrolling and the keyboard,
- adds the frame of the page, which is shown until Streamlit's scripts have been loaded.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import FileResponse
from streamlit.file_util import get_static_dir

from dashboard.server import plotly_assets
from dashboard.server.content_policy import policy
from dashboard.server.frame import with_frame

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FILES = ("static/", plotly_assets.PREFIX)
_OWN = ("_stcore/", "component/", "media/", "app/static/", "oauth2callback", "auth/")
_FOREVER = "public, immutable, max-age=31536000"
_TEXT = ("text/", "application/javascript", "application/json", "image/svg")
# Pages that start with charts. On other pages the browser prefetches the library when it is idle.
_CHARTS = ("run", "compare")
# Prefix of the file in Streamlit's frontend that draws components.
_COMPONENTS = "BidiComponent"
_BASE_URL = 'window.__streamlit = { BACKEND_BASE_URL: new URL(".", location.href).href };'
_STYLE_SHEET = re.compile(rb'<link rel="stylesheet"[^>]*>')
_ASSETS = Path(__file__).parents[1] / "assets"
# dashboard/assets/chart.js reads ``script.plotly``. These are listeners, not attributes of the element, because the
# content security policy allows only scripts whose hash it contains.
_LOAD_LISTENERS = """{
  const onLibrary = (event, handle) =>
    document.addEventListener(event, ({ target }) => { if (target.id === "dkd-drawing") handle(target); }, true);
  onLibrary("load", (script) => { script.plotly = window.Plotly; });
  onLibrary("error", (script) => script.remove());
}"""


@dataclass(frozen=True)
class _StoredResponse:
    """A response that is sent many times."""

    start: Message
    body: bytes

    def etag(self) -> str:
        """Return the entity tag, with which a browser asks whether its copy is current."""
        return Headers(raw=self.start["headers"]).get("etag", "")

    def unchanged(self) -> _StoredResponse:
        """Return the 304 response for a browser whose copy is current."""
        omitted = (b"content-length", b"content-encoding", b"content-type")
        headers = [item for item in self.start["headers"] if item[0] not in omitted]
        return _StoredResponse({**self.start, "status": 304, "headers": headers}, b"")


class AssetMiddleware:
    """ASGI middleware around Streamlit."""

    def __init__(self, app: ASGIApp) -> None:
        base = str(st.get_option("server.baseUrlPath") or "").strip("/")
        self._app = app
        self._root = f"/{base}/" if base else "/"
        self._static = _static_files()
        self._responses: dict[str, _StoredResponse] = {}
        self._preloads = "".join(f'<link rel="modulepreload" href="./static/js/{name}">' for name in _modules())
        names = ("page.css", "history.js", "page.js")
        style, history, page = ((_ASSETS / name).read_text(encoding="utf-8") for name in names)
        self._common = f"<script>{_BASE_URL}\n{history}\n{page}</script><style>{style}</style>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for a file or a page; pass every other request to Streamlit."""
        path = scope.get("path", "").removeprefix(self._root)
        if scope["type"] != "http" or scope["method"] != "GET" or path.startswith(_OWN):
            await self._app(scope, receive, send)
        elif path.startswith(_FILES):
            await self._file(path, scope, receive, send)
        else:
            await self._page(path, scope, receive, send)

    async def _file(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        bundle = plotly_assets.files().get(path)
        # Responses are stored only under the canonical name: Streamlit answers an unlimited number of spellings of it.
        cacheable = "gzip" in headers.get("accept-encoding", "") and "range" not in headers
        cacheable = cacheable and (bundle is not None or path in self._static)
        if cacheable and (stored := self._responses.get(path)):
            await _send(send, stored if headers.get("if-none-match") != stored.etag() else stored.unchanged())
            return
        app = FileResponse(bundle, headers={"Cache-Control": _FOREVER}) if bundle else self._app
        if not cacheable:
            await app(scope, receive, send)
            return
        capture = _ResponseCapture(send)
        await app(scope, receive, capture.forward)
        # Compressed after the response has been sent, so that the first request does not wait for it.
        if capture.immutable() and path not in self._responses:
            self._responses[path] = await asyncio.to_thread(_compressed, capture)

    async def _page(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Send Streamlit's HTML with additions to its head. It is a few kilobytes and no browser caches it."""
        omitted = (b"accept-encoding", b"if-none-match", b"if-modified-since", b"range")
        page_scope = {**scope, "headers": [item for item in scope["headers"] if item[0] not in omitted]}
        capture = _ResponseCapture(send)
        await self._app(page_scope, receive, capture.hold_html)
        if capture.held is not None:
            body = with_frame(_without_blocking_style(capture.body), path)
            body = body.replace(b"<head>", f"<head>{self._head(path)}".encode(), 1)
            headers = MutableHeaders(raw=[*capture.held["headers"]])
            headers["content-length"] = str(len(body))
            headers["content-security-policy"] = policy(body)
            for name in ("etag", "last-modified"):  # these headers describe the file without the additions
                del headers[name]
            await _send(send, _StoredResponse({**capture.held, "headers": headers.raw}, body))

    def _head(self, path: str) -> str:
        library = plotly_assets.basic_bundle()
        if path in _CHARTS:
            listeners = f"<script>{_LOAD_LISTENERS}</script>"
            library_script = f'<script async src="./{library}" id="dkd-drawing"></script>'
            return f"{self._common}{listeners}{library_script}{self._preloads}"
        return f'{self._common}<link rel="prefetch" href="./{library}" as="script">'


class _ResponseCapture:
    """The response that an application sends, captured while it is forwarded or held back."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self.held: Message | None = None
        self.body = b""

    async def forward(self, message: Message) -> None:
        """Forward a message and record it."""
        self._record(message)
        await self._send(message)

    async def hold_html(self, message: Message) -> None:
        """Hold back an HTML page; forward any other response."""
        if message["type"] == "http.response.start":
            media_type = Headers(raw=message["headers"]).get("content-type", "")
            if message["status"] == 200 and media_type.startswith("text/html"):
                self.held = message
        if self.held is None:
            await self._send(message)
        else:
            self._record(message)

    def _record(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    @property
    def start(self) -> Message:
        assert self._start is not None
        return self._start

    def immutable(self) -> bool:
        """Return whether the response is complete, equal for all clients and declared immutable."""
        if self._start is None or self._start["status"] != 200:
            return False
        headers = Headers(raw=self._start["headers"])
        complete = headers.get("content-length") == str(len(self.body))
        return complete and "immutable" in headers.get("cache-control", "") and "set-cookie" not in headers


def _without_blocking_style(page: bytes) -> bytes:
    """Return Streamlit's HTML with its style sheets at the end of the body: those of the head delay the first paint."""
    sheets = _STYLE_SHEET.findall(page)
    return _STYLE_SHEET.sub(b"", page).replace(b"</body>", b"".join(sheets) + b"</body>", 1)


def _compressed(capture: _ResponseCapture) -> _StoredResponse:
    headers = MutableHeaders(raw=[*capture.start["headers"]])
    body = capture.body
    if headers.get("content-type", "").startswith(_TEXT):
        body = gzip.compress(body, 6, mtime=0)
        headers["content-encoding"] = "gzip"
        headers["content-length"] = str(len(body))
        headers.add_vary_header("Accept-Encoding")
    return _StoredResponse({**capture.start, "headers": headers.raw}, body)


async def _send(send: Send, stored: _StoredResponse) -> None:
    await send(stored.start)
    await send({"type": "http.response.body", "body": stored.body})


def _static_files() -> frozenset[str]:
    """Return the canonical addresses of Streamlit's files."""
    folder = Path(get_static_dir())
    return frozenset(path.relative_to(folder).as_posix() for path in (folder / "static").rglob("*") if path.is_file())


def _modules() -> list[str]:
    """Return the frontend's modules, with their imports, that a page with charts needs and the HTML does not name."""
    folder = Path(get_static_dir()) / "static" / "js"
    modules: dict[str, None] = {}
    pending = [path.name for path in folder.glob(f"{_COMPONENTS}.*.js")]
    page = Path(get_static_dir()) / "index.html"
    html = page.read_text(encoding="utf-8") if page.is_file() else ""
    while pending:
        name = pending.pop()
        if name not in modules and name not in html:
            modules[name] = None
            pending += _imports(folder / name)
    return [*modules]


def _imports(path: Path) -> Iterator[str]:
    if path.is_file():
        yield from re.findall(r'(?:from|import)\s*["`\']\./([\w.-]+\.js)["`\']', path.read_text(encoding="utf-8"))
