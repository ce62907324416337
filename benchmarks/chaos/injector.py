"""Injects faults, drawn from a shuffled deck."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable

from benchmarks.chaos.faults import Fault, Faults
from benchmarks.chaos.stack import Worker

_ODDS = (4, 4, 4, 1)
"""Relative probabilities of the workers to be hit; the last one is the worker for real trainings."""


class Injector:
    """Draws faults at random intervals and injects each in a thread of its own.

    Attributes:
        injected: number of injected faults by kind.
        errors: errors of the injection itself.
    """

    def __init__(self, faults: Faults, every: float, seed: int) -> None:
        self.injected: Counter[str] = Counter()
        self.errors: list[BaseException] = []
        self._faults, self._every = faults, every
        self._random = random.Random(seed + 1)
        self._lock = threading.Lock()
        self._busy_targets: set[str] = set()
        self._threads: list[threading.Thread] = []
        self._decks = 0
        self._deck: list[Fault] = []

    def run(self, until: Callable[[], bool]) -> None:
        """Inject faults until ``until`` returns True; return once every fault has ended."""
        while not until():
            began = time.monotonic()
            self._draw()
            time.sleep(max(0.0, self._every * self._random.uniform(0.5, 1.5) - (time.monotonic() - began)))
        for thread in self._threads:
            thread.join()

    def _draw(self) -> None:
        if not self._deck:
            self._deck = [fault for fault in self._faults.kinds() for _ in range(fault.cards)]
            self._deck += self._faults.rare() if self._decks % 2 == 0 else []
            self._decks += 1
            self._random.shuffle(self._deck)
        for index, fault in enumerate(self._deck):
            with self._lock:
                target, worker = self._target(fault)
                if target in self._busy_targets:
                    continue
                self._busy_targets |= {target} - {""}
            del self._deck[index]
            thread = threading.Thread(target=self._inject, args=(fault, target, worker), name=fault.name, daemon=True)
            thread.start()
            self._threads.append(thread)
            return

    def _target(self, fault: Fault) -> tuple[str, Worker | None]:
        if fault.target != "worker":
            return fault.target, None
        # The first four workers always exist; a duplicate worker comes and goes by itself.
        [worker] = self._random.choices(self._faults.stack.workers[:4], _ODDS)
        return worker.process.name, worker

    def _inject(self, fault: Fault, target: str, worker: Worker | None) -> None:
        try:
            if fault.inject(worker):
                with self._lock:
                    self.injected[fault.name] += 1
        except BaseException as error:  # noqa: BLE001 (reported with the run; the other faults go on)
            self.errors.append(error)
        finally:
            with self._lock:
                self._busy_targets.discard(target)
