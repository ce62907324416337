"""Processes that are started again when they end, as a service manager would."""

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
"""Variable that every process of one stack inherits, so that what is left of it is found wherever it has gone."""

ROOT = Path(__file__).parents[2]
_LOOK_SECONDS = 0.1
_PAUSE_SECONDS = 0.5


class Daemon:
    """A command that is kept running.

    Attributes:
        more: added to its environment at its next start.
        exits: how often it ended although nobody had asked for that.
    """

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.more: dict[str, str] = {}
        self.exits = 0
        self._command, self._environment, self._log = command, dict(environment), log
        self._lock = threading.RLock()
        self._process: subprocess.Popen[bytes] | None = None
        self._due: float | None = None
        self._asked = False

    @property
    def pid(self) -> int | None:
        """Of the process, while it lives."""
        with self._lock:
            return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        with self._lock:
            if self.pid is not None:
                return
            self._due, self._asked = None, False
            with self._log.open("ab") as output:
                self._process = subprocess.Popen(
                    self._command,
                    cwd=ROOT,
                    env=self._environment | self.more,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )

    def send(self, number: signal.Signals, down: float | None = None) -> bool:
        """Send a signal; with ``down`` it is expected to end, and is started again that much later.

        Returns whether there was a process to send it to.
        """
        with self._lock:
            if self.pid is None or self._process is None:
                return False
            if down is not None:
                self._asked, self._due = True, time.monotonic() + down
            self._process.send_signal(number)
            return True

    def stop(self, number: signal.Signals = signal.SIGTERM, seconds: float = 90.0) -> None:
        """End it for good; by force where it takes longer."""
        with self._lock:
            process, self._asked, self._due = self._process, True, None
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

    def keep(self) -> None:
        """Start it again where it has ended: to be called again and again."""
        with self._lock:
            if self._process is None or self._process.poll() is None:
                return
            if not self._asked and self._due is None:
                self.exits += 1
                self._due = time.monotonic() + _PAUSE_SECONDS
            if self._due is not None and time.monotonic() >= self._due:
                self.start()


class Keeper:
    """Keeps daemons in a thread of its own, from ``start`` to ``close``."""

    def __init__(self) -> None:
        self._daemons: list[Daemon] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def add(self, daemon: Daemon) -> Daemon:
        if daemon not in self._daemons:
            self._daemons.append(daemon)
        return daemon

    def close(self) -> None:
        """Keep nothing any more; what runs goes on."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            for daemon in list(self._daemons):
                daemon.keep()


def marked(mark: str) -> list[psutil.Process]:
    """Living processes that carry a stack's mark, but this one."""
    found = []
    for process in psutil.process_iter():
        try:
            alive = process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE
            if alive and process.environ().get(MARK) == mark:
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
