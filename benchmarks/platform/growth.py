"""How long the backend takes to show a list, a run and a chart, with few runs and with many, on both databases."""

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
from benchmarks.platform.fill import POINTS_EACH, fill
from benchmarks.platform.servers import Started, ours
from benchmarks.platform.wire import Call, Connection
from tests.services import postgres_database, postgres_server

BAR_MS = 200
SIZES = (100, 10_000)
DATABASES = ("sqlite", "postgresql")
REQUESTS = 100
_SEED = 20_220_316


@dataclass(frozen=True)
class Shown:
    """Milliseconds of one kind of request."""

    p50: float
    p95: float


def measure(kind: str, runs: int, say: Callable[[str], None]) -> dict[str, Shown]:
    """Every request on a new database of that many runs, filled for it. Raises tests.services.ServiceMissing."""
    with tempfile.TemporaryDirectory(prefix="dkd-growth-") as folder, _database(kind, Path(folder)) as url:
        began = time.perf_counter()
        database = Database(url)
        migrate.upgrade(database)
        fill(database, runs)
        database.dispose()
        say(f"{kind}: {runs:,} runs and {runs * POINTS_EACH:,} points filled in {time.perf_counter() - began:.0f} s")
        with ours(Path(folder), url) as started:
            return requests(started)


@contextmanager
def _database(kind: str, folder: Path) -> Iterator[str]:
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'filled.sqlite3'}"
        return
    with postgres_server() as server, postgres_database(server.url) as url:
        yield url


def requests(started: Started) -> dict[str, Shown]:
    """Every kind of request, in turn, on a backend whose database was filled."""
    chosen = random.Random(_SEED)
    connection = started.connect()
    ended = _every_run(connection)
    some = [chosen.choice(ended) for _ in range(REQUESTS)]
    deep = _deep_cursor(connection)
    api = "/api/v1"
    long = connection.ask(Call.get(f"{api}/runs", sort="created", limit=1))["items"][0]["id"]
    experiments = connection.ask(Call.get(f"{api}/experiments", limit=500))["items"]
    picked = [chosen.choice(experiments)["id"] for _ in range(REQUESTS)]
    asked: dict[str, list[Call]] = {
        "List of runs, newest 50": [Call.get(f"{api}/runs", limit=50)] * REQUESTS,
        "List of runs, a page from the middle": [Call.get(f"{api}/runs", limit=50, cursor=deep)] * REQUESTS,
        "List of runs, by state and method": [Call.get(f"{api}/runs", limit=50, state="failed", method="dkd")]
        * REQUESTS,
        "List of runs, text in a name": [Call.get(f"{api}/runs", limit=50, text="experiment 00001")] * REQUESTS,
        "List of runs, by accuracy": [Call.get(f"{api}/runs", limit=50, sort="-top1")] * REQUESTS,
        "List of experiments, newest 50": [Call.get(f"{api}/experiments", limit=50)] * REQUESTS,
        "List of experiments, finished and tagged": [
            Call.get(f"{api}/experiments", limit=50, state=["finished", "failed"], tag="batch-1")
        ]
        * REQUESTS,
        "Experiment page, 50 runs": [Call.get(f"{api}/experiments/{key}") for key in picked],
        "Run page": [Call.get(f"{api}/runs/{run}") for run in some],
        "Run page, its last 200 log lines": [Call.get(f"{api}/runs/{run}/logs", tail=200) for run in some],
        "Chart of a run, five series whole": [Call.get(f"{api}/runs/{run}/metrics") for run in some],
        "Chart, what is new since a cursor": [Call.get(f"{api}/runs/{run}/metrics", since=195) for run in some],
        "Chart of a series of 100,000 points": [
            Call.get(f"{api}/runs/{long}/metrics", names="train/step_loss", max_points=2000)
        ]
        * (REQUESTS // 4),
        "Comparison of 49 runs": [Call.get(f"{api}/comparisons", experiment=key) for key in picked[: REQUESTS // 4]],
    }
    connection.close()
    return {title: _timed(started.connect(), calls) for title, calls in asked.items()}


def _timed(connection: Connection, calls: list[Call]) -> Shown:
    """The first one, which may fill a cache, counts like any other."""
    times = []
    with closing(connection):
        for call in calls:
            began = time.perf_counter()
            connection.send(call)
            times.append(1000 * (time.perf_counter() - began))
    return Shown(statistics.median(times), statistics.quantiles(times, n=20, method="inclusive")[-1])


def _pages(connection: Connection) -> Iterator[tuple[list[dict[str, str]], str | None]]:
    cursor: str | None = None
    while True:
        query = {"cursor": cursor} if cursor else {}
        page = connection.ask(Call.get("/api/v1/runs", limit=500, **query))
        cursor = page["next_cursor"]
        yield page["items"], cursor
        if cursor is None:
            return


def _every_run(connection: Connection) -> list[str]:
    return [run["id"] for items, _ in _pages(connection) for run in items if run["state"] != "queued"]


def _deep_cursor(connection: Connection) -> str:
    """Of a page of 50 half-way down."""
    total = sum(len(items) for items, _ in _pages(connection))
    cursor, seen = "", 0
    while seen < total // 2 - 50 or not cursor:
        query = {"cursor": cursor} if cursor else {}
        page = connection.ask(Call.get("/api/v1/runs", limit=50, **query))
        cursor, seen = page["next_cursor"], seen + 50
    return cursor
