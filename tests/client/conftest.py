"""A home of its own for every test, and an environment that names no backend."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.wire.local import Home
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
    """A fake backend that answers at the address which the environment names."""
    fake = FakeBackend()
    server = FakeServer(fake)
    monkeypatch.setenv("DKD_API_URL", server.url)
    yield fake
    server.close()
