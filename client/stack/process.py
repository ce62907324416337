"""A service as a process, whose output goes to a file and which ends with the stack in every case."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path

from common import parent_death

_PARENT_DEATH = Path(parent_death.__file__)
MARK = "DKD_STACK_MARK"
"""Environment variable that marks every process of one stack; child processes of the services inherit it."""

_TAIL_BYTES = 64 * 1024


class ServiceProcess:
    """A running service.

    Args:
        name: The service's name.
        command: The command line.
        environment: The complete environment.
        log: File for the output. The output of an earlier process is kept beside it as ``NAME.log.1``.
        append: Append to the existing file instead, for a service that the same stack restarts.
    """

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], log: Path, *, append: bool = False
    ) -> None:
        self.name = name
        self.log = log
        self.started = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        if not append and log.exists():
            log.replace(log.with_name(log.name + ".1"))
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_PARENT_DEATH), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                # Ctrl-C in the terminal reaches only the stack, which stops its services in order.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process runs."""
        return self._process.poll()

    def terminate(self) -> None:
        """Ask the process to stop."""
        if self.exit_code() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End the process group at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def exit_text(self) -> str:
        """Return a text such as "exit code 1" or "SIGKILL"."""
        code = self.exit_code()
        if code is None:
            return "still running"
        if code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"

    def last_lines(self, count: int = 15) -> list[str]:
        """Return the last lines of the output."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return list(deque(file.read().decode("utf-8", "replace").splitlines(), maxlen=count))
        except OSError:
            return []


def marked_processes(mark: str) -> list[int]:
    """Return the ids of all processes with the mark, except this one; none on systems without /proc."""
    entry_of_mark = f"{MARK}={mark}".encode()
    pids: list[int] = []
    if not sys.platform.startswith("linux"):
        return pids
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if entry_of_mark in (entry / "environ").read_bytes().split(b"\0"):
                    pids.append(int(entry.name))
    return pids


def kill_marked(mark: str, *, seconds: float = 5.0) -> list[int]:
    """Kill all processes with the mark, and return those that are still alive after ``seconds``."""
    end = time.monotonic() + seconds
    while (remaining := marked_processes(mark)) and time.monotonic() < end:
        for pid in remaining:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return remaining
