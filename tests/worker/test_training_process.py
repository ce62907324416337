"""A training as a process: its exit, and that no process is left however it ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

import psutil
import pytest

from tests.waiting import until
from tests.worker.conftest import STANDIN, processes_of
from worker.training_process import Files, ProcessExit, ProcessSpawner, TrainingProcess


@pytest.fixture
def spawner() -> ProcessSpawner:
    return ProcessSpawner()


def start(spawner: ProcessSpawner, folder: Path, *command: str, **variables: str) -> TrainingProcess:
    return spawner.start(
        command,
        environment={**os.environ, **variables},
        files=Files(folder / "stdout.txt", folder / "stderr.txt"),
    )


def python(spawner: ProcessSpawner, folder: Path, code: str) -> TrainingProcess:
    return start(spawner, folder, sys.executable, "-c", code, str(folder))


def wait_for_exit(process: TrainingProcess) -> ProcessExit:
    process_exit = until(process.poll, "the training ends")
    assert process.kill() == set()
    assert isinstance(process_exit, ProcessExit)
    return process_exit


def brood(spawner: ProcessSpawner, folder: Path) -> TrainingProcess:
    """Start a training that ignores SIGTERM and has children in sessions of their own, some of them orphans."""
    process = start(spawner, folder, *STANDIN, "--out", str(folder), STANDIN="brood")
    until((folder / "ready").exists, "the children are there")
    return process


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", ProcessExit(code=0)),
        ("raise SystemExit(3)", ProcessExit(code=3)),
        ("raise SystemExit(137)", ProcessExit(code=137)),
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", ProcessExit(signal=signal.SIGABRT)),
    ],
)
def test_process_exit_has_code_or_signal(
    spawner: ProcessSpawner, tmp_path: Path, code: str, expected: ProcessExit
) -> None:
    assert wait_for_exit(python(spawner, tmp_path, code)) == expected


def test_output_is_written_to_the_files(spawner: ProcessSpawner, tmp_path: Path) -> None:
    wait_for_exit(
        python(spawner, tmp_path, "import sys; print('out'); print('err', file=sys.stderr); print(sys.stdin.read())")
    )
    assert (tmp_path / "stdout.txt").read_text() == "out\n\n"
    assert (tmp_path / "stderr.txt").read_text() == "err\n"


def test_missing_program_is_reported_in_stderr(spawner: ProcessSpawner, tmp_path: Path) -> None:
    assert wait_for_exit(start(spawner, tmp_path, "/no/such/program")) == ProcessExit(code=127)
    assert "cannot start /no/such/program: No such file" in (tmp_path / "stderr.txt").read_text()


def test_terminate_reaches_the_training(spawner: ProcessSpawner, tmp_path: Path) -> None:
    process = start(spawner, tmp_path, *STANDIN, "--out", str(tmp_path), STANDIN="train")
    until((tmp_path / "ready").exists)
    process.terminate()
    assert wait_for_exit(process) == ProcessExit(code=0)
    assert '"stopped"' in (tmp_path / "events.jsonl").read_text()


def test_terminate_right_after_the_start_is_not_lost(spawner: ProcessSpawner, tmp_path: Path) -> None:
    for number in range(5):
        process = python(spawner, tmp_path, "import time; time.sleep(600)")
        threading.Event().wait(number * 0.01)
        process.terminate()
        assert wait_for_exit(process).signal == signal.SIGTERM


def test_kill_leaves_no_descendant(spawner: ProcessSpawner, tmp_path: Path) -> None:
    process = brood(spawner, tmp_path)
    assert len(processes_of(tmp_path)) == 5  # launcher, training, three children
    process.terminate()
    assert process.poll() is None
    assert process.kill() == set()
    assert processes_of(tmp_path) == []
    assert process.poll() == ProcessExit(signal=signal.SIGKILL)


def test_child_processes_are_killed_after_the_training_ends(spawner: ProcessSpawner, tmp_path: Path) -> None:
    process = start(spawner, tmp_path, *STANDIN, "--out", str(tmp_path), STANDIN="brood-succeed")
    assert until(process.poll, "the training ends") == ProcessExit(code=0)
    assert len(list(tmp_path.glob("pid-*"))) == 3
    assert processes_of(tmp_path) == []
    assert process.kill() == set()


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl, which only Linux has")
def test_training_dies_with_its_launcher(spawner: ProcessSpawner, tmp_path: Path) -> None:
    process = python(spawner, tmp_path, "import sys, time; open(sys.argv[1] + '/ready', 'w'); time.sleep(600)")
    until((tmp_path / "ready").exists)
    os.kill(process.pid, signal.SIGKILL)
    until(lambda: not processes_of(tmp_path), "the training has died by itself")
    assert wait_for_exit(process) == ProcessExit()


def test_killed_launcher_leaves_no_descendant(
    spawner: ProcessSpawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Recorded while the launcher lives; later a child without the mark could not be found.
    monkeypatch.setattr("worker.training_process._SCAN_SECONDS", 0.0)
    process = brood(spawner, tmp_path)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    until(process.poll)
    assert process.kill() == set()
    assert processes_of(tmp_path) == []


def test_stopped_launcher_is_killed_too(
    spawner: ProcessSpawner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.training_process._LAUNCHER_SECONDS", 0.5)
    process = brood(spawner, tmp_path)
    os.kill(process.pid, signal.SIGSTOP)
    assert process.kill() == set()
    assert processes_of(tmp_path) == []


def test_training_outlives_the_thread_that_started_it(spawner: ProcessSpawner, tmp_path: Path) -> None:
    started: list[TrainingProcess] = []
    thread = threading.Thread(
        target=lambda: started.append(python(spawner, tmp_path, "import time; time.sleep(600)")),
    )
    thread.start()
    thread.join()
    threading.Event().wait(0.5)
    assert started[0].poll() is None
    assert psutil.pid_exists(started[0].pid)
    assert started[0].kill() == set()
