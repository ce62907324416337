"""The backend, its clock and tokens, the broker, ports and settings."""

from __future__ import annotations

import ast
import re
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from backend.settings import Settings
from client.doctor import services
from client.doctor.settings import KNOWN_SETTINGS, check_settings
from client.stack.lock import HomeLock
from common.home import Home
from tests.client import fakes
from tests.client.fakes import FakeBackend
from worker.settings import WorkerSettings

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


class TestBackend:
    def test_a_ready_backend(self, backend: FakeBackend) -> None:
        backend.answers["GET /readyz"] = {"status": "ok"}
        ready, clock = services.check_backend()
        assert (ready.status, clock.status) == ("ok", "ok")
        assert "accepts requests" in ready.message

    def test_a_backend_that_is_not_ready(self, backend: FakeBackend) -> None:
        backend.answers["GET /readyz"] = fakes.problem(503, "the database is away")
        ready, _ = services.check_backend()
        assert ready.status == "error"
        assert "log" in ready.action

    def test_another_program_at_the_address_is_not_a_backend(self, backend: FakeBackend) -> None:
        (item,) = services.check_backend()
        assert item.status == "error"
        assert "status 404" in item.message

    def test_without_a_stack_nothing_is_wrong(self, home: Home) -> None:
        home.path.mkdir(parents=True)
        home.api_url.write_text("http://127.0.0.1:1\n")
        (item,) = services.check_backend()
        assert item.status == "ok"
        assert "`dkd up` starts one" in item.message

    def test_a_remote_backend_that_is_away_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DKD_API_URL", "http://someone:secret@127.0.0.1:1")
        (item,) = services.check_backend()
        assert item.status == "error"
        assert "http://127.0.0.1:1" in item.message
        assert "secret" not in item.model_dump_json()

    def test_an_invalid_address_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DKD_API_URL", "ftp://someone:secret@host")
        (item,) = services.check_backend()
        assert item.status == "error"
        assert "secret" not in item.message

    @pytest.mark.parametrize(
        ("seconds", "status", "text"),
        [(2, "ok", "agrees"), (90, "warning", "90 s ahead of"), (-90, "warning", "90 s behind")],
    )
    def test_clocks_are_compared(self, seconds: int, status: str, text: str) -> None:
        item = services.clock_finding(format_datetime(NOW, usegmt=True), NOW + timedelta(seconds=seconds))
        assert item.status == status
        assert text in item.message

    @pytest.mark.parametrize("date", [None, "yesterday"])
    def test_a_response_without_a_date(self, date: str | None) -> None:
        assert services.clock_finding(date, NOW).status == "ok"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:secret@lab.example/api?token=secret", "https://lab.example"),
        ("redis://:secret@[::1]:6379/0", "redis://[::1]:6379"),
        ("http://host:port", "the configured address"),
    ],
)
def test_addresses_are_shown_without_secrets(url: str, shown: str) -> None:
    assert services.address_text(url) == shown


class TestTokens:
    def test_an_accepted_token(self, backend: FakeBackend, home: Home) -> None:
        catalog: dict[str, Any] = {name: [] for name in ("methods", "models", "datasets", "metrics")}
        backend.answers["GET /api/v1/catalog"] = catalog | {"experiment_schema": {}}
        (item,) = services.check_tokens()
        assert (item.status, item.message) == ("ok", "the backend accepts the client's token")

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_refused_token(self, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
        monkeypatch.setenv("DKD_API_TOKEN", "dkd_secret")
        backend.answers["GET /api/v1/catalog"] = fakes.problem(status, "no")
        (item,) = services.check_tokens()
        assert item.status == "error"
        assert "DKD_API_TOKEN" in item.action
        assert "dkd_secret" not in item.model_dump_json()

    def test_a_token_file_that_others_can_read(self, no_backend: None, home: Home) -> None:
        home.admin_token.parent.mkdir(parents=True)
        home.admin_token.write_text("dkd_secret")
        home.admin_token.chmod(0o644)
        file, used = services.check_tokens()
        assert file.status == "warning"
        assert "mode 0644" in file.message
        assert "chmod 600" in file.action
        assert "dkd_secret" not in file.model_dump_json()
        assert used.status == "ok"
        assert "not tried" in used.message

    def test_a_token_file_without_a_token(self, no_backend: None, home: Home) -> None:
        home.worker_token.parent.mkdir(parents=True)
        home.worker_token.touch(mode=0o600)
        file, _ = services.check_tokens()
        assert file.status == "error"
        assert "bootstrap" in file.action

    def test_a_missing_token_file_is_refused(self, no_backend: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DKD_API_TOKEN_FILE", "/nowhere")
        (item,) = services.check_tokens()
        assert item.status == "error"
        assert "DKD_API_TOKEN_FILE" in item.message


class TestBroker:
    def test_broker_folder_is_accepted(self, home: Home) -> None:
        (item,) = services.check_broker()
        assert item.status == "ok"
        assert str(home.broker) in item.message

    def test_unwritable_broker_folder_is_an_error(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.touch()
        monkeypatch.setenv("DKD_BROKER_FOLDER", str(file / "broker"))
        (item,) = services.check_broker()
        assert item.status == "error"
        assert "DKD_BROKER_FOLDER" in item.action

    def test_a_redis_that_responds(self, monkeypatch: pytest.MonkeyPatch, redis_like: int) -> None:
        monkeypatch.setenv("DKD_BROKER_URL", f"redis://127.0.0.1:{redis_like}/0")
        (item,) = services.check_broker()
        assert item.status == "ok", item

    def test_a_redis_that_is_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DKD_BROKER_URL", "redis://:secret@127.0.0.1:1/0")
        (item,) = services.check_broker()
        assert item.status == "error"
        assert "redis://127.0.0.1:1 cannot be reached" in item.message
        assert "secret" not in item.model_dump_json()

    def test_a_redis_that_does_not_respond(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(services, "_REQUEST_SECONDS", 0.2)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("DKD_BROKER_URL", f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
            (item,) = services.check_broker()
        assert item.status == "error"

    def test_other_kinds_of_broker_are_not_checked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DKD_BROKER_URL", "amqp://user:secret@host")
        (item,) = services.check_broker()
        assert item.status == "warning"
        assert "secret" not in item.message


@pytest.fixture
def redis_like() -> Iterator[int]:
    """The port of a server that answers every command as Redis answers PING."""
    import socketserver
    import threading

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline():
                arguments = int(line[1:])
                words = []
                for _ in range(arguments):
                    self.rfile.readline()
                    words.append(self.rfile.readline().strip())
                self.wfile.write(b"+PONG\r\n" if words[0] == b"PING" else b"+OK\r\n")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


class TestPorts:
    def test_free_ports(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("client.stack.ports.is_free", lambda port: True)
        (item,) = services.check_ports()
        assert (item.status, item.message) == ("ok", "8000 (backend), 8501 (dashboard) free")

    def test_a_port_of_another_program(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("client.stack.ports.is_free", lambda port: port != 8501)
        used, free = services.check_ports()
        assert used.status == "warning"
        assert "--dashboard-port" in used.action
        assert free.status == "ok"

    def test_a_port_of_the_stack_on_this_home(self, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("client.stack.ports.is_free", lambda port: False)
        lock = HomeLock(home.path)
        lock.acquire()
        lock.publish("http://127.0.0.1:8000", "http://127.0.0.1:8501")
        try:
            items = list(services.check_ports())
        finally:
            lock.release()
        assert [item.status for item in items] == ["ok", "ok"]
        assert "the dashboard of the stack on this home" in items[1].message


class TestSettings:
    def test_known_settings(self) -> None:
        (item,) = check_settings({"DKD_HOME": "/x", "DKD_API_TOKEN": "secret", "OTHER": "1"})
        assert (item.status, item.message) == ("ok", "2 DKD_ variable(s) set: DKD_API_TOKEN, DKD_HOME")

    def test_a_misspelt_setting_comes_with_the_nearest(self) -> None:
        (item,) = check_settings({"DKD_SLTOS": "secret"})
        assert item.status == "warning"
        assert item.action == "did you mean DKD_SLOTS?"
        assert "secret" not in item.model_dump_json()

    def test_unknown_setting_without_a_similar_name_is_reported(self) -> None:
        (item,) = check_settings({"DKD_XYZZY": "1"})
        assert item.status == "warning"
        assert "docs/operations.md" in item.action

    def test_the_list_of_settings_is_complete(self) -> None:
        fields = {f"DKD_{name.upper()}" for kind in (Settings, WorkerSettings) for name in kind.model_fields}
        assert fields <= KNOWN_SETTINGS
        assert read_by_programs() <= KNOWN_SETTINGS

    def test_the_list_of_settings_has_nothing_else(self) -> None:
        text = "\n".join(path.read_text(encoding="utf-8") for path in sources())
        unused = [name for name in KNOWN_SETTINGS if name not in text and not re.search(_field(name), text)]
        assert not unused


def _field(name: str) -> str:
    return rf"\b{name.removeprefix('DKD_').lower()}: "


def sources() -> list[Path]:
    rooms = ("common", "core", "backend", "worker", "client", "dashboard", "docker")
    python = [path for room in rooms for path in (ROOT / room).rglob("*.py") if "doctor" not in path.parts]
    return [*python, *ROOT.glob("docker-compose*.yml"), ROOT / "examples" / "caddy" / "Caddyfile"]


def read_by_programs() -> set[str]:
    """Names in string literals of the programs, and in substitutions of the compose files."""
    names: set[str] = set()
    for path in sources():
        text = path.read_text(encoding="utf-8")
        if path.suffix != ".py":
            names.update(re.findall(r"\$\{?(DKD_[A-Z0-9_]+)", text))
            continue
        literals = (node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant))
        names.update(value for value in literals if isinstance(value, str) and re.fullmatch(r"DKD_[A-Z0-9_]+", value))
    return names
