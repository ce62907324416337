"""Access to a real server: hosts, origins, and sign-in in Chromium."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from client import Client
from tests import browser, served
from tests.backend.lab import plain
from tests.dashboard.fakes import FakeServer, digits_spec
from tests.dashboard.identity_provider import CLIENT, SECRET, identity_provider
from tests.dashboard.streamlit_server import streamlit_server
from tests.services import free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def server() -> Iterator[FakeServer]:
    with FakeServer() as running:
        running.backend.submit(digits_spec())
        yield running


@pytest.fixture(scope="module")
def dashboard(server: FakeServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("dashboard")
    with streamlit_server(server.url, folder, DKD_DASHBOARD_LOGIN="token") as url:
        yield url


def handshake(url: str, host: str, origin: str) -> int:
    """Return the status of a WebSocket handshake; the WebSocket transports all content of pages."""
    port = int(url.rpartition(":")[2])
    lines = [
        "GET /_stcore/stream HTTP/1.1",
        f"Host: {host.format(port=port)}",
        f"Origin: {origin.format(port=port)}",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "\r\n",
    ]
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall("\r\n".join(lines).encode())
        return int(connection.recv(64).split()[1])


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:{port}", "http://127.0.0.1:{port}", 101),
        ("localhost:{port}", "http://localhost:{port}", 101),
        ("127.0.0.1:{port}", "http://evil.example", 403),
        ("evil.example:{port}", "http://evil.example:{port}", 403),
        ("evil.example:{port}", "http://127.0.0.1:{port}", 403),
    ],
)
def test_websocket_accepts_own_pages_only(dashboard: str, host: str, origin: str, status: int) -> None:
    assert handshake(dashboard, host, origin) == status


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser.browser() as running:
        yield running


def sign_out(page: Page) -> None:
    """Follow the last link of the navigation, which a narrow window has behind "N more"."""
    more = page.get_by_text(re.compile(r"^\d+ more$"))
    if more.count():
        more.first.click()
    page.get_by_text("Sign out").last.click()  # the first is a copy by which Streamlit measures the width


@pytest.mark.browser
@browser.NEEDS_CHROMIUM
def test_user_signs_in_once_and_signs_out(chromium: Browser, dashboard: str, server: FakeServer) -> None:
    context = chromium.new_context(base_url=dashboard)
    page = context.new_page()
    page.goto("/run?id=run-0001-000")
    page.get_by_label("Token").fill("dkd_mine")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", name="teacher · seed 0").wait_for()
    page.wait_for_function("() => sessionStorage.getItem('dkd-lab-token') === 'dkd_mine'")
    page.reload()
    page.get_by_role("heading", name="teacher · seed 0").wait_for()
    sign_out(page)
    page.get_by_label("Token").wait_for()
    page.reload()
    page.get_by_label("Token").wait_for()
    browser.wait_until_drawn(page)
    assert page.get_by_role("heading", name="Sign in").is_visible()
    assert set(server.tokens) == {"dkd_mine"}
    context.close()


@pytest.mark.browser
@browser.NEEDS_CHROMIUM
def test_people_of_the_provider_act_as_themselves(chromium: Browser, tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as stack:
        provider = stack.enter_context(identity_provider())
        backend = stack.enter_context(
            served.backend(tmp_path / "backend", oidc_issuer=provider.url, oidc_client_id=CLIENT)
        )
        admin = stack.enter_context(Client(backend, served.ADMIN_TOKEN))
        admin.projects.create("vision")
        admin.people.create("ann", mail="ann@lab.example")
        admin.projects.set_role("vision", "ann", "submitter")
        admin.submit(plain("seen by ann"), project="vision")
        admin.submit(plain("seen by others"))
        auth = {
            "redirect_uri": f"http://127.0.0.1:{port}/oauth2callback",
            "cookie_secret": "a long text of the tests",
            "client_id": CLIENT,
            "client_secret": SECRET,
            "server_metadata_url": f"{provider.url}/.well-known/openid-configuration",
            "expose_tokens": "id",
        }
        secrets = tmp_path / "secrets.toml"
        secrets.write_text("[auth]\n" + "\n".join(f'{name} = "{value}"' for name, value in auth.items()))
        settings = {
            "DKD_DASHBOARD_LOGIN": "oidc",
            "DKD_DASHBOARD_ALLOW": "*@lab.example",
            "STREAMLIT_SECRETS_FILES": str(secrets),
        }
        url = stack.enter_context(streamlit_server(backend, tmp_path, port, **settings))
        context = chromium.new_context(base_url=url)
        page = context.new_page()
        provider.email = "eve@elsewhere.example"
        page.goto("/runs")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text("eve@elsewhere.example does not have access to this DKD Lab.").wait_for()
        provider.email = "bob@lab.example"
        page.get_by_role("button", name="Sign in with another account").click()
        page.get_by_role("button", name="Sign in", exact=True).click()
        page.get_by_text("This account belongs to no person of this lab").wait_for()
        page.get_by_role("button", name="Sign out").click()
        provider.email = "ann@lab.example"
        page.get_by_role("button", name="Sign in", exact=True).click()
        page.get_by_role("heading", name="Overview").wait_for()  # Streamlit opens its first page
        second = context.new_page()  # another tab: the ID token is accepted once, and both have its session
        for opened in (page, second):
            opened.goto("/runs?view=Experiments")
            opened.get_by_role("heading", name="Runs").wait_for()
            browser.wait_until_idle(opened)
        second.goto("/account")
        second.get_by_text("ann@lab.example").wait_for()
        (last,) = admin.audit.list(action="sessions.sign_in_oidc", refused=False).items
        assert (last.person, last.status) == ("ann", 200)
        sign_out(page)
        page.get_by_role("button", name="Sign in").wait_for()
        (ended,) = admin.audit.list(action="sessions.end").items
        assert (ended.person, ended.object) == ("ann", last.object)
        context.close()
