"""Checks of every request to the dashboard: hosts, origins, one-time addresses, cookies, security headers."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
from websockets.typing import Origin

from common.browser_sessions import BrowserSessions, SessionLimits
from common.home import Home
from common.one_time_address import TICKET_SECONDS, OneTimeAddresses
from dashboard.server.frame import LINKED, TITLES
from tests import browser, headers
from tests.dashboard.fakes import FakeServer, digits_spec
from tests.dashboard.streamlit_server import streamlit_server

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext, Page

PATHS = ("", "run?id=1", "static/js/index.js", "drawing/x.js", "favicon.png", "_stcore/host-config", "media/x.png", "x")


class Served:
    """A dashboard with the login mode ``address``."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.access = OneTimeAddresses(Home(folder))
        self.sessions = BrowserSessions(Home(folder))
        self.port = int(url.rpartition(":")[2])

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"{self.url}/{path}", headers=headers, trust_env=False)

    def cookie(self) -> str:
        """Return the Cookie header of a browser that has opened a one-time address."""
        reply = httpx.get(self.access.address(self.url), trust_env=False)
        assert reply.status_code == 303
        return reply.headers["set-cookie"].partition(";")[0]

    def socket(self, **headers_of_request: str) -> int:
        """Return the status of a WebSocket handshake."""
        return self.handshake(**headers_of_request)[0]

    def handshake(self, **headers_of_request: str) -> tuple[int, dict[str, str]]:
        """Return the status and the headers of the answer to a WebSocket handshake."""
        request = headers.upgrade(self.port, "/_stcore/stream", headers_of_request)
        return headers.raw_answer(self.port, request)


@pytest.fixture(scope="module")
def backend() -> Iterator[FakeServer]:
    with FakeServer() as running:
        running.backend.submit(digits_spec())
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def served(backend: FakeServer, folder: Path) -> Iterator[Served]:
    with streamlit_server(backend.url, folder, DKD_DASHBOARD_LOGIN="address") as url:
        yield Served(url, folder)


def test_requests_without_the_cookie_are_refused(served: Served) -> None:
    for path in PATHS:
        reply = served.get(path)
        assert reply.status_code == 401, path
        assert "dkd open" in reply.text
    assert httpx.put(f"{served.url}/_stcore/upload_file/a/b", content=b"x", trust_env=False).status_code == 401
    assert served.socket() == 403
    assert served.socket(Origin=f"http://127.0.0.1:{served.port}") == 403
    assert served.get("_stcore/health").text == "ok"  # the stack requests it, and it contains nothing else


def test_requests_with_the_cookie_are_answered(served: Served) -> None:
    known = {"Cookie": f"other=1; {served.cookie()}"}
    assert '<div id="root">' in served.get("run?id=1", **known).text
    assert served.get("_stcore/host-config", **known).status_code == 200
    assert served.socket(**known) == 101


def test_one_time_address_works_once_and_redirects_to_the_page(served: Served) -> None:
    address = served.access.address(served.url, "compare?experiment=a%20b&x=1")
    first = httpx.get(address, trust_env=False)
    assert (first.status_code, first.headers["location"]) == (303, "/compare?experiment=a%20b&x=1")
    cookie = first.headers["set-cookie"]
    assert cookie.startswith(f"dkd-dashboard-{served.port}=")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert httpx.get(address, trust_env=False).status_code == 401
    # The same browser may open the address again, for example from a terminal.
    again = httpx.get(address, headers={"Cookie": cookie.partition(";")[0]}, trust_env=False)
    assert again.status_code == 303


@pytest.mark.parametrize("page", ["/evil.example/", "//evil.example", "\\evil.example", "/\\evil.example"])
def test_one_time_address_redirects_to_this_server_only(served: Served, page: str) -> None:
    reply = httpx.get(served.access.address(served.url, page), trust_env=False)
    assert reply.headers["location"].startswith("/evil.example")


def test_forged_cookies_and_expired_tickets_are_refused(served: Served, folder: Path) -> None:
    name, _, value = served.cookie().partition("=")
    stranger = BrowserSessions(Home(folder / "other")).begin()
    for forged in ("", "x", stranger, value[:-1], f"{value}0", "../tickets", "a" * 5000):
        assert served.get("", Cookie=f"{name}={forged}").status_code == 401
        assert served.socket(Cookie=f"{name}={forged}") == 403
    assert served.get("", Cookie=f"dkd-dashboard-1={value}").status_code == 401
    for ticket in ("x", "..", "%2e%2e", "%00", "a" * 5000):
        assert served.get(f"open/{ticket}/").status_code in (400, 401)
    stale = served.access.address(served.url)
    for file in Home(folder).dashboard_tickets.iterdir():
        os.utime(file, (0, time.time() - TICKET_SECONDS - 60))
    assert httpx.get(stale, trust_env=False).status_code == 401


def test_session_survives_a_restart_of_the_dashboard_and_ends_with_its_file(
    backend: FakeServer, tmp_path: Path
) -> None:
    with streamlit_server(backend.url, tmp_path, DKD_DASHBOARD_LOGIN="address") as url:
        first = Served(url, tmp_path)
        known = {"Cookie": first.cookie()}
        assert first.get("", **known).status_code == 200
    with streamlit_server(backend.url, tmp_path, first.port, DKD_DASHBOARD_LOGIN="address"):
        assert first.get("", **known).status_code == 200
        first.sessions.end_all()  # as a start of `dkd up` does
        ended = first.get("", **known)
        assert ended.status_code == 401
        assert "This session has ended" in ended.text
        assert "Max-Age=0" in ended.headers["set-cookie"], "the browser forgets it"
        assert first.socket(**known) == 403


def test_session_ends_after_its_idle_and_its_total_time(served: Served, folder: Path) -> None:
    """The limits of the settings apply; the times of the file are set back instead of waiting."""
    limits = SessionLimits()
    for idle, age, status in (
        (limits.idle_seconds - 60, limits.total_seconds - 60, 200),
        (limits.idle_seconds + 60, limits.idle_seconds + 60, 401),
        (10.0, limits.total_seconds + 60, 401),
    ):
        known = {"Cookie": served.cookie()}
        file = max(Home(folder).dashboard_sessions.iterdir(), key=lambda path: path.stat().st_mtime)
        file.write_text(f"{time.time() - age}\n")
        os.utime(file, (0, time.time() - idle))
        assert served.get("", **known).status_code == status, (idle, age)


def test_open_socket_is_closed_when_its_session_ends(served: Served) -> None:
    cookie = served.cookie()
    with connect(
        f"ws://127.0.0.1:{served.port}/_stcore/stream",
        additional_headers={"Cookie": cookie},
        origin=Origin(f"http://127.0.0.1:{served.port}"),
    ) as socket:
        served.sessions.end(cookie.partition("=")[2])
        with contextlib.suppress(ConnectionClosed):
            while True:  # what the page sends before
                socket.recv(timeout=60)
        assert (socket.close_code, socket.close_reason) == (1008, "the session has ended")


def test_requests_of_other_origins_and_hosts_are_refused(served: Served) -> None:
    known = {"Cookie": served.cookie()}
    origin = f"127.0.0.1:{served.port}"
    for sent, accepted in (
        ({"Origin": f"http://{origin}"}, True),
        ({"Origin": f"http://127.0.0.1:{served.port + 1}"}, False),
        ({"Origin": f"http://localhost:{served.port}"}, False),
        ({"Origin": f"https://{origin}"}, False),
        ({"Origin": "http://127.0.0.1"}, False),
        ({"Origin": "null"}, False),
        ({"Host": f"evil.example:{served.port}"}, False),
        ({"Host": f"evil.example:{served.port}", "Origin": f"http://evil.example:{served.port}"}, False),
    ):
        assert served.socket(**(known | sent)) == (101 if accepted else 403), sent
        assert served.get("", **(known | sent)).status_code == (200 if accepted else 403), sent


def test_pages_of_other_ports_may_link_but_not_embed(served: Served) -> None:
    known = {"Cookie": served.cookie(), "Sec-Fetch-Site": "same-site"}
    embedded = {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}
    framed = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    link = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert served.get("run", **known, **embedded).status_code == 403
    assert served.get("run", **known, **framed).status_code == 403
    assert served.get("run", **known, **link).status_code == 200


def test_every_answer_has_every_header(served: Served, backend: FakeServer) -> None:
    """All files of the frontend, all pages, all routes of Streamlit, and refusals of each."""
    known = {"Cookie": served.cookie()}
    page = served.get("", **known)
    named = re.findall(r'(?:src|href)="\./([^"]+)"', page.text)
    assert len(named) > 20
    pages = [*TITLES, *LINKED, "sign-out", "nothing"]
    routes = [
        *("_stcore/health", "_stcore/host-config", "_stcore/metrics", "_stcore/upload_file/a/b", "media/x.png"),
        *("component/x/index.html", "app/static/x", "oauth2callback", "auth/login", "drawing/x.js"),
        *("%00", "..%2f"),
    ]
    for path in (*pages, *named, *routes, *PATHS):
        for request_headers in ({}, known, {"Host": "evil.example"}, {"Origin": "http://evil.example"}):
            for method in ("GET", "HEAD", "POST", "OPTIONS"):
                answer = httpx.request(
                    method, f"{served.url}/{path}", headers=request_headers, trust_env=False, follow_redirects=False
                )
                what = (method, path, request_headers, answer.status_code)
                immutable = "immutable" in answer.headers.get("cache-control", "")
                assert not immutable or path.startswith(("static/", "drawing/", "favicon.")), what
                headers.check(answer.headers, what, data=not immutable)
    policy = headers.rules(page.headers["content-security-policy"])
    assert policy["connect-src"] == "'self'"
    assert policy["img-src"] == "'self' data: blob:"
    assert policy["object-src"] == policy["base-uri"] == "'none'"


def test_the_server_names_no_program_in_handshakes_and_errors(served: Served) -> None:
    known = {"Cookie": served.cookie()}
    for request_headers, status in ((known, 101), ({}, 403)):
        got, answer = served.handshake(**request_headers)
        assert got == status
        headers.check_banner(answer, request_headers)
    status, answer = headers.raw_answer(served.port, b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n")
    assert status == 400
    headers.check_banner(answer, "no HTTP")


@pytest.mark.browser
@browser.NEEDS_CHROMIUM
def test_every_page_works_in_a_browser_under_its_content_security_policy(served: Served, backend: FakeServer) -> None:
    with browser.browser() as running:
        context = running.new_context(base_url=served.url)
        # In a page of its own, because the browser reports the 401 as an error, at a moment of its own choosing.
        refused = context.new_page()
        refusal = refused.goto("/runs")
        assert refusal is not None
        assert refusal.status == 401
        assert refused.get_by_text("dkd open").is_visible()
        refused.close()
        page = context.new_page()
        messages = _complaints(page)
        page.goto(served.access.address(served.url, "run?id=run-0001-000"))
        browser.wait_until_drawn(page)
        assert page.url == f"{served.url}/run?id=run-0001-000"
        for path, charts in (("/", 0), ("/runs", 0), ("/new", 0), ("/compare", 0), ("/loss", 1), ("/workers", 0)):
            page.goto(path)
            browser.wait_until_drawn(page, charts=charts)
            assert browser.error_texts(page) == []
        page.evaluate(
            "() => { const s = document.createElement('script'); s.text = 'pwned = 1'; document.head.append(s) }"
        )
        assert page.evaluate("() => window.pwned") is None
        assert len([text for text in messages if "pwned" not in text and "Content Security Policy" not in text]) == 0
        assert len(messages) == 1, messages
        context.close()


@pytest.mark.browser
@browser.NEEDS_CHROMIUM
@pytest.mark.parametrize("width", [1440, 390])
def test_sign_out_ends_the_session_and_shows_how_to_come_back(served: Served, width: int) -> None:
    with browser.browser() as running:
        context = running.new_context(base_url=served.url, viewport={"width": width, "height": 900})
        page = context.new_page()
        page.goto(served.access.address(served.url, "runs"))
        browser.wait_until_drawn(page)
        (cookie,) = _session_cookies(context)
        assert served.get("", Cookie=f"{cookie['name']}={cookie['value']}").status_code == 200
        page.goto("/sign-out")
        page.get_by_text("Signed out").wait_for()
        assert page.get_by_text("dkd open").is_visible()
        assert _session_cookies(context) == []
        assert served.get("", Cookie=f"{cookie['name']}={cookie['value']}").status_code == 401
        again = page.goto("/runs")
        assert again is not None
        assert again.status == 401
        context.close()


def _session_cookies(context: BrowserContext) -> list[Any]:
    return [cookie for cookie in context.cookies() if cookie.get("name", "").startswith("dkd-")]


def _complaints(page: Page) -> list[str]:
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
    return messages
