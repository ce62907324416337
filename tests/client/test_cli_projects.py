"""``dkd project``, ``dkd person``, ``dkd audit`` and ``--project`` against a real backend."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.cli.app import run as dkd
from tests import served
from tests.backend.lab import plain

Dkd = Callable[..., str]


@pytest.fixture
def ok(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Dkd]:
    """Yield a function that runs a command which succeeds, and returns its output."""
    monkeypatch.delenv("DKD_PROJECT", raising=False)
    with served.backend(tmp_path) as url:
        monkeypatch.setenv("DKD_API_URL", url)
        monkeypatch.setenv("DKD_API_TOKEN", served.ADMIN_TOKEN)

        def call(*words: str) -> str:
            assert dkd(words) == 0, capsys.readouterr().err
            return capsys.readouterr().out

        yield call


def read(ok: Dkd, *words: str) -> Any:
    return json.loads(ok(*words, "--json"))


def spec_file(folder: Path, name: str) -> str:
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(plain(name)))
    return str(file)


def test_a_person_works_in_a_project(ok: Dkd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "default" in ok("project", "list")
    assert "no people yet" in ok("person", "list")
    ok("project", "create", "detection", "--title", "Detectors")
    assert "anna@lab.example" in ok("person", "create", "anna", "--mail", "anna@lab.example")
    assert "nobody has a role" in ok("project", "members", "detection")
    assert "submitter" in ok("project", "add", "detection", "anna")
    token = ok("token", "create", "laptop", "--scope", "submit", "--person", "anna").strip()
    assert "anna" in ok("token", "list")
    ok("submit", spec_file(tmp_path, "elsewhere"))
    ok("submit", spec_file(tmp_path, "by option"), "--project", "detection")
    monkeypatch.setenv("DKD_PROJECT", "detection")
    assert read(ok, "submit", spec_file(tmp_path, "by variable"))["project"] == "detection"
    assert {item["name"] for item in read(ok, "experiments")["items"]} == {"by option", "by variable"}
    assert {item["experiment"] for item in read(ok, "runs")["items"]} == {"by option", "by variable"}
    monkeypatch.delenv("DKD_PROJECT")

    monkeypatch.setenv("DKD_API_TOKEN", token)
    (own,) = read(ok, "project", "list")["items"]
    assert (own["name"], own["role"], own["experiments"]) == ("detection", "submitter", 2)
    assert read(ok, "submit", spec_file(tmp_path, "annas"))["submitted_by"] == "anna"
    assert {item["name"] for item in read(ok, "experiments")["items"]} == {"by option", "by variable", "annas"}
    assert dkd(["show", "elsewhere"]) == 1
    assert dkd(["audit"]) == 1

    monkeypatch.setenv("DKD_API_TOKEN", served.ADMIN_TOKEN)
    shown = ok("project", "quota", "detection", "--slots", "8", "--gpu-hours", "12.5", "--disk", "2GB")
    assert "2.0 GB" in shown
    quota = read(ok, "project", "quota", "detection", "--disk", "none")
    assert (quota["slots_limit"], quota["gpu_hours_limit"], quota["disk_bytes_limit"]) == (8, 12.5, None)
    assert "in the project default" in ok("project", "move", "annas", "default")
    assert "archived" in ok("project", "edit", "detection", "--archive")
    ok("project", "remove", "detection", "anna")
    assert "disabled" in ok("person", "edit", "anna", "--disable")


def test_the_audit_log_is_shown_and_exported(ok: Dkd, tmp_path: Path) -> None:
    assert "no entries" in ok("audit")
    ok("project", "create", "detection")
    ok("submit", spec_file(tmp_path, "one"), "--project", "detection")
    shown = ok("audit", "--action", "experiments.")
    assert "experiments.submit" in shown
    assert "127.0.0.1" in shown
    assert "projects.create" not in shown
    assert [item["action"] for item in read(ok, "audit", "--project", "detection")["items"]] == [
        "experiments.submit",
        "projects.create",
    ]
    assert "no entries" in ok("audit", "--refused")
    assert "no entries" in ok("audit", "--until", "2020-01-01")
    rows = list(csv.DictReader(io.StringIO(ok("audit", "--export", "csv"))))
    assert [row["action"] for row in rows] == ["projects.create", "experiments.submit"]
    assert len(ok("audit", "--export", "jsonl").splitlines()) == 2
    assert dkd(["audit", "--export", "xml"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["project", "create", "A b"], "NAME 'A b': must be 1 to 60 small letters"),
        (["person", "create", "a b"], "NAME 'a b': must be 1 to 60 letters"),
        (["person", "create", "anna", "--mail", "nowhere"], "--mail 'nowhere': is not a mail address"),
        (["project", "add", "p", "anna", "--role", "owner"], "--role owner: must be one of reader, submitter, admin"),
        (["project", "quota", "p", "--slots", "1.5"], "--slots 1.5: must be a whole number, or none"),
        (["project", "quota", "p", "--slots", "-1"], "--slots -1: must be from 0 to 1,000,000"),
        (["project", "quota", "p", "--gpu-hours", "nan"], "--gpu-hours nan: must be a number, or none"),
        (["project", "quota", "p", "--disk", "much"], "--disk much: must be a size such as 500GB, or none"),
        (["project", "move", "e", "A b"], "PROJECT 'A b': is not the name of a project"),
    ],
)
def test_invalid_names_are_reported_by_their_argument(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.setenv("DKD_API_URL", "http://127.0.0.1:1")
    assert dkd(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dkd: {message}")
