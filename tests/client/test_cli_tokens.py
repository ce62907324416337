"""``dkd token``."""

from __future__ import annotations

import json

import pytest

from client.cli.app import run
from tests.client import fakes
from tests.client.fakes import FakeBackend

INFO = {"id": "t1", "name": "ci", "scopes": ["submit"], "state": "active", "created_at": fakes.NOW.isoformat()}
OVER = INFO | {"id": "t0", "state": "revoked"}


def test_create_prints_the_token_alone_on_stdout(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.answers["POST /api/v1/tokens"] = INFO | {"token": "dkd_secret"}
    assert run(["token", "create", "ci", "--scope", "submit", "--days", "30"]) == 0
    out, err = capsys.readouterr()
    assert out == "dkd_secret\n"
    assert "t1" in err
    assert backend.sent() == {"name": "ci", "scopes": ["submit"], "expires_in_days": 30.0}


def test_revoke_by_name_revokes_the_active_token(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.answers["GET /api/v1/tokens"] = {"items": [OVER, INFO]}
    backend.answers["DELETE /api/v1/tokens/t1"] = INFO | {"state": "revoked"}
    assert run(["token", "revoke", "ci", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "revoked"
    assert run(["token", "list"]) == 0
    assert "submit" in capsys.readouterr().out
    assert run(["token", "revoke", "nobody"]) == 1


@pytest.mark.parametrize(
    ("name", "days", "message"),
    [
        ("", "1", "NAME '': must be 1 to 100 characters on one line, without a space at either end"),
        (" ci", "1", "NAME ' ci': must be 1 to 100 characters"),
        ("ci", "1e9", "--days 1000000000.0: must be more than 0 and at most 3650"),
        ("ci", "nan", "--days nan: must be more than 0 and at most 3650"),
    ],
)
def test_an_invalid_token_field_is_reported_by_its_option(
    backend: FakeBackend, capsys: pytest.CaptureFixture[str], name: str, days: str, message: str
) -> None:
    assert run(["token", "create", name, "--scope", "read", "--days", days]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dkd: {message}")
    assert backend.requests == []


@pytest.mark.parametrize("options", [["--scope", "write"], ["--scope", "read", "--days", "0"], []])
def test_wrong_usage_is_one_line(backend: FakeBackend, capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    assert run(["token", "create", "ci", *options]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert backend.requests == []
