"""A reader that follows runs during the faults."""

from __future__ import annotations

import threading

from benchmarks.chaos.stack import Stack
from client import ApiError, BackendUnreachable, Client


class LiveReader:
    """Reads runs with cursors, as a live page does, and records points that are sent twice.

    Attributes:
        twice: points that were sent twice without a change.
        points: number of points received.
    """

    def __init__(self, stack: Stack) -> None:
        self.twice: list[str] = []
        self.points = 0
        self._stack = stack
        self._cursors: dict[str, int] = {}
        self._seen: dict[tuple[str, str, int], float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="live-reader", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        with self._stack.client() as client:
            while not self._ended.wait(1.0):
                try:
                    for run in client.runs(state="running", limit=10).items:
                        if (
                            run.dataset == "synthetic"
                        ):  # a repeated step of a real training has another time, so it is sent again
                            self._follow(client, run.id)
                except (BackendUnreachable, ApiError):
                    continue

    def _follow(self, client: Client, run_id: str) -> None:
        since = self._cursors.get(run_id, 0)
        reply = client.metrics(run_id, since=since)
        if since == 0:  # this reply contains everything
            self._seen = {key: value for key, value in self._seen.items() if key[0] != run_id}
        self._cursors[run_id] = reply.cursor
        for series in reply.series:
            for step, value in zip(series.step, series.value, strict=True):
                key = (run_id, series.name, step)
                self.points += 1
                if self._seen.get(key) == value:
                    self.twice.append(f"run {run_id}: {series.name} of step {step} was sent to a reader twice")
                self._seen[key] = value
