"""What a browser gets before any page's script runs, made quick: a first visit waits for sixty files.

Streamlit opens a file anew for each request and sends it as it is, and its page names only the files that every app
needs. Here its files are compressed once and kept; the page also names what a chart needs, so that the browser reads
and prepares that while it waits for the page's script; and it says where the server is, which Streamlit's own code
would find out by asking in the wrong place first. What all pages have in common of ours, style and the mended history
of the browser, is in its head too.
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
from dashboard.server.gate import policy

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_FILES = ("static/", plotly_assets.PREFIX)
_OWN = ("_stcore/", "component/", "media/", "app/static/", "oauth2callback", "auth/")
_FOREVER = "public, immutable, max-age=31536000"
_TEXT = ("text/", "application/javascript", "application/json", "image/svg")
# Pages that begin with charts. The others have the library brought when nothing else is to be done.
_CHARTS = ("run", "compare")
# The part of Streamlit's frontend that draws a component, by the beginning of its file's name.
_COMPONENTS = "BidiComponent"
_BASE_URL = 'window.__streamlit = { BACKEND_BASE_URL: new URL(".", location.href).href };'
_ASSETS = Path(__file__).parents[1] / "assets"
# dashboard/assets/chart.js looks for it there. Listeners and not attributes of the element: the page's policy lets only
# those scripts run whose text it names.
_BEGUN = """{
  const begun = (what, then) =>
    document.addEventListener(what, ({ target }) => { if (target.id === "dkd-drawing") then(target); }, true);
  begun("load", (script) => { script.plotly = window.Plotly; });
  begun("error", (script) => script.remove());
}"""


@dataclass(frozen=True)
class _StoredResponse:
    """A response as it is sent again and again."""

    start: Message
    body: bytes

    def etag(self) -> str:
        """What a browser names that has it already."""
        return Headers(raw=self.start["headers"]).get("etag", "")

    def unchanged(self) -> _StoredResponse:
        """The answer to a browser that has it."""
        left = (b"content-length", b"content-encoding", b"content-type")
        headers = [item for item in self.start["headers"] if item[0] not in left]
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
        style, history = ((_ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "history.js"))
        self._common = f"<script>{_BASE_URL}\n{history}</script><style>{style}</style>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request for a file or a page; everything else is Streamlit's."""
        path = scope.get("path", "").removeprefix(self._root)
        if scope["type"] != "http" or scope["method"] != "GET" or path.startswith(_OWN):
            await self._app(scope, receive, send)
        elif path.startswith(_FILES):
            await self._file(path, scope, receive, send)
        else:
            await self._page(path, scope, receive, send)

    async def _file(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope)
        found = plotly_assets.files().get(path)
        # Kept by the one name that a file has. Streamlit answers many spellings of it, without end.
        plain = "gzip" in asked.get("accept-encoding", "") and "range" not in asked
        plain = plain and (found is not None or path in self._static)
        if plain and (kept := self._responses.get(path)):
            await _send(send, kept if asked.get("if-none-match") != kept.etag() else kept.unchanged())
            return
        app = FileResponse(found, headers={"Cache-Control": _FOREVER}) if found else self._app
        if not plain:
            await app(scope, receive, send)
            return
        answer = _ResponseCapture(send)
        await app(scope, receive, answer.pass_on)
        # After the answer is out: whoever asks first does not wait for the compression.
        if answer.lasting() and path not in self._responses:
            self._responses[path] = await asyncio.to_thread(_packed, answer)

    async def _page(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Streamlit's page, with more in its head. It is a few kilobytes and never kept by a browser."""
        left = (b"accept-encoding", b"if-none-match", b"if-modified-since", b"range")
        asked = {**scope, "headers": [item for item in scope["headers"] if item[0] not in left]}
        answer = _ResponseCapture(send)
        await self._app(asked, receive, answer.hold_page)
        if answer.held is not None:
            body = answer.body.replace(b"<head>", f"<head>{self._head(path)}".encode(), 1)
            headers = MutableHeaders(raw=[*answer.held["headers"]])
            headers["content-length"] = str(len(body))
            headers["content-security-policy"] = policy(body)
            for name in ("etag", "last-modified"):  # those of Streamlit's file
                del headers[name]
            await _send(send, _StoredResponse({**answer.held, "headers": headers.raw}, body))

    def _head(self, path: str) -> str:
        drawing = plotly_assets.basic_bundle()
        if path in _CHARTS:
            begun = f"<script>{_BEGUN}</script>"
            return f'{self._common}{begun}<script async src="./{drawing}" id="dkd-drawing"></script>{self._preloads}'
        return f'{self._common}<link rel="prefetch" href="./{drawing}" as="script">'


class _ResponseCapture:
    """What an application sends."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self.held: Message | None = None
        self.body = b""

    async def pass_on(self, message: Message) -> None:
        """Send it on, and remember it."""
        self._take(message)
        await self._send(message)

    async def hold_page(self, message: Message) -> None:
        """Hold a page back; send on whatever else it is."""
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            if message["status"] == 200 and kind.startswith("text/html"):
                self.held = message
        if self.held is None:
            await self._send(message)
        else:
            self._take(message)

    def _take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    @property
    def start(self) -> Message:
        assert self._start is not None
        return self._start

    def lasting(self) -> bool:
        """Whether it is whole, the same for everybody, and stays so."""
        if self._start is None or self._start["status"] != 200:
            return False
        headers = Headers(raw=self._start["headers"])
        whole = headers.get("content-length") == str(len(self.body))
        return whole and "immutable" in headers.get("cache-control", "") and "set-cookie" not in headers


def _packed(answer: _ResponseCapture) -> _StoredResponse:
    headers = MutableHeaders(raw=[*answer.start["headers"]])
    body = answer.body
    if headers.get("content-type", "").startswith(_TEXT):
        body = gzip.compress(body, 6, mtime=0)
        headers["content-encoding"] = "gzip"
        headers["content-length"] = str(len(body))
        headers.add_vary_header("Accept-Encoding")
    return _StoredResponse({**answer.start, "headers": headers.raw}, body)


async def _send(send: Send, kept: _StoredResponse) -> None:
    await send(kept.start)
    await send({"type": "http.response.body", "body": kept.body})


def _static_files() -> frozenset[str]:
    """Streamlit's files by their addresses, each once."""
    folder = Path(get_static_dir())
    return frozenset(path.relative_to(folder).as_posix() for path in (folder / "static").rglob("*") if path.is_file())


def _modules() -> list[str]:
    """Files of the frontend's parts that a page with charts needs, and what those import in turn."""
    folder = Path(get_static_dir()) / "static" / "js"
    found: dict[str, None] = {}
    waiting = [path.name for path in folder.glob(f"{_COMPONENTS}.*.js")]
    page = Path(get_static_dir()) / "index.html"
    named = page.read_text(encoding="utf-8") if page.is_file() else ""
    while waiting:
        name = waiting.pop()
        if name not in found and name not in named:
            found[name] = None
            waiting += _imports(folder / name)
    return [*found]


def _imports(path: Path) -> Iterator[str]:
    if path.is_file():
        yield from re.findall(r'(?:from|import)\s*["`\']\./([\w.-]+\.js)["`\']', path.read_text(encoding="utf-8"))
