"""The embedded stack as a person starts it: real processes and trainings, all requests over HTTP."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.services import free_port
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


@dataclass
class Stack:
    """A running ``dkd up``."""

    process: subprocess.Popen[bytes]
    home: Path
    http: httpx.Client

    def get(self, path: str, **query: Any) -> Any:
        reply = self.http.get(path, params=query)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def trainings(self) -> list[psutil.Process]:
        """Return the training processes of this stack, including launchers."""
        return [process for process in self.descendants() if "--run" in cmdline(process)]


def cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@contextmanager
def stack(home: Path) -> Iterator[Stack]:
    port = free_port()
    command = [sys.executable, "-m", "client.cli", "up", "--home", str(home), "--port", str(port)]
    command += ["--dashboard-port", str(free_port()), "--slots", "2"]
    home.mkdir(parents=True, exist_ok=True)
    with (home / "up.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            until(lambda: (home / "api.url").exists() or process.poll() is not None, "the stack's address")
            assert process.poll() is None, (home / "up.log").read_text()
            token = (home / "tokens" / "admin").read_text().strip()
            url = (home / "api.url").read_text().strip()
            with httpx.Client(base_url=f"{url}/api/v1", headers={"Authorization": f"Bearer {token}"}) as http:
                yield Stack(process, home, http)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def spec(name: str, **changes: Any) -> dict[str, Any]:
    small = {"num_classes": 4, "image_size": 8, "train_size": 128, "test_size": 64}
    return {
        "name": name,
        "dataset": {"name": "synthetic", "params": small},
        "teacher": {"model": "small_cnn"},
        "student": {"model": {"name": "small_cnn", "params": {"width": 4}}},
        "methods": ["dkd"],
        "seeds": [0],
        "training": {"epochs": 2, "batch_size": 32},
    } | changes


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack(tmp_path_factory.mktemp("home")) as started:
        yield started


def test_run_is_submitted_read_incrementally_and_cancelled_completely(running: Stack) -> None:
    # The teacher is short; the students would train for hours.
    long = spec(
        "long",
        teacher={"model": "small_cnn", "training": {"epochs": 2, "batch_size": 32}},
        training={"epochs": 10_000, "batch_size": 32},
    )
    reply = running.http.post("/experiments", json=long)
    assert reply.status_code == 201, reply.text
    experiment = reply.json()
    states = {run["label"]: run["state"] for run in experiment["runs"]}
    assert states["dkd"] == "waiting"
    assert states["teacher"] in ("queued", "running")
    (student,) = (run["id"] for run in experiment["runs"] if run["role"] == "student")

    until(lambda: running.get(f"/runs/{student}")["state"] == "running", "the student's start")
    teacher = running.get(f"/runs/{running.get(f'/runs/{student}')['teacher_run_id']}")
    assert teacher["state"] == "succeeded"
    assert (running.home / "artifacts" / teacher["weights"]).is_file()

    first = until(lambda: _with_points(running.get(f"/runs/{student}/metrics")), "the first metrics")
    more = until(lambda: _with_points(running.get(f"/runs/{student}/metrics", since=first["cursor"])), "more metrics")
    seen, new = (_steps(reply, "test/top1") for reply in (first, more))
    assert new
    assert min(new) > max(seen)
    all_steps = _steps(running.get(f"/runs/{student}/metrics"), "test/top1")
    assert sorted(seen + new) == all_steps[: len(seen) + len(new)]

    assert running.trainings()
    assert running.http.post(f"/runs/{student}/cancel").status_code in (200, 202)
    ended = until(lambda: _ended(running.get(f"/runs/{student}")), "the end of the cancelled run")
    assert ended["state"] == "cancelled"
    # The run is cancelled only after its last process has ended, so that there is nothing to wait for here.
    assert running.trainings() == []
    again = running.http.post(f"/runs/{student}/cancel")
    assert again.status_code in (200, 202)
    assert again.json()["state"] == "cancelled"


def test_comparison_completes_and_a_second_one_shares_the_teacher(running: Stack) -> None:
    methods = ["dkd", {"name": "dkd_align", "params": {"reduction": "log", "epsilon_share": 0.1}}]
    first = running.http.post("/experiments", json=spec("pair", methods=methods, seeds=[0, 1])).json()
    second = running.http.post("/experiments", json=spec("again", methods=["kd"], seeds=[0])).json()
    teachers = {run["id"] for shown in (first, second) for run in shown["runs"] if run["role"] == "teacher"}
    assert len(teachers) == 1

    for shown in (first, second):
        done = until(partial(_finished, running, shown["id"]), f"the end of {shown['name']}", 300)
        assert done["state"] == "finished", json.dumps(done["runs"], indent=1)
    comparison = running.get("/comparisons", experiment=first["id"])
    assert [(group["label"], group["n"]) for group in comparison["groups"]] == [("dkd", 2), ("dkd_align (log)", 2)]
    (paired,) = comparison["paired"]
    assert (paired["baseline"], paired["n"], paired["seeds"]) == ("dkd", 2, [0, 1])
    values = [group["values"] for group in comparison["groups"]]
    expected = sum(values[1][seed] - values[0][seed] for seed in ("0", "1")) / 2
    assert paired["mean_difference"] == pytest.approx(expected)
    assert comparison["test_size"] == 64


def test_killed_training_is_attempted_again(running: Stack) -> None:
    long = spec("killed", methods=["ce"], training={"epochs": 2000, "batch_size": 16}, seeds=[3])
    run = running.http.post("/experiments", json=long).json()["runs"][0]["id"]
    until(lambda: _with_points(running.get(f"/runs/{run}/metrics")), "the first metrics")
    for process in running.trainings():
        process.kill()
    until(lambda: running.get(f"/runs/{run}")["attempt"] >= 2, "the second attempt", 240)
    shown = running.get(f"/runs/{run}")
    assert shown["attempts"][0]["outcome"] in ("interrupted", "lost")
    running.http.post(f"/runs/{run}/cancel")
    until(lambda: _ended(running.get(f"/runs/{run}")), "its end")


def test_invalid_spec_is_refused_with_its_path_and_creates_nothing(running: Stack) -> None:
    before = running.get("/experiments")["items"]
    reply = running.http.post("/experiments", json=spec("bad", methods=["dkd_aling"]))
    assert reply.status_code == 422
    assert reply.headers["content-type"].startswith("application/problem+json")
    assert [error["path"] for error in reply.json()["errors"]] == ["methods.0.name"]
    assert running.get("/experiments")["items"] == before


def test_ctrl_c_leaves_no_process_and_runs_resume_at_the_next_start(tmp_path: Path) -> None:
    with stack(tmp_path) as first:
        long = spec("kept", methods=["ce"], training={"epochs": 3000, "batch_size": 32})
        run = first.http.post("/experiments", json=long).json()["runs"][0]["id"]
        until(lambda: _with_points(first.get(f"/runs/{run}/metrics")), "the first metrics")
        everything = first.descendants()
    assert first.process.returncode == 0
    assert [process for process in everything if process.is_running() and process.status() != "zombie"] == []

    with stack(tmp_path) as second:
        until(lambda: second.get(f"/runs/{run}")["attempt"] == 2, "the second attempt")
        resumed = until(lambda: _resumed(second, run), "the resumed training")
        assert resumed > 0
        second.http.post(f"/runs/{run}/cancel")
        until(lambda: _ended(second.get(f"/runs/{run}")), "its end")


def test_token_is_required_and_readable_only_by_its_owner(running: Stack) -> None:
    assert httpx.get(f"{running.http.base_url}runs").status_code == 401
    assert os.stat(running.home / "tokens" / "admin").st_mode & 0o777 == 0o600


def _with_points(reply: Any) -> Any:
    return reply if any(series["step"] for series in reply["series"]) else None


def _steps(reply: Any, name: str) -> list[int]:
    return [step for series in reply["series"] if series["name"] == name for step in series["step"]]


def _ended(run: Any) -> Any:
    return run if run["state"] in ("succeeded", "failed", "cancelled") else None


def _finished(running: Stack, key: str) -> Any:
    experiment = running.get(f"/experiments/{key}")
    return experiment if experiment["state"] != "active" else None


def _resumed(running: Stack, run: str) -> int:
    """Return the step from which the second attempt resumed; 0 before it has reported one."""
    journal = running.home / "artifacts" / "runs" / run / "attempt-2" / "events.jsonl"
    if not journal.exists():
        return 0
    events = [json.loads(line)["event"] for line in journal.read_text().splitlines()]
    return max((event["start_step"] for event in events if event["type"] == "started"), default=0)
