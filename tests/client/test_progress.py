"""Watching experiments and runs to their end."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from rich.console import Console

from client import ApiError, BackendUnreachable, Client
from client.cli.app import run
from client.stack import StackStopRequested, StopSignals
from core.protocol.public import Experiment, StateCounts
from tests.client import fakes
from tests.client.captured import Captured, stdin_of
from tests.client.fakes import FakeBackend, problem, run_summary

EXPERIMENT = "GET /api/v1/experiments/exp-1"


def at(first: str, second: str, progress: float, **changes: Any) -> Experiment:
    """Return the experiment with its two runs in these states."""
    done = {"step": 40, "epoch": 4.0}
    runs = [
        run_summary(1, state=first, **(done if first == "succeeded" else {})),
        run_summary(2, state=second, seed=1, **(done if second == "succeeded" else {})),
    ]
    ended = {"succeeded", "failed", "cancelled"}
    state = "active" if not {first, second} <= ended else "finished" if first == second == "succeeded" else "failed"
    return fakes.experiment(runs=runs, progress=progress, state=state, counts=StateCounts(), **changes)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.progress.time.sleep", lambda _: None)
    monkeypatch.setattr("client.progress._LINE_INTERVAL_SECONDS", 0.0)


def test_submit_watch_prints_progress_and_the_result(
    backend: FakeBackend, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.answers["POST /api/v1/experiments"] = at("queued", "queued", 0.0)
    backend.answers[EXPERIMENT] = [
        at("running", "queued", 0.25),
        at("succeeded", "running", 0.75),
        at("succeeded", "succeeded", 1.0),
    ]
    backend.answers["GET /api/v1/comparisons"] = fakes.comparison()
    spec = json.dumps(fakes.spec().model_dump(mode="json"))
    monkeypatch.setattr(sys, "stdin", stdin_of(spec))
    assert run(["submit", "-", "--watch"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "25 %" in out
    assert "dkd seed 0, epoch 2/4, test accuracy 91.50 %" in out
    assert "✓ dkd seed 0: test accuracy 91.50 %" in out
    assert "100 %" in out
    assert out.index("100 %") < out.index("95.00 ± 0.50")


def test_a_failed_run_ends_watch_with_code_1(backend: FakeBackend, capsys: Captured) -> None:
    failed = run_summary(2, state="failed", seed=1, reason="loss is\nNaN")
    last = at("succeeded", "failed", 1.0).model_copy(update={"runs": [run_summary(1, state="succeeded"), failed]})
    backend.answers[EXPERIMENT] = [at("succeeded", "running", 0.5), at("succeeded", "running", 0.5), last]
    backend.answers["GET /api/v1/comparisons"] = fakes.comparison()
    assert run(["watch", "exp-1"]) == 1
    out, err = capsys.readouterr()
    assert "✗ dkd seed 1 failed: loss is NaN" in out
    assert err == "dkd: dkd seed 1 failed: loss is NaN; see `dkd show run-2`\n"


def test_with_json_only_the_experiment_is_on_stdout(backend: FakeBackend, capsys: Captured) -> None:
    backend.answers[EXPERIMENT] = [at("running", "queued", 0.0), at("succeeded", "succeeded", 1.0)]
    assert run(["watch", "exp-1", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["state"] == "finished"
    assert "100 %" in err


def test_one_run_can_be_watched(backend: FakeBackend, capsys: Captured) -> None:
    ended = fakes.run(state="succeeded", step=40, epoch=4.0)
    backend.answers["GET /api/v1/runs/run-1"] = [fakes.run(), fakes.run(), ended]
    assert run(["watch", "run-1"]) == 0
    assert " 50 %  dkd seed 0" in capsys.readouterr().out


def test_a_terminal_shows_a_bar_and_the_current_run() -> None:
    backend = FakeBackend({EXPERIMENT: [at("running", "queued", 0.25), at("succeeded", "succeeded", 1.0)]})
    client = Client("http://127.0.0.1:9", transport=backend.transport())
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    seen = client.experiments.watch("exp-1", console)
    assert seen.ended
    assert "━" in file.getvalue()
    assert "100 %" in file.getvalue()


def test_watch_waits_for_a_restarted_backend() -> None:
    away = httpx.ConnectError("refused")
    answers = [at("running", "queued", 0.25), *[away] * 3, problem(503, "starting"), at("succeeded", "succeeded", 1.0)]
    backend = FakeBackend({EXPERIMENT: answers})
    client = Client("http://127.0.0.1:9", transport=backend.transport())
    console = Console(file=io.StringIO())
    assert client.experiments.watch("exp-1", console).ended


def test_watch_ends_when_the_backend_stays_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.progress._PATIENCE_SECONDS", -1.0)
    client = Client("http://127.0.0.1:9", transport=FakeBackend({EXPERIMENT: httpx.ConnectError("x")}).transport())
    with pytest.raises(BackendUnreachable):
        client.experiments.watch("exp-1", Console(file=io.StringIO()))
    client = Client("http://127.0.0.1:9", transport=FakeBackend().transport())
    with pytest.raises(ApiError, match="there is no"):
        client.experiments.watch("exp-1", Console(file=io.StringIO()))


def test_watch_reports_that_no_worker_is_online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.progress._NO_WORKER_NOTICE_SECONDS", 0.0)
    waiting = at("queued", "queued", 0.0)
    backend = FakeBackend({EXPERIMENT: [waiting, waiting, at("succeeded", "succeeded", 1.0)]})
    backend.answers["GET /api/v1/workers"] = {"items": []}
    client = Client("http://127.0.0.1:9", transport=backend.transport())
    file = io.StringIO()
    client.experiments.watch("exp-1", Console(file=file))
    assert file.getvalue().count("no worker is online") == 1


def test_a_signal_ends_watch() -> None:
    backend = FakeBackend({EXPERIMENT: at("running", "queued", 0.25)})
    client = Client("http://127.0.0.1:9", transport=backend.transport())
    with StopSignals() as signals:
        ticks = _raise_after(3, signal.SIGTERM)

        def tick() -> None:
            next(ticks)
            signals.check()

        with pytest.raises(StackStopRequested) as caught:
            client.experiments.watch("exp-1", Console(file=io.StringIO()), tick=tick)
    assert caught.value.number == signal.SIGTERM


def test_ctrl_c_ends_watch_with_code_130(backend: FakeBackend) -> None:
    backend.answers[EXPERIMENT] = at("running", "queued", 0.25)
    process = subprocess.Popen(
        [sys.executable, "-m", "client.cli", "watch", "exp-1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout
    first = process.stdout.readline()
    while process.poll() is None:  # repeated, since the first may arrive while Python starts
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
    _, err = process.communicate()
    assert "25 %" in first, err
    assert process.returncode == 130, err
    assert err.splitlines() == ["the runs continue; `dkd watch exp-1` follows them, `dkd cancel exp-1` cancels them"]


def _raise_after(count: int, number: signal.Signals) -> Iterator[None]:
    for _ in range(count):
        yield
    signal.raise_signal(number)
    yield
