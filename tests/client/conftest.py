"""Fixtures of the client's tests: each test has its own home, and no backend in its environment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from common.home import Home
from tests.client import fakes
from tests.client.fakes import FakeBackend, FakeServer

_VARIABLES = (
    "DKD_API_URL",
    "DKD_API_TOKEN",
    "DKD_API_TOKEN_FILE",
    "DKD_WORKER_TOKEN",
    "DKD_WORKER_TOKEN_FILE",
    "DKD_PLUGINS",
)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    for variable in _VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("DKD_HOME", str(tmp_path / "home"))
    return Home.find()


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBackend]:
    """A fake backend at the address that the environment names."""
    fake = FakeBackend()
    server = FakeServer(fake)
    monkeypatch.setenv("DKD_API_URL", server.url)
    yield fake
    server.close()


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(fakes.SPEC))
    return path


@pytest.fixture
def no_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_API_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("client.connection.time.sleep", lambda _: None)
