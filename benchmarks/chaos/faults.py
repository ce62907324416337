"""The kinds of faults."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from benchmarks.chaos.running_attempts import RunningAttempt, running_attempts
from benchmarks.chaos.stack import Stack, Worker
from benchmarks.chaos.submissions import Submitter
from benchmarks.chaos.users import Users
from common.atomic_write import atomic_write
from tests.services import Server

_PICK_SECONDS = 2.0
# A real training imports torch before its first checkpoint, which takes long while faults are injected.
_REAL_SECONDS = 20.0
_REAL_DELAY_SECONDS = 3.0


@dataclass(frozen=True)
class Fault:
    """A kind of fault.

    Attributes:
        inject: injects the fault and returns after its end; False if there was nothing to hit.
        cards: number of its cards in a deck.
        target: at most one fault at a time per target; empty for none, ``worker`` for any worker.
    """

    name: str
    inject: Callable[[Worker | None], bool]
    cards: int = 1
    target: str = ""


class Faults:
    """All kinds of faults for a stack.

    Attributes:
        users: requests of users during the faults.
    """

    def __init__(self, stack: Stack, submitter: Submitter, seed: int) -> None:
        self.stack, self.submitter = stack, submitter
        self.random = random.Random(seed)
        self.users = Users(stack, submitter, self.random)

    def kinds(self) -> list[Fault]:
        short, long = self._short, self._long
        faults = [
            Fault("training killed", lambda _: self._kill(lambda v: len(v.processes) == 1), 5),
            Fault("one rank of two killed", lambda _: self._kill(lambda v: len(v.processes) > 1), 4),
            Fault("launcher killed", lambda _: self._kill_launcher(), 3),
            Fault(
                "worker killed", lambda w: self._stop_worker(w, signal.SIGKILL, self.random.uniform(0, 3)), 4, "worker"
            ),
            Fault(
                "worker killed, gone longer than a lease",
                lambda w: self._stop_worker(w, signal.SIGKILL, long()),
                1,
                "worker",
            ),
            Fault(
                "worker stopped by a signal",
                lambda w: self._stop_worker(w, signal.SIGTERM, self.random.uniform(2, 5)),
                2,
                "worker",
            ),
            Fault("worker frozen, shorter than a lease", self._freeze_worker, 1, "worker"),
            Fault("second worker with the same name", lambda _: self._duplicate_worker(), 1, "twin"),
            Fault("connection cut, shorter than a lease", lambda w: self._cut(w, short()), 2, "worker"),
            Fault("connection cut, longer than a lease", lambda w: self._cut(w, long()), 1, "worker"),
            Fault("answers of the backend lost", self._lose_answers, 2, "worker"),
            Fault("backend killed", lambda _: self._kill_backend(), 2, "backend"),
            Fault("backend frozen, shorter than a lease", lambda _: self._freeze_backend(short()), 1, "backend"),
            Fault("every nudge sent 20 times", lambda _: self._nudges(20), 1, "nudges"),
            Fault("all nudges lost", lambda _: self._nudges(0), 1, "nudges"),
            Fault("worker disconnected from the broker", self._deafen, 2, "worker"),
            Fault("run cancelled (half of these runs are retried)", lambda _: self.users.cancel(), 3, "people"),
            Fault("experiment paused and resumed", lambda _: self.users.pause(), 1, "people"),
            Fault("worker drained for a while", lambda _: self.users.drain(), 1, "people"),
        ]
        if self.submitter.trains:  # otherwise this fault would wait in vain
            faults.append(
                Fault("real training killed after a checkpoint", lambda _: self._kill_real(), 4, "real training")
            )
        return faults + (self._service_faults() if self.stack.kind == "services" else self._embedded_faults())

    def rare(self) -> list[Fault]:
        """Return faults that delay everything, so that they are only in every other deck."""
        return [
            Fault("backend frozen, longer than a lease", lambda _: self._freeze_backend(self._long()), 1, "backend")
        ]

    def _service_faults(self) -> list[Fault]:
        stack = self.stack
        assert stack.redis
        assert stack.postgres
        redis, postgres = stack.redis, stack.postgres

        def stop(server: Server, number: signal.Signals, seconds: float) -> bool:
            server.stop(number)
            time.sleep(seconds)
            server.start()
            return True

        return [
            Fault("Redis stopped", lambda _: stop(redis, signal.SIGTERM, self._short()), 1, "redis"),
            Fault("Redis killed and restarted", lambda _: stop(redis, signal.SIGKILL, 0), 1, "redis"),
            Fault("Redis flushed", lambda _: self._flush(redis.url), 1, "redis"),
            Fault("PostgreSQL stopped", lambda _: stop(postgres, signal.SIGINT, self._short()), 1, "backend"),
            Fault("PostgreSQL restarted", lambda _: stop(postgres, signal.SIGQUIT, 0), 1, "backend"),
        ]

    def _embedded_faults(self) -> list[Fault]:
        return [
            Fault("broker's folder emptied", lambda _: self._empty_broker(), 1, "broker"),
            Fault("broker's folder moved away", lambda _: self._move_broker(), 1, "broker"),
            Fault("database locked by another program", lambda _: self._lock_database(), 1, "backend"),
        ]

    def _short(self) -> float:
        return self.random.uniform(0.5, self.stack.timing.lease / 5)

    def _long(self) -> float:
        return self.stack.timing.lease + self.random.uniform(1, 4)

    def _pick(self, fits: Callable[[RunningAttempt], bool], seconds: float = _PICK_SECONDS) -> RunningAttempt | None:
        """Wait for a fitting attempt and return it; real trainings that could resume, and have not yet, come first."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            attempts = [attempt for attempt in running_attempts(self.stack) if fits(attempt)]
            # A real training without a checkpoint would be killed again and again while it imports torch.
            usable = list(filter(_resumable, attempts)) or [attempt for attempt in attempts if not attempt.real]
            if usable:
                return self.random.choice(usable)
            time.sleep(0.2)
        return None

    def _kill(self, fits: Callable[[RunningAttempt], bool]) -> bool:
        attempt = self._pick(fits)
        return attempt is not None and _kill_process(self.random.choice(attempt.processes))

    def _kill_real(self) -> bool:
        attempt = self._pick(_resumable, _REAL_SECONDS)
        if attempt is None:
            return False
        time.sleep(self.random.uniform(0, _REAL_DELAY_SECONDS))  # not always just after the first checkpoint
        return _kill_process(self.random.choice((*attempt.processes, attempt.launcher)))

    def _kill_launcher(self) -> bool:
        attempt = self._pick(lambda _: True)
        return attempt is not None and _kill_process(attempt.launcher)

    def _stop_worker(self, worker: Worker | None, number: signal.Signals, down: float) -> bool:
        assert worker is not None
        if not worker.process.send(number, down):
            return False
        time.sleep(down)
        return True

    def _freeze_worker(self, worker: Worker | None) -> bool:
        assert worker is not None
        seconds = self.random.uniform(0.5, self.stack.timing.lease / 10)
        if not worker.process.send(signal.SIGSTOP):
            return False
        time.sleep(seconds)
        return worker.process.send(signal.SIGCONT)

    def _duplicate_worker(self) -> bool:
        twin = self.stack.make_worker(self.random.choice(("home", "other")))
        self.stack.workers.append(twin)
        twin.process.start()
        time.sleep(self.random.uniform(4, 8))
        twin.process.stop(self.random.choice((signal.SIGKILL, signal.SIGTERM)))
        self.stack.workers.remove(twin)
        return True

    def _cut(self, worker: Worker | None, seconds: float) -> bool:
        assert worker is not None
        worker.link.set(self.random.choice(("refused", "frozen")))
        time.sleep(seconds)
        worker.link.set("open")
        return True

    def _lose_answers(self, worker: Worker | None) -> bool:
        assert worker is not None
        worker.link.set("mute")
        time.sleep(self._short())
        worker.link.set("open")
        return True

    def _kill_backend(self) -> bool:
        down = self.random.uniform(0, 2)
        if not self.stack.backend.send(signal.SIGKILL, down):
            return False
        time.sleep(down + 1)
        return True

    def _freeze_backend(self, seconds: float) -> bool:
        if not self.stack.backend.send(signal.SIGSTOP):
            return False
        time.sleep(seconds)
        return self.stack.backend.send(signal.SIGCONT)

    def _nudges(self, factor: int) -> bool:
        atomic_write(self.stack.nudges, str(factor))
        time.sleep(self.random.uniform(3, 8))
        atomic_write(self.stack.nudges, "1")
        return True

    def _deafen(self, worker: Worker | None) -> bool:
        """Keep the connection to Redis open without data; with files, let the worker watch another folder."""
        assert worker is not None
        seconds = self.random.uniform(4, 10)
        if worker.broker is not None:
            worker.broker.set("frozen")
            time.sleep(seconds)
            worker.broker.set("open")
            return True
        worker.process.extra_environment["DKD_BROKER_FOLDER"] = str(self.stack.root / "nowhere")
        if not worker.process.send(signal.SIGKILL, 0.0):
            return False
        time.sleep(seconds)
        del worker.process.extra_environment["DKD_BROKER_FOLDER"]
        return worker.process.send(signal.SIGKILL, 0.0)

    def _flush(self, url: str) -> bool:
        import redis

        with contextlib.suppress(redis.RedisError), redis.Redis.from_url(url) as connection:
            connection.flushall()
            return True
        return False

    def _empty_broker(self) -> bool:
        for path in (self.stack.broker / "messages").glob("*"):
            path.unlink(missing_ok=True)
        return True

    def _move_broker(self) -> bool:
        aside = self.stack.root / "broker-aside"
        if not self.stack.broker.exists():
            return False
        self.stack.broker.rename(aside)
        time.sleep(self._short())
        if self.stack.broker.exists():  # a process has made it again
            shutil.rmtree(self.stack.broker, ignore_errors=True)
        aside.rename(self.stack.broker)
        return True

    def _lock_database(self) -> bool:
        with contextlib.closing(sqlite3.connect(self.stack.root / "dkd.sqlite3", timeout=10)) as connection:
            connection.isolation_level = None
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return False
            time.sleep(self._short())
            connection.execute("ROLLBACK")
        return True


def _resumable(attempt: RunningAttempt) -> bool:
    """Return whether this is a real training that could resume from a checkpoint, and has not resumed yet."""
    return attempt.real and attempt.checkpoint and not attempt.resumed


def _kill_process(process: psutil.Process) -> bool:
    try:
        process.kill()
    except psutil.Error:
        return False
    return True
