"""Bad input to the command line: one line per mistake, and the exit code."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from client.cli.app import run
from tests.client import fakes
from tests.client.captured import Captured, error_lines
from tests.client.fakes import SPEC, FakeBackend, problem


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a spec is a mapping of fields, not an empty file"),
        ("- a", "a spec is a mapping of fields, not a list"),
        ("name: [1", "not YAML at line 1, column 9"),
        ("{a: 1, a: 2}", "not YAML at line 1, column 8: 'a' is given twice"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_a_file_that_is_not_a_spec_is_refused(
    tmp_path: Path, capsys: Captured, no_backend: None, text: str, expected: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    assert run(["submit", str(path)]) == 2
    (line,) = error_lines(capsys)
    assert line.startswith(f"dkd: {path}: ")
    assert expected in line


@pytest.mark.parametrize("content", [None, b"\xff\xfe\x00", "folder"])
def test_an_unreadable_file_is_refused(
    tmp_path: Path, capsys: Captured, no_backend: None, content: bytes | str | None
) -> None:
    path = tmp_path / "spec.yaml"
    if content == "folder":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    assert run(["preview", str(path)]) == 2
    (line,) = error_lines(capsys)
    assert line.startswith(f"dkd: cannot read {path}: ")


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ("methods.0=dkdd", "methods.0.name", "unknown method 'dkdd'; did you mean dkd"),
        ("student.model=resnet21", "student.model.name", "resnet20"),
        ("dataset=digit", "dataset.name", "did you mean digits"),
        ("methods.1.params.alpha=-1", "methods.1.params.alpha", "greater than or equal to 0"),
        ("methods.1.params.temperature=0", "methods.1.params.temperature", "greater than 0"),
        ("training.epochs=0", "training.epochs", "greater than or equal to 1"),
        ("training.epochs=many", "training.epochs", "integer"),
        ("training.epoch=3", "training.epoch", "unknown field"),
        ("seeds=[1, 1]", "seeds", "given twice"),
        ("teacher=null", "methods.0", "needs a teacher"),
    ],
)
def test_each_mistake_in_a_spec_is_one_line_with_its_field(
    spec_file: Path, capsys: Captured, no_backend: None, change: str, field: str, message: str
) -> None:
    assert run(["submit", str(spec_file), "--set", change]) == 2
    line = error_lines(capsys)[0]
    assert line.startswith(f"dkd: {spec_file}: {field}: ")
    assert message in line


def test_several_mistakes_are_several_lines(spec_file: Path, capsys: Captured, no_backend: None) -> None:
    wrong = ["--set", "training.epochs=0", "--set", "methods.1.params.beta=-3", "--set", "extra=1"]
    assert run(["submit", str(spec_file), *wrong]) == 2
    assert len(error_lines(capsys)) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("training.epochs", "path=value"),
        ("=3", "path=value"),
        ("training..epochs=3", "path=value"),
        ("seeds=[", "not YAML"),
        ("methods.7.label=x", "'7' is no item of a list of 2"),
        ("priority.high=1", "has no fields"),
    ],
)
def test_a_set_option_with_a_wrong_path_is_refused(
    spec_file: Path, capsys: Captured, no_backend: None, change: str, message: str
) -> None:
    data = SPEC | {"priority": 3}
    spec_file.write_text(yaml.safe_dump(data))
    assert run(["submit", str(spec_file), "--set", change]) == 2
    (line,) = error_lines(capsys)
    assert f"--set {change}" in line
    assert message in line


def test_each_field_that_the_api_refuses_is_one_line(spec_file: Path, backend: FakeBackend, capsys: Captured) -> None:
    refusal = problem(422, "invalid", ("student.model", "too small"), ("seeds", "too\nmany"))
    backend.answers["POST /api/v1/experiments"] = refusal
    assert run(["submit", str(spec_file)]) == 2
    assert error_lines(capsys) == ["dkd: student.model: too small", "dkd: seeds: too many"]


def test_a_taken_name_is_reported(spec_file: Path, backend: FakeBackend, capsys: Captured) -> None:
    refusal = problem(422, "an experiment is named 'small' already", ("name", "'small' is taken"))
    backend.answers["POST /api/v1/experiments"] = refusal
    assert run(["submit", str(spec_file)]) == 2
    assert error_lines(capsys) == ["dkd: name: 'small' is taken"]


def test_a_refused_token_is_reported_with_its_possible_sources(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers["GET /api/v1/workers"] = problem(401, "no token")
    assert run(["workers"]) == 1
    assert "DKD_API_TOKEN" in error_lines(capsys)[0]


@pytest.mark.parametrize(
    "command", [["runs"], ["workers"], ["compare", "x"], ["show", "x"], ["logs", "x"], ["cancel", "x"], ["watch", "x"]]
)
def test_an_unreachable_backend_ends_with_code_3(capsys: Captured, no_backend: None, command: list[str]) -> None:
    assert run(command) == 3
    (line,) = error_lines(capsys)
    assert "http://127.0.0.1:1" in line
    assert "dkd up" in line


def test_an_invalid_address_is_refused(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DKD_API_URL", "nonsense")
    assert run(["runs"]) == 2
    assert len(error_lines(capsys)) == 1


@pytest.mark.parametrize(
    "command",
    [
        ["sumbit"],
        ["submit"],
        ["submit", "a", "b"],
        ["runs", "--limit", "none"],
        ["runs", "--limit", "0"],
        ["runs", "--state", "asleep"],
        ["runs", "--colour"],
        ["catalog", "losses"],
        ["up", "--port", "70000"],
        ["logs", "x", "--tail", "0"],
    ],
)
def test_wrong_usage_is_one_line(capsys: Captured, no_backend: None, command: list[str]) -> None:
    assert run(command) == 2
    assert len(error_lines(capsys)) == 1


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["clone", "exp-1", "--name", ""], "--name '': must be 1 to 100 characters"),
        (["clone", "exp-1", "--name", "x" * 101], "--name 'xxx"),
        (["tag", "exp-1", "a b"], "TAG: must be 1 to 40 characters, no space or comma"),
        (["tag", "exp-1", "", "a,b"], "TAG: must be 1 to 40 characters, no space or comma"),
        (["tag", "exp-1", *(f"t{number}" for number in range(21))], "an experiment has at most 20"),
        (["note", "exp-1", "x" * 10_001], "TEXT: must be at most 10,000 characters"),
    ],
)
def test_an_invalid_experiment_field_is_reported_by_its_option(
    backend: FakeBackend, capsys: Captured, command: list[str], message: str
) -> None:
    backend.answers["GET /api/v1/experiments/exp-1"] = fakes.experiment()
    assert run(command) == 2
    (line,) = error_lines(capsys)
    assert message in line
    assert all(request.method == "GET" for request in backend.requests)


@pytest.mark.parametrize("token", ["schlüssel", "two\nlines"])
def test_an_invalid_token_is_refused(
    capsys: Captured, no_backend: None, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("DKD_API_TOKEN", token)
    assert run(["runs"]) == 2
    (line,) = error_lines(capsys)
    assert "DKD_API_TOKEN" in line
    assert token not in line


def test_a_missing_plugin_is_named(
    spec_file: Path, capsys: Captured, no_backend: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DKD_PLUGINS", "not_a_module")
    assert run(["submit", str(spec_file)]) == 2
    assert "not_a_module" in error_lines(capsys)[0]
