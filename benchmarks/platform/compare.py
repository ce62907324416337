"""MLflow's server and the backend in turn on one machine: every measure of a round, and the table of the medians."""

from __future__ import annotations

import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path

from benchmarks.platform.servers import Started, mlflow, ours
from benchmarks.platform.sides import FIVE, SERIES, Mlflow, Ours, Side
from benchmarks.platform.wire import Call, Connection

BAR = 5.0
POSTS = 200
WRITERS, WRITES = 8, 60
RUNS, POINTS, BATCH = 50, 2_000, 1_000
LISTED = 200
REPEATS = 3

Round = dict[str, float]


@dataclass(frozen=True)
class Measure:
    """What a row of the table is.

    Attributes:
        more: more is better.
        against: the other server's figure that ours is held against, where it has none of this name.
    """

    key: str
    title: str
    unit: str
    more: bool = False
    against: str = ""

    def ratio(self, theirs: float, own: float) -> float:
        """How many times as good ours is."""
        return own / theirs if self.more else theirs / own


MEASURES = (
    Measure("post", "Post of five metrics, p50", "ms"),
    Measure("batch", "1,000-point batches", "points/s", more=True),
    Measure("writers", f"{WRITERS} writers at once, five metrics a post", "points/s", more=True),
    Measure("read", f"Read {RUNS} runs × {POINTS:,} points", "s"),
    Measure("list", f"List {LISTED} runs", "ms"),
    Measure("create", f"Create {LISTED} runs, one by one", "s"),
    Measure("bulk", f"Create {LISTED} runs in bulk", "s", against="create"),
    Measure("cold", "Cold start, on a new database", "s"),
)


def round_of(start: Callable[[Path], AbstractContextManager[Started]], side: Callable[[Started], Side]) -> Round:
    """All measures of one server on a new database."""
    with tempfile.TemporaryDirectory(prefix="dkd-platform-") as folder, start(Path(folder)) as started:
        return {"cold": started.seconds} | _measured(side(started))


def both(program: Path) -> tuple[Round, Round]:
    """A round of MLflow's, then one of ours."""
    theirs = round_of(lambda folder: mlflow(program, folder), Mlflow)
    return theirs, round_of(ours, Ours)


def medians(rounds: Sequence[Round]) -> Round:
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def _measured(side: Side) -> Round:
    found: Round = {}
    runs = side.ready_runs(RUNS + WRITERS + 1)
    found["batch"] = RUNS * POINTS / sum(_times(side.writer(), _batches(side, runs[:RUNS])))
    found["read"] = statistics.median(_read(side, runs[:RUNS]) for _ in range(REPEATS))
    posts = [side.post(runs[RUNS], [step], FIVE, step) for step in range(POSTS)]
    found["post"] = 1000 * statistics.median(_times(side.writer(), posts))
    found["writers"] = WRITERS * WRITES * len(FIVE) / _at_once(side, runs[RUNS + 1 :])
    found["create"] = sum(_times(side.started.connect(), [side.create(number) for number in range(LISTED)]))
    bulk = side.create_in_bulk(LISTED)
    if bulk is not None:
        found["bulk"] = sum(_times(side.started.connect(), [bulk]))
    found["list"] = 1000 * statistics.median(_times(side.started.connect(), [side.listing(LISTED)] * (3 * REPEATS)))
    return found


def _times(connection: Connection, calls: Sequence[Call]) -> list[float]:
    """Seconds of each, from the sending to the last byte of the answer. Closes the connection."""
    found = []
    with closing(connection):
        for call in calls:
            began = time.perf_counter()
            connection.send(call)
            found.append(time.perf_counter() - began)
    return found


def _batches(side: Side, runs: Sequence[str]) -> list[Call]:
    """Every run's series."""
    numbers = range(POINTS // BATCH)
    return [
        side.post(run, range(number * BATCH, (number + 1) * BATCH), [SERIES], number)
        for number in numbers
        for run in runs
    ]


def _read(side: Side, runs: Sequence[str]) -> float:
    """Seconds to have every run's series whole, a request each; what came is counted once the clock has stopped."""
    with closing(side.started.connect()) as connection:
        began = time.perf_counter()
        answers = [connection.send(side.read(run, SERIES)) for run in runs]
        seconds = time.perf_counter() - began
    assert all(side.count(json.loads(answer)) == POINTS for answer in answers), "not every point came back"
    return seconds


def _at_once(side: Side, runs: Sequence[str]) -> float:
    """Seconds until as many writers as there are runs have sent all they have. Raises what any of them met."""
    gate = threading.Barrier(len(runs) + 1)
    failed: list[Exception] = []

    def write(run: str) -> None:
        calls = [side.post(run, [step], FIVE, step) for step in range(WRITES)]
        connection = side.writer()
        gate.wait()
        try:
            _times(connection, calls)
        except Exception as error:  # noqa: BLE001 (raised below, in the thread that asked)
            failed.append(error)

    threads = [threading.Thread(target=write, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if failed:
        raise failed[0]
    return seconds
