"""``python -m worker`` as a process: nudged, shut down, killed, restarted, with and without a broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from celery import Celery

from common.atomic_write import atomic_write
from common.celery_config import NUDGE_TASK, celery_settings
from tests.waiting import until
from tests.worker.conftest import STANDIN, processes_of
from tests.worker.fake import FakeBackend, served
from worker.process_tree import WORKER_MARK, marked_processes


class Host:
    """Workers as processes that share a home and a backend."""

    def __init__(self, home: Path, url: str, backend: FakeBackend) -> None:
        self.home = home
        self.url = url
        self.backend = backend
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, behaviour: str = "train", **settings: str) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "DKD_HOME": str(self.home),
            "DKD_API_URL": self.url,
            "DKD_WORKER_TOKEN": "a-token",
            "DKD_WORKER_NAME": "box",
            "DKD_DEVICE": "cpu",
            "DKD_CPU_SLOTS": "1",
            "DKD_REPORT_SECONDS": "1",
            "DKD_TRAINING_COMMAND": json.dumps(STANDIN),
            "STANDIN": behaviour,
            **settings,
        }
        with (self.home / "worker.log").open("ab") as log:
            process = subprocess.Popen([sys.executable, "-m", "worker"], env=environment, stdout=log, stderr=log)
        self.started.append(process)
        return process

    def ready(self, run_id: str = "run-1", attempt: int = 1) -> None:
        until((self.home / f"artifacts/runs/{run_id}/attempt-{attempt}/ready").exists, "the training has started")

    def nudge(self) -> None:
        app = Celery(set_as_current=False)
        app.conf.update(celery_settings("filesystem://", self.home / "broker"))
        app.send_task(NUDGE_TASK)
        app.close()

    def log(self) -> str:
        return (self.home / "worker.log").read_text()


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    backend = FakeBackend()
    with served(backend) as url:
        host = Host(tmp_path, url, backend)
        try:
            yield host
        finally:
            for process in host.started:
                process.kill()
                process.wait()


def test_nudge_triggers_a_claim(host: Host) -> None:
    host.backend.announce = False
    host.start("succeed")
    until(lambda: host.backend.heartbeats, "the worker sends heartbeats")
    host.backend.add()
    host.nudge()
    outcome = until(host.backend.outcome, "the run ends")
    assert outcome.outcome == "succeeded"
    assert host.backend.types()[-1] == "finished"


def test_worker_goes_on_with_a_rotated_token_and_loses_no_run(host: Host, tmp_path: Path) -> None:
    """Its file gets the new text during the training, before or after the earlier text ends."""
    backend, file = host.backend, tmp_path / "worker.token"
    old, new, newest = (f"dkd_{letter * 30}" for letter in "abc")
    atomic_write(file, old, private=True)
    backend.tokens = {old}
    backend.add()
    host.start("train", DKD_WORKER_TOKEN="", DKD_WORKER_TOKEN_FILE=str(file))
    host.ready()
    until(backend.seqs, "first events")

    def more_events() -> None:
        before = len(backend.seqs())
        until(lambda: len(backend.seqs()) > before + 5, "reports arrive")

    backend.tokens = {old, new}  # the overlap
    atomic_write(file, new, private=True)
    more_events()
    backend.tokens = {new}  # the overlap has ended
    more_events()
    backend.tokens = {newest}  # the earlier text ends before the node has the new one
    refused = backend.refused
    until(lambda: backend.refused > refused + 3, "the worker tries again")
    atomic_write(file, newest, private=True)
    more_events()
    backend.orders["run-1"] = "cancel"
    outcome = until(backend.outcome, "the run ends")
    assert outcome.outcome == "cancelled"
    assert len(backend.registrations) == 1
    assert {attempt for _, attempt in backend.records} == {1}
    written = (tmp_path / "artifacts/runs/run-1/attempt-1/events.jsonl").read_text().count("\n")
    assert backend.seqs() == list(range(1, written + 1))


def test_worker_survives_a_truncated_message_and_a_missing_folder(host: Host) -> None:
    host.backend.announce = False
    worker = host.start("succeed")
    until(lambda: host.backend.heartbeats, "the worker sends heartbeats")
    messages, aside = host.home / "broker" / "messages", host.home / "aside"
    torn = messages / "0_torn.dkd.msg"
    torn.touch()
    until(lambda: not torn.exists(), "the truncated message is consumed")
    messages.rename(aside)
    beats = len(host.backend.heartbeats)
    until(lambda: len(host.backend.heartbeats) > beats + 20, "some seconds pass")
    aside.rename(messages)
    host.backend.add()
    host.nudge()
    assert until(host.backend.outcome, "the run ends").outcome == "succeeded"
    assert worker.poll() is None
    assert "Unrecoverable" not in host.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_requeues_the_run_and_ends_the_worker(host: Host, number: signal.Signals) -> None:
    host.backend.add("run-1")
    host.backend.add("run-2")
    worker = host.start()
    host.ready()
    worker.send_signal(number)
    outcome = until(host.backend.outcome, "the run is requeued")
    assert (outcome.outcome, outcome.reason) == ("interrupted", "the worker is shutting down")
    assert host.backend.types()[-2:] == ["checkpoint", "stopped"]
    assert worker.wait(60) == 0
    assert [claim.run_id for claim in host.backend.queue] == ["run-2"]
    assert "Traceback" not in host.log()


def test_killed_worker_leaves_no_process_and_keeps_its_id(host: Host) -> None:
    host.backend.add()
    worker = host.start("brood")
    host.ready()
    assert len(processes_of(host.home)) == 5  # launcher, training, three children
    worker.kill()
    worker.wait()
    until(lambda: not processes_of(host.home), "nothing is left")
    host.start()
    until(lambda: len(host.backend.registrations) == 2, "the worker registers again")
    first, second = host.backend.registrations
    assert first.worker_id == second.worker_id


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl, which only Linux has")
def test_restarted_worker_kills_orphans(host: Host) -> None:
    host.backend.add()
    worker = host.start("brood")
    host.ready()
    [launcher] = [
        child for child in psutil.Process(worker.pid).children() if "launcher.py" in " ".join(child.cmdline())
    ]
    worker_id = host.backend.registrations[0].worker_id
    # Both at once, and the worker first, so that neither can kill the other's processes.
    worker.send_signal(signal.SIGSTOP)
    launcher.send_signal(signal.SIGSTOP)
    worker.kill()
    launcher.kill()
    worker.wait()
    assert marked_processes(WORKER_MARK, worker_id)
    host.start()
    until(lambda: not marked_processes(WORKER_MARK, worker_id), "orphans are killed")
    for process in psutil.process_iter(["cmdline"]):
        # The process without the mark cannot be found by a worker; the test kills it.
        if any(str(host.home) in word for word in process.info["cmdline"] or []):
            process.kill()


def test_works_without_a_broker(host: Host) -> None:
    host.backend.add()
    worker = host.start("succeed", DKD_BROKER_URL="redis://127.0.0.1:1/0")
    assert until(host.backend.outcome, "the run ends").outcome == "succeeded"
    worker.terminate()
    assert worker.wait(60) == 0


def test_shuts_down_while_the_broker_is_unreachable(host: Host) -> None:
    host.backend.add()
    worker = host.start("train", DKD_BROKER_URL="redis://127.0.0.1:1/0")
    host.ready()
    worker.terminate()
    assert until(host.backend.outcome, "the run is requeued").outcome == "interrupted"
    assert worker.wait(60) == 0


def test_workers_with_the_same_name_register_twice(host: Host) -> None:
    host.start()
    host.start()
    until(lambda: len(host.backend.registrations) == 2, "both register")
    first, second = host.backend.registrations
    assert first.worker_id != second.worker_id
    assert {first.name, second.name} == {"box", "box-2"}


def test_worker_runs_without_importing_plugins(host: Host) -> None:
    command = json.dumps([sys.executable, "-m", "core", "train"])
    host.backend.add()
    worker = host.start(DKD_PLUGINS="plugin_of_nobody", DKD_TRAINING_COMMAND=command)
    outcome = until(host.backend.outcome, "the run ends")
    assert outcome.outcome == "interrupted", "another worker may have the plug-in"
    assert outcome.reason.endswith(
        "the plug-in plugin_of_nobody cannot be imported: No module named 'plugin_of_nobody'"
    )
    assert worker.poll() is None


def test_invalid_setting_is_reported_in_one_line(host: Host) -> None:
    assert host.start(DKD_SLOTS="none").wait(60) == 2
    assert host.log().startswith("dkd worker: DKD_SLOTS: ")
    assert host.log().count("\n") == 1
