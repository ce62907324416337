"""The faults."""

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

from benchmarks.chaos.load import Load
from benchmarks.chaos.people import People
from benchmarks.chaos.stack import Stack, Worker
from benchmarks.chaos.victims import Victim, victims
from common.atomic_write import atomic_write
from tests.services import Server

_VICTIM_SECONDS = 2.0
# A real training imports torch before its first checkpoint, which takes long on a machine that is broken all the time.
_REAL_SECONDS = 20.0
_REAL_MORE_SECONDS = 3.0


@dataclass(frozen=True)
class Fault:
    """One kind.

    Attributes:
        inject: does it, to its end; False where nothing was there to be hit.
        cards: how many of it are in a deck.
        target: only one fault of a target lasts at a time; empty where it needs none, ``worker`` where it takes any.
    """

    name: str
    inject: Callable[[Worker | None], bool]
    cards: int = 1
    target: str = ""


class Faults:
    """Every kind, for one stack.

    Attributes:
        people: what they ask for, in the midst of it.
    """

    def __init__(self, stack: Stack, load: Load, seed: int) -> None:
        self.stack, self.load = stack, load
        self.random = random.Random(seed)
        self.people = People(stack, load, self.random)

    def kinds(self) -> list[Fault]:
        short, long = self._short, self._long
        found = [
            Fault("training killed", lambda _: self._kill(lambda v: len(v.processes) == 1), 5),
            Fault("one rank of two killed", lambda _: self._kill(lambda v: len(v.processes) > 1), 4),
            Fault("launcher killed", lambda _: self._kill_launcher(), 3),
            Fault("worker killed", lambda w: self._end(w, signal.SIGKILL, self.random.uniform(0, 3)), 4, "worker"),
            Fault(
                "worker killed, gone longer than a lease", lambda w: self._end(w, signal.SIGKILL, long()), 1, "worker"
            ),
            Fault(
                "worker told to stop", lambda w: self._end(w, signal.SIGTERM, self.random.uniform(2, 5)), 2, "worker"
            ),
            Fault("worker frozen, shorter than a lease", self._freeze_worker, 1, "worker"),
            Fault("another worker of the same name", lambda _: self._twin(), 1, "twin"),
            Fault("connection cut, shorter than a lease", lambda w: self._cut(w, short()), 2, "worker"),
            Fault("connection cut, longer than a lease", lambda w: self._cut(w, long()), 1, "worker"),
            Fault("answers lost on their way", self._lose_answers, 2, "worker"),
            Fault("backend killed", lambda _: self._kill_backend(), 2, "backend"),
            Fault("backend frozen, shorter than a lease", lambda _: self._freeze_backend(short()), 1, "backend"),
            Fault("every nudge sent 20 times", lambda _: self._nudges(20), 1, "nudges"),
            Fault("no nudge sent at all", lambda _: self._nudges(0), 1, "nudges"),
            Fault("worker deaf to the broker", self._deafen, 2, "worker"),
            Fault("run cancelled, half of them retried", lambda _: self.people.cancel(), 3, "people"),
            Fault("experiment paused and resumed", lambda _: self.people.pause(), 1, "people"),
            Fault("worker drained for a while", lambda _: self.people.drain(), 1, "people"),
        ]
        if self.load.trains:  # else each would be waited for in vain
            found.append(
                Fault("real training killed after a checkpoint", lambda _: self._kill_real(), 4, "real training")
            )
        return found + (self._of_services() if self.stack.kind == "services" else self._of_embedded())

    def rare(self) -> list[Fault]:
        """What holds everything up, so that it comes once every other deck."""
        return [
            Fault("backend frozen, longer than a lease", lambda _: self._freeze_backend(self._long()), 1, "backend")
        ]

    def _of_services(self) -> list[Fault]:
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

    def _of_embedded(self) -> list[Fault]:
        return [
            Fault("broker's folder emptied", lambda _: self._empty_broker(), 1, "broker"),
            Fault("broker's folder taken away", lambda _: self._move_broker(), 1, "broker"),
            Fault("database locked by another program", lambda _: self._lock_database(), 1, "backend"),
        ]

    def _short(self) -> float:
        return self.random.uniform(0.5, self.stack.terms.lease / 5)

    def _long(self) -> float:
        return self.stack.terms.lease + self.random.uniform(1, 4)

    def _pick(self, fits: Callable[[Victim], bool], seconds: float = _VICTIM_SECONDS) -> Victim | None:
        """An attempt, waited for; a real training that can be resumed and was not yet comes first."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            found = [victim for victim in victims(self.stack) if fits(victim)]
            # A real one that has no checkpoint yet would be killed again and again while it imports torch.
            usable = list(filter(_resumable, found)) or [victim for victim in found if not victim.real]
            if usable:
                return self.random.choice(usable)
            time.sleep(0.2)
        return None

    def _kill(self, fits: Callable[[Victim], bool]) -> bool:
        victim = self._pick(fits)
        return victim is not None and _killed(self.random.choice(victim.processes))

    def _kill_real(self) -> bool:
        victim = self._pick(_resumable, _REAL_SECONDS)
        if victim is None:
            return False
        time.sleep(self.random.uniform(0, _REAL_MORE_SECONDS))  # not always right behind the first checkpoint
        return _killed(self.random.choice((*victim.processes, victim.launcher)))

    def _kill_launcher(self) -> bool:
        victim = self._pick(lambda _: True)
        return victim is not None and _killed(victim.launcher)

    def _end(self, worker: Worker | None, number: signal.Signals, down: float) -> bool:
        assert worker is not None
        if not worker.daemon.send(number, down):
            return False
        time.sleep(down)
        return True

    def _freeze_worker(self, worker: Worker | None) -> bool:
        assert worker is not None
        seconds = self.random.uniform(0.5, self.stack.terms.lease / 10)
        if not worker.daemon.send(signal.SIGSTOP):
            return False
        time.sleep(seconds)
        return worker.daemon.send(signal.SIGCONT)

    def _twin(self) -> bool:
        twin = self.stack.make_worker(self.random.choice(("home", "other")))
        self.stack.workers.append(twin)
        twin.daemon.start()
        time.sleep(self.random.uniform(4, 8))
        twin.daemon.stop(self.random.choice((signal.SIGKILL, signal.SIGTERM)))
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
        """The connection to Redis stays open and nothing comes; on files, the worker watches another folder."""
        assert worker is not None
        seconds = self.random.uniform(4, 10)
        if worker.broker is not None:
            worker.broker.set("frozen")
            time.sleep(seconds)
            worker.broker.set("open")
            return True
        worker.daemon.more["DKD_BROKER_FOLDER"] = str(self.stack.root / "nowhere")
        if not worker.daemon.send(signal.SIGKILL, 0.0):
            return False
        time.sleep(seconds)
        del worker.daemon.more["DKD_BROKER_FOLDER"]
        return worker.daemon.send(signal.SIGKILL, 0.0)

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
        if self.stack.broker.exists():  # somebody has made it anew
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


def _resumable(victim: Victim) -> bool:
    """Whether it is a real training that would go on from a checkpoint, and has not done so before."""
    return victim.real and victim.checkpoint and not victim.resumed


def _killed(process: psutil.Process) -> bool:
    try:
        process.kill()
    except psutil.Error:
        return False
    return True
