"""Sessions of browsers: their beginning, their limits, and their end."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.browser_sessions import BrowserSessions, SessionLimits
from common.home import Home

HOUR = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sessions(tmp_path: Path, clock: Clock) -> BrowserSessions:
    return BrowserSessions(Home(tmp_path), SessionLimits(idle_seconds=2 * HOUR, total_seconds=10 * HOUR), clock)


def test_session_lasts_while_it_is_used_and_ends_after_its_total_time(sessions: BrowserSessions, clock: Clock) -> None:
    cookie = sessions.begin()
    for _ in range(9):
        clock.now += HOUR
        assert sessions.accepts(cookie)
    clock.now += HOUR + 1
    assert not sessions.accepts(cookie)
    clock.now -= HOUR + 1
    assert sessions.accepts(cookie), "nothing but the time has changed"


def test_session_ends_when_it_is_not_used(sessions: BrowserSessions, clock: Clock) -> None:
    cookie = sessions.begin()
    clock.now += 1.5 * HOUR
    assert sessions.accepts(cookie)
    clock.now += 2.1 * HOUR
    assert not sessions.accepts(cookie)


def test_a_check_is_no_use(sessions: BrowserSessions, clock: Clock) -> None:
    cookie = sessions.begin()
    for _ in range(4):
        clock.now += 0.49 * HOUR
        assert sessions.accepts(cookie, use=False)
    clock.now += 0.1 * HOUR
    assert not sessions.accepts(cookie, use=False)


def test_sessions_end_one_by_one_or_all_at_once(sessions: BrowserSessions) -> None:
    first, second = sessions.begin(), sessions.begin()
    sessions.end(first)
    sessions.end(first)
    assert not sessions.accepts(first)
    assert sessions.accepts(second)
    sessions.end_all()
    assert not sessions.accepts(second)
    assert sessions.accepts(sessions.begin())


def test_a_new_session_removes_the_files_of_ended_ones(sessions: BrowserSessions, clock: Clock, tmp_path: Path) -> None:
    for _ in range(3):
        sessions.begin()
    clock.now += 3 * HOUR
    sessions.begin()
    assert len([*Home(tmp_path).dashboard_sessions.iterdir()]) == 1


@pytest.mark.parametrize("cookie", ["", "x", "../../api.url", "a" * 5000, "ü", "\ud800"])
def test_forged_cookies_are_refused(sessions: BrowserSessions, cookie: str) -> None:
    sessions.begin()
    assert not sessions.accepts(cookie)


def test_files_are_private_and_do_not_contain_the_cookie(sessions: BrowserSessions, tmp_path: Path) -> None:
    cookie = sessions.begin()
    (file,) = Home(tmp_path).dashboard_sessions.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert cookie not in file.name + file.read_text()
    file.write_text("no time")
    assert not sessions.accepts(cookie)


def test_end_of_all_sessions_needs_none(tmp_path: Path) -> None:
    BrowserSessions(Home(tmp_path / "new")).end_all()
