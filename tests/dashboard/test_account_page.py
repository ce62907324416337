"""The page "Your account" against a real backend, without a browser."""

from __future__ import annotations

import pytest

from client import Client
from dashboard.markup import escape
from dashboard.server import login
from tests.dashboard.conftest import button, tables, texts, visit
from tests.dashboard.stand import Stand

SECRET = "a quiet sentence of anna"


@pytest.fixture
def anna(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> Client:
    """Let a person with a session visit the dashboard; return a client with another session of the person."""
    admin = stand.client
    admin.projects.create("detection")
    admin.people.create("anna", mail="anna@lab.example")
    admin.projects.set_role("detection", "anna", "submitter")
    admin.people.set_password("anna", SECRET)
    admin.tokens.create("nightly", ["submit"], person="anna", expires_in_days=30)
    here = admin.sessions.sign_in("anna", SECRET, client="dashboard").token
    monkeypatch.setenv("DKD_DASHBOARD_LOGIN", "password")
    monkeypatch.setattr(login, "token", lambda: here)
    other = admin.sessions.sign_in("anna", SECRET, client="a notebook").token
    return Client(stand.url, other)


def test_page_shows_the_person(anna: Client) -> None:
    app = visit("account")
    assert not app.exception
    text = texts(app)
    assert "anna" in text
    assert escape("anna@lab.example") in text
    projects, tokens, sessions = tables(app)[:3]
    assert projects == [{"Project": "detection", "Your role": "submitter"}]
    assert [(row["Name"], row["State"], row["Last use (UTC)"]) for row in tokens] == [("nightly", "active", "never")]
    assert sorted(row["Used with"] for row in sessions) == ["a notebook", "dashboard (this one)"]
    assert all(row["Ends (UTC)"] for row in sessions)


def test_other_sessions_are_ended(anna: Client) -> None:
    app = visit("account")
    button(app, "Sign out everywhere else").click().run()
    assert not app.exception
    assert [row["Used with"] for row in tables(app)[2]] == ["dashboard (this one)"]


@pytest.mark.parametrize(
    ("current", "new", "again", "message"),
    [
        ("", "", "", "Enter the present and the new password."),
        (SECRET, "another sentence", "another sentense", "The two new passwords differ."),
        (SECRET, "short", "short", "The new password needs at least 12 characters."),
        ("wrong wrong wrong", "another sentence", "another sentence", "The current password is wrong."),
        (SECRET, "another sentence", "another sentence", "The password was changed. 1 other session ended."),
    ],
)
def test_change_of_the_password(anna: Client, current: str, new: str, again: str, message: str) -> None:
    app = visit("account")
    for field, value in zip(app.text_input, (current, new, again), strict=True):
        field.set_value(value)
    button(app, "Change the password").click().run()
    assert not app.exception
    assert message in texts(app)


def test_a_service_has_no_account(stand: Stand) -> None:
    app = visit("account")
    assert "This page is for people" in texts(app)
