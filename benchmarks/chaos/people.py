"""What people ask for while everything breaks: cancel, retry, pause, resume, drain."""

from __future__ import annotations

import contextlib
import random
import time

from benchmarks.chaos.load import Load, insist
from benchmarks.chaos.records import held
from benchmarks.chaos.stack import Stack
from client import ApiError, Client
from core.protocol.public import TERMINAL, RunSummary


class People:
    """Asks one thing at a time.

    Attributes:
        alive_when_cancelled: runs that said cancelled while a process of theirs lived.
    """

    def __init__(self, stack: Stack, load: Load, dice: random.Random) -> None:
        self.stack, self.load, self.random = stack, load, dice
        self.alive_when_cancelled: list[str] = []

    def cancel(self) -> bool:
        """Cancel a run in whatever state it is, or a teacher with all its students; their locks are looked at."""
        with self.stack.client() as client:
            run = self._pick(client)
            if run is None:
                return False
            if run.role == "teacher":
                cancelled = [each.id for each in insist(lambda: client.cancel_experiment(run.experiment)).runs]
            else:
                cancelled = [run.id]
            ended = [run_id for run_id in cancelled if self._ends_cancelled(client, run_id)]
            if self.random.random() < 0.5:
                for run_id in ended:
                    self._retry(client, run_id)
        return True

    def _ends_cancelled(self, client: Client, run_id: str) -> bool:
        """Cancel it again and again until it has ended, and look that nothing of it lives then."""
        self.load.runs[run_id].cancelled = True
        end = time.monotonic() + 4 * self.stack.terms.lease
        while (state := insist(lambda: client.cancel(run_id)).state) not in TERMINAL and time.monotonic() < end:
            time.sleep(0.05)
        if state == "cancelled" and held(self.stack.records, run_id):
            self.alive_when_cancelled.append(run_id)
        return state == "cancelled"

    def _retry(self, client: Client, run_id: str) -> None:
        with contextlib.suppress(ApiError):  # a teacher that came back with its student, or failed with it, meanwhile
            insist(lambda: client.retry(run_id))
            self.load.runs[run_id].cancelled = False

    def pause(self) -> bool:
        """Pause an experiment for some seconds."""
        with self.stack.client() as client:
            run = self._pick(client)
            if run is None:
                return False
            insist(lambda: client.pause_experiment(run.experiment))
            time.sleep(self.random.uniform(1, 5))
            insist(lambda: client.resume_experiment(run.experiment))
        return True

    def drain(self) -> bool:
        """Have a worker take no new runs for some seconds."""
        with self.stack.client() as client:
            online = [worker for worker in insist(client.workers).items if worker.state == "online"]
            if not online:
                return False
            worker = self.random.choice(online)
            insist(lambda: client.drain_worker(worker.id))
            time.sleep(self.random.uniform(1, 5))
            insist(lambda: client.drain_worker(worker.id, draining=False))
        return True

    def _pick(self, client: Client) -> RunSummary | None:
        """A played run that has not ended."""
        states = ["waiting", "queued", "running"]
        usable = insist(lambda: client.runs(state=states, limit=200)).items
        usable = [run for run in usable if run.id in self.load.runs and run.dataset == "synthetic"]
        return self.random.choice(usable) if usable else None
