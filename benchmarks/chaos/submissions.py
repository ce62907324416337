"""Submits runs to the stack, and remembers how each should end."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from benchmarks.chaos.stack import REAL_TRAINING_LABEL, Stack
from client import ApiError, BackendUnreachable, Client
from core.protocol.public import Experiment

Answer = TypeVar("Answer")

_SMALL = {"num_classes": 4, "image_size": 8, "train_size": 128, "test_size": 64}
_PAUSE_SECONDS = 0.3
UNFINISHED = ("waiting", "queued", "paused", "running", "cancelling")
_RETRY_SECONDS = 240.0
_MAX_REAL = 4
"""Real trainings that run or are queued: one more than the slots of the worker that takes them."""


def standin_experiment(name: str, seeds: list[int], steps: int, **changes: Any) -> dict[str, Any]:
    """Return an experiment for the stand-in training, without a teacher."""
    return {
        "name": name,
        "dataset": {"name": "synthetic", "params": _SMALL},
        "teacher": None,
        "student": {"model": "small_cnn"},
        "methods": ["ce"],
        "seeds": seeds,
        "training": {"epochs": steps, "batch_size": 32},
    } | changes


def standin_with_teacher(name: str, seeds: list[int], steps: int) -> dict[str, Any]:
    """Return a stand-in experiment with a teacher of its own and two students per seed."""
    teacher = {"model": "small_cnn", "seed": seeds[0], "training": {"epochs": steps, "batch_size": 32}}
    return standin_experiment(name, seeds, steps, teacher=teacher, methods=["kd", "dkd"])


def real_experiment(name: str, seed: int, epochs: int, *, distilled: bool) -> dict[str, Any]:
    """Return an experiment that core trains, long enough to be killed after a checkpoint.

    Args:
        distilled: Train a teacher and its student instead of one network.
    """
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
        "resources": {"labels": [REAL_TRAINING_LABEL]},
    }


def retry_until_answered(request: Callable[[], Answer], seconds: float = _RETRY_SECONDS) -> Answer:
    """Repeat a request until the backend answers it, and return the answer.

    Raises:
        BackendUnreachable, ApiError: The backend refuses the request, or does not answer within the time.
    """
    end = time.monotonic() + seconds
    while True:
        try:
            return request()
        except (BackendUnreachable, ApiError) as error:
            temporary = isinstance(error, BackendUnreachable) or error.status >= 500
            if not temporary or time.monotonic() > end:
                raise
            time.sleep(_PAUSE_SECONDS)


@dataclass
class SubmittedRun:
    """A run that the backend has accepted.

    Attributes:
        cancelled: whether the last request of a user was to cancel it.
    """

    run_id: str
    cancelled: bool = False


class Submitter:
    """Submits experiments during the faults, and remembers them.

    Attributes:
        runs: every run that the backend has accepted, by id.
        keys: the idempotency keys used; there must be one experiment for each.
        trains: whether real trainings are among the runs.
    """

    def __init__(self, stack: Stack, seed: int, real: int, epochs: int) -> None:
        self.runs: dict[str, SubmittedRun] = {}
        self.keys: set[str] = set()
        self._stack = stack
        self._random = random.Random(seed)
        self._seed = iter(range(1, 1_000_000))
        self.trains = real > 0
        self._real, self._epochs = real, epochs
        self._unfinished_real: set[str] = set()
        self._ended = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="submitter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the submissions. Raises the error of the thread, if any."""
        self._ended.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def submit(self, client: Client, spec: dict[str, Any]) -> Experiment:
        """Submit an experiment until it is accepted, always with one idempotency key, so that it is made only once."""
        key = str(spec["name"])
        self.keys.add(key)
        experiment = retry_until_answered(lambda: client.submit(spec, idempotency_key=key))
        for run in experiment.runs:
            self.runs.setdefault(run.id, SubmittedRun(run.id))
        return experiment

    def _run(self) -> None:
        try:
            with self._stack.client() as client:
                while not self._ended.wait(_PAUSE_SECONDS):
                    self._refill(client)
        except BaseException as error:  # noqa: BLE001 (raised again by stop)
            self._error = error

    def _refill(self, client: Client) -> None:
        """Keep some real trainings going, every third of them distilled, and always something in the queue."""
        slots = self._stack.timing.slots * len(self._stack.workers)
        unfinished = retry_until_answered(lambda: client.runs(state=["queued", "running"], limit=200)).items
        alive = {run.id for run in unfinished}
        self._unfinished_real &= alive
        while self._real and len(self._unfinished_real) < _MAX_REAL:
            self._real -= 1
            seed = next(self._seed)
            distilled = self._real % 3 == 0
            experiment = self.submit(client, real_experiment(f"real-{seed}", seed, self._epochs, distilled=distilled))
            self._unfinished_real |= {run.id for run in experiment.runs}
        if len(alive) < slots + 4:
            seeds = [next(self._seed) for _ in range(self._random.randint(1, 3))]
            steps = self._random.randint(20, 60)
            make = standin_with_teacher if self._random.random() < 0.25 else standin_experiment
            self.submit(client, make(f"played-{seeds[0]}", seeds, steps))


def wait_for_all(stack: Stack, seconds: float) -> None:
    """Wait until every run has ended, at most this long; a run that has not ended by then counts as lost."""
    end = time.monotonic() + seconds
    with stack.client() as client:
        while retry_until_answered(lambda: client.runs(state=UNFINISHED, limit=1)).items and time.monotonic() < end:
            time.sleep(0.5)
