"""NVIDIA's Multi-Process Service (MPS), with which the kernels of several processes run on a GPU at the same time.

A control daemon starts a server for each user, and processes that find the daemon's pipe folder become clients of the
server. Without it, the driver gives a GPU to its processes in turn.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

CONTROL = "nvidia-cuda-mps-control"
SERVER = "nvidia-cuda-mps-server"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
LOGS = "CUDA_MPS_LOG_DIRECTORY"
_DEFAULT_PIPES = "/tmp/nvidia-mps"
_SECONDS = 5.0
_FAULT = "FAULT"


@dataclass(frozen=True)
class MpsStatus:
    """What the control daemon answers.

    Attributes:
        running: Whether it answers.
        servers: Process ids of its servers; a server without clients stays.
        problem: A sentence for a person; empty if all is well.
    """

    running: bool = False
    servers: frozenset[int] = frozenset()
    problem: str = ""


class Mps:
    """The control daemon whose clients the trainings of this worker become.

    Args:
        folder: Folder for the pipes and logs of a daemon that this worker starts; None to use one that runs already.
        thread_percentage: Most multiprocessors of a GPU that one training may use, %; None for all.
        memory_gb: Most memory of a GPU that one training may use, in GiB; None for all.
        environment: Environment of this process.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        thread_percentage: int | None = None,
        memory_gb: float | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        self._thread_percentage, self._memory_gb = thread_percentage, memory_gb
        self._environment = dict(environment)
        self._folder = folder
        self._started = False
        if folder is not None:
            self._environment |= {PIPES: str(folder / "pipes"), LOGS: str(folder / "logs")}
            # The daemon numbers the GPUs that it sees; with all of them, its clients' numbers stay those of the driver.
            self._environment.pop("CUDA_VISIBLE_DEVICES", None)
            self._environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"

    def start(self) -> MpsStatus:
        """Start the daemon if this worker is to have its own, and return the status."""
        status = self.status()
        if self._folder is None or status.running or self._program() is None:
            return status
        for name in (PIPES, LOGS):
            Path(self._environment[name]).mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._run(["-d"])
        except (OSError, subprocess.SubprocessError) as error:
            return MpsStatus(problem=f"MPS is not used: {CONTROL} did not start: {_reason(error)}")
        status = self.status()
        self._started = status.running
        return status

    def stop(self) -> str:
        """End a daemon that this worker has started. Return a sentence if that failed, else an empty string."""
        if self._started:
            self._started = False
            try:
                self._run([], "quit\n")
            except (OSError, subprocess.SubprocessError) as error:
                return f"the MPS daemon was not ended: {_reason(error)}"
        return ""

    def status(self) -> MpsStatus:
        """Ask the daemon. It may take seconds if the daemon hangs."""
        if self._program() is None:
            return MpsStatus(problem=f"MPS is not used: {CONTROL} is not installed" if self._folder else "")
        if self._folder is None and not Path(self._environment.get(PIPES, _DEFAULT_PIPES)).is_dir():
            return MpsStatus()
        try:
            answer = self._run([], "get_server_list\n")
            servers = frozenset(int(word) for word in answer.split() if word.isdecimal())
            states = {server: self._run([], f"get_server_status {server}\n").strip() for server in sorted(servers)}
        except (OSError, subprocess.SubprocessError) as error:
            return MpsStatus(problem=f"MPS is not used: its daemon does not answer: {_reason(error)}")
        broken = [server for server, state in states.items() if _FAULT in state.upper()]
        problem = f"the MPS server {broken[0]} has a fault; it ends with its last client" if broken else ""
        return MpsStatus(True, servers, problem)

    def variables(self, gpus: int) -> dict[str, str]:
        """Return the variables that make a training on some GPUs a client of the daemon, within its limits."""
        values = {name: self._environment[name] for name in (PIPES, LOGS) if name in self._environment}
        if self._thread_percentage is not None:
            values["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(self._thread_percentage)
        if self._memory_gb is not None:
            limit = f"{int(self._memory_gb * 1024)}M"
            values["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = ",".join(f"{gpu}={limit}" for gpu in range(gpus))
        return values

    def _program(self) -> str | None:
        """Return the path of the control program; None if it is not installed."""
        return shutil.which(CONTROL, path=self._environment.get("PATH"))

    def _run(self, arguments: list[str], commands: str = "") -> str:
        """Call the control program, which reads commands from its standard input.

        Raises:
            OSError: It cannot be started.
            SubprocessError: It fails, or does not end in time.
        """
        return subprocess.run(
            [CONTROL, *arguments],
            env=self._environment,
            input=commands,
            capture_output=True,
            text=True,
            check=True,
            timeout=_SECONDS,
        ).stdout


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = (error.stderr or error.stdout or "").strip().splitlines()
        return lines[-1][:200] if lines else f"exit code {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no answer in {error.timeout:g} s"
    return getattr(error, "strerror", None) or str(error)
