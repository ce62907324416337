"""One training as a process: started through the launcher, asked to end, ended for certain."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from worker import clock
from worker.launcher import KILL, TERMINATE
from worker.process_tree import RUN_MARK, alive, below, end_marked

LAUNCHER = Path(__file__).with_name("launcher.py")

# How often the processes below the launcher are written down, for the case that it is killed.
_LOOK_SECONDS = 2.0
# How long the launcher may take to end everything before the worker does it itself.
_LAUNCHER_SECONDS = 5.0
_SWEEP_SECONDS = 10.0


@dataclass(frozen=True)
class Exit:
    """How a training's process ended.

    Attributes:
        code: exit status; None where a signal ended it or nobody knows.
        signal: the signal's number; None where there was none or nobody knows.
        out_of_memory: the system has killed a process for want of memory meanwhile: a hint, not a proof.
    """

    code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False

    def sentence(self) -> str:
        """As a person reads it."""
        if self.signal is not None:
            text = f"the training was ended by {_name(self.signal)}"
            return text + (": out of memory, by all signs" if self.out_of_memory else "")
        if self.code is None:
            return "the training's launcher was killed"
        return f"the training ended with exit code {self.code}"


class TrainingProcess:
    """A training that was started. The methods are called by one thread, that which supervises it."""

    def __init__(self, launcher: subprocess.Popen[bytes], token: str) -> None:
        self._launcher = launcher
        self._token = token
        self._seen: set[psutil.Process] = set()
        self.known: set[int] = set()
        """Ids of all processes of it that were ever seen."""
        self._looked = clock.now()
        self._oom_kills = _oom_kills()
        self._exit: Exit | None = None

    @property
    def pid(self) -> int:
        """Of the launcher."""
        return self._launcher.pid

    def poll(self) -> Exit | None:
        """How it ended; None while it runs."""
        if self._exit is not None:
            return self._exit
        if self._launcher.poll() is None:
            if clock.now() - self._looked > _LOOK_SECONDS:
                self._look()
            return None
        self._exit = self._read_exit()
        return self._exit

    def terminate(self) -> None:
        """Ask it to write a checkpoint and end."""
        self._order(TERMINATE)

    def end(self) -> set[int]:
        """End it and everything it has started, and look that nothing is left. Also to be called once it has ended.

        Returns:
            Ids of processes that could not be ended; empty but for uninterruptible sleep or another user's processes.
        """
        if self._launcher.poll() is None:
            self._look()
            self._order(KILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._launcher.wait(_LAUNCHER_SECONDS)
        # The launcher itself carries the mark too: one that hangs is ended here.
        rest = end_marked(RUN_MARK, self._token, alive(self._seen), seconds=_SWEEP_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._launcher.wait(_LAUNCHER_SECONDS)
        self.poll()
        if self._launcher.stdin is not None:
            with contextlib.suppress(OSError):
                self._launcher.stdin.close()
        return rest

    def _look(self) -> None:
        self._seen = alive(self._seen) | below(self._launcher.pid)
        self.known.update(process.pid for process in self._seen)
        self._looked = clock.now()

    def _order(self, order: bytes) -> None:
        if self._launcher.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # it has ended
                self._launcher.stdin.write(order)
                self._launcher.stdin.flush()

    def _read_exit(self) -> Exit:
        oom = _oom_kills() > self._oom_kills
        assert self._launcher.stdout is not None
        with self._launcher.stdout as file:
            said = file.read()
        if not said:
            return Exit(out_of_memory=oom)
        code = int(json.loads(said)["code"])
        return Exit(code=code, out_of_memory=oom) if code >= 0 else Exit(signal=-code, out_of_memory=oom)


class Spawner:
    """Starts trainings, every one from the same thread.

    A child's parent-death signal is sent when the *thread* that started it ends. Threads of Celery's pool and of the
    heartbeat come and go; this one stays until the worker itself goes.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

    def start(
        self, command: Sequence[str], *, environment: Mapping[str, str], stdout: Path, stderr: Path
    ) -> TrainingProcess:
        """Start a training.

        Args:
            command: the program and its arguments.
            environment: the whole environment.
            stdout: file its output is appended to.
            stderr: file its errors, and the launcher's, are appended to.

        Raises:
            OSError: the launcher cannot be started, or a file not be opened.
        """
        return self._thread.submit(self._start, command, environment, stdout, stderr).result()

    @staticmethod
    def _start(command: Sequence[str], environment: Mapping[str, str], stdout: Path, stderr: Path) -> TrainingProcess:
        token = uuid.uuid4().hex
        with stderr.open("ab") as errors:
            launcher = subprocess.Popen(
                # -S saves the search for installed packages, of which the launcher needs none.
                [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(stdout), *command],
                env={**environment, RUN_MARK: token},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                # A Ctrl-C in the terminal reaches the worker alone, which then ends the training in order.
                start_new_session=True,
            )
        return TrainingProcess(launcher, token)


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _oom_kills() -> int:
    """How many processes Linux has killed for want of memory; 0 where it does not say."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
