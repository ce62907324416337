"""The token of a connection: read again after a rotation, and its end announced."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from client import ApiError, Client
from client.bearer import BearerAuth
from client.cli.app import run
from client.errors import ClientSettingsError
from core.protocol.access import EXPIRY_HEADER, TokenEnd
from tests.client import fakes
from tests.client.fakes import FakeBackend
from tests.client.test_cli_tokens import INFO

END = datetime(2026, 12, 10, 9, 0, tzinfo=UTC)
OLD, NEW = "dkd_old-old-old-old-old-old", "dkd_new-new-new-new-new-new"


class Rotating:
    """A backend that knows some texts of a token, and announces the end of some of them."""

    def __init__(self, valid: set[str], ends: dict[str, TokenEnd] | None = None) -> None:
        self.valid = valid
        self.ends = ends or {}
        self.seen: list[str] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        self.seen.append(token)
        if token not in self.valid:
            return fakes.problem(401, "this token is unknown, was revoked, or has expired")
        headers = {EXPIRY_HEADER: self.ends[token].header()} if token in self.ends else {}
        return httpx.Response(200, json={"items": []}, headers=headers)


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "token"
    path.write_text(OLD)
    path.chmod(0o600)
    monkeypatch.setenv("DKD_API_TOKEN_FILE", str(path))
    return path


def client_of(backend: Callable[[httpx.Request], httpx.Response], token: str | None = None) -> Client:
    return Client("http://127.0.0.1:9", token, transport=httpx.MockTransport(backend))


def test_a_refused_token_is_read_again_and_the_request_repeated(file: Path) -> None:
    backend = Rotating({OLD})
    client = client_of(backend)
    client.workers()
    file.write_text(NEW)
    backend.valid = {NEW}
    client.workers()
    client.tokens.list()
    assert backend.seen == [OLD, OLD, NEW, NEW]


def test_a_request_with_a_body_is_repeated_with_it(file: Path) -> None:
    bodies: list[bytes] = []

    def backend(request: httpx.Request) -> httpx.Response:
        bodies.append(request.content)
        if request.headers["Authorization"] == f"Bearer {OLD}":
            return fakes.problem(401, "expired")
        return httpx.Response(201, json=INFO | {"token": "x"})

    client = client_of(backend)
    file.write_text(NEW)
    client.tokens.create("ci", ["read"])
    assert len(bodies) == 2
    assert bodies[0] == bodies[1]


def test_a_token_that_did_not_change_is_not_sent_twice(file: Path) -> None:
    backend = Rotating(set())
    for client in (client_of(backend), client_of(backend, "dkd_given")):
        with pytest.raises(ApiError):
            client.workers()
    assert backend.seen == [OLD, "dkd_given"]


def test_a_file_that_is_missing_for_a_moment_does_no_harm(file: Path) -> None:
    backend = Rotating({OLD})
    client = client_of(backend)
    file.unlink()
    backend.valid = set()
    with pytest.raises(ApiError, match="unknown"):
        client.workers()
    file.write_text(NEW)
    backend.valid = {NEW}
    assert client.workers().items == []


def test_an_announced_replacement_is_used_before_the_earlier_text_ends() -> None:
    texts = [OLD]
    now = [0.0]
    auth = BearerAuth(lambda: texts[-1], lambda: now[0])
    backend = Rotating({OLD, NEW}, {OLD: TokenEnd(END, replaced=True)})
    with httpx.Client(base_url="http://x", auth=auth, transport=httpx.MockTransport(backend)) as http:
        http.get("/")
        texts.append(NEW)
        for seconds in (1.0, 30.0, 1.0):
            now[0] += seconds
            http.get("/")
    assert backend.seen == [OLD, OLD, OLD, NEW]
    assert auth.end is None


def test_the_end_is_logged_once_a_day(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    auth = BearerAuth(lambda: OLD, lambda: now[0])
    backend = Rotating({OLD}, {OLD: TokenEnd(END)})
    with httpx.Client(base_url="http://x", auth=auth, transport=httpx.MockTransport(backend)) as http:
        for seconds in (0.0, 3600.0, 23 * 3600.0, 3600.0):
            now[0] += seconds
            http.get("/")
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "ends at 2026-12-10 09:00 UTC" in caplog.messages[0]
    assert OLD not in caplog.text
    assert auth.end == TokenEnd(END)


def test_the_client_tells_when_its_token_ends(file: Path) -> None:
    backend = Rotating({OLD}, {OLD: TokenEnd(END)})
    client = client_of(backend)
    assert client.token_end is None
    client.workers()
    assert client.token_end == TokenEnd(END)
    backend.ends = {}
    client.workers()
    assert client.token_end is None, "it was renewed"


@pytest.mark.parametrize("header", ["", "soon", "2026-12-10", "2026-12-10T09:00:00", "; replaced"])
def test_other_headers_are_ignored(header: str) -> None:
    assert TokenEnd.parse(header) is None


@pytest.mark.parametrize("end", [TokenEnd(END), TokenEnd(END, replaced=True)])
def test_end_is_read_from_its_header(end: TokenEnd) -> None:
    assert TokenEnd.parse(end.header()) == end


def test_command_line_prints_one_line_to_stderr(backend: FakeBackend) -> None:
    answer = httpx.Response(200, json={"items": [INFO]}, headers={EXPIRY_HEADER: TokenEnd(END).header()})
    backend.answers["GET /api/v1/tokens"] = answer
    command = [sys.executable, "-m", "client.cli", "token", "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["items"][0]["name"] == "ci"
    assert done.stderr == (
        "this token ends at 2026-12-10 09:00 UTC: an admin renews it with `dkd token rotate NAME --days DAYS`\n"
    )


def test_an_unreadable_token_is_reported_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_API_TOKEN_FILE", "/nowhere")
    with pytest.raises(ClientSettingsError, match="no readable token"):
        client_of(Rotating(set()))


class TestRotateCommand:
    @pytest.fixture(autouse=True)
    def _answers(self, backend: FakeBackend) -> None:
        ends_at = fakes.NOW + timedelta(hours=2)
        self.rotated = INFO | {"token": NEW, "earlier_text_ends_at": ends_at.isoformat(), "files": []}
        backend.answers["GET /api/v1/tokens"] = {"items": [INFO]}
        backend.answers["POST /api/v1/tokens/t1/rotate"] = self.rotated

    def test_prints_the_text_alone_on_stdout(self, backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
        assert run(["token", "rotate", "ci", "--overlap-hours", "2", "--days", "90"]) == 0
        out, err = capsys.readouterr()
        assert out == f"{NEW}\n"
        assert "earlier texts end at 2025-01-02 05:04 UTC" in err
        assert backend.sent() == {"overlap_hours": 2.0, "expires_in_days": 90.0}

    def test_writes_a_token_file_and_prints_no_secret(
        self, backend: FakeBackend, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        path = tmp_path / "worker.token"
        path.write_text(OLD)
        assert run(["token", "rotate", "t1", "--file", str(path), "--json"]) == 0
        out, err = capsys.readouterr()
        assert path.read_text() == f"{NEW}\n"
        assert path.stat().st_mode & 0o777 == 0o600
        assert NEW not in out + err

    def test_a_file_that_cannot_be_written_is_found_before_the_rotation(
        self, backend: FakeBackend, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        assert run(["token", "rotate", "ci", "--file", str(tmp_path / "none" / "token")]) == 2
        assert "No such file" in capsys.readouterr().err
        assert backend.requests == []

    def test_names_the_backends_files(self, backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
        answer = self.rotated | {"files": ["worker"], "unwritable_files": ["admin"], "earlier_text_ends_at": None}
        backend.answers["POST /api/v1/tokens/t1/rotate"] = answer
        assert run(["token", "rotate", "ci"]) == 0
        err = capsys.readouterr().err
        assert "its own token file: worker" in err
        assert "cannot write its own token file (admin)" in err
        assert "the earlier text has ended" in err

    @pytest.mark.parametrize("options", [["--overlap-hours", "-1"], ["--overlap-hours", "nan"], ["--days", "0"]])
    def test_an_invalid_option_is_named(
        self, backend: FakeBackend, capsys: pytest.CaptureFixture[str], options: list[str]
    ) -> None:
        assert run(["token", "rotate", "ci", *options]) == 2
        assert f"{options[0]} " in capsys.readouterr().err
        assert all(request.method == "GET" for request in backend.requests)
