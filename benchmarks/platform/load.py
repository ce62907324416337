"""How long a report takes while many trainings report at a fixed rate."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.platform.servers import start_backend
from benchmarks.platform.workloads import FIVE_METRICS, BackendWorkload

TRAININGS = 64
REPORTS_PER_SECOND = 3
SECONDS = 10
CORES = 2
TARGET_MS = 20


def report_latencies() -> list[float]:
    """Return the milliseconds of every report of all trainings, on a new backend that shares two cores with them.

    A training sends a report of five metrics at fixed times, whether or not the backend is quick. Latency counts from
    the time at which the report was due, so that a report that had to wait for the one before it counts as late.

    Raises:
        TimeoutError: The backend was so slow that the reports took more than twice their time.
    """
    with (
        _limit_cores(CORES),
        tempfile.TemporaryDirectory(prefix="dkd-load-") as folder,
        start_backend(Path(folder)) as server,
    ):
        workload = BackendWorkload(server)
        runs = workload.make_runs(TRAININGS)
        start = time.perf_counter() + 1
        latencies: list[float] = []
        errors: list[Exception] = []

        def train(run: str, offset: float) -> None:
            try:
                latencies.extend(_send_reports(workload, run, start + offset, start + 2 * SECONDS))
            except Exception as error:  # noqa: BLE001 (raised below, in the calling thread)
                errors.append(error)

        interval = 1 / REPORTS_PER_SECOND
        threads = [
            threading.Thread(target=train, args=(run, interval * number / TRAININGS)) for number, run in enumerate(runs)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]
    return latencies


def percentile_95(latencies: list[float]) -> float:
    return statistics.quantiles(latencies, n=20, method="inclusive")[-1]


def _send_reports(workload: BackendWorkload, run: str, start: float, end: float) -> list[float]:
    calls = [workload.post(run, [step], FIVE_METRICS, step) for step in range(SECONDS * REPORTS_PER_SECOND)]
    latencies = []
    with closing(workload.connect_writer()) as connection:
        for number, call in enumerate(calls):
            due = start + number / REPORTS_PER_SECOND
            time.sleep(max(due - time.perf_counter(), 0))
            connection.send(call)
            now = time.perf_counter()
            if now > end:
                raise TimeoutError(f"{SECONDS} s of reports took more than {2 * SECONDS} s")
            latencies.append(1000 * (now - due))
    return latencies


@contextmanager
def _limit_cores(count: int) -> Iterator[None]:
    """Keep this thread, and the threads and processes that it starts, on the first cores; on Linux only."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
