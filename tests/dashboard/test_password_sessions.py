"""The gate of the login mode ``password``: which requests ask the backend, and what its answers do."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from client import ApiError, BackendUnreachable
from core.protocol.base import ProblemDetails
from core.protocol.sessions import CreatedSession
from dashboard.server import password_sessions, sessions
from dashboard.server.password_sessions import PasswordSessions

COOKIE = "dkd-dashboard-80"
DEVICE = f"{COOKIE}-device"


class StandIn:
    """What stands in for the backend's sessions.

    Attributes:
        valid: Tokens of sessions that last.
        asked: Tokens that were checked, and with which address.
        signed_in: The arguments of the sign-ins.
        error: Raised instead of an answer.
    """

    def __init__(self) -> None:
        self.valid: set[str] = set()
        self.asked: list[tuple[str, str | None]] = []
        self.signed_in: list[dict[str, Any]] = []
        self.error: Exception | None = None

    def client(self, *, token: str, forwarded_for: str | None, **_: Any) -> Connected:
        return Connected(self, token, forwarded_for)


class Connected:
    """A client of the stand-in."""

    def __init__(self, backend: StandIn, token: str, address: str | None) -> None:
        self._backend, self._token, self._address = backend, token, address
        self.sessions = self

    def __enter__(self) -> Connected:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing is open."""

    def get(self) -> None:
        self._backend.asked.append((self._token, self._address))
        if self._backend.error is not None:
            raise self._backend.error
        if self._token not in self._backend.valid:
            raise refusal(401)

    def end(self) -> None:
        self._backend.valid.discard(self._token)

    def sign_in(self, person: str, password: str, **more: Any) -> CreatedSession:
        self._backend.signed_in.append({"person": person, "password": password, **more})
        token = f"dkd_session{len(self._backend.signed_in)}"
        self._backend.valid.add(token)
        now = datetime.now(UTC)
        ends = {"created_at": now, "idle_ends_at": now + timedelta(days=7), "ends_at": now + timedelta(days=30)}
        return CreatedSession(id="0" * 16, person=person, method="password", token=token, **ends)


def refusal(status: int) -> ApiError:
    return ApiError(status, ProblemDetails(title="refused", status=status, detail="refused"))


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setattr(password_sessions, "Client", made.client)
    return made


@pytest.fixture
def gate() -> PasswordSessions:
    return PasswordSessions("/", ())


@pytest.fixture
def page(gate: PasswordSessions, backend: StandIn) -> TestClient:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await gate.admit(PlainTextResponse("the page"), scope, receive, send, lambda unchanged: unchanged)

    return TestClient(app, follow_redirects=False)


def cookies(*values: str, name: str = COOKIE) -> dict[str, str]:
    return {"cookie": "; ".join(f"{name}={value}" for value in values)}


def sign_in(page: TestClient, **headers: str) -> Any:
    return page.post("/sign-in", data={"person": "anna", "password": "secret"}, headers=headers)


def test_request_with_many_cookies_causes_few_checks(page: TestClient, backend: StandIn) -> None:
    """Each check of an unknown token takes from the backend's limit of refused requests."""
    assert page.get("/", headers=cookies(*(f"dkd_{number}" for number in range(500)))).status_code == 401
    assert backend.asked == [(f"dkd_{number}", "testclient") for number in range(3)]


def test_health_and_submitted_forms_cause_no_check(page: TestClient, backend: StandIn) -> None:
    assert page.get("/_stcore/health", headers=cookies("dkd_x")).text == "the page"
    assert sign_in(page, **cookies("dkd_x")).status_code == 303
    assert not backend.asked


def test_new_session_is_admitted_without_a_check(page: TestClient, backend: StandIn) -> None:
    """While strangers use up the backend's limit of refused requests, a check would be refused."""
    sign_in(page)
    backend.error = refusal(429)
    assert page.get("/", headers=cookies("dkd_session1")).text == "the page"


def test_browser_shows_its_last_session_at_the_next_sign_in(page: TestClient, backend: StandIn) -> None:
    first = sign_in(page)
    assert {item.split("=")[0] for item in first.headers.get_list("set-cookie")} == {COOKIE, DEVICE}
    assert all("HttpOnly; SameSite=Strict" in item for item in first.headers.get_list("set-cookie"))
    ended = page.get("/end-session", headers=cookies("dkd_session1"))
    assert [item.split("=")[0] for item in ended.headers.get_list("set-cookie")] == [COOKIE]
    assert page.get("/", headers=cookies("dkd_session1", name=DEVICE)).status_code == 401, "it is no session"
    sign_in(page, **cookies("dkd_session1", name=DEVICE))
    assert [call["earlier_session"] for call in backend.signed_in] == [None, "dkd_session1"]


@pytest.mark.parametrize("error", [refusal(500), refusal(429), BackendUnreachable("http://x", "no answer")])
class TestOutage:
    def test_known_session_goes_on(
        self, page: TestClient, backend: StandIn, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(password_sessions, "_CHECK_SECONDS", 0.0)
        backend.valid.add("dkd_a")
        assert page.get("/", headers=cookies("dkd_a")).text == "the page"
        backend.error = error
        assert page.get("/", headers=cookies("dkd_a")).text == "the page"
        unknown = page.get("/", headers=cookies("dkd_b"))
        assert (unknown.status_code, "set-cookie" in unknown.headers) == (503, False), "it may be a session that lasts"
        backend.error = None
        backend.valid.clear()
        assert page.get("/", headers=cookies("dkd_a")).status_code == 401

    def test_open_page_stays_open(
        self, gate: PasswordSessions, backend: StandIn, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also if the answer about its session is forgotten meanwhile."""
        monkeypatch.setattr(sessions, "RECHECK_SECONDS", 0.0)
        monkeypatch.setattr(password_sessions, "_CHECK_SECONDS", 0.0)
        backend.valid.add("dkd_a")
        received: list[Any] = []
        header = [(name.encode(), value.encode()) for name, value in {"host": "lab", **cookies("dkd_a")}.items()]
        scope = {"type": "websocket", "path": "/_stcore/stream", "scheme": "ws", "headers": header, "client": ("a", 1)}

        async def receive() -> Any:
            return {"type": "websocket.receive", "text": "x"}

        async def send(message: Any) -> None:
            received.append(message)

        async def app(_: Any, receive: Any, send: Any) -> None:
            for answer in (None, error, error):
                backend.error = answer
                gate._checked.clear()
                received.append(await receive())
            backend.error = None
            backend.valid.clear()
            received.append(await receive())

        asyncio.run(gate.admit(app, scope, receive, send, lambda unchanged: unchanged))
        kinds = [message["type"] for message in received]
        assert kinds == ["websocket.receive"] * 3 + ["websocket.close", "websocket.disconnect"]


def test_many_refused_tokens_do_not_replace_known_sessions(
    page: TestClient, backend: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(password_sessions, "_MAX_CHECKS", 10)
    backend.valid.add("dkd_a")
    page.get("/", headers=cookies("dkd_a"))
    for number in range(30):
        page.get("/", headers=cookies(f"dkd_{number}"))
    asked = len(backend.asked)
    assert page.get("/", headers=cookies("dkd_a")).text == "the page"
    assert len(backend.asked) == asked


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_page_of_others_signs_nobody_out(page: TestClient, backend: StandIn, site: str) -> None:
    backend.valid.add("dkd_a")
    answer = page.get("/end-session", headers={"sec-fetch-site": site, **cookies("dkd_a")})
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers
    assert backend.valid == {"dkd_a"}
    assert page.get("/end-session", headers={"sec-fetch-site": "same-origin", **cookies("dkd_a")}).status_code == 200
    assert not backend.valid
