"""``dkd doctor``: its output, its JSON, and its exit code."""

from __future__ import annotations

import json
from functools import partial

import pytest

from client.cli.app import run
from client.doctor import Check, Finding
from tests.client.captured import Captured

FINE = Finding(check="python", status="ok", message="Python 3.11.7")
BAD = Finding(check="clock", status="error", message="90 s ahead", action="synchronise both clocks")
DOUBTFUL = Finding(check="ports", status="warning", message="8000 is used", action="use --port")


def with_checks(monkeypatch: pytest.MonkeyPatch, *findings: Finding) -> None:
    checks = [Check(item.check, partial(list, [item])) for item in findings]
    monkeypatch.setattr("client.cli.doctor.ALL_CHECKS", checks)


def test_one_line_per_finding_with_a_remedy(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    with_checks(monkeypatch, FINE, DOUBTFUL, BAD)
    assert run(["doctor"]) == 1
    out = capsys.readouterr().out
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["ok", "python"],
        ["warning", "ports"],
        ["error", "clock"],
    ]
    assert "90 s ahead → synchronise both clocks" in out


def test_warnings_do_not_change_the_exit_code(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    with_checks(monkeypatch, FINE, DOUBTFUL)
    assert run(["doctor"]) == 0


def test_json_has_every_finding(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    with_checks(monkeypatch, FINE, BAD)
    assert run(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["findings"][1] == BAD.model_dump()


def test_with_nothing_running_nothing_is_wrong(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.delenv("DATA_DIR", raising=False)
    monkeypatch.setattr("client.address.DEFAULT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr("client.connection.time.sleep", lambda _: None)
    monkeypatch.setattr("client.doctor.checks.check_torch", lambda: [])
    code = run(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    checks = {item["check"] for item in report["findings"]}
    assert {"python", "packages", "disk", "datasets", "ports", "backend", "tokens", "broker", "database"} <= checks
    errors = [item for item in report["findings"] if item["status"] == "error" and item["check"] != "disk"]
    assert not errors
    assert code == (0 if report["ok"] else 1)
