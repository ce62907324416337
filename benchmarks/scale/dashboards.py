"""Simulated open pages of the dashboard: the requests that each sends while somebody looks at it."""

from __future__ import annotations

import random
import threading
import time

from benchmarks.platform.raw_http import Call, Connection
from benchmarks.platform.servers import RunningServer
from benchmarks.scale.load import Load, Measurements

PAGES = ("overview", "overview", "overview", "run", "runs")
"""What each of five open pages shows."""


class OpenPage:
    """One open page, in one thread.

    Args:
        number: Its number, from which its page and its random numbers follow.
        server: The backend that it talks to.
        load: Size and times.
        measured: Receives the times of its requests.
    """

    def __init__(self, number: int, server: RunningServer, load: Load, measured: Measurements) -> None:
        self._page = PAGES[number % len(PAGES)]
        self._refresh_seconds = load.refresh_seconds
        self._measured = measured
        self._connection: Connection = server.connect()
        self._random = random.Random(number)
        self._run = self._cursor = ""

    def show(self, stop: threading.Event) -> None:
        """Refresh the page until ``stop`` is set."""
        stop.wait(self._random.uniform(0, self._refresh_seconds))
        while not stop.is_set():
            began = time.monotonic()
            if self._page == "overview":
                self._send("overview", Call.get("/api/v1/activity", hours=24))
            elif self._page == "runs":
                self._send("list of runs", Call.get("/api/v1/runs", limit=50))
            else:
                self._refresh_run()
            stop.wait(max(self._refresh_seconds - (time.monotonic() - began), 0.0))
        self._connection.close()

    def _refresh_run(self) -> None:
        if not self._run:
            page = self._measured.timed(
                "running runs",
                lambda: self._connection.send_json(Call.get("/api/v1/runs", limit=50, state="running")),
            )
            if not page or not page["items"]:
                return
            self._run, self._cursor = self._random.choice(page["items"])["id"], ""
            self._send("run page", Call.get(f"/api/v1/runs/{self._run}"))
        call = Call.get(f"/api/v1/runs/{self._run}/news", cursor=self._cursor, wait=0, tail=200)
        news = self._measured.timed("curves of a run", lambda: self._connection.send_json(call))
        if news:
            self._cursor = news["cursor"]
            if news["ended"]:
                self._run = ""

    def _send(self, kind: str, call: Call) -> None:
        self._measured.timed(kind, lambda: self._connection.send(call))
