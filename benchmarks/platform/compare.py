"""MLflow's server and the backend in turn on one machine: the measures of a round, and their medians."""

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

from benchmarks.platform import load
from benchmarks.platform.raw_http import Call, Connection
from benchmarks.platform.servers import RunningServer, start_backend, start_mlflow
from benchmarks.platform.workloads import FIVE_METRICS, SERIES, BackendWorkload, MlflowWorkload, Workload

POSTS = 200
WRITERS, WRITES = 8, 60
RUNS, POINTS, BATCH = 50, 2_000, 1_000
LISTED = 200
REPEATS = 3
LOAD = "load"
"""Key of the p95 of a report under load, which is measured on the backend alone."""

Round = dict[str, float]


@dataclass(frozen=True)
class Measure:
    """A row of the table.

    Attributes:
        target: how many times as good as MLflow's server the backend is to be.
        more_is_better: as for points per second.
        mlflow_key: MLflow's measure that the backend's is compared with, if it has another key.
    """

    key: str
    title: str
    unit: str
    target: float
    more_is_better: bool = False
    mlflow_key: str = ""

    def ratio(self, mlflow: Round, backend: Round) -> float:
        """Return how many times as good the backend is."""
        other, own = mlflow[self.mlflow_key or self.key], backend[self.key]
        return own / other if self.more_is_better else other / own


MEASURES = (
    Measure("post", "Post of five metrics, p50", "ms", 4),
    Measure("batch", "1,000-point batches", "points/s", 12, more_is_better=True),
    Measure("writers", f"{WRITERS} writers at once, five metrics a post", "points/s", 4, more_is_better=True),
    Measure("read", f"Read {RUNS} runs × {POINTS:,} points", "s", 12),
    Measure("list", f"List {LISTED} runs", "ms", 12),
    Measure("create", f"Create {LISTED} runs, one by one", "s", 3),
    Measure("bulk", f"Create {LISTED} runs in bulk", "s", 12, mlflow_key="create"),
    Measure("cold", "Cold start, on a new database", "s", 4),
)


def measure_server(
    start: Callable[[Path], AbstractContextManager[RunningServer]], workload: Callable[[RunningServer], Workload]
) -> Round:
    """Return all measures of one server on a new database."""
    with tempfile.TemporaryDirectory(prefix="dkd-platform-") as folder, start(Path(folder)) as server:
        return {"cold": server.start_seconds} | _measure(workload(server))


def measure_both(mlflow_program: Path) -> tuple[Round, Round]:
    """Return the measures of a round: MLflow's server, then the backend, also under load."""
    mlflow = measure_server(lambda folder: start_mlflow(mlflow_program, folder), MlflowWorkload)
    backend = measure_server(start_backend, BackendWorkload)
    return mlflow, backend | {LOAD: load.percentile_95(load.report_latencies())}


def medians(rounds: Sequence[Round]) -> Round:
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def _measure(workload: Workload) -> Round:
    measures: Round = {}
    runs = workload.make_runs(RUNS + WRITERS + 1)
    measures["batch"] = RUNS * POINTS / sum(_seconds(workload.connect_writer(), _batches(workload, runs[:RUNS])))
    measures["read"] = statistics.median(_read_seconds(workload, runs[:RUNS]) for _ in range(REPEATS))
    posts = [workload.post(runs[RUNS], [step], FIVE_METRICS, step) for step in range(POSTS)]
    measures["post"] = 1000 * statistics.median(_seconds(workload.connect_writer(), posts))
    measures["writers"] = WRITERS * WRITES * len(FIVE_METRICS) / _concurrent_seconds(workload, runs[RUNS + 1 :])
    creations = [workload.create_run(number) for number in range(LISTED)]
    measures["create"] = sum(_seconds(workload.server.connect(), creations))
    bulk = workload.create_in_bulk(LISTED)
    if bulk is not None:
        measures["bulk"] = sum(_seconds(workload.server.connect(), [bulk]))
    lists = [workload.list_runs(LISTED)] * (3 * REPEATS)
    measures["list"] = 1000 * statistics.median(_seconds(workload.server.connect(), lists))
    return measures


def _seconds(connection: Connection, calls: Sequence[Call]) -> list[float]:
    """Return the time of each request, up to the last byte of its answer, and close the connection."""
    seconds = []
    with closing(connection):
        for call in calls:
            began = time.perf_counter()
            connection.send(call)
            seconds.append(time.perf_counter() - began)
    return seconds


def _batches(workload: Workload, runs: Sequence[str]) -> list[Call]:
    """Return the requests that store the full series of every run."""
    return [
        workload.post(run, range(number * BATCH, (number + 1) * BATCH), [SERIES], number)
        for number in range(POINTS // BATCH)
        for run in runs
    ]


def _read_seconds(workload: Workload, runs: Sequence[str]) -> float:
    """Return the time to read the full series of every run, one request per run. Points are counted afterwards."""
    with closing(workload.server.connect()) as connection:
        began = time.perf_counter()
        answers = [connection.send(workload.read(run, SERIES)) for run in runs]
        seconds = time.perf_counter() - began
    assert all(workload.count_points(json.loads(answer)) == POINTS for answer in answers), "points are missing"
    return seconds


def _concurrent_seconds(workload: Workload, runs: Sequence[str]) -> float:
    """Return the time until one writer per run has sent all its posts. Raises the first error of any writer."""
    gate = threading.Barrier(len(runs) + 1)
    errors: list[Exception] = []

    def write(run: str) -> None:
        calls = [workload.post(run, [step], FIVE_METRICS, step) for step in range(WRITES)]
        connection = workload.connect_writer()
        gate.wait()
        try:
            _seconds(connection, calls)
        except Exception as error:  # noqa: BLE001 (raised below, in the calling thread)
            errors.append(error)

    threads = [threading.Thread(target=write, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    gate.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if errors:
        raise errors[0]
    return seconds
