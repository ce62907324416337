"""The settings of sessions, and sockets that end with their session."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from client import ClientSettingsError
from common.browser_sessions import BrowserSessions, SessionLimits
from common.home import Home
from dashboard.server import sessions
from tests.dashboard.conftest import visit

Message = dict[str, Any]


def test_limits_are_settings_in_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert sessions.limits() == SessionLimits(7 * 24 * 3600, 30 * 24 * 3600)
    monkeypatch.setenv("DKD_DASHBOARD_IDLE_HOURS", "0.5")
    monkeypatch.setenv("DKD_DASHBOARD_SESSION_HOURS", "8")
    assert sessions.limits() == SessionLimits(1800, 8 * 3600)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "1e9", "a week"])
def test_an_invalid_limit_is_shown_on_every_page(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DKD_DASHBOARD_LOGIN", "address")
    monkeypatch.setenv("DKD_DASHBOARD_IDLE_HOURS", value)
    with pytest.raises(ClientSettingsError, match="DKD_DASHBOARD_IDLE_HOURS"):
        sessions.limits()
    assert sessions.limits_or_default() == SessionLimits()
    app = visit("runs")
    assert "must be hours" in app.error[0].value
    assert not app.title


class Socket:
    """A WebSocket between a browser that sends some messages and a page that reads until it is disconnected."""

    def __init__(self, home: Path) -> None:
        self.sessions = BrowserSessions(Home(home))
        self.cookie = self.sessions.begin()
        self.to_page: asyncio.Queue[Message] = asyncio.Queue()
        self.to_browser: list[Message] = []
        self.read: list[Message] = []

    async def page(self, scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] != "websocket.disconnect":
            self.read.append(message)
        self.read.append(message)
        await send({"type": "websocket.send", "text": "too late"})

    async def run(self, *steps: Any) -> None:
        async def send(message: Message) -> None:
            self.to_browser.append(message)

        async def accepts(use: bool) -> bool:
            return self.sessions.accepts(self.cookie, use=use)

        task = asyncio.create_task(
            sessions.while_session_lasts(self.page, accepts, {}, self.to_page.get, send)  # type: ignore[arg-type]
        )
        for step in steps:
            step()
            await asyncio.sleep(0.05)
        await asyncio.wait_for(task, 60)


@pytest.fixture
def socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Socket:
    monkeypatch.setattr(sessions, "RECHECK_SECONDS", 0.01)
    return Socket(tmp_path)


def browser_says(socket: Socket, text: str) -> None:
    socket.to_page.put_nowait({"type": "websocket.receive", "text": text})


def test_silent_socket_is_closed_when_its_session_ends(socket: Socket) -> None:
    asyncio.run(socket.run(lambda: browser_says(socket, "one"), lambda: socket.sessions.end(socket.cookie)))
    assert [message["type"] for message in socket.read] == ["websocket.receive", "websocket.disconnect"]
    assert socket.to_browser == [
        {"type": "websocket.accept"},
        {"type": "websocket.close", "code": 1008, "reason": "the session has ended"},
    ]


def test_busy_socket_is_closed_too(socket: Socket) -> None:
    def end_and_speak() -> None:
        socket.sessions.end(socket.cookie)
        for number in range(50):
            browser_says(socket, str(number))

    asyncio.run(socket.run(lambda: None, end_and_speak))
    assert socket.to_browser[-1]["type"] == "websocket.close"
    assert socket.read[-1]["type"] == "websocket.disconnect"


def test_socket_of_a_lasting_session_ends_with_its_browser(socket: Socket) -> None:
    leave = {"type": "websocket.disconnect", "code": 1001}
    asyncio.run(socket.run(lambda: browser_says(socket, "one"), lambda: socket.to_page.put_nowait(leave)))
    assert socket.read[-1] == leave
    assert [message["type"] for message in socket.to_browser] == ["websocket.accept", "websocket.send"]
    assert socket.sessions.accepts(socket.cookie)
