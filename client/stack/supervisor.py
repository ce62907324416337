"""Starting, keeping and stopping the services of a stack."""

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
from client.stack.process import MARK, ServiceProcess, end_marked
from client.stack.services import Service, StackOptions, StackPlan, dashboard_login, environment
from client.stack.signals import StopSignals
from common.one_time_address import Door

_POLL_SECONDS = 0.1
_PORT_TRIES = 5
_MOST_RESTARTS = 5
_RESTART_WINDOW_SECONDS = 600.0


class StackError(Exception):
    """A service could not be started or kept.

    Attributes:
        lines: the end of its output.
    """

    def __init__(self, message: str, lines: list[str]) -> None:
        super().__init__(message)
        self.lines = lines


@dataclass
class _Kept:
    """A service with its process and the times at which it had to be started again."""

    service: Service
    process: ServiceProcess
    restarts: deque[float] = field(default_factory=deque)
    due: float | None = None


class Stack:
    """The services of one home, from ``start`` to ``stop``. A context manager that stops at its end.

    To be used in the main thread alone: a service is tied to the thread that has started it.

    Args:
        plan: what to run.
        signals: looked at while waiting, so that a start can be broken off.
        say: takes a sentence for the person.
    """

    def __init__(
        self, options: StackOptions, plan: StackPlan, signals: StopSignals, say: Callable[[str], None]
    ) -> None:
        self.options = options
        self.home = options.home
        self.api_url = ""
        self.dashboard_url = ""
        self._plan = plan
        self._signals = signals
        self._say = say
        self._mark = uuid.uuid4().hex
        self._lock = HomeLock(self.home.path)
        self._kept: dict[str, _Kept] = {}
        self._preparing: ServiceProcess | None = None
        self._open = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything and return when all of it is ready.

        Raises:
            HomeBusyError: another stack runs on the home.
            StackError: a service did not start; nothing is left running after ``stop``.
            StopRequested: a signal came.
        """
        os.umask(0o077)
        self._make_private()
        self._lock.acquire()
        self._open = True
        for name, command in self._plan.prepare.items():
            self._run_to_end(name, command)
        port = self._start_on_port(self._plan.backend, self.options.port, set())
        self.api_url = f"http://{ports.LOOPBACK}:{port}"
        # Renamed into place: whoever waits for the file must never find it empty.
        fresh = self.home.api_url.with_suffix(".new")
        fresh.write_text(self.api_url + "\n", encoding="utf-8")
        fresh.replace(self.home.api_url)
        self._lock.publish(self.api_url)
        worker = self._spawn(self._plan.worker(self.api_url))
        if self._plan.dashboard:
            taken = self._start_on_port(self._plan.dashboard, self.options.dashboard_port, {port})
            self.dashboard_url = f"http://{ports.LOOPBACK}:{taken}"
        self._await_ready(worker)
        self._lock.publish(self.api_url, self.dashboard_url)

    def dashboard_address(self, page: str = "") -> str:
        """Where a person opens the dashboard: a fresh one-time address, unless people come in by another way.

        Args:
            page: with its query, as ``compare?experiment=…``.
        """
        if dashboard_login() == "address":
            return Door(self.home).address(self.dashboard_url, page)
        return f"{self.dashboard_url}/{page}" if page else self.dashboard_url

    def check(self) -> None:
        """Look after the services: to be called again and again.

        Raises:
            StackError: a service has crashed too often.
            StopRequested: a signal came.
        """
        self._signals.check()
        now = time.monotonic()
        for kept in self._kept.values():
            if kept.due is not None:
                if now >= kept.due:
                    kept.due = None
                    kept.process = self._process(kept.service, keep=True)
            elif kept.process.ended() is not None:
                self._plan_restart(kept, now)

    def wait(self) -> None:
        """Look after the services until a signal comes. Raises as ``check`` does."""
        while True:
            self.check()
            time.sleep(_POLL_SECONDS)

    def stop(self) -> None:
        """Stop everything and wait until nothing is left. A signal meanwhile makes it quick. May be called twice."""
        if not self._open:
            return
        self._open = False
        so_far = self._signals.count
        # The backend last: the worker hands its runs back to it.
        last = [self._kept[name] for name in ("dashboard", "backend") if name in self._kept]
        first = [kept for kept in self._kept.values() if kept not in last]
        try:
            if self._preparing:
                self._preparing.kill()
            for group in (first, last):
                self._terminate(group, so_far)
        finally:
            for kept in self._kept.values():
                kept.process.kill()
            left = end_marked(self._mark)
            self._forget_address()
            self._lock.release()
        if left:
            self._tell(f"these processes could not be ended: {', '.join(map(str, left))}")

    def _make_private(self) -> None:
        found = self.home.make_private()
        if found.changed:
            what = "1 file or folder" if found.changed == 1 else f"{found.changed:,} files and folders"
            self._say(f"{what} in {self.home.path} could be reached by other accounts; now they are private")
        if found.refused:
            self._say(f"{found.refused[0]} belongs to another account, which can read it ({len(found.refused)} such)")

    def _terminate(self, group: list[_Kept], signals_before: int) -> None:
        for kept in group:
            kept.process.terminate()
        end = time.monotonic() + max((kept.service.grace for kept in group), default=0.0)
        while any(kept.process.ended() is None for kept in group):
            if time.monotonic() > end or self._signals.count > signals_before:
                return
            time.sleep(_POLL_SECONDS)

    def _start_on_port(self, make: Callable[[int], Service], wished: int, avoid: set[int]) -> int:
        tried = set(avoid)
        while True:
            port = ports.choose(wished, tried)
            kept = self._spawn(make(port))
            try:
                self._await_ready(kept)
            except StackError:
                # Another program may have taken the port after we looked: then another port is the answer.
                if kept.process.ended() is None or ports.is_free(port) or len(tried) - len(avoid) >= _PORT_TRIES:
                    raise
                tried.add(port)
                continue
            if port != wished:
                self._say(f"port {wished} is taken: the {kept.service.name} uses {port}")
            return port

    def _spawn(self, service: Service) -> _Kept:
        kept = _Kept(service, self._process(service, keep=False))
        self._kept[service.name] = kept
        return kept

    def _process(self, service: Service, *, keep: bool) -> ServiceProcess:
        return self._launch(service.name, service.command, keep=keep)

    def _launch(self, name: str, command: list[str], *, keep: bool) -> ServiceProcess:
        settings = environment(self.options, self.api_url) | {MARK: self._mark}
        return ServiceProcess(name, command, settings, self.home.logs / f"{name}.log", keep=keep)

    def _run_to_end(self, name: str, command: list[str]) -> None:
        self._preparing = process = self._launch(name, command, keep=False)
        while (code := process.ended()) is None:
            self._signals.check()
            time.sleep(_POLL_SECONDS)
        self._preparing = None
        if code != 0:
            raise StackError(f"{name} ended with {process.how_it_ended()}; {process.log}", process.last_lines())

    def _await_ready(self, kept: _Kept) -> None:
        name, process = kept.service.name, kept.process
        end = process.started + kept.service.patience
        while True:
            self._signals.check()
            # Asked before and after: another program could answer in the place of one that has just died.
            ready = process.ended() is None and kept.service.ready()
            if process.ended() is not None:
                text = f"the {name} ended at its start with {process.how_it_ended()}; {process.log}"
                raise StackError(text, process.last_lines())
            if ready:
                return
            if time.monotonic() > end:
                text = f"the {name} was not ready after {kept.service.patience:.0f} s; {process.log}"
                raise StackError(text, process.last_lines())
            time.sleep(_POLL_SECONDS)

    def _plan_restart(self, kept: _Kept, now: float) -> None:
        name, how = kept.service.name, kept.process.how_it_ended()
        while kept.restarts and now - kept.restarts[0] > _RESTART_WINDOW_SECONDS:
            kept.restarts.popleft()
        if len(kept.restarts) >= _MOST_RESTARTS:
            text = f"the {name} ended {len(kept.restarts) + 1} times ({how}); {kept.process.log}"
            raise StackError(text, kept.process.last_lines())
        delay = 0.5 * 2 ** len(kept.restarts)
        kept.restarts.append(now)
        kept.due = now + delay
        self._tell(f"the {name} ended with {how} and is started again; {kept.process.log}")

    def _forget_address(self) -> None:
        with contextlib.suppress(OSError):
            if self.api_url and self.home.api_url.read_text(encoding="utf-8").strip() == self.api_url:
                self.home.api_url.unlink()

    def _tell(self, text: str) -> None:
        # The terminal may be gone (SIGHUP); that must not stop the stopping.
        with contextlib.suppress(OSError):
            self._say(text)
