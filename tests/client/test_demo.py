"""The demo, on a stack of tiny services and a fake backend."""

from __future__ import annotations

import io
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from client import Client, demo
from client.stack import HomeLock, StackOptions, StopSignals
from client.stack.services import StackPlan
from common.home import Home
from core.specs import ExperimentSpec, read_experiment
from tests.client import fakes
from tests.client.captured import Captured
from tests.client.fake_stack import plan
from tests.client.fakes import FakeBackend, problem, run_summary
from tests.client.test_stack import free_port


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBackend]:
    """A demo in an empty folder, with a stack of tiny services and a client of a fake backend."""
    before = _children()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("client.demo.missing_packages", lambda dashboard: [])
    monkeypatch.setattr("client.demo.StackOptions", _options)
    monkeypatch.setattr("client.demo.embedded_plan", _plan)
    fake = FakeBackend(
        {
            "POST /api/v1/experiments": fakes.experiment(),
            "GET /api/v1/experiments/exp-1": _ended("succeeded"),
            "GET /api/v1/comparisons": fakes.comparison(),
        }
    )
    monkeypatch.setattr("client.demo.connect", lambda home, url: Client(url, transport=fake.transport()))
    yield fake
    assert _children() <= before


def _options(home: Home) -> StackOptions:
    return StackOptions(home, free_port(), free_port(), slots=1, threads=1)


def _plan(options: StackOptions) -> StackPlan:
    return plan(options.home.path, {})


def _ended(state: str) -> object:
    runs = [run_summary(1, state="succeeded"), run_summary(2, state=state, seed=1, reason="out of memory")]
    return fakes.experiment(runs=runs, progress=1.0, state="finished" if state == "succeeded" else "failed")


def _children() -> set[str]:
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    return set(children.read_text().split()) if children.exists() else set()


def go(*, exits_by_itself: bool = True) -> tuple[int, str]:
    """Return the demo's exit code and its output."""
    file = io.StringIO()
    with StopSignals() as signals:
        code = demo.run(Console(file=file, width=200), signals, exits_by_itself=exits_by_itself)
    return code, file.getvalue()


def test_demo_runs_to_the_result_table(api: FakeBackend, tmp_path: Path) -> None:
    code, out = go()
    assert code == 0
    assert api.sent(0)["name"] == "digits-dkd-vs-dkd-align"
    assert (tmp_path / ".dkd" / "demo").is_dir()
    link = next(line for line in out.splitlines() if line.startswith("dashboard"))
    assert link.endswith("/compare?experiment=exp-1")
    assert out.index("dashboard") < out.index("training took") < out.index("95.00 ± 0.50")
    assert out.rstrip().endswith(link.split()[-1])


def test_a_failed_run_ends_the_demo_with_a_reason(api: FakeBackend, capsys: Captured) -> None:
    api.answers["GET /api/v1/experiments/exp-1"] = _ended("failed")
    api.answers["GET /api/v1/runs/run-2"] = fakes.run(2, log_tail=["last words"])
    code, _ = go()
    assert code == 1
    err = capsys.readouterr().err
    assert "1 of 2 runs did not succeed" in err
    assert "out of memory" in err
    assert "last words" in err


def test_a_refusal_of_the_backend_ends_the_demo_with_a_reason(api: FakeBackend, capsys: Captured) -> None:
    api.answers["POST /api/v1/experiments"] = problem(422, "no", ("dataset", "unknown"))
    assert go()[0] == 1
    assert capsys.readouterr().err == "demo: dataset: unknown\n"


def test_a_taken_name_gets_a_number(api: FakeBackend) -> None:
    refusal = problem(422, "taken", ("name", "is taken"))
    api.answers["POST /api/v1/experiments"] = [refusal, refusal, fakes.experiment()]
    assert go()[0] == 0
    names = [api.sent(index)["name"] for index in range(3)]
    assert names == ["digits-dkd-vs-dkd-align", "digits-dkd-vs-dkd-align-2", "digits-dkd-vs-dkd-align-3"]


def test_a_second_demo_uses_another_home(api: FakeBackend, tmp_path: Path) -> None:
    lock = HomeLock(tmp_path / ".dkd" / "demo")
    lock.acquire()
    lock.publish("http://127.0.0.1:1", "http://127.0.0.1:2")
    try:
        code, out = go()
    finally:
        lock.release()
    assert code == 0
    assert "in use by another demo, dashboard http://127.0.0.1:2" in out
    assert (tmp_path / ".dkd" / "demo-2").is_dir()


def test_the_stack_keeps_running_until_ctrl_c(api: FakeBackend) -> None:
    # Ctrl-C is pressed once the result has been requested.
    def pressed(request: object) -> object:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        return httpx.Response(200, content=fakes.comparison().model_dump_json())

    api.answers["GET /api/v1/comparisons"] = pressed
    code, out = go(exits_by_itself=False)
    assert code == 0
    assert "until Ctrl-C" in out


def test_ctrl_c_during_training_stops_the_demo(api: FakeBackend) -> None:
    def pressed(request: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return httpx.Response(200, content=fakes.experiment().model_dump_json())

    api.answers["GET /api/v1/experiments/exp-1"] = pressed
    assert go()[0] == 130


def test_the_spec_of_the_demo_is_valid() -> None:
    assert demo.example().name == "digits.yaml"
    spec = read_experiment(demo.example())
    assert isinstance(spec, ExperimentSpec)
    assert len(spec.plan()) == 10
