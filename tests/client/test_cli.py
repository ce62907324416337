"""The command line: its output and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.cli.app import app, run
from common.home import Home
from tests.client import fakes
from tests.client.captured import Captured, error_lines, stdin_of
from tests.client.fakes import SPEC, FakeBackend, page, problem, run_summary


def test_submit_sends_the_spec_as_written_with_its_changes(
    tmp_path: Path, backend: FakeBackend, capsys: Captured
) -> None:
    written: dict[str, Any] = {
        "name": "small",
        "dataset": "digits",
        "teacher": {"model": "resnet20"},
        "student": {"model": "small_cnn"},
        "methods": ["kd", {"name": "dkd", "params": {"beta": 2.0}}],
        "seeds": [0],
        "training": {"epochs": 4},
    }
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(written))
    backend.answers["POST /api/v1/experiments"] = fakes.experiment()
    changes = ["training.epochs=2", "seeds=[3, 4]", "methods.0.label=plain", "methods.1.params.beta=1", "tags=[a]"]
    assert run(["submit", str(path), *(part for item in changes for part in ("--set", item))]) == 0
    assert backend.sent() == written | {
        "methods": [{"name": "kd", "label": "plain"}, {"name": "dkd", "params": {"beta": 1}}],
        "seeds": [3, 4],
        "tags": ["a"],
        "training": {"epochs": 2},
    }
    assert backend.requests[0].headers["Idempotency-Key"]
    out = capsys.readouterr().out
    assert "2 run(s) queued" in out
    assert "dkd watch exp-1" in out


def test_submit_from_stdin_as_json(backend: FakeBackend, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    backend.answers["POST /api/v1/experiments"] = fakes.experiment()
    monkeypatch.setattr(sys, "stdin", stdin_of(json.dumps(SPEC)))
    assert run(["submit", "-", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == "exp-1"
    monkeypatch.setattr(sys, "stdin", stdin_of("name: ["))
    assert run(["submit", "-"]) == 2
    assert error_lines(capsys)[0].startswith("dkd: stdin: not YAML")


@pytest.mark.parametrize(
    "command",
    sorted(command.name or command.callback.__name__ for command in app.registered_commands if command.callback),
)
def test_every_command_has_help(capsys: Captured, command: str) -> None:
    assert run([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"Usage: dkd {command}")
    assert "xit code" in out


def test_bare_dkd_lists_the_commands_and_the_exit_codes(capsys: Captured) -> None:
    assert run([]) == 0
    out = capsys.readouterr().out
    assert "Exit codes" in out
    assert "DKD_API_URL" in out


def test_preview_prints_the_planned_runs(spec_file: Path, backend: FakeBackend, capsys: Captured) -> None:
    backend.answers["POST /api/v1/experiments/preview"] = {
        "runs": [
            {"label": "teacher", "role": "teacher", "model": "resnet20", "seed": 0, "shared": True},
            {"label": "kd", "role": "student", "model": "small_cnn", "seed": 1},
        ],
        "teachers": [
            {"fingerprint": "v1-a", "model": m, "dataset": "digits", "seed": 0, "epochs": 1, "sentence": f"{m} waits."}
            for m in ("resnet56", "resnet20")
        ],
        "warnings": [{"path": "seeds", "message": "two are few"}],
    }
    assert run(["preview", str(spec_file)]) == 0
    out = capsys.readouterr().out
    assert "already trained" in out
    assert "1 run(s) to train, 1 shared" in out
    assert out.index("resnet56 waits.") < out.index("resnet20 waits.")
    assert "seeds: two are few" in out


def test_runs_goes_through_the_pages(backend: FakeBackend, capsys: Captured) -> None:
    first = page(run_summary(1), run_summary(2)) | {"next_cursor": "more"}
    second = page(run_summary(3, state="failed", reason="out of\nmemory"))
    backend.answers["GET /api/v1/runs"] = [first, second]
    assert run(["runs", "-s", "running", "-s", "failed", "-e", "small"]) == 0
    out = capsys.readouterr().out
    assert [f"run-{number}" in out for number in (1, 2, 3)] == [True, True, True]
    assert "out of memory" in out
    assert "91.50 %" in out
    assert backend.requests[1].url.params["cursor"] == "more"
    assert backend.requests[0].url.params.get_list("state") == ["running", "failed"]


def test_runs_as_json_is_a_page(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers["GET /api/v1/runs"] = page(run_summary(1))
    assert run(["runs", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"][0]["id"] == "run-1"


def test_show_accepts_runs_and_experiments(backend: FakeBackend, capsys: Captured) -> None:
    failed = fakes.run(7, state="failed", reason="loss is NaN", log_tail=["epoch 3", "loss [bold]nan[/bold]"])
    backend.answers["GET /api/v1/runs/run-7"] = failed
    backend.answers["GET /api/v1/experiments/small"] = fakes.experiment()
    assert run(["show", "run-7"]) == 0
    out = capsys.readouterr().out
    assert "loss is NaN" in out
    assert "loss [bold]nan[/bold]" in out
    assert run(["show", "small"]) == 0
    out = capsys.readouterr().out
    assert "1 queued, 1 running" in out
    assert "run-2" in out
    # A name may contain a slash, and then resembles the path of an action on a run.
    backend.answers["GET /api/v1/runs/x/cancel"] = problem(405, "does not take GET")
    backend.answers["GET /api/v1/experiments/x/cancel"] = fakes.experiment()
    assert run(["show", "x/cancel"]) == 0
    assert "run-2" in capsys.readouterr().out
    assert run(["show", "nobody"]) == 1
    assert "'nobody'" in error_lines(capsys)[0]


def test_logs_prints_to_the_end_and_refuses_an_experiment(backend: FakeBackend, capsys: Captured) -> None:
    def lines(*numbers: int) -> dict[str, Any]:
        lines = [
            {"number": n, "attempt": 1, "time": fakes.NOW.isoformat(), "level": "info", "message": f"line {n}"}
            for n in numbers
        ]
        return {"run_id": "run-1", "lines": lines}

    backend.answers["GET /api/v1/runs/run-1"] = fakes.run()
    backend.answers["GET /api/v1/runs/run-1/logs"] = [lines(1, 2), lines(3), lines()]
    backend.answers["GET /api/v1/experiments/small"] = fakes.experiment()
    assert run(["logs", "run-1"]) == 0
    assert [line[-6:] for line in capsys.readouterr().out.splitlines()] == ["line 1", "line 2", "line 3"]
    assert [request.url.params.get("after") for request in backend.requests[1:]] == ["0", "2", "3"]
    assert run(["logs", "small"]) == 1
    assert "run-1 (dkd seed 0)" in error_lines(capsys)[0]


def test_logs_are_searched_by_the_backend(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers["GET /api/v1/runs/run-1"] = fakes.run()
    backend.answers["GET /api/v1/runs/run-1/logs"] = {"run_id": "run-1", "lines": []}
    words = ["logs", "run-1", "--search", "disk is full", "--level", "warning", "--level", "error"]
    assert run(words) == 0
    query = backend.requests[-1].url.params
    assert (query["search"], query.get_list("level")) == ("disk is full", ["warning", "error"])
    assert run(["logs", "run-1", "--level", "loud"]) == 2
    assert "loud" in capsys.readouterr().err


def test_cancel_accepts_runs_and_experiments(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers["GET /api/v1/runs/run-1"] = fakes.run()
    backend.answers["POST /api/v1/runs/run-1/cancel"] = fakes.run(state="cancelling")
    backend.answers["GET /api/v1/experiments/small"] = fakes.experiment()
    backend.answers["POST /api/v1/experiments/exp-1/cancel"] = fakes.experiment(
        runs=[run_summary(1, state="cancelling"), run_summary(2, state="cancelled")]
    )
    assert run(["cancel", "run-1", "small"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == ["run-1 (dkd seed 0): cancelling", "small: 1 cancelling, 1 cancelled"]


def test_retry_of_an_experiment_retries_its_failed_runs(backend: FakeBackend, capsys: Captured) -> None:
    states = ["failed", "succeeded", "cancelled"]
    runs = [run_summary(number, state=state) for number, state in enumerate(states, 1)]
    backend.answers["GET /api/v1/experiments/small"] = fakes.experiment(runs=runs, state="failed")
    for number in (1, 3):
        backend.answers[f"POST /api/v1/runs/run-{number}/retry"] = fakes.run(number, state="queued")
    assert run(["retry", "small", "--json"]) == 0
    assert [item["id"] for item in json.loads(capsys.readouterr().out)["runs"]] == ["run-1", "run-3"]


def test_compare_prints_the_table_and_its_notes(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers["GET /api/v1/comparisons"] = fakes.comparison()
    assert run(["compare", "small"]) == 0
    out = capsys.readouterr().out
    rows = {line.split()[0]: line for line in out.partition("\n\n")[0].splitlines()}
    assert "95.00 ± 0.50" in rows["kd"]
    assert "> 4 (1 of 2)" in rows["kd"]
    assert "baseline" in rows["kd"]
    assert "96.25 ± 0.25" in rows["dkd"]
    assert "2.5 (2 of 2)" in rows["dkd"]
    assert "+1.25 [−1.90, +4.40]" in rows["dkd"]
    assert "899 images, so that one image is 0.11 %" in out
    assert "Teacher: 98.00 %; target 93.10 %" in out
    assert "one teacher (seed 0)" in out
    assert "Two pairs cannot tell dkd from kd." in out


def test_compare_before_any_run_has_ended(backend: FakeBackend, capsys: Captured) -> None:
    groups = [{"label": "kd", "method": "kd", "n": 0, "missing": [0, 1]}]
    empty = fakes.comparison(
        groups=groups, paired=[], complete=False, test_size=0, resolution=None, teacher_top1=None, target=None
    )
    backend.answers["GET /api/v1/comparisons"] = empty
    assert run(["compare", "small"]) == 0
    out = capsys.readouterr().out
    assert "no value yet for seed 0, 1" in out
    assert "will change" in out


def test_workers_teachers_and_catalog(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers["GET /api/v1/workers"] = {
        "items": [
            {
                "id": "w",
                "name": "[one]",
                "host": "h",
                "slots": 2,
                "device": "cpu",
                "state": "online",
                "last_heartbeat": fakes.NOW.isoformat(),
            }
        ]
    }
    backend.answers["GET /api/v1/teachers"] = {"items": []}
    params = {"properties": {"temperature": {"default": 4.0}, "reduction": {}}}
    entry = {"name": "kd", "summary": "Softened targets.", "params": params}
    backend.answers["GET /api/v1/catalog"] = {
        "methods": [entry],
        "models": [],
        "datasets": [],
        "metrics": [{"name": "lr", "label": "Learning rate"}],
        "experiment_schema": {},
    }
    assert run(["workers"]) == 0
    assert "[one]" in capsys.readouterr().out
    assert run(["teachers"]) == 0
    assert capsys.readouterr().out == "no teachers yet\n"
    assert run(["catalog"]) == 0
    out = capsys.readouterr().out
    assert "temperature=4.0, reduction" in out
    assert "Learning rate" in out


def test_workers_with_their_slots_and_gpus(backend: FakeBackend, capsys: Captured) -> None:
    worker = {
        "id": "w",
        "name": "box",
        "host": "h",
        "slots": 4,
        "busy": 2,
        "device": "gpu",
        "state": "online",
        "draining": True,
        "labels": ["h200"],
        "running": ["run-1"],
        "runs": [{"run_id": "run-1", "label": "dkd", "seed": 3, "experiment": "[big]", "state": "running", "gpus": 2}],
        "gpus": [{"index": 1, "name": "H200", "use": 93.4, "memory_used": 2**30, "memory_total": 2**33, "foreign": 1}],
        "problems": ["no space is left"],
        "reserved_for": "run-9",
        "last_heartbeat": fakes.NOW.isoformat(),
    }
    backend.answers["GET /api/v1/workers"] = {"items": [worker]}
    backend.answers["POST /api/v1/workers/box/drain"] = {"items": [worker]}
    assert run(["workers"]) == 0
    out = capsys.readouterr().out
    for text in (
        "draining",
        "h200",
        "run-1  [big]: dkd seed 3, running, epoch 0/0, 2 GPUs",
        "GPU 1 H200: 93 % busy, 1.0 of 8.0 GiB, 1 process(es) of other programs",
        "reserves GPUs that become free for run run-9",
        "no space is left",
    ):
        assert text in out
    assert run(["workers", "drain", "box"]) == 0
    assert backend.sent() == {"draining": True}
    assert capsys.readouterr().out == "box: takes no new runs; 1 run(s) continue\n"
    backend.answers["POST /api/v1/workers/box/drain"] = {"items": [worker | {"draining": False}]}
    assert run(["workers", "drain", "box", "--off"]) == 0
    assert backend.sent() == {"draining": False}
    assert capsys.readouterr().out == "box: takes runs again\n"
    assert run(["workers", "drain", "nobody"]) == 1


def test_pause_resume_and_priority_accept_runs_and_experiments(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers["GET /api/v1/runs/run-1"] = fakes.run()
    backend.answers["GET /api/v1/experiments/small"] = fakes.experiment()
    paused = fakes.experiment(runs=[run_summary(1, pausing=True), run_summary(2, state="paused")])
    for action in ("pause", "resume", "priority"):
        backend.answers[f"POST /api/v1/runs/run-1/{action}"] = fakes.run(pausing=action == "pause")
        backend.answers[f"POST /api/v1/experiments/exp-1/{action}"] = paused
    assert run(["pause", "run-1", "small"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out == ["run-1 (dkd seed 0): being paused", "small: 1 paused, 1 being paused"]
    assert run(["resume", "run-1"]) == 0
    assert capsys.readouterr().out == "run-1 (dkd seed 0): running\n"
    assert run(["priority", "-5", "small", "run-1", "--json"]) == 0
    assert backend.sent() == {"priority": -5}
    assert len(json.loads(capsys.readouterr().out)["runs"]) == 3
    assert run(["priority", "101", "small"]) == 2


def test_server_that_is_not_a_backend_ends_with_code_3(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers["GET /api/v1/workers"] = {"hello": "world"}
    assert run(["workers"]) == 3
    assert "WorkerList" in error_lines(capsys)[0]


def test_an_internal_error_is_one_line(backend: FakeBackend, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("what")

    monkeypatch.setattr("client.resources.workers.Workers.list", broken)
    assert run(["workers"]) == 1
    (line,) = error_lines(capsys)
    assert "KeyError" in line
    monkeypatch.setenv("DKD_DEBUG", "1")
    assert run(["workers"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_up_reports_the_stack_that_holds_the_home(
    home: Home, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from client.stack import HomeLock

    monkeypatch.setattr("client.stack.services.missing_packages", lambda dashboard: [])
    lock = HomeLock(home.path)
    lock.acquire()
    lock.publish("http://127.0.0.1:8123", "http://127.0.0.1:8567")
    try:
        assert run(["up"]) == 1
    finally:
        lock.release()
    err = capsys.readouterr().err
    assert "http://127.0.0.1:8123" in err
    assert len(err.splitlines()) == 1


def test_the_command_line_starts_without_torch_and_numpy() -> None:
    code = "import sys, client.cli; print(sorted({'torch', 'numpy', 'streamlit'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_shell_completion_lists_commands(capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_DKD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "dkd arch")
    monkeypatch.setenv("COMP_CWORD", "1")
    with pytest.raises(SystemExit):
        run([])
    assert capsys.readouterr().out.split() == ["archive"]
