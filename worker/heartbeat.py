"""The heartbeat thread: registers the worker, renews the leases of its runs and applies the backend's orders."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from client import ApiError, BackendUnreachable
from core.protocol.worker import Heartbeat, Registration, RegistrationReply
from worker import clock
from worker.backend_link import NOT_FOUND, WorkerApi, demanded_wait
from worker.health import Health
from worker.supervisor import Supervisor

log = structlog.get_logger()

_RETRY_SECONDS = 1.0


class HeartbeatThread:
    """Registers the worker, again if the backend does not know it, and sends a heartbeat every ``heartbeat_seconds``.

    The duration of a lease is counted from the time at which the heartbeat that renewed it was *sent*, since the
    backend cannot have started the lease earlier. The supervisor stops a training before its lease ends
    (``worker.training_monitor``), even while a request has no reply.

    Args:
        api: The backend.
        registration: The worker's registration.
        supervisor: Source of the runs to report; receives the orders.
        chores: Called with every heartbeat, for periodic cleaning.
        health: Returns the machine's latest health check without waiting.
        heartbeat_file: File that is touched with every heartbeat, whether or not the backend replies. It shows that the
            worker is alive; it says nothing about the backend.
    """

    def __init__(
        self,
        api: WorkerApi,
        registration: Registration,
        supervisor: Supervisor,
        *,
        chores: Callable[[], None] = lambda: None,
        health: Callable[[], Health] = Health,
        heartbeat_file: Path | None = None,
    ) -> None:
        self._api = api
        self._registration = registration
        self._supervisor = supervisor
        self._chores = chores
        self._health = health
        self._heartbeat_file = heartbeat_file
        self._registered: RegistrationReply | None = None
        self._last_warning = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        """Start the thread that sends heartbeats."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the heartbeats; wait at most one second for a request in progress."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stopped.is_set():
            seconds = self._beat()
            self._touch()
            self._chores()
            self._stopped.wait(seconds)

    def _beat(self) -> float:
        """Exchange one heartbeat with the backend. Return the seconds until the next one."""
        demanded = 0.0
        try:
            registered = self._registered or self._register()
            self._exchange(registered)
        except BackendUnreachable as error:
            self._warn(str(error))
        except ApiError as error:
            self._warn(str(error))
            demanded = demanded_wait(error)
            if error.status == NOT_FOUND:  # the backend's database was recreated
                self._supervisor.set_registered(False)
                self._registered = None
        else:
            self._last_warning = ""
            return registered.heartbeat_seconds
        retry = min(_RETRY_SECONDS, self._registered.heartbeat_seconds) if self._registered else _RETRY_SECONDS
        # Spread over some time, so that many workers that were refused together do not come back together.
        return max(retry, demanded * random.uniform(1.0, 1.5))

    def _register(self) -> RegistrationReply:
        self._registered = self._api.register(self._registration)
        self._supervisor.set_registered(True)
        log.info("registered", worker=self._registration.name, id=self._registration.worker_id)
        return self._registered

    def _exchange(self, registered: RegistrationReply) -> None:
        sent_at = clock.now()
        health = self._health()
        heartbeat = Heartbeat(
            holding=self._supervisor.holdings(),
            gpus=health.gpus,
            problems=[*self._supervisor.problems(), *health.problems],
        )
        reply = self._api.heartbeat(self._registration.worker_id, heartbeat)
        self._supervisor.apply_orders(reply.orders, sent_at + registered.lease_seconds)
        self._supervisor.start_claiming(reply.eligible)

    def _touch(self) -> None:
        if self._heartbeat_file is not None:
            try:
                self._heartbeat_file.parent.mkdir(parents=True, exist_ok=True)
                self._heartbeat_file.touch()
            except OSError as error:
                self._warn(f"the heartbeat file cannot be written: {error}")

    def _warn(self, text: str) -> None:
        """Log a warning, unless it equals the previous one: an outage is logged once and not with every heartbeat."""
        if text != self._last_warning:
            log.warning("heartbeat", reason=text)
            self._last_warning = text
