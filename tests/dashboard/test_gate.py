"""Checks of every request to the dashboard: hosts, origins, one-time addresses, cookies, security headers."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from common.home import Home
from common.one_time_address import TICKET_SECONDS, DashboardAccess
from tests import browser
from tests.dashboard.fakes import FakeServer, digits_spec
from tests.dashboard.streamlit_server import streamlit_server

if TYPE_CHECKING:
    from playwright.sync_api import Page

PATHS = ("", "run?id=1", "static/js/index.js", "drawing/x.js", "favicon.png", "_stcore/host-config", "media/x.png", "x")


class Served:
    """A dashboard with the login mode ``address``."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.access = DashboardAccess(Home(folder))
        self.port = int(url.rpartition(":")[2])

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(f"{self.url}/{path}", headers=headers, trust_env=False)

    def cookie(self) -> str:
        """Return the Cookie header of a browser that has opened a one-time address."""
        reply = httpx.get(self.access.address(self.url), trust_env=False)
        assert reply.status_code == 303
        return reply.headers["set-cookie"].partition(";")[0]

    def socket(self, **headers: str) -> int:
        """Return the status of a WebSocket handshake."""
        lines = [
            "GET /_stcore/stream HTTP/1.1",
            *(f"{name}: {value}" for name, value in ({"Host": f"127.0.0.1:{self.port}"} | headers).items()),
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            "\r\n",
        ]
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall("\r\n".join(lines).encode())
            return int(connection.recv(64).split()[1])


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


def test_forged_and_expired_tickets_and_cookies_are_refused(served: Served, folder: Path) -> None:
    name, _, value = served.cookie().partition("=")
    until, _, rest = value.partition(".")
    stranger = DashboardAccess(Home(folder / "other")).cookie()
    for forged in ("", "x", stranger, f"{int(until) + 1}.{rest}", value[:-1], f"{value}0", "a" * 5000):
        assert served.get("", Cookie=f"{name}={forged}").status_code == 401
        assert served.socket(Cookie=f"{name}={forged}") == 403
    assert served.get("", Cookie=f"dkd-dashboard-1={value}").status_code == 401
    for ticket in ("x", "..", "%2e%2e", "%00", "a" * 5000):
        assert served.get(f"open/{ticket}/").status_code in (400, 401)
    stale = served.access.address(served.url)
    for file in Home(folder).dashboard_tickets.iterdir():
        os.utime(file, (0, time.time() - TICKET_SECONDS - 60))
    assert httpx.get(stale, trust_env=False).status_code == 401


def test_cookie_is_valid_after_a_restart_until_the_key_is_deleted(
    backend: FakeServer, tmp_path: Path, folder: Path, served: Served
) -> None:
    with streamlit_server(backend.url, tmp_path, DKD_DASHBOARD_LOGIN="address") as url:
        first = Served(url, tmp_path)
        known = {"Cookie": first.cookie()}
        assert first.get("", **known).status_code == 200
    with streamlit_server(backend.url, tmp_path, first.port, DKD_DASHBOARD_LOGIN="address"):
        assert first.get("", **known).status_code == 200
        Home(tmp_path).dashboard_key.unlink()
        assert first.get("", **known).status_code == 401


def test_requests_of_other_origins_and_hosts_are_refused(served: Served) -> None:
    known = {"Cookie": served.cookie()}
    origin = f"127.0.0.1:{served.port}"
    for headers, accepted in (
        ({"Origin": f"http://{origin}"}, True),
        ({"Origin": f"http://127.0.0.1:{served.port + 1}"}, False),
        ({"Origin": f"http://localhost:{served.port}"}, False),
        ({"Origin": f"https://{origin}"}, False),
        ({"Origin": "http://127.0.0.1"}, False),
        ({"Origin": "null"}, False),
        ({"Host": f"evil.example:{served.port}"}, False),
        ({"Host": f"evil.example:{served.port}", "Origin": f"http://evil.example:{served.port}"}, False),
    ):
        assert served.socket(**(known | headers)) == (101 if accepted else 403), headers
        assert served.get("", **(known | headers)).status_code == (200 if accepted else 403), headers


def test_pages_of_other_ports_may_link_but_not_embed(served: Served) -> None:
    known = {"Cookie": served.cookie(), "Sec-Fetch-Site": "same-site"}
    embedded = {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}
    framed = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    link = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert served.get("run", **known, **embedded).status_code == 403
    assert served.get("run", **known, **framed).status_code == 403
    assert served.get("run", **known, **link).status_code == 200


def test_every_response_has_security_headers(served: Served) -> None:
    known = {"Cookie": served.cookie()}
    for path in PATHS:
        for request_headers in ({}, known, {"Host": "evil.example"}):
            headers = served.get(path, **request_headers).headers
            assert headers["x-frame-options"] == "DENY"
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["referrer-policy"] == "no-referrer"
            assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
            rules = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
            assert rules["default-src"] == rules["connect-src"] == "'self'"
            assert rules["img-src"] == "'self' data: blob:"
            assert rules["frame-ancestors"] == rules["object-src"] == rules["base-uri"] == "'none'"
            assert "unsafe" not in rules["script-src"]


@pytest.mark.browser
@pytest.mark.skipif(browser.chromium() is None, reason="needs Chromium; install it (Debian: apt install chromium)")
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


def _complaints(page: Page) -> list[str]:
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
    return messages
