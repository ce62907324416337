"""Static files and the HTML that a browser receives before the script of a page runs."""

from __future__ import annotations

import asyncio
import gc
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from plotly.offline import get_plotlyjs_version

from dashboard import app
from dashboard.server import plotly_assets
from dashboard.server.asset_middleware import AssetMiddleware
from dashboard.server.frame import LINKED, TITLES
from tests.dashboard.streamlit_server import streamlit_server


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with streamlit_server("http://127.0.0.1:9", tmp_path_factory.mktemp("plain")) as address:
        yield address


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, trust_env=False)


def files(url: str) -> list[str]:
    """Return the addresses of the scripts that the page at ``url`` names."""
    page = get(url, Accept="text/html").text
    names = re.findall(r'(?:src|href)="\./([^"]+\.js)"', page)
    assert len(names) > 20
    return names


def test_basic_plotly_library_has_the_version_of_the_package() -> None:
    """If it fails: ``npm pack plotly.js-basic-dist-min@VERSION``; copy file and licence to ``dashboard/assets``."""
    small, full = (path.read_text(encoding="utf-8")[:200] for path in plotly_assets.files().values())
    assert f"plotly.js v{get_plotlyjs_version()}" in full
    assert f"plotly.js (basic - minified) v{get_plotlyjs_version()}" in small


def test_basic_library_draws_lines_and_bars_and_the_full_one_everything() -> None:
    assert plotly_assets.bundle_for(["scatter", "bar"]).endswith("/plotly-basic.min.js")
    assert plotly_assets.bundle_for([]).endswith("/plotly-basic.min.js")
    assert plotly_assets.bundle_for(["scatter", "surface"]).endswith("/plotly.min.js")


def test_page_with_charts_preloads_the_drawing_library(url: str) -> None:
    for page in ("run?id=1", "compare"):
        text = get(f"{url}/{page}").text
        assert f'<script async src="./{plotly_assets.basic_bundle()}"' in text
        assert 'rel="modulepreload" href="./static/js/BidiComponent.' in text
        assert text.index("BACKEND_BASE_URL") < text.index('type="module"')
    assert "<script async" not in get(f"{url}/runs").text


def test_html_contains_the_frame_of_its_page(url: str) -> None:
    text = get(f"{url}/runs").text
    frame = re.search(r'<div id="root">(.*?)</div></div>', text, re.DOTALL)
    assert frame is not None
    assert "<strong>Runs</strong>" in frame[1]
    assert '<a href="./runs" aria-current=page>Runs</a>' in frame[1]
    assert "Loading …" in frame[1]
    head, body = text.split("<body>")
    assert 'rel="stylesheet"' not in head, "it would delay the first paint"
    assert 'rel="stylesheet"' in body
    hostile = get(f"{url}/%3Cimg%20src=x%3E").text
    assert "<img" not in hostile


def test_frame_names_the_pages_of_the_navigation() -> None:
    script = (Path(app.__file__).with_name("script.py")).read_text(encoding="utf-8")
    shown = {path: title for title, path in re.findall(r'title="([^"]+)".*url_path="([^"]+)"', script)}
    shown[""] = "Overview"
    del shown["sign-out"]
    assert shown == {**TITLES, **LINKED}


def test_every_file_of_a_page_is_served_with_constant_content(url: str) -> None:
    for name in files(f"{url}/run"):
        plain = get(f"{url}/{name}", **{"Accept-Encoding": "identity"})
        first, second = get(f"{url}/{name}"), get(f"{url}/{name}")
        assert plain.status_code == first.status_code == second.status_code == 200, name
        assert plain.content == first.content == second.content, name
        assert "immutable" in second.headers["cache-control"]
        assert int(plain.headers["content-length"]) == len(plain.content)


def test_file_is_sent_compressed_if_the_client_accepts_it(url: str) -> None:
    address = f"{url}/{plotly_assets.basic_bundle()}"
    content = plotly_assets.files()[plotly_assets.basic_bundle()].read_bytes()
    for _ in range(50):  # it is compressed after the first request
        small = get(address, **{"Accept-Encoding": "gzip"})
        if "content-encoding" in small.headers:
            break
    assert int(small.headers["content-length"]) < len(content) / 2
    assert small.content == content
    assert small.headers["vary"] == "Accept-Encoding"
    assert "content-encoding" not in get(address, **{"Accept-Encoding": "identity"}).headers
    part = get(address, Range="bytes=0-9", **{"Accept-Encoding": "gzip"})
    assert (part.status_code, part.content) == (206, content[:10])
    known = {"If-None-Match": small.headers["etag"], "Accept-Encoding": "gzip"}
    assert (get(address, **known).status_code, get(address, **known).content) == (304, b"")


def test_files_are_stored_under_their_canonical_name_only(url: str) -> None:
    """Streamlit accepts any number of spellings of a name; only the response for the canonical one is cached."""
    paths: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        paths.append(scope["path"])
        headers = [(b"content-length", b"3"), (b"cache-control", b"immutable"), (b"content-type", b"text/javascript")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"abc"})

    async def ask(path: str, query: bytes = b"") -> None:
        headers = [(b"accept-encoding", b"gzip")]
        scope = {"type": "http", "method": "GET", "path": path, "query_string": query, "headers": headers}
        await middleware(scope, receive, send)

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        pass

    middleware = AssetMiddleware(app)
    name = "/" + next(item for item in files(f"{url}/run") if item.startswith("static/"))
    spellings = [name.replace("/js/", f"/js/{'./' * count}") for count in range(1, 20)]
    spellings += [name.replace("/js/", part) for part in ("//js/", "/js/../js/", "/JS/")] + ["/static/js/none.js"]
    for path in (name, *spellings):
        asyncio.run(ask(path))
        asyncio.run(ask(path, b"x=1"))
    assert paths == [name, *(path for path in spellings for _ in range(2))]


def test_missing_files_are_left_to_streamlit(url: str) -> None:
    assert get(f"{url}/static/js/nothing.js").headers["cache-control"] == "no-store"  # the page of Streamlit
    assert get(f"{url}/{plotly_assets.PREFIX}nothing.js").headers["content-type"].startswith("text/html")
    assert get(f"{url}/_stcore/health").text == "ok"
    assert get(f"{url}/run/_stcore/health").status_code == 404


def test_pages_below_a_base_path_find_their_files(tmp_path: Path) -> None:
    with streamlit_server("http://127.0.0.1:9", tmp_path, STREAMLIT_SERVER_BASE_URL_PATH="lab") as url:
        for name in (*files(f"{url}/run"), plotly_assets.basic_bundle()):
            assert "/javascript" in get(f"{url}/{name}").headers["content-type"], name


def test_imported_objects_are_excluded_from_garbage_collection() -> None:
    """Streamlit collects garbage after every script run, which takes 0.1 s if all objects of Plotly are included."""
    asyncio.run(app._preload())
    try:
        assert gc.get_freeze_count() > len(sys.modules)
    finally:
        gc.unfreeze()
