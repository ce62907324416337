"""``dkd shares``."""

from __future__ import annotations

import json
from typing import Any

import pytest

from client.cli.app import run
from tests.client.fakes import FakeBackend

SHARES: dict[str, Any] = {
    "window_seconds": 604_800.0,
    "items": [
        {"owner": "two", "weight": 2.0, "used_seconds": 5400.0, "running": 1, "queued": 12, "turn": 1},
        {"owner": "", "weight": 1.0, "used_seconds": 0.0, "running": 0, "queued": 0, "turn": None},
    ],
}


def test_list_shows_turns_weights_and_used_time(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.answers["GET /api/v1/shares"] = SHARES
    assert run(["shares"]) == 0
    header, first, second = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip(" ─")]
    assert header[:3] == ["turn", "owner", "weight"]
    assert first[:3] == ["1", "two", "2"]
    assert first[-2:] == ["1", "12"]
    assert second[:2] == ["(unnamed)", "1"]
    assert run(["shares", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"][0]["owner"] == "two"


def test_set_sends_owner_and_weight(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.answers["POST /api/v1/shares"] = SHARES
    assert run(["shares", "set", "two", "2"]) == 0
    assert backend.sent() == {"owner": "two", "weight": 2.0}
    assert "two" in capsys.readouterr().out


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "1e9", "much"])
def test_weight_that_is_none_is_refused_before_it_is_sent(
    backend: FakeBackend, capsys: pytest.CaptureFixture[str], weight: str
) -> None:
    assert run(["shares", "set", "two", "--", weight]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert backend.requests == []


def test_without_owners_there_is_a_sentence(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.answers["GET /api/v1/shares"] = {"items": [], "window_seconds": 604_800.0}
    assert run(["shares"]) == 0
    assert capsys.readouterr().out == "nobody has submitted runs yet\n"
