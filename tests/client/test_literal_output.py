"""Names, labels and reasons are printed literally, even if they contain markup of rich."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from pydantic import BaseModel
from rich.console import Console

from client import Client
from client.cli.app import run
from tests.client import fakes
from tests.client.captured import stdin_of
from tests.client.fakes import FakeBackend, page
from tests.client.test_cli_comparisons import _claims, _overview, _table

ODD = "[/x] [red] :smile:"
NOW = fakes.NOW.isoformat()


def _odd(answer: BaseModel | dict[str, Any]) -> dict[str, Any]:
    """Return the reply with every chosen name and label replaced by one that contains markup."""
    text = json.dumps(answer.model_dump(mode="json") if isinstance(answer, BaseModel) else answer)
    for name in ("small", "dkd", "named"):
        text = text.replace(f'"{name}"', json.dumps(ODD))
    replaced: dict[str, Any] = json.loads(text)
    return replaced


WORKER = {
    "id": "w",
    "name": "named",
    "host": "named",
    "labels": ["named"],
    "slots": 2,
    "device": "named",
    "state": "online",
    "last_heartbeat": NOW,
    "runs": [{"run_id": "run-1", "label": "dkd", "seed": 3, "experiment": "small", "state": "running"}],
    "gpus": [{"index": 0, "name": "named"}],
    "problems": ["named"],
}
TEACHER = {
    "run_id": "run-1",
    "model": "named",
    "dataset": "named",
    "seed": 0,
    "state": "running",
    "students": 1,
    "experiments": 1,
    "created_at": NOW,
    "fingerprint": "f",
}
SHARE = {"owner": "named", "weight": 1.0, "used_seconds": 0.0, "running": 0, "queued": 0}
TOKEN = {"id": "t1", "name": "named", "scopes": ["read"], "state": "active", "created_at": NOW, "created_by": "named"}
UPLOAD = {
    "sha256": "0",
    "name": "named",
    "size": 1,
    "tensors": 1,
    "parameters": 1,
    "submitted_by": "named",
    "created_at": NOW,
}
FAILED: dict[str, Any] = {"state": "failed", "reason": ODD, "worker": ODD}


@pytest.mark.parametrize(
    ("words", "path", "answer", "times"),
    [
        (["runs"], "/runs", page(fakes.run_summary(**FAILED)), 4),
        (["experiments"], "/experiments", page(fakes.experiment()), 2),
        (["show", "run-1"], "/runs/run-1", fakes.run(**FAILED), 4),
        (["show", "exp-1"], "/experiments/exp-1", fakes.experiment(), 3),
        (["workers"], "/workers", {"items": [WORKER]}, 11),
        (["shares"], "/shares", {"items": [SHARE], "window_seconds": 604_800.0}, 1),
        (["teachers"], "/teachers", {"items": [TEACHER]}, 2),
        (["token", "list"], "/tokens", {"items": [TOKEN]}, 2),
        (["uploads"], "/teachers/uploads", {"items": [UPLOAD], "max_bytes": 9}, 2),
        (["compare", "small"], "/comparisons", fakes.comparison(baseline="dkd"), 5),
        (["compare", "small", "--all"], "/comparisons/overview", _overview(), 2),
        (["claims", "small"], "/comparisons/claims", _claims(), 1),
        (["table", "small"], "/comparisons/table", _table(title="named"), 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_commands_print_names_literally(
    backend: FakeBackend,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    path: str,
    answer: BaseModel | dict[str, Any],
    times: int,
) -> None:
    backend.answers[f"GET /api/v1{path}"] = _odd(answer)
    assert run(words) == 0
    assert capsys.readouterr().out.count(ODD) >= times


def test_file_names_are_printed_literally(backend: FakeBackend, capsys: pytest.CaptureFixture[str]) -> None:
    backend.answers["GET /api/v1/runs/run-1"] = fakes.run()
    files = {"run_id": "run-1", "items": [{"id": "a", "attempt": 1, "name": ODD, "size": 1}]}
    backend.answers["GET /api/v1/runs/run-1/artifacts"] = files
    assert run(["artifacts", "run-1"]) == 0
    assert ODD in capsys.readouterr().out


def test_sweeps_print_names_literally(
    backend: FakeBackend, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    item = {"id": "exp-1", "name": ODD, "runs": 5}
    backend.answers["POST /api/v1/sweeps"] = {"items": [item], "runs": 5}
    backend.answers["POST /api/v1/sweeps/preview"] = {"items": [item], "runs": 5}
    base = {key: value for key, value in fakes.spec().model_dump(mode="json").items() if key != "name"}
    sweep = json.dumps({"name": "s", "experiment": base, "grid": {"training.epochs": [1, 2]}})
    for more in ([], ["--dry-run"]):
        monkeypatch.setattr("sys.stdin", stdin_of(sweep))
        assert run(["sweep", "-", *more]) == 0
        out = capsys.readouterr().out
        assert ODD in out
        assert "1 experiment(s), 5 run(s)" in out


def test_watch_prints_names_literally() -> None:
    ended = _odd(fakes.experiment(state="finished", progress=1.0))
    backend = FakeBackend({"GET /api/v1/experiments/exp-1": [_odd(fakes.experiment()), ended]})
    file = io.StringIO()
    with Client("http://127.0.0.1:9", transport=backend.transport()) as client:
        console = Console(file=file, force_terminal=True, color_system=None, width=120)
        client.experiments.watch("exp-1", console, interval=0.01)
    assert f"{ODD}: 0/2 runs" in file.getvalue()
    assert f"{ODD} seed 0, epoch 2/4" in file.getvalue()
