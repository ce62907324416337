"""The login modes: none, token and identity provider."""

from __future__ import annotations

from typing import Any

import pytest
import streamlit as st

from client import ApiError, BackendUnreachable
from core.protocol.base import ProblemDetails
from dashboard.server import login
from tests.dashboard.conftest import button, choose, texts, visit
from tests.dashboard.fakes import FakeBackend, FakeServer, digits_spec


def test_no_sign_in_by_default(backend: FakeBackend) -> None:
    app = visit("runs")
    assert app.title[0].value == "Runs"


def test_invalid_login_mode_lists_the_valid_ones(backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_DASHBOARD_LOGIN", "passphrase")
    app = visit("runs")
    assert "it can be none, address, token, password or oidc" in app.error[0].value
    assert not app.title


class TestToken:
    @pytest.fixture(autouse=True)
    def _token_login(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DKD_DASHBOARD_LOGIN", "token")
        # The dashboard's own token must not be used for users.
        monkeypatch.setenv("DKD_API_TOKEN", "the dashboard's own")

    def test_pages_without_a_token_show_only_the_sign_in_form(self, server: FakeServer) -> None:
        server.backend.submit(digits_spec())
        app = visit("run", id="run-0001-000")
        assert app.title[0].value == "Sign in"
        assert "digits" not in texts(app)
        assert server.tokens == []

    def test_requests_carry_the_users_token_and_the_link_keeps_its_target(self, server: FakeServer) -> None:
        server.backend.submit(digits_spec())
        app = visit("run", id="run-0001-000")
        app.text_input[0].set_value("  dkd_mine ")
        app.button[0].click().run()
        assert app.title[0].value == "teacher · seed 0"
        assert set(server.tokens) == {"dkd_mine"}

    def test_stored_token_is_requested_once_the_pages_have_names(
        self, server: FakeServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The browser's answer names the current page. Before the pages have names, this would be Overview."""
        order: list[str] = []
        navigation, storage = st.navigation, login._browser_storage()

        def navigate(*args: Any, **named: Any) -> Any:
            order.append("pages")
            return navigation(*args, **named)

        def ask(*args: Any, **named: Any) -> Any:
            order.append("browser")
            return storage(*args, **named)

        monkeypatch.setattr(st, "navigation", navigate)
        monkeypatch.setattr(login, "_browser_storage", lambda: ask)
        visit("runs")
        assert order == ["pages", "browser"]

    @pytest.mark.parametrize(
        ("entered", "status", "message"),
        [
            ("", 200, "Enter a token."),
            ("dkd_wrong", 401, "This token is not valid"),
            ("dkd_worker", 403, "has no read access"),
        ],
    )
    def test_refused_token_shows_the_reason(self, server: FakeServer, entered: str, status: int, message: str) -> None:
        server.refuse = status if status != 200 else None
        app = visit("runs")
        app.text_input[0].set_value(entered)
        app.button[0].click().run()
        assert app.title[0].value == "Sign in"
        assert message in app.error[0].value

    def test_actions_on_many_items_carry_the_persons_token(self, server: FakeServer) -> None:
        server.backend.submit(digits_spec())
        server.backend.end("run-0001-000", "failed", "out of memory")
        app = visit("runs", view="Experiments")
        app.text_input[0].set_value("dkd_mine")
        app.button[0].click().run()
        choose(app, "experiments", "exp-0001")
        button(app, "Retry").click().run()
        assert server.backend.runs["run-0001-000"].state == "queued"
        assert set(server.tokens) == {"dkd_mine"}

    def test_revoked_token_returns_to_the_form(self, server: FakeServer) -> None:
        app = visit("runs")
        app.text_input[0].set_value("dkd_mine")
        app.button[0].click().run()
        assert app.title[0].value == "Runs"
        server.refuse = 401
        app.run()
        assert app.title[0].value == "Sign in"
        assert "revoked" in app.error[0].value


class TestProvider:
    def test_missing_configuration_is_named(self, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DKD_DASHBOARD_LOGIN", "oidc")
        app = visit("runs")
        assert "no \\[auth\\] section" in app.error[0].value
        assert not app.title

    @pytest.fixture
    def exchanges(self, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
        """The ID tokens that were sent to the backend, with the address of the browser."""
        made: list[Any] = []

        def exchange(_: str, text: str, address: str | None) -> str:
            made.append((text, address))
            if text == "refused":
                raise ApiError(403, ProblemDetails(title="", status=403, detail="this account belongs to no person"))
            if text == "lost":
                raise BackendUnreachable("http://backend", "no answer")
            return "dkd_session"

        monkeypatch.setattr(login, "_exchanged", exchange)
        monkeypatch.setattr(st, "session_state", {})
        return made

    def has_session(self, text: str, monkeypatch: pytest.MonkeyPatch) -> bool:
        monkeypatch.setattr(login, "_id_token", lambda: text)
        return login._has_session()

    @pytest.mark.parametrize(
        ("text", "message"),
        [("refused", "This account belongs to no person"), ("lost", "No backend answers at http://backend")],
    )
    def test_each_id_token_is_exchanged_once_also_if_it_is_refused(
        self, exchanges: list[Any], text: str, message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A page is drawn often, and the backend counts each refused token as a failed sign-in."""
        assert [self.has_session(text, monkeypatch) for _ in range(5)] == [False] * 5
        assert len(exchanges) == 1
        assert st.session_state["login.message"].startswith(message)
        assert self.has_session("a new one", monkeypatch), "after another sign-in at the provider"
        assert "login.message" not in st.session_state
        assert [text for text, _ in exchanges] == [text, "a new one"]
