"""The process of one training: started by the launcher, stopped on request, and killed with its descendants."""

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
from typing import Protocol

import psutil

from worker import clock
from worker.launcher import KILL, TERMINATE
from worker.process_tree import RUN_MARK, descendants_of, kill_marked, running

LAUNCHER = Path(__file__).with_name("launcher.py")

# Interval between two recordings of the launcher's descendants, which are needed if the launcher itself is killed.
_SCAN_SECONDS = 2.0
# Time in which the launcher can kill the training's processes before the worker kills them.
_LAUNCHER_SECONDS = 5.0
_KILL_SECONDS = 10.0


@dataclass(frozen=True)
class ProcessExit:
    """The end of a training's process.

    Attributes:
        code: Exit status; None if a signal ended the process or the status is unknown.
        signal: Number of the signal that ended the process; None if there was no signal or it is unknown.
        out_of_memory: Whether the system killed any process for lack of memory during the training. That process need
            not be the training's.
    """

    code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False

    def describe(self) -> str:
        """Return a sentence for a person."""
        if self.signal is not None:
            text = f"the training was killed by {_signal_name(self.signal)}"
            return text + (": probably out of memory" if self.out_of_memory else "")
        if self.code is None:
            return "the training's launcher was killed"
        return f"the training ended with exit code {self.code}"


@dataclass(frozen=True)
class Files:
    """The files to which the output of a training is appended.

    Attributes:
        stdout: Its standard output.
        stderr: The standard error of the training and of the launcher.
    """

    stdout: Path
    stderr: Path


class Training(Protocol):
    """A started training, as its supervision sees it."""

    @property
    def seen_pids(self) -> set[int]:
        """Ids of all recorded processes of the training."""

    def poll(self) -> ProcessExit | None:
        """Return the exit status or signal; None while the training runs."""

    def terminate(self) -> None:
        """Ask the training to write a checkpoint and end."""

    def kill(self) -> set[int]:
        """End the training if it still runs, and return the ids of processes that could not be killed."""


class TrainingProcess:
    """A started training. Not thread-safe: only the thread that supervises the training may call the methods.

    Attributes:
        seen_pids: Ids of all recorded processes of the training.

    Args:
        launcher: The launcher's process.
        token: Value of ``RUN_MARK`` in the environment of the launcher and its descendants.
    """

    def __init__(self, launcher: subprocess.Popen[bytes], token: str) -> None:
        self._launcher = launcher
        self._token = token
        self._seen: set[psutil.Process] = set()
        self.seen_pids: set[int] = set()
        self._scanned_at = clock.now()
        self._oom_kills_before = _oom_kills()
        self._exit: ProcessExit | None = None

    @property
    def pid(self) -> int:
        """Process id of the launcher."""
        return self._launcher.pid

    def poll(self) -> ProcessExit | None:
        """Return the training's exit status or signal; None while the training runs."""
        if self._exit is not None:
            return self._exit
        if self._launcher.poll() is None:
            if clock.now() - self._scanned_at > _SCAN_SECONDS:
                self._scan()
            return None
        self._exit = self._read_exit()
        return self._exit

    def terminate(self) -> None:
        """Ask the training to write a checkpoint and end (SIGTERM)."""
        self._send(TERMINATE)

    def kill(self) -> set[int]:
        """Kill all processes of the training, and check that none of them still runs.

        To be called even if the training has ended by itself, since its child processes may still run.

        Returns:
            Ids of processes that could not be killed, since they are in uninterruptible sleep or of another user.
        """
        if self._launcher.poll() is None:
            self._scan()
            self._send(KILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._launcher.wait(_LAUNCHER_SECONDS)
        # The launcher has the mark too, so that a launcher that hangs is killed here.
        surviving_pids = kill_marked(RUN_MARK, self._token, running(self._seen), seconds=_KILL_SECONDS)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._launcher.wait(_LAUNCHER_SECONDS)
        self.poll()
        if self._launcher.stdin is not None:
            with contextlib.suppress(OSError):
                self._launcher.stdin.close()
        return surviving_pids

    def _scan(self) -> None:
        self._seen = running(self._seen) | descendants_of(self._launcher.pid)
        self.seen_pids.update(process.pid for process in self._seen)
        self._scanned_at = clock.now()

    def _send(self, command: bytes) -> None:
        if self._launcher.stdin is not None:
            with contextlib.suppress(OSError, ValueError):  # the launcher has ended
                self._launcher.stdin.write(command)
                self._launcher.stdin.flush()

    def _read_exit(self) -> ProcessExit:
        out_of_memory = _oom_kills() > self._oom_kills_before
        assert self._launcher.stdout is not None
        with self._launcher.stdout as file:
            status = file.read()
        if not status:
            return ProcessExit(out_of_memory=out_of_memory)
        code = int(json.loads(status)["code"])
        if code < 0:
            return ProcessExit(signal=-code, out_of_memory=out_of_memory)
        return ProcessExit(code=code, out_of_memory=out_of_memory)


class ProcessSpawner:
    """Starts all trainings from one permanent thread.

    The kernel sends a child its parent-death signal when the *thread* that started the child ends. Threads of Celery's
    pool and of the heartbeat may end at any time; this thread ends only with the worker.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")

    def start(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        files: Files,
        descriptors: Sequence[int] = (),
    ) -> TrainingProcess:
        """Start a training.

        Args:
            command: The program and its arguments.
            environment: The complete environment.
            files: Where its output goes.
            descriptors: Open files that the training inherits.

        Raises:
            OSError: The launcher cannot be started, or a file cannot be opened.
        """
        return self._thread.submit(self._start, command, environment, files, descriptors).result()

    @staticmethod
    def _start(
        command: Sequence[str], environment: Mapping[str, str], files: Files, descriptors: Sequence[int]
    ) -> TrainingProcess:
        token = uuid.uuid4().hex
        with files.stderr.open("ab") as errors:
            launcher = subprocess.Popen(
                # -S skips the search for installed packages; the launcher needs none.
                [sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()), str(files.stdout), *command],
                env={**environment, RUN_MARK: token},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                pass_fds=descriptors,
                # With its own session, the launcher does not get Ctrl-C from the terminal. The worker gets it and stops
                # the training in an orderly way.
                start_new_session=True,
            )
        return TrainingProcess(launcher, token)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _oom_kills() -> int:
    """Return how many processes Linux has killed for lack of memory; 0 if the system does not count them."""
    try:
        with open("/proc/vmstat", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0
