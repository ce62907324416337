"""The one thread that tells the backend what this worker holds, and hears what is to be done."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import structlog

from client import ApiError, BackendUnreachable
from core.protocol.worker import Heartbeat, Registration, RegistrationReply
from worker import clock
from worker.backend_link import UNKNOWN, WorkerApi
from worker.health import Condition
from worker.supervisor import Supervisor

log = structlog.get_logger()

_RETRY_SECONDS = 1.0


class HeartbeatThread:
    """Registers, as often as needed, and then sends a heartbeat every ``heartbeat_seconds``.

    A lease is counted from the *sending* of the heartbeat that renewed it: the backend cannot have counted from
    earlier. What a lease's end means for a training is its supervisor's to enforce (``worker.training_monitor``), which
    an unanswered request here does not hold up.

    Args:
        chores: called on every beat, for what is to be tidied from time to time.
        condition: how the machine is; must answer at once.
        file: touched on every beat, answered or not: it says that the worker lives, not that the backend does.
    """

    def __init__(
        self,
        api: WorkerApi,
        registration: Registration,
        supervisor: Supervisor,
        *,
        chores: Callable[[], None] = lambda: None,
        condition: Callable[[], Condition] = Condition,
        file: Path | None = None,
    ) -> None:
        self._api = api
        self._registration = registration
        self._supervisor = supervisor
        self._chores = chores
        self._condition = condition
        self._file = file
        self._terms: RegistrationReply | None = None
        self._said = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Send nothing more; returns when the thread has ended or is left behind in a request."""
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
        """One exchange. Returns the seconds until the next."""
        try:
            terms = self._terms or self._register()
            self._exchange(terms)
        except BackendUnreachable as error:
            self._say(str(error))
        except ApiError as error:
            self._say(str(error))
            if error.status == UNKNOWN:  # its database was made anew
                self._supervisor.set_known(False)
                self._terms = None
        else:
            self._said = ""
            return terms.heartbeat_seconds
        return min(_RETRY_SECONDS, self._terms.heartbeat_seconds) if self._terms else _RETRY_SECONDS

    def _register(self) -> RegistrationReply:
        self._terms = self._api.register(self._registration)
        self._supervisor.set_known(True)
        log.info("registered", worker=self._registration.name, id=self._registration.worker_id)
        return self._terms

    def _exchange(self, terms: RegistrationReply) -> None:
        sent = clock.now()
        condition = self._condition()
        beat = Heartbeat(
            holding=self._supervisor.holding(),
            gpus=condition.gpus,
            problems=[*self._supervisor.problems(), *condition.problems],
        )
        reply = self._api.heartbeat(self._registration.worker_id, beat)
        self._supervisor.obey(reply.orders, sent + terms.lease_seconds)
        self._supervisor.start(reply.eligible)

    def _touch(self) -> None:
        if self._file is not None:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True)
                self._file.touch()
            except OSError as error:
                self._say(f"the heartbeat file cannot be written: {error}")

    def _say(self, text: str) -> None:
        """Log it once, not on every beat of an outage."""
        if text != self._said:
            log.warning("heartbeat", reason=text)
            self._said = text
