"""Waiting times of a visitor of the dashboard, end to end: a real backend, Streamlit and Chromium.

``python -m benchmarks.dashboard`` measures, on a database with 1,000 finished runs and one that trains:

- the first curves: from the start of a visit to the first drawn trace, in a browser with an empty cache, and in one
  that has visited before;
- a metric: from the time at which a worker begins to send it until the chart of the page shows it;
- Streamlit alone on the same machine: a script that shows a title, and one with Streamlit's line chart.

Results go to ``benchmarks/results/dashboard.{md,json}``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import urlopen

from benchmarks import machine
from client import Client, WorkerClient
from core.events import Log, Metrics, Record, Started
from core.protocol.worker import ArtifactRef, Claim, EventBatch, Outcome, Registration
from tests import browser, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RUNS = 1000
EPOCHS = 100
STEPS = 50  # per epoch
_TARGETS = {"First curves": 1.5, "A metric": 2.0}  # seconds
_WORKER = "bench-worker"
_DRAWN = "() => document.querySelectorAll('.js-plotly-plot .main-svg .trace').length > 0"
_STREAMLIT = {  # a script of one line, and the condition for its content to be visible
    "a title alone": ("st.title('x')", "() => !!document.querySelector('h1')"),
    "st.line_chart alone": (
        f"st.line_chart([number % 7 for number in range({EPOCHS})])",
        "() => !!document.querySelector('[data-testid=stVegaLiteChart] .marks')",
    ),
}
_SHOWN = "epoch => document.querySelector('.js-plotly-plot')?.data?.[0]?.x?.at(-1) === epoch"


def metric_values(epoch: int) -> dict[str, float]:
    """Return plausible metrics of an epoch."""
    share = epoch / EPOCHS
    names = ("train/ce", "train/tckd", "train/nckd", "train/align", "grad/similarity", "grad/align_share", "lr")
    metrics = {name: 1 - share * random.Random(f"{name} {epoch}").random() for name in names}
    return metrics | {"test/top1": 50 + 40 * share, "train/top1": 55 + 40 * share, "train/loss": 2 - share}


class FakeWorker:
    """A worker that sends events without training."""

    def __init__(self, client: WorkerClient) -> None:
        self.client = client
        self.sent: dict[str, int] = {}
        client.register(Registration(worker_id=_WORKER, name=_WORKER, host="bench", slots=64, device="cpu"))

    def claim(self) -> Claim:
        claim = self.client.claim(_WORKER)
        assert claim is not None
        return claim

    def send(self, claim: Claim, *events: Any) -> None:
        start = self.sent.get(claim.run_id, 0)
        self.sent[claim.run_id] = start + len(events)
        records = [Record(seq=start + number, time=time.time(), event=event) for number, event in enumerate(events, 1)]
        self.client.send_events(_WORKER, claim.run_id, EventBatch(attempt=claim.attempt, records=records))

    def begin(self, claim: Claim) -> None:
        started = Started(
            total_steps=STEPS * EPOCHS,
            total_epochs=EPOCHS,
            train_size=898,
            test_size=899,
            parameters=1234,
            device="cpu",
            environment={"torch": "none"},
        )
        self.send(claim, started)

    def epochs(self, claim: Claim, first: int, last: int) -> None:
        events: list[Any] = []
        for epoch in range(first, last + 1):
            metrics = Metrics(step=STEPS * epoch, epoch=float(epoch), elapsed=float(epoch), values=metric_values(epoch))
            events += [metrics, Log(message=f"epoch {epoch}/{EPOCHS}")]
        self.send(claim, *events)

    def finish(self, claim: Claim) -> None:
        weights = ArtifactRef(path=f"{claim.folder}/weights.safetensors", sha256="a" * 64)
        self.client.finish(_WORKER, claim.run_id, Outcome(attempt=claim.attempt, outcome="succeeded", weights=weights))


def spec(name: str, seeds: int) -> dict[str, Any]:
    return {
        "name": name,
        "dataset": "digits",
        "student": {"model": "small_cnn"},
        "methods": ["ce", {"name": "ce", "label": "again"}],
        "seeds": list(range(seeds)),
        "training": {"epochs": EPOCHS},
    }


def fill(client: Client, worker: FakeWorker) -> tuple[str, str, Claim]:
    """Make 1,000 finished runs in 100 experiments, and one that trains.

    Returns:
        The ids of a finished run and of its experiment, and the claim of the run that trains.
    """
    submitted = client.submit_many([spec(f"past {number}", 5) for number in range(RUNS // 10)])
    last = ""
    for _ in range(RUNS):
        claim = worker.claim()
        worker.begin(claim)
        worker.epochs(claim, 1, EPOCHS)
        worker.finish(claim)
        last = claim.run_id
    client.submit(spec("now", 1))
    running = worker.claim()
    worker.begin(running)
    worker.epochs(running, 1, 5)
    return last, submitted.items[-1].id, running


@contextmanager
def dashboard(url: str, folder: Path, script: Path = ROOT / "dashboard" / "app.py") -> Iterator[str]:
    """Start Streamlit with the dashboard or another script, and yield its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    command += ["--server.port", str(port), "--server.address", "127.0.0.1", "--server.headless", "true"]
    command += ["--server.fileWatcherType", "none", "--browser.gatherUsageStats", "false"]  # like the dashboard
    changes = {"DKD_API_URL": url, "DKD_API_TOKEN": served.ADMIN_TOKEN, "DKD_HOME": str(folder)}
    process = subprocess.Popen(
        command, env=os.environ | changes, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                with urlopen(f"{address}/_stcore/health", timeout=2):
                    break
            except OSError:
                time.sleep(0.1)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


def visit(chromium: Browser, address: str, until: str = _DRAWN, *, times: int = 1) -> list[float]:
    """Visit a page in a new window, and return the seconds until a condition holds.

    Args:
        until: The condition in JavaScript; default: the first trace is drawn.
        times: The number of visits; only the first has an empty cache.
    """
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    seconds: list[float] = []
    try:
        page = context.new_page()
        for _ in range(times):
            page.goto("about:blank")
            began = time.perf_counter()
            page.goto(address, wait_until="commit")
            page.wait_for_function(until, timeout=60_000)
            seconds.append(time.perf_counter() - began)
    finally:
        context.close()
    return seconds


def arrivals(chromium: Browser, address: str, worker: FakeWorker, claim: Claim, rounds: int) -> list[float]:
    """Return the seconds from sending the metrics of an epoch to seeing them, at random times between page ticks."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    seconds: list[float] = []
    try:
        page = context.new_page()
        page.goto(f"{address}/run?id={claim.run_id}")
        page.wait_for_function(_SHOWN, arg=5, timeout=60_000)
        pause = random.Random(7)
        for epoch in range(6, 6 + rounds):
            time.sleep(0.5 + pause.random() * 1.5)
            began = time.perf_counter()
            worker.epochs(claim, epoch, epoch)
            page.wait_for_function(_SHOWN, arg=epoch, timeout=60_000)
            seconds.append(time.perf_counter() - began)
    finally:
        context.close()
    return seconds


def summary(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "n": len(ordered),
        "p50": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))],
        "max": ordered[-1],
    }


def streamlit_alone(chromium: Browser, url: str, folder: Path, visits: int) -> dict[str, dict[str, float]]:
    """Measure the same visits to scripts that use no backend."""
    results: dict[str, dict[str, float]] = {}
    for name, (line, condition) in _STREAMLIT.items():
        script = folder / f"{len(results)}.py"
        script.write_text(f"import streamlit as st\n{line}\n", encoding="utf-8")
        with dashboard(url, folder, script) as address:
            visit(chromium, address, condition)
            results[f"Streamlit, {name}"] = summary([visit(chromium, address, condition)[0] for _ in range(visits)])
    return results


def measure(visits: int, rounds: int) -> dict[str, dict[str, float]]:
    """Return the summary of every measurement by its title."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            served.backend(folder) as url,
            Client(url, served.ADMIN_TOKEN) as client,
            WorkerClient(url, served.WORKER_TOKEN) as worker_client,
            dashboard(url, folder) as address,
            browser.browser() as chromium,
        ):
            worker = FakeWorker(worker_client)
            ended, experiment, running = fill(client, worker)
            pages = {
                "Run, ended": f"run?id={ended}",
                "Run, training": f"run?id={running.run_id}",
                "Compare": f"compare?experiment={experiment}",
            }
            for path in pages.values():  # the very first visit imports the modules
                visit(chromium, f"{address}/{path}")
            results: dict[str, dict[str, float]] = {}
            for page, path in pages.items():
                pairs = [visit(chromium, f"{address}/{path}", times=2) for _ in range(visits)]
                results[f"First curves: {page}"] = summary([first for first, _ in pairs])
                results[f"First curves, been here before: {page}"] = summary([again for _, again in pairs])
            results["A metric on the screen"] = summary(arrivals(chromium, address, worker, running, rounds))
            return results | streamlit_alone(chromium, url, folder, visits)


def report(results: dict[str, dict[str, float]]) -> str:
    lines = [
        "# The dashboard, end to end",
        "",
        f"`python -m benchmarks.dashboard --write` writes this file. Machine: {machine.describe()}. The backend on "
        f"SQLite contains {RUNS:,} runs of {EPOCHS} epochs. The backend, Streamlit and headless Chromium run on this "
        "machine.",
        "",
        "- First curves: the time from the start of a visit to the first drawn trace, in a new window with an empty "
        "cache. The server has been visited before.",
        "- Been here before: the same time at a second visit, with the cache of the browser.",
        "- A metric on the screen: the time from when a worker begins to send a metric until the chart shows it, at "
        "random times between the ticks of the page.",
        "- Streamlit: the time until the content is visible, for a script of one line that uses no backend.",
        "",
        "| | n | p50 (s) | p95 (s) | max (s) | target (s) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for title, item in results.items():
        target = next((f"{target:g}" for start, target in _TARGETS.items() if title.startswith(start)), "–")
        lines.append(
            f"| {title} | {item['n']:.0f} | {item['p50']:.2f} | {item['p95']:.2f} | {item['max']:.2f} | {target} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results")
    options = parser.parse_args(arguments)
    results = measure(options.visits, options.rounds)
    print(report(results))
    if options.write:
        (RESULTS / "dashboard.md").write_text(report(results), encoding="utf-8")
        content = {"machine": machine.describe(), "runs": RUNS, "epochs": EPOCHS, "seconds": results}
        (RESULTS / "dashboard.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
