"""Waiting times of a visitor of the dashboard, end to end: a real backend, Streamlit and Chromium.

``python -m benchmarks.dashboard`` measures, on a database with 1,000 finished runs and one that trains:

- the first curves of each page of ``PAGES``: from the start of a visit to the first drawn trace, or on a page without
  curves to its table or other content, in a browser with an empty cache, and in one that has visited before;
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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import urlopen

from benchmarks import machine
from benchmarks.dashboard_lab import CLASSES, EPOCHS, IMAGES, FakeWorker, fill
from client import Client, WorkerClient
from core.protocol.worker import Claim
from tests import browser, served

if TYPE_CHECKING:
    from playwright.sync_api import Browser

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
RUNS = 1000
_TARGETS = {"First curves": 1.5, "A metric": 2.0}  # seconds
_DRAWN = "() => document.querySelectorAll('.js-plotly-plot .main-svg .trace').length > 0"
_STREAMLIT = {  # a script of one line, and the condition for its content to be visible
    "a title alone": ("st.title('x')", "() => !!document.querySelector('h1')"),
    "st.line_chart alone": (
        f"st.line_chart([number % 7 for number in range({EPOCHS})])",
        "() => !!document.querySelector('[data-testid=stVegaLiteChart] .marks')",
    ),
}
_TABLE = """() => !document.querySelector('[data-testid=stSkeleton]')
    && [...document.querySelectorAll('[data-testid=stDataFrame] canvas')].some(canvas => canvas.width > 1)"""
_SHOWN = "epoch => document.querySelector('.js-plotly-plot')?.data?.[0]?.x?.at(-1) === epoch"


def _is_there(selector: str) -> str:
    """Return the condition that the page has an element."""
    return f"() => !!document.querySelector('{selector}')"


def _traces_in(section: str) -> str:
    """Return the condition that a chart of a section of Compare has traces, and not only the chart above it."""
    return _is_there(f'[class*="st-key-compare-{section}"] .js-plotly-plot .main-svg .trace')


@dataclass(frozen=True)
class Page:
    """A page whose first content is waited for.

    Attributes:
        title: Its name in the report.
        address: Its address; names in braces are those that ``dashboard_lab.fill`` returns.
        until: The condition in JavaScript for its first content.
    """

    title: str
    address: str
    until: str = _DRAWN


PAGES = (
    Page("Overview (its runs)", "", _is_there("[data-testid=stProgress]")),
    Page("Runs (its table)", "runs", _TABLE),
    Page("Experiments (their table)", "runs?view=Experiments", _TABLE),
    Page("Run, ended", "run?id={ended}"),
    Page("Run, training", "run?id={running}"),
    Page("Run, predictions", "run?id={looked_run}&part=Predictions"),
    Page("Run, features", "run?id={looked_run}&part=Features"),
    Page("Run, machine", "run?id={looked_run}&part=Machine"),
    Page("Run, search in the log", "run?id={ended}&part=Log&search=epoch%209", _is_there(".dkd-tail mark")),
    Page("Compare", "compare?experiment={experiment}"),
    Page("Compare as a board", "compare?experiment={experiment}&as=board"),
    Page("Compare with predictions", "compare?experiment={looked}&predictions=true", _traces_in("reliability")),
    Page("Compare with features", "compare?experiment={looked}&features=true", _traces_in("features")),
    Page("Compare two settings", "compare?experiment={setting}&experiment={other_setting}"),
    Page("Experiment (its table)", "experiment?id={experiment}", _TABLE),
    Page("Experiment, lineage", "experiment?id={looked}&section=Lineage", _is_there(".dkd-lineage")),
    Page("Sweep (its table)", "sweep?name={sweep}", _TABLE),
    Page("Sweep, heat map", "sweep?name={sweep}&tab=Heat+map", _is_there(".js-plotly-plot .heatmaplayer .hm")),
    Page("Sweep, slices", "sweep?name={sweep}&tab=Slices"),
    Page("Leaderboard (its table or figure)", "leaderboard", _is_there("table, .js-plotly-plot .trace")),
    Page("Results (its table)", "results", _is_there("[data-testid=stTable]")),
)
"""The measured pages; a page of a new view is one more line."""


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


def measure(visits: int, rounds: int, runs: int = RUNS) -> dict[str, dict[str, float]]:
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
            ids, running = fill(client, worker, folder / "artifacts", runs)
            pages = {page: f"{address}/{page.address.format_map(ids)}" for page in PAGES}
            for page, path in pages.items():  # the very first visit imports the modules
                worker.beat(running)
                visit(chromium, path, page.until)
            results: dict[str, dict[str, float]] = {}
            for page, path in pages.items():
                worker.beat(running)
                pairs = [visit(chromium, path, page.until, times=2) for _ in range(visits)]
                results[f"First curves: {page.title}"] = summary([first for first, _ in pairs])
                results[f"First curves, been here before: {page.title}"] = summary([again for _, again in pairs])
            results["A metric on the screen"] = summary(arrivals(chromium, address, worker, running, rounds))
            return results | streamlit_alone(chromium, url, folder, visits)


def report(results: dict[str, dict[str, float]], runs: int = RUNS) -> str:
    lines = [
        "# The dashboard, end to end",
        "",
        f"`python -m benchmarks.dashboard --write` writes this file. Machine: {machine.describe()}. The backend on "
        f"SQLite contains {runs:,} runs of {EPOCHS} epochs, a sweep of 12 settings, and seven runs with predictions "
        f"for {IMAGES:,} test images of {CLASSES} classes, features of some of these and curves of the machine. The "
        "backend, Streamlit and headless Chromium run on this machine.",
        "",
        "- First curves: the time from the start of a visit to the first drawn trace, or on a page without "
        "curves to what its line names, in a new window with an empty cache. The server has been visited before.",
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
    parser.add_argument("--runs", type=int, default=RUNS, help="number of finished runs; fewer for a trial")
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results")
    options = parser.parse_args(arguments)
    if options.write and options.runs != RUNS:
        parser.error(f"--write needs all {RUNS:,} runs")
    results = measure(options.visits, options.rounds, options.runs)
    print(report(results, options.runs))
    if options.write:
        (RESULTS / "dashboard.md").write_text(report(results), encoding="utf-8")
        content = {"machine": machine.describe(), "runs": RUNS, "epochs": EPOCHS, "seconds": results}
        (RESULTS / "dashboard.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
