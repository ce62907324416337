"""Processes that are restarted when they end, as by a service manager."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import psutil

MARK = "CHAOS_MARK"
"""Environment variable that every process of a stack inherits, by which leftover processes are found."""

ROOT = Path(__file__).parents[2]
_POLL_SECONDS = 0.1
_RESTART_SECONDS = 0.5


class SupervisedProcess:
    """A command that is kept running.

    Attributes:
        extra_environment: added to its environment at its next start.
        exits: number of unexpected exits.
    """

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.extra_environment: dict[str, str] = {}
        self.exits = 0
        self._command, self._environment, self._log = command, dict(environment), log
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._restart_at: float | None = None
        self._exit_expected = False

    @property
    def pid(self) -> int | None:
        """The process id, or None if it is not running."""
        with self._lock:
            return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        with self._lock:
            if self.pid is not None:
                return
            self._restart_at, self._exit_expected = None, False
            with self._log.open("ab") as output:
                self._process = subprocess.Popen(
                    self._command,
                    cwd=ROOT,
                    env=self._environment | self.extra_environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def send(self, number: signal.Signals, down: float | None = None) -> bool:
        """Send a signal.

        Args:
            number: The signal.
            down: If given, the process is expected to end, and is restarted after this many seconds.

        Returns:
            Whether there was a process to send it to.
        """
        with self._lock:
            if self.pid is None or self._process is None:
                return False
            if down is not None:
                self._exit_expected, self._restart_at = True, time.monotonic() + down
            self._process.send_signal(number)
            return True

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 90.0) -> None:
        """End the process without a restart; kill it if that takes longer."""
        with self._lock:
            process, self._exit_expected, self._restart_at = self._process, True, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.send_signal(number)
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.exits += 1
                process.kill()
                process.wait()

    def restart_if_due(self) -> None:
        """Restart the process if it has ended and its pause is over. The supervisor calls this repeatedly."""
        with self._lock:
            if self._process is None or self._process.poll() is None:
                return
            if not self._exit_expected and self._restart_at is None:
                self.exits += 1
                self._restart_at = time.monotonic() + _RESTART_SECONDS
            if self._restart_at is not None and time.monotonic() >= self._restart_at:
                self.start()


class Supervisor:
    """Restarts processes from a thread of its own, between ``start`` and ``close``."""

    def __init__(self) -> None:
        self._processes: list[SupervisedProcess] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, process: SupervisedProcess) -> SupervisedProcess:
        if process not in self._processes:
            self._processes.append(process)
        return process

    def close(self) -> None:
        """Stop restarting; running processes continue."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_POLL_SECONDS):
            for process in list(self._processes):
                process.restart_if_due()


def marked_processes(mark: str) -> list[psutil.Process]:
    """Return the living processes with the mark of a stack, except this one."""
    marked = []
    for process in psutil.process_iter():
        try:
            alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get(MARK) == mark:
                marked.append(process)
        except (psutil.Error, OSError):
            continue
    return marked
