"""Requests of users during the faults: cancel, retry, pause, resume, drain."""

from __future__ import annotations

import contextlib
import random
import time

from benchmarks.chaos.liveness import is_alive
from benchmarks.chaos.stack import Stack
from benchmarks.chaos.submissions import Submitter, retry_until_answered
from client import ApiError, Client
from core.protocol.public import TERMINAL, RunSummary


class Users:
    """Sends one request at a time.

    Attributes:
        alive_when_cancelled: runs in state cancelled with a process that was still alive.
    """

    def __init__(self, stack: Stack, submitter: Submitter, generator: random.Random) -> None:
        self.stack, self.submitter, self.random = stack, submitter, generator
        self.alive_when_cancelled: list[str] = []

    def cancel(self) -> bool:
        """Cancel a run in any state, or a teacher with all its students, and check that no process is left."""
        with self.stack.client() as client:
            run = self._pick(client)
            if run is None:
                return False
            if run.role == "teacher":
                cancelled = [
                    item.id for item in retry_until_answered(lambda: client.cancel_experiment(run.experiment)).runs
                ]
            else:
                cancelled = [run.id]
            ended = [run_id for run_id in cancelled if self._cancel_until_ended(client, run_id)]
            if self.random.random() < 0.5:
                for run_id in ended:
                    self._retry(client, run_id)
        return True

    def _cancel_until_ended(self, client: Client, run_id: str) -> bool:
        """Repeat the cancellation until the run has ended, and check that no process of it is alive."""
        self.submitter.runs[run_id].cancelled = True
        end = time.monotonic() + 4 * self.stack.timing.lease
        while (
            state := retry_until_answered(lambda: client.cancel(run_id)).state
        ) not in TERMINAL and time.monotonic() < end:
            time.sleep(0.05)
        if state == "cancelled" and is_alive(self.stack.records, run_id):
            self.alive_when_cancelled.append(run_id)
        return state == "cancelled"

    def _retry(self, client: Client, run_id: str) -> None:
        with contextlib.suppress(ApiError):  # meanwhile, a teacher was revived by its student or failed
            retry_until_answered(lambda: client.retry(run_id))
            self.submitter.runs[run_id].cancelled = False

    def pause(self) -> bool:
        """Pause an experiment for some seconds."""
        with self.stack.client() as client:
            run = self._pick(client)
            if run is None:
                return False
            retry_until_answered(lambda: client.pause_experiment(run.experiment))
            time.sleep(self.random.uniform(1, 5))
            retry_until_answered(lambda: client.resume_experiment(run.experiment))
        return True

    def drain(self) -> bool:
        """Drain a worker for some seconds."""
        with self.stack.client() as client:
            online = [worker for worker in retry_until_answered(client.workers).items if worker.state == "online"]
            if not online:
                return False
            worker = self.random.choice(online)
            retry_until_answered(lambda: client.drain_worker(worker.id))
            time.sleep(self.random.uniform(1, 5))
            retry_until_answered(lambda: client.drain_worker(worker.id, draining=False))
        return True

    def _pick(self, client: Client) -> RunSummary | None:
        """Return a stand-in run that has not ended."""
        states = ["waiting", "queued", "running"]
        usable = retry_until_answered(lambda: client.runs(state=states, limit=200)).items
        usable = [run for run in usable if run.id in self.submitter.runs and run.dataset == "synthetic"]
        return self.random.choice(usable) if usable else None
