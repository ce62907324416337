"""One service as a process: its output in a file, its end certain."""

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
"""Variable that marks every process of one stack, inherited by whatever its services start."""

_TAIL_BYTES = 64 * 1024


class ServiceProcess:
    """A started service.

    Args:
        command: what runs.
        environment: its whole environment.
        log: file that takes its output; what an earlier process wrote is kept beside it as ``NAME.log.1``.
        keep: go on in the file as it is: for a service that is started again within one life of the stack.
    """

    def __init__(
        self, name: str, command: list[str], environment: Mapping[str, str], log: Path, *, keep: bool = False
    ) -> None:
        self.name = name
        self.log = log
        self.started = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        if not keep and log.exists():
            log.replace(log.with_name(log.name + ".1"))
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_PARENT_DEATH), str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                # Ctrl-C in the terminal reaches only us; we say in which order they stop.
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ended(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        return self._process.poll()

    def terminate(self) -> None:
        if self.ended() is None:
            self._process.terminate()

    def kill(self) -> None:
        """End its whole process group at once."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def how_it_ended(self) -> str:
        """As "exit code 1" or "SIGKILL"."""
        code = self.ended()
        if code is None:
            return "still running"
        if code >= 0:
            return f"exit code {code}"
        try:
            return signal.Signals(-code).name
        except ValueError:
            return f"signal {-code}"

    def last_lines(self, count: int = 15) -> list[str]:
        """The end of its output."""
        try:
            with self.log.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return list(deque(file.read().decode("utf-8", "replace").splitlines(), maxlen=count))
        except OSError:
            return []


def marked(mark: str) -> list[int]:
    """Process ids of every process that carries the mark; nothing where there is no /proc. Never this process."""
    wanted = f"{MARK}={mark}".encode()
    found: list[int] = []
    if not sys.platform.startswith("linux"):
        return found
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def end_marked(mark: str, *, seconds: float = 5.0) -> list[int]:
    """Kill what carries the mark until nothing is left; returns those that still live after ``seconds``."""
    end = time.monotonic() + seconds
    while (left := marked(mark)) and time.monotonic() < end:
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return left
