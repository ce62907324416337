"""The runs that a stack is given, and what is to become of each."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks.chaos.stack import TRAINS, Stack
from client import ApiError, BackendUnreachable, Client
from core.protocol.public import Experiment

Answer = TypeVar("Answer")

_SMALL = {"num_classes": 4, "image_size": 8, "train_size": 128, "test_size": 64}
_PAUSE_SECONDS = 0.3
UNENDED = ("waiting", "queued", "paused", "running", "cancelling")
_PATIENCE_SECONDS = 240.0
_REAL_AT_ONCE = 4
"""Real trainings that run or are queued: one more than the one worker that takes them has slots."""


def played(name: str, seeds: list[int], steps: int, **changes: Any) -> dict[str, Any]:
    """An experiment for the stand-in, without a teacher."""
    return {
        "name": name,
        "dataset": {"name": "synthetic", "params": _SMALL},
        "teacher": None,
        "student": {"model": "small_cnn"},
        "methods": ["ce"],
        "seeds": seeds,
        "training": {"epochs": steps, "batch_size": 32},
    } | changes


def taught(name: str, seeds: list[int], steps: int) -> dict[str, Any]:
    """One with a teacher of its own, and two students a seed."""
    teacher = {"model": "small_cnn", "seed": seeds[0], "training": {"epochs": steps, "batch_size": 32}}
    return played(name, seeds, steps, teacher=teacher, methods=["kd", "dkd"])


def trained(name: str, seed: int, epochs: int, *, distilled: bool) -> dict[str, Any]:
    """A real training, small and long enough to be killed after a checkpoint; or a teacher and its student."""
    training = {"epochs": epochs, "batch_size": 64}
    return {
        "name": name,
        "dataset": "digits",
        "teacher": {"model": "small_cnn", "seed": seed, "training": training} if distilled else None,
        "student": {"model": "small_cnn"},
        "methods": ["dkd" if distilled else "ce"],
        "seeds": [seed],
        "training": training,
        "priority": 10,
        "resources": {"labels": [TRAINS]},
    }


def insist(ask: Callable[[], Answer], seconds: float = _PATIENCE_SECONDS) -> Answer:
    """The answer to a request that is repeated until the backend gives one. Raises BackendUnreachable, ApiError."""
    end = time.monotonic() + seconds
    while True:
        try:
            return ask()
        except (BackendUnreachable, ApiError) as error:
            passing = isinstance(error, BackendUnreachable) or error.status >= 500
            if not passing or time.monotonic() > end:
                raise
            time.sleep(_PAUSE_SECONDS)


@dataclass
class Asked:
    """A run and what a person last asked for it.

    Attributes:
        cancelled: whether that was to cancel it.
    """

    run_id: str
    cancelled: bool = False


class Load:
    """Submits experiments for as long as faults are injected, and remembers them.

    Attributes:
        runs: every run that the backend has accepted, by its id.
        keys: idempotency keys that were used: as many experiments there must be.
        trains: whether real trainings are among the runs.
    """

    def __init__(self, stack: Stack, seed: int, real: int, epochs: int) -> None:
        self.runs: dict[str, Asked] = {}
        self.keys: set[str] = set()
        self._stack = stack
        self._random = random.Random(seed)
        self._seed = iter(range(1, 1_000_000))
        self.trains = real > 0
        self._real, self._epochs = real, epochs
        self._under_way: set[str] = set()
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Submit nothing more. Raises what has gone wrong meanwhile."""
        self._ended.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def submit(self, client: Client, spec: dict[str, Any]) -> Experiment:
        """Submit until it is accepted: always under one key, so that it is made once however often it is sent."""
        key = str(spec["name"])
        self.keys.add(key)
        made = insist(lambda: client.submit(spec, idempotency_key=key))
        for run in made.runs:
            self.runs.setdefault(run.id, Asked(run.id))
        return made

    def _run(self) -> None:
        try:
            with self._stack.client() as client:
                while not self._ended.wait(_PAUSE_SECONDS):
                    self._refill(client)
        except BaseException as error:  # noqa: BLE001 (raised again by stop)
            self._error = error

    def _refill(self, client: Client) -> None:
        """Some real trainings at a time, every third of them distilled, and always something in the queue."""
        slots = self._stack.terms.slots * len(self._stack.workers)
        under_way = insist(lambda: client.runs(state=["queued", "running"], limit=200)).items
        alive = {run.id for run in under_way}
        self._under_way &= alive
        while self._real and len(self._under_way) < _REAL_AT_ONCE:
            self._real -= 1
            seed = next(self._seed)
            distilled = self._real % 3 == 0
            made = self.submit(client, trained(f"real-{seed}", seed, self._epochs, distilled=distilled))
            self._under_way |= {run.id for run in made.runs}
        if len(alive) < slots + 4:
            seeds = [next(self._seed) for _ in range(self._random.randint(1, 3))]
            steps = self._random.randint(20, 60)
            make = taught if self._random.random() < 0.25 else played
            self.submit(client, make(f"played-{seeds[0]}", seeds, steps))


def wait_for_all(stack: Stack, seconds: float) -> None:
    """Wait until every run has ended, but not for ever: what has not by then counts as lost."""
    end = time.monotonic() + seconds
    with stack.client() as client:
        while insist(lambda: client.runs(state=UNENDED, limit=1)).items and time.monotonic() < end:
            time.sleep(0.5)
