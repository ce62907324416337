"""A reader that follows runs while everything breaks."""

from __future__ import annotations

import threading

from benchmarks.chaos.stack import Stack
from client import ApiError, BackendUnreachable, Client


class Follower:
    """Reads some runs as a live page does, by cursors, and notices what it is sent twice.

    Attributes:
        twice: points that came twice although they had not changed.
        points: that came.
    """

    def __init__(self, stack: Stack) -> None:
        self.twice: list[str] = []
        self.points = 0
        self._stack = stack
        self._cursors: dict[str, int] = {}
        self._seen: dict[tuple[str, str, int], float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)

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
                        ):  # a step that is trained again takes another time, so comes again
                            self._follow(client, run.id)
                except (BackendUnreachable, ApiError):
                    continue

    def _follow(self, client: Client, run_id: str) -> None:
        since = self._cursors.get(run_id, 0)
        reply = client.metrics(run_id, since=since)
        if since == 0:  # everything there is, and asked for as such
            self._seen = {key: value for key, value in self._seen.items() if key[0] != run_id}
        self._cursors[run_id] = reply.cursor
        for each in reply.series:
            for step, value in zip(each.step, each.value, strict=True):
                key = (run_id, each.name, step)
                self.points += 1
                if self._seen.get(key) == value:
                    self.twice.append(f"run {run_id}: {each.name} of step {step} came twice to a reader")
                self._seen[key] = value
