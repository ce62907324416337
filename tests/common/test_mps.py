"""NVIDIA's MPS with a stand-in for its control program."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest

from client.doctor.mps import check_mps
from common.mps import CONTROL, LOGS, PIPES, Mps, MpsStatus
from worker.devices import Devices
from worker.gpus import GpuGuard, NvmlMonitor
from worker.identity import WorkerIdentity
from worker.service import WorkerService
from worker.settings import WorkerSettings

# It keeps what the daemon would keep as files in the folder of the pipes.
PROGRAM = """#!/bin/sh
pipes=${CUDA_MPS_PIPE_DIRECTORY:-$DEFAULT_PIPES}
if [ "$1" = -d ]; then
  [ -e "$pipes/refuse" ] && { echo "An instance of this daemon is already running" >&2; exit 1; }
  env > "$pipes/environment"; : > "$pipes/control"; exit 0
fi
[ -e "$pipes/control" ] || { echo "Cannot find MPS control daemon process" >&2; exit 1; }
while read -r command argument; do
  case $command in
    get_server_list) cat "$pipes/servers" 2>/dev/null ;;
    get_server_status) cat "$pipes/status-$argument" 2>/dev/null || echo ACTIVE ;;
    quit) rm "$pipes/control" ;;
  esac
done
exit 0
"""


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs with the control program, first in the search path."""
    program = tmp_path / "programs" / CONTROL
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    for name in (PIPES, LOGS):
        monkeypatch.delenv(name, raising=False)
    return program.parent


@pytest.fixture
def pipes(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the pipes of a daemon that runs, as the environment names it."""
    folder = tmp_path / "pipes"
    folder.mkdir()
    (folder / "control").touch()
    monkeypatch.setenv(PIPES, str(folder))
    return folder


def test_running_daemon_is_found(pipes: Path) -> None:
    mps = Mps(thread_percentage=40, memory_gb=1.5)
    assert mps.start() == mps.status() == MpsStatus(running=True)
    (pipes / "servers").write_text("4711\n4712\n")
    assert mps.status() == MpsStatus(True, frozenset({4711, 4712}))
    assert mps.variables(2) == {
        PIPES: str(pipes),
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "40",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=1536M,1=1536M",
    }
    (pipes / "status-4712").write_text("FAULT\n")
    assert "server 4712 has a fault" in mps.status().problem
    mps.stop()
    assert (pipes / "control").exists(), "a daemon of somebody else stays"


def test_daemon_that_does_not_answer_is_a_problem(pipes: Path) -> None:
    (pipes / "control").unlink()
    status = Mps().status()
    assert not status.running
    assert status.problem == "MPS is not used: its daemon does not answer: Cannot find MPS control daemon process"
    (finding,) = check_mps()
    assert (finding.status, finding.message) == ("warning", status.problem)


def test_own_daemon_is_started_and_ended(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    mps = Mps(tmp_path / "mps")
    assert not mps.status().running
    assert mps.start().running
    environment = (tmp_path / "mps" / "pipes" / "environment").read_text().splitlines()
    assert not any(line.startswith("CUDA_VISIBLE_DEVICES") for line in environment)
    assert mps.variables(1) == {PIPES: str(tmp_path / "mps" / "pipes"), LOGS: str(tmp_path / "mps" / "logs")}
    assert mps.stop() == ""
    assert not mps.status().running


def test_daemon_that_does_not_start_is_a_problem(path: Path, tmp_path: Path) -> None:
    (tmp_path / "mps" / "pipes").mkdir(parents=True)
    (tmp_path / "mps" / "pipes" / "refuse").touch()
    status = Mps(tmp_path / "mps").start()
    assert status.problem.endswith("did not start: An instance of this daemon is already running")


def test_without_mps_nothing_is_said_unless_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Mps().start() == MpsStatus()
    assert Mps(tmp_path / "mps").start().problem == f"MPS is not used: {CONTROL} is not installed"
    (finding,) = check_mps()
    assert finding.message == f"{CONTROL} is not installed: MPS is not used"


def test_worker_makes_its_trainings_clients(pipes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    settings = WorkerSettings(home=tmp_path, runs_per_gpu=4, group_runs="auto", mps_thread_percentage=50)
    with WorkerIdentity(tmp_path, "mps") as identity:
        service = WorkerService(settings, identity)
        config = service.supervisor._runner._config
        assert config.group_command is None, "with MPS, processes of their own"
        environment = config.environment((1,))
        assert (environment[PIPES], environment["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"]) == (str(pipes), "50")
        (pipes / "control").unlink()
        assert any("its daemon does not answer" in text for text in service._check_health().problems)
        assert "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE" not in config.environment((1,)), "it is no client any more"
        without = WorkerService(settings.model_copy(update={"mps": "off"}), identity)
        assert without.supervisor._runner._config.group_command is not None


class Library:
    """A driver whose GPU has one MPS server, and the clients that the test sets."""

    class NVMLError(Exception):
        """Never raised."""

    def __init__(self, server: int) -> None:
        self.server, self.clients = server, [server]

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [_Process(self.server)]

    def nvmlDeviceGetMPSComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [_Process(pid) for pid in self.clients]

    def __getattr__(self, name: str) -> Any:
        return lambda handle: None


class _Process:
    def __init__(self, pid: int) -> None:
        self.pid = pid


def test_idle_server_does_not_make_a_gpu_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library(4711)
    library.clients = []
    names = {4711: "nvidia-cuda-mps", 4712: "python"}  # Linux keeps 15 letters of a name

    class Named:
        def __init__(self, pid: int) -> None:
            if pid not in names:
                raise psutil.NoSuchProcess(pid)
            self.pid = pid

        def name(self) -> str:
            return names[self.pid]

        def environ(self) -> dict[str, str]:
            return {}

    monkeypatch.setattr(psutil, "Process", Named)
    guard = GpuGuard(NvmlMonitor(library, Devices(("0",)).gpus), "worker")
    assert guard.in_foreign_use([]) == frozenset()
    library.clients = [4712]
    assert guard.in_foreign_use([]) == {0}, "somebody else's client computes"
    names.clear()
    assert guard.in_foreign_use([]) == {0}, "a process of another namespace may be anything"
