"""Starts, restarts and stops the services of a stack."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from client.stack import ports
from client.stack.lock import HomeLock
from client.stack.process import MARK, ServiceProcess, kill_marked
from client.stack.services import Service, StackOptions, StackPlan, dashboard_login, environment
from client.stack.signals import StopSignals
from common.atomic_write import atomic_write
from common.browser_sessions import BrowserSessions
from common.one_time_address import OneTimeAddresses

_POLL_SECONDS = 0.1
_MAX_PORTS_TRIED = 5
_MAX_RESTARTS = 5
_RESTART_WINDOW_SECONDS = 600.0


class StackError(Exception):
    """A service could not be started or kept running.

    Attributes:
        lines: The last lines of the service's output.
    """

    def __init__(self, message: str, lines: list[str]) -> None:
        super().__init__(message)
        self.lines = lines


@dataclass
class _RunningService:
    """A service with its process.

    Attributes:
        service: The service.
        process: Current process of the service.
        restarts: Times of the recent restarts.
        restart_at: Time of the next restart; None while the process runs.
    """

    service: Service
    process: ServiceProcess
    restarts: deque[float] = field(default_factory=deque)
    restart_at: float | None = None


class Stack:
    """The services of one home, from ``start`` to ``stop``. A context manager that stops them at its end.

    Only for the main thread: a service is tied to the thread that started it.

    Args:
        options: Options of the stack.
        plan: Services of the stack.
        signals: Stop signals, which are checked while waiting, so that a start can be interrupted.
        notify: Called with sentences for the person at the terminal.
    """

    def __init__(
        self, options: StackOptions, plan: StackPlan, signals: StopSignals, notify: Callable[[str], None]
    ) -> None:
        self.options = options
        self.home = options.home
        self.api_url = ""
        self.dashboard_url = ""
        self._plan = plan
        self._signals = signals
        self._notify = notify
        self._mark = uuid.uuid4().hex
        self._lock = HomeLock(self.home.path)
        self._services: dict[str, _RunningService] = {}
        self._preparing: ServiceProcess | None = None
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start all services and return when they are ready.

        Raises:
            HomeBusyError: Another stack runs on the home.
            StackError: A service did not start; ``stop`` then ends the others.
            StackStopRequested: A signal was received.
        """
        os.umask(0o077)
        self._make_private()
        self._lock.acquire()
        self._open = True
        BrowserSessions(self.home).end_all()  # browsers open the address that this start prints
        for name, command in self._plan.prepare.items():
            self._run_to_end(name, command)
        port = self._start_on_port(self._plan.backend, self.options.port, set())
        self.api_url = f"http://{ports.LOOPBACK}:{port}"
        # Written atomically, so that a process that waits for the file never reads it empty.
        atomic_write(self.home.api_url, self.api_url + "\n")
        self._lock.publish(self.api_url)
        worker = self._start(self._plan.worker(self.api_url))
        if self._plan.dashboard:
            dashboard_port = self._start_on_port(self._plan.dashboard, self.options.dashboard_port, {port})
            self.dashboard_url = f"http://{ports.LOOPBACK}:{dashboard_port}"
        self._await_ready(worker)
        self._lock.publish(self.api_url, self.dashboard_url)

    def dashboard_address(self, page: str = "") -> str:
        """Return the address at which a person opens the dashboard: a new one-time address, or a plain one.

        Args:
            page: The page with its query, such as ``compare?experiment=…``.
        """
        if dashboard_login() == "address":
            return OneTimeAddresses(self.home).address(self.dashboard_url, page)
        return f"{self.dashboard_url}/{page}" if page else self.dashboard_url

    def check(self) -> None:
        """Restart services that have ended. Call this repeatedly.

        Raises:
            StackError: A service has ended too often.
            StackStopRequested: A signal was received.
        """
        self._signals.check()
        now = time.monotonic()
        for running in self._services.values():
            if running.restart_at is not None:
                if now >= running.restart_at:
                    running.restart_at = None
                    running.process = self._launch(running.service.name, running.service.command, append=True)
            elif running.process.exit_code() is not None:
                self._schedule_restart(running, now)

    def wait(self) -> None:
        """Keep the services running until a signal is received.

        Raises:
            StackError: A service has ended too often.
            StackStopRequested: A signal was received.
        """
        while True:
            self.check()
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Stop all services and wait until all processes have ended. A further signal kills them without waiting.

        Repeating the call changes nothing.
        """
        if not self._open:
            return
        self._open = False
        signals_before = self._signals.count
        # The backend stops last: the worker returns its runs to it.
        stopped_last = [self._services[name] for name in ("dashboard", "backend") if name in self._services]
        stopped_first = [running for running in self._services.values() if running not in stopped_last]
        try:
            if self._preparing:
                self._preparing.kill()
            for group in (stopped_first, stopped_last):
                self._terminate(group, signals_before)
        finally:
            for running in self._services.values():
                running.process.kill()
            alive = kill_marked(self._mark)
            self._remove_address()
            self._lock.release()
        if alive:
            self._notify_if_possible(f"these processes could not be ended: {', '.join(map(str, alive))}")

    def _make_private(self) -> None:
        repaired = self.home.make_private()
        if repaired.changed:
            number = "1 file or folder" if repaired.changed == 1 else f"{repaired.changed:,} files and folders"
            self._notify(f"{number} in {self.home.path} could be reached by other accounts; now they are private")
        if repaired.refused:
            count = len(repaired.refused)
            self._notify(f"{repaired.refused[0]} belongs to another account, which can read it ({count} such)")

    def _terminate(self, group: list[_RunningService], signals_before: int) -> None:
        for running in group:
            running.process.terminate()
        deadline = time.monotonic() + max((running.service.stop_seconds for running in group), default=0.0)
        while any(running.process.exit_code() is None for running in group):
            if time.monotonic() > deadline or self._signals.count > signals_before:
                return
            time.sleep(_POLL_SECONDS)

    def _start_on_port(self, make: Callable[[int], Service], preferred: int, avoid: set[int]) -> int:
        tried = set(avoid)
        while True:
            port = ports.choose(preferred, tried)
            running = self._start(make(port))
            try:
                self._await_ready(running)
            except StackError:
                # If another program has taken the port meanwhile, another port is tried.
                exhausted = len(tried) - len(avoid) >= _MAX_PORTS_TRIED
                if running.process.exit_code() is None or ports.is_free(port) or exhausted:
                    raise
                tried.add(port)
                continue
            if port != preferred:
                self._notify(f"port {preferred} is taken: the {running.service.name} uses {port}")
            return port

    def _start(self, service: Service) -> _RunningService:
        running = _RunningService(service, self._launch(service.name, service.command, append=False))
        self._services[service.name] = running
        return running

    def _launch(self, name: str, command: list[str], *, append: bool) -> ServiceProcess:
        variables = environment(self.options, self.api_url) | {MARK: self._mark}
        return ServiceProcess(name, command, variables, self.home.logs / f"{name}.log", append=append)

    def _run_to_end(self, name: str, command: list[str]) -> None:
        self._preparing = process = self._launch(name, command, append=False)
        while (code := process.exit_code()) is None:
            self._signals.check()
            time.sleep(_POLL_SECONDS)
        self._preparing = None
        if code != 0:
            raise StackError(f"{name} ended with {process.exit_text()}; see {process.log}", process.last_lines())

    def _await_ready(self, running: _RunningService) -> None:
        name, process = running.service.name, running.process
        end = process.started + running.service.start_seconds
        while True:
            self._signals.check()
            # The process is checked before and after, because another program could answer in place of a service that
            # has just ended.
            ready = process.exit_code() is None and running.service.ready()
            if process.exit_code() is not None:
                text = f"the {name} ended at its start with {process.exit_text()}; see {process.log}"
                raise StackError(text, process.last_lines())
            if ready:
                return
            if time.monotonic() > end:
                text = f"the {name} was not ready after {running.service.start_seconds:.0f} s; see {process.log}"
                raise StackError(text, process.last_lines())
            time.sleep(_POLL_SECONDS)

    def _schedule_restart(self, running: _RunningService, now: float) -> None:
        name, process = running.service.name, running.process
        while running.restarts and now - running.restarts[0] > _RESTART_WINDOW_SECONDS:
            running.restarts.popleft()
        if len(running.restarts) >= _MAX_RESTARTS:
            text = f"the {name} ended {len(running.restarts) + 1} times ({process.exit_text()}); see {process.log}"
            raise StackError(text, process.last_lines())
        delay = 0.5 * 2 ** len(running.restarts)
        running.restarts.append(now)
        running.restart_at = now + delay
        self._notify_if_possible(f"the {name} ended with {process.exit_text()} and is restarted; see {process.log}")

    def _remove_address(self) -> None:
        with contextlib.suppress(OSError):
            if self.api_url and self.home.api_url.read_text(encoding="utf-8").strip() == self.api_url:
                self.home.api_url.unlink()

    def _notify_if_possible(self, text: str) -> None:
        # The terminal may be closed (SIGHUP); this must not interrupt the stop.
        with contextlib.suppress(OSError):
            self._notify(text)
