"""``dkd leaderboard``: its request, its formats, its files, and the input that it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from client import Client
from client.cli.app import run
from client.errors import NotABackend
from core.protocol.leaderboards import Leaderboard
from tests.client import fakes
from tests.client.captured import Captured
from tests.client.fakes import FakeBackend, problem
from tests.leaderboards import leaderboard

PATH = "GET /api/v1/leaderboard"
PAGE = '<!DOCTYPE html><html><body><script type="application/json" id="leaderboard">{}</script></body></html>\n'


def html(content: str) -> httpx.Response:
    return httpx.Response(200, text=content, headers={"Content-Type": "text/html; charset=utf-8"})


def test_table_has_ranks_marks_missing_cells_and_notes(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers[PATH] = leaderboard()
    words = ["leaderboard", "one", "--experiment", "two", "--tag", "paper", "--sweep", "s", "--task", "classification"]
    assert run([*words, "--baseline", "kd", "--without", "a", "--without", "b"]) == 0
    out = capsys.readouterr().out
    dkd, kd = (next(line for line in out.splitlines() if line.startswith(label)) for label in ("dkd", "kd"))
    assert dkd.split("  ")[-1].strip() == "–"
    assert "1.00 [1.00, 1.50]" in dkd
    assert "72.50 ± 0.50 (2) ★ ▲" in dkd
    assert "70.50 ± 0.50 (2)" in kd
    assert "digits resnet8→resnet8, % (not ranked)" in " ".join(out.split())
    assert "No pair of methods is shown to differ." in out
    assert "2 of 2 settings count without dkd: add --without dkd" in out
    assert "A note." in out
    query = backend.requests[-1].url.params
    assert query.get_list("experiment") == ["one", "two"]
    assert query.get_list("without") == ["a", "b"]
    assert {key: query[key] for key in ("tag", "sweep", "task", "baseline")} == {
        "tag": "paper",
        "sweep": "s",
        "task": "classification",
        "baseline": "kd",
    }


def test_json_can_be_read_back(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers[PATH] = leaderboard()
    assert run(["leaderboard", "--json"]) == 0
    assert Leaderboard.model_validate(json.loads(capsys.readouterr().out)) == leaderboard()


@pytest.mark.parametrize("kind", ["csv", "markdown", "latex"])
def test_texts_come_from_the_backend(backend: FakeBackend, capsys: Captured, kind: str) -> None:
    backend.answers[PATH] = fakes.text(f"the {kind}\n")
    assert run(["leaderboard", "--tag", "paper", "--format", kind]) == 0
    assert capsys.readouterr().out == f"the {kind}\n"
    assert backend.requests[-1].url.params["format"] == kind


def test_page_is_written_to_a_file(backend: FakeBackend, capsys: Captured, tmp_path: Path) -> None:
    backend.answers[PATH] = html(PAGE)
    target = tmp_path / "board.html"
    assert run(["leaderboard", "--format", "html", "--out", str(target)]) == 0
    assert target.read_text(encoding="utf-8") == PAGE
    assert str(target) in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(("format", "part"), [("table", "72.50 ± 0.50 (2) ★ ▲"), ("json", '"baseline": "kd"')])
def test_table_and_json_are_written_to_files_too(
    backend: FakeBackend, capsys: Captured, tmp_path: Path, format: str, part: str
) -> None:
    backend.answers[PATH] = leaderboard()
    target = tmp_path / "board"
    assert run(["leaderboard", "--format", format, "--out", str(target)]) == 0
    assert part in target.read_text(encoding="utf-8")
    assert capsys.readouterr().out == ""


def test_another_page_is_no_leaderboard(backend: FakeBackend) -> None:
    backend.answers[PATH] = html("<html><title>Sign in</title></html>")
    with Client("http://backend", transport=backend.transport()) as client, pytest.raises(NotABackend, match="Sign in"):
        client.leaderboard_text("html")


def test_invalid_options_are_refused_before_a_request(backend: FakeBackend, capsys: Captured) -> None:
    assert run(["leaderboard", "--format", "pdf"]) == 2
    assert "--format pdf: must be one of table, json, csv, markdown, latex, html" in capsys.readouterr().err
    assert run(["leaderboard", "--json", "--format", "csv"]) == 2
    assert "contradict" in capsys.readouterr().err
    assert backend.requests == []


def test_refusals_of_the_backend_name_the_field(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers[PATH] = problem(422, "bad", ("tag.0", "no experiment has the tag 'x'"))
    assert run(["leaderboard", "--tag", "x"]) == 2
    assert "tag.0: no experiment has the tag 'x'" in capsys.readouterr().err
    backend.answers[PATH] = problem(404, "there is no experiment 'y'")
    assert run(["leaderboard", "y"]) == 1
    assert "there is no experiment 'y'" in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_reported(backend: FakeBackend, capsys: Captured, tmp_path: Path) -> None:
    backend.answers[PATH] = leaderboard()
    assert run(["leaderboard", "--json", "--out", str(tmp_path / "none" / "board")]) == 2
    assert "No such file or directory" in capsys.readouterr().err


def test_an_empty_leaderboard_says_what_to_do(backend: FakeBackend, capsys: Captured) -> None:
    empty = leaderboard(methods=[], settings=[], ranking=None, counted=0, fewer=[], notes=["No experiment has runs."])
    backend.answers[PATH] = empty
    assert run(["leaderboard"]) == 0
    assert capsys.readouterr().out == "No experiment has runs.\n"
