"""Latency of lists, pages and charts with few runs and with many, on both databases."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from backend.db import Database, migrate
from benchmarks.platform.fill import POINTS_PER_RUN, fill
from benchmarks.platform.raw_http import Call, Connection
from benchmarks.platform.servers import RunningServer, start_backend
from tests.services import postgres_database, postgres_server

TARGET_MS = 200
SIZES = (100, 10_000)
DATABASES = ("sqlite", "postgresql")
REQUESTS = 100
_SEED = 20_220_316


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one kind of request."""

    p50: float
    p95: float


def measure(kind: str, runs: int, report: Callable[[str], None]) -> dict[str, Latency]:
    """Measure every kind of request on a new database.

    Args:
        kind: ``sqlite`` or ``postgresql``.
        runs: How many runs the database is filled with.
        report: Called with a sentence once the database has been filled.

    Raises:
        tests.services.ServiceMissing: There is no PostgreSQL on this machine.
    """
    with tempfile.TemporaryDirectory(prefix="dkd-growth-") as folder, _database(kind, Path(folder)) as url:
        began = time.perf_counter()
        database = Database(url)
        migrate.upgrade(database)
        fill(database, runs)
        database.dispose()
        report(
            f"{kind}: {runs:,} runs and {runs * POINTS_PER_RUN:,} points filled in {time.perf_counter() - began:.0f} s"
        )
        with start_backend(Path(folder), url) as server:
            return measure_requests(server)


@contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'filled.sqlite3'}"
        return
    with postgres_server() as server, postgres_database(server.url) as url:
        yield url


def measure_requests(server: RunningServer) -> dict[str, Latency]:
    """Measure every kind of request in turn on a backend whose database has been filled."""
    random_choice = random.Random(_SEED).choice
    connection = server.connect()
    run_ids = _started_runs(connection)
    some = [random_choice(run_ids) for _ in range(REQUESTS)]
    middle = _middle_cursor(connection)
    api = "/api/v1"
    long = connection.send_json(Call.get(f"{api}/runs", sort="created", limit=1))["items"][0]["id"]
    experiments = connection.send_json(Call.get(f"{api}/experiments", limit=500))["items"]
    keys = [random_choice(experiments)["id"] for _ in range(REQUESTS)]
    calls: dict[str, list[Call]] = {
        "List of runs, newest 50": [Call.get(f"{api}/runs", limit=50)] * REQUESTS,
        "List of runs, a page from the middle": [Call.get(f"{api}/runs", limit=50, cursor=middle)] * REQUESTS,
        "List of runs, by state and method": [Call.get(f"{api}/runs", limit=50, state="failed", method="dkd")]
        * REQUESTS,
        "List of runs, search in names": [Call.get(f"{api}/runs", limit=50, text="experiment 00001")] * REQUESTS,
        "List of runs, by accuracy": [Call.get(f"{api}/runs", limit=50, sort="-top1")] * REQUESTS,
        "List of experiments, newest 50": [Call.get(f"{api}/experiments", limit=50)] * REQUESTS,
        "List of experiments, finished and tagged": [
            Call.get(f"{api}/experiments", limit=50, state=["finished", "failed"], tag="batch-1")
        ]
        * REQUESTS,
        "Experiment page, 50 runs": [Call.get(f"{api}/experiments/{key}") for key in keys],
        "Run page": [Call.get(f"{api}/runs/{run}") for run in some],
        "Run page, its last 200 log lines": [Call.get(f"{api}/runs/{run}/logs", tail=200) for run in some],
        "Chart of a run, five series whole": [Call.get(f"{api}/runs/{run}/metrics") for run in some],
        "Chart, new points since a cursor": [Call.get(f"{api}/runs/{run}/metrics", since=195) for run in some],
        "Chart of a series of 100,000 points": [
            Call.get(f"{api}/runs/{long}/metrics", names="train/step_loss", max_points=2000)
        ]
        * (REQUESTS // 4),
        "Comparison of 49 runs": [Call.get(f"{api}/comparisons", experiment=key) for key in keys[: REQUESTS // 4]],
    }
    connection.close()
    return {title: _latency(server.connect(), same_kind) for title, same_kind in calls.items()}


def _latency(connection: Connection, calls: list[Call]) -> Latency:
    """Send the requests and close the connection. The first one, which may fill a cache, counts like the others."""
    times = []
    with closing(connection):
        for call in calls:
            began = time.perf_counter()
            connection.send(call)
            times.append(1000 * (time.perf_counter() - began))
    return Latency(statistics.median(times), statistics.quantiles(times, n=20, method="inclusive")[-1])


def _pages(connection: Connection) -> Iterator[tuple[list[dict[str, str]], str | None]]:
    cursor: str | None = None
    while True:
        query = {"cursor": cursor} if cursor else {}
        page = connection.send_json(Call.get("/api/v1/runs", limit=500, **query))
        cursor = page["next_cursor"]
        yield page["items"], cursor
        if cursor is None:
            return


def _started_runs(connection: Connection) -> list[str]:
    return [run["id"] for items, _ in _pages(connection) for run in items if run["state"] != "queued"]


def _middle_cursor(connection: Connection) -> str:
    """Return the cursor of the page of 50 in the middle of the list."""
    total = sum(len(items) for items, _ in _pages(connection))
    cursor, seen = "", 0
    while seen < total // 2 - 50 or not cursor:
        query = {"cursor": cursor} if cursor else {}
        page = connection.send_json(Call.get("/api/v1/runs", limit=50, **query))
        cursor, seen = page["next_cursor"], seen + 50
    return cursor
