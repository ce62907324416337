"""No control character of any field reaches a terminal."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from client import Client
from client.cli.app import run
from client.rendering.tables import console_for
from common.terminal import printable, printable_json
from core.events import Failed, Journal, Log
from core.protocol.artifacts import ArtifactList, UploadList
from core.protocol.comparisons import Comparison
from core.protocol.public import Experiment, ExperimentPage, LogsReply, RunPage, TeacherList, WorkerList
from core.protocol.public import Run as RunAnswer
from tests.client import fakes
from tests.client.fakes import FakeBackend, page
from tests.client.test_literal_output import TEACHER, TOKEN, UPLOAD, WORKER

EVIL = "\x1b]0;owned\x07\x1b[31mred\x9b2J\x7f\r\u202egpj\u2066\ufeff\x00end"
RAW = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
LINE = {"number": 1, "attempt": 1, "time": fakes.NOW.isoformat(), "level": "warning", "message": "from a training"}


def poisoned(answer: BaseModel | dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Return the reply with escape sequences in every text that the client accepts, keys of mappings included."""
    data: Any = json.loads(json.dumps(answer.model_dump(mode="json") if isinstance(answer, BaseModel) else answer))

    def still_read() -> bool:
        try:
            model.model_validate_json(json.dumps(data))
        except ValidationError:
            return False
        return True

    def walk(value: Any) -> None:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        for key in keys:
            inner = value[key]
            if isinstance(inner, str):
                value[key] = inner + EVIL
                if not still_read():
                    value[key] = inner
            elif isinstance(inner, dict | list):
                walk(inner)
            if isinstance(value, dict) and (changed := value | {key + EVIL: value[key]}):
                value[key + EVIL] = changed[key + EVIL]
                if not still_read():
                    del value[key + EVIL]

    walk(data)
    assert EVIL in _texts(data)
    replaced: dict[str, Any] = data
    return replaced


def _texts(value: Any) -> str:
    if isinstance(value, str):
        return value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return " ".join(map(_texts, inner))


FAILED: dict[str, Any] = {
    "state": "failed",
    "reason": "why",
    "worker": "node",
    "log_tail": ["last"],
    "environment": {"torch": "2"},
}
ATTEMPT = {"number": 1, "worker": "w", "host": "h", "device": "d", "started_at": fakes.NOW, "reason": "r"}
FILES = {"run_id": "run-1", "items": [{"id": "a", "attempt": 1, "name": "weights.safetensors", "size": 1}]}

COMMANDS: list[tuple[list[str], str, BaseModel | dict[str, Any], type[BaseModel]]] = [
    (["runs"], "/runs", page(fakes.run_summary(state="failed", reason="why", worker="node")), RunPage),
    (["experiments"], "/experiments", page(fakes.experiment(tags=["t"], notes="n")), ExperimentPage),
    (["show", "run-1"], "/runs/run-1", fakes.run(**FAILED, attempts=[ATTEMPT]), RunAnswer),
    (["show", "exp-1"], "/experiments/exp-1", fakes.experiment(warnings=[{"path": "p", "message": "m"}]), Experiment),
    (["workers"], "/workers", {"items": [WORKER]}, WorkerList),
    (["teachers"], "/teachers", {"items": [TEACHER]}, TeacherList),
    (["uploads"], "/teachers/uploads", {"items": [UPLOAD], "max_bytes": 9}, UploadList),
    (["compare", "small"], "/comparisons", fakes.comparison(baseline="dkd"), Comparison),
    (["artifacts", "run-1"], "/runs/run-1/artifacts", FILES, ArtifactList),
]


@pytest.mark.parametrize(("words", "path", "answer", "model"), COMMANDS, ids=[" ".join(item[0]) for item in COMMANDS])
@pytest.mark.parametrize("form", ["text", "json"])
def test_commands_print_no_control_characters(
    backend: FakeBackend,
    capsys: pytest.CaptureFixture[str],
    form: str,
    words: list[str],
    path: str,
    answer: BaseModel | dict[str, Any],
    model: type[BaseModel],
) -> None:
    evil = poisoned(answer, model)
    backend.answers["GET /api/v1/runs/run-1"] = fakes.run()
    backend.answers["GET /api/v1/comparisons"] = fakes.comparison(baseline="dkd")
    backend.answers[f"GET /api/v1{path}"] = evil
    run([*words, *(["--json"] if form == "json" else [])])
    captured = capsys.readouterr()
    assert not RAW.findall(captured.out + captured.err)
    assert "owned" in captured.out
    if form == "json":
        assert EVIL in _texts(json.loads(captured.out)), "JSON contains the same text, escaped"


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_logs_print_no_control_characters(
    backend: FakeBackend, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    evil = poisoned({"run_id": "run-1", "lines": [LINE]}, LogsReply)
    backend.answers["GET /api/v1/runs/run-1"] = fakes.run(state="failed")
    backend.answers["GET /api/v1/runs/run-1/logs"] = [evil, {"run_id": "run-1", "lines": []}]
    assert run(["logs", "run-1", *more]) == 0
    captured = capsys.readouterr()
    assert not RAW.findall(captured.out + captured.err)
    assert "red" in captured.out


def test_exports_print_no_control_characters(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.answers["GET /api/v1/experiments/exp-1"] = fakes.experiment()
    backend.answers["GET /api/v1/exports/experiments/exp-1/csv"] = fakes.text(f"label,reason\nkd,{EVIL}\n")
    backend.answers["GET /api/v1/comparisons/table"] = fakes.text(f"| {EVIL} |")
    for words in (["table", "exp-1", "--format", "markdown"], ["table", "exp-1", "--format", "csv"]):
        run(words)
        captured = capsys.readouterr()
        assert not RAW.findall(captured.out + captured.err)


def test_errors_of_the_backend_are_printable(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.answers["GET /api/v1/runs"] = fakes.problem(409, f"no {EVIL}", (f"path{EVIL}", f"message{EVIL}"))
    for words in (
        ["runs"],
        ["show", f"a{EVIL}"],
        [f"--no-such{EVIL}"],
        ["submit", f"/nowhere/{EVIL.replace(chr(0), '')}"],
    ):
        assert run(words) != 0
        captured = capsys.readouterr()
        assert not RAW.findall(captured.out + captured.err)


def test_token_errors_are_printable(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.answers["GET /api/v1/tokens"] = {"items": [TOKEN | {"name": f"n{EVIL}", "created_by": f"b{EVIL}"}]}
    assert run(["token", "list"]) == 0
    assert not RAW.findall(capsys.readouterr().out)


def test_a_terminal_receives_only_the_styles_of_rich() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    ended = poisoned(fakes.experiment(state="finished", progress=1.0), Experiment)
    backend = FakeBackend({"GET /api/v1/experiments/exp-1": [poisoned(fakes.experiment(), Experiment), ended]})
    file = Terminal()
    with Client("http://127.0.0.1:9", transport=backend.transport()) as client:
        client.experiments.watch("exp-1", console_for(file), interval=0.01)
    shown = file.getvalue()
    # What rich itself sends: colours, moving and erasing lines, hiding the cursor.
    styles = re.compile(r"\x1b\[(?:[0-9;]*[mAK]|\?25[lh]|2K)|\r")
    assert "owned" in shown
    assert not RAW.findall(styles.sub("", shown))
    assert "\x1b[31mred" not in shown


@given(text=st.text(alphabet=st.characters(codec=None)))
def test_printable_keeps_visible_text_and_is_idempotent(text: str) -> None:
    shown = printable(text)
    assert not RAW.findall(shown)
    assert printable(shown) == shown
    assert [c for c in text if c.isalnum()] == [c for c in shown if c.isalnum()] or RAW.search(text) or "\\" in shown


@given(text=st.text())
def test_printable_json_has_the_same_value(text: str) -> None:
    printed = printable_json(json.dumps({text: [text]}, ensure_ascii=False))
    assert not RAW.findall(printed)
    assert json.loads(printed) == {text: [text]}


@pytest.mark.parametrize(
    ("text", "shown"), [("tab\tline\n", "tab\tline\n"), ("\x1b[0m", r"\x1b[0m"), ("é 日本 🎓", "é 日本 🎓")]
)
def test_printable_escapes(text: str, shown: str) -> None:
    assert printable(text) == shown


def _output(*command: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, env={**os.environ, **environment}, check=False, timeout=120
    )
    return (done.stdout + done.stderr).decode()


def test_core_prints_no_control_characters(tmp_path: Path) -> None:
    evil = EVIL.replace("\0", "")
    spec = tmp_path / "spec.yaml"
    spec.write_text(json.dumps({"name": "x", "dataset": "digits", "methods": [evil], evil: evil}))
    for words in (["run", str(spec), "--out", str(tmp_path / "out")], ["run", evil, "--out", "x"], [evil]):
        output = _output("-m", "core", *words)
        assert "owned" in output
        assert not RAW.findall(output)


def test_startup_errors_of_worker_and_backend_are_printable() -> None:
    evil = EVIL.replace("\0", "")
    for module in ("worker", "backend"):
        words = ["serve"] if module == "backend" else []
        output = _output("-m", module, *words, DKD_DATABASE_URL=evil, DKD_SLOTS=evil, DKD_PLUGINS=evil)
        assert output
        assert not RAW.findall(output)


def test_interpreter_searches_no_objects_for_cycles_at_the_exit_of_a_program() -> None:
    code = """
import atexit, gc
from common.terminal import run_program
atexit.register(lambda: print(gc.get_freeze_count() > 1000))
run_program(lambda: 3)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (3, "True\n")


def test_a_traceback_is_printable() -> None:
    code = "from common.terminal import run_program\ndef main(): raise OSError('\\x1b[31m')\nrun_program(main)"
    output = _output("-c", code)
    assert "OSError: \\x1b[31m" in output
    assert not RAW.findall(output)


def test_a_journal_contains_no_control_characters(tmp_path: Path) -> None:
    with Journal(tmp_path / "events.jsonl") as journal:
        journal.append(Log(message=EVIL))
        journal.append(Failed(kind="error", reason=EVIL))
    assert not RAW.findall((tmp_path / "events.jsonl").read_text())
