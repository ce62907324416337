"""A home of its own for every test, and an environment that names no backend."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.wire.local import Home

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
