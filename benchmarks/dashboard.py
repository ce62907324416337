"""How long a dashboard's visitor waits, end to end: a real backend, Streamlit, Chromium.

``python -m benchmarks.dashboard`` measures, on a database with 1,000 runs that have ended and one that trains:

- the first curves: from the start of a visit to the first drawn trace, in a browser that has nothing in its cache, and
  in one that has been here before;
- a metric: from the moment at which a worker begins to send it to the moment at which the chart in the page has it;
- what Streamlit alone takes on the same machine: a script that shows a title, and one with its own line chart.

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
STEPS = 50  # an epoch
_BARS = {"First curves": 1.5, "A metric": 2.0}  # seconds
_WORKER = "bench-worker"
_DRAWN = "() => document.querySelectorAll('.js-plotly-plot .main-svg .trace').length > 0"
_STREAMLIT = {  # a script of one line, and what is seen of it
    "a title alone": ("st.title('x')", "() => !!document.querySelector('h1')"),
    "st.line_chart alone": (
        f"st.line_chart([number % 7 for number in range({EPOCHS})])",
        "() => !!document.querySelector('[data-testid=stVegaLiteChart] .marks')",
    ),
}
_SHOWN = "epoch => document.querySelector('.js-plotly-plot')?.data?.[0]?.x?.at(-1) === epoch"


def values(epoch: int) -> dict[str, float]:
    share = epoch / EPOCHS
    names = ("train/ce", "train/tckd", "train/nckd", "train/align", "grad/similarity", "grad/align_share", "lr")
    found = {name: 1 - share * random.Random(f"{name} {epoch}").random() for name in names}
    return found | {"test/top1": 50 + 40 * share, "train/top1": 55 + 40 * share, "train/loss": 2 - share}


class Feeder:
    """A worker that trains nothing."""

    def __init__(self, client: WorkerClient) -> None:
        self.client = client
        self.sent: dict[str, int] = {}
        client.register(Registration(worker_id=_WORKER, name=_WORKER, host="bench", slots=64, device="cpu"))

    def claim(self) -> Claim:
        found = self.client.claim(_WORKER)
        assert found is not None
        return found

    def send(self, claim: Claim, *events: Any) -> None:
        start = self.sent.get(claim.run_id, 0)
        self.sent[claim.run_id] = start + len(events)
        records = [Record(seq=start + at, time=time.time(), event=event) for at, event in enumerate(events, 1)]
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
            measured = Metrics(step=STEPS * epoch, epoch=float(epoch), elapsed=float(epoch), values=values(epoch))
            events += [measured, Log(message=f"epoch {epoch}/{EPOCHS}")]
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


def fill(client: Client, feeder: Feeder) -> tuple[str, str, Claim]:
    """1,000 ended runs in 100 experiments, and one that trains; ids of an ended run and of its experiment."""
    made = client.submit_many([spec(f"past {number}", 5) for number in range(RUNS // 10)])
    last = ""
    for _ in range(RUNS):
        claim = feeder.claim()
        feeder.begin(claim)
        feeder.epochs(claim, 1, EPOCHS)
        feeder.finish(claim)
        last = claim.run_id
    client.submit(spec("now", 1))
    running = feeder.claim()
    feeder.begin(running)
    feeder.epochs(running, 1, 5)
    return last, made.items[-1].id, running


@contextmanager
def dashboard(url: str, folder: Path, script: Path = ROOT / "dashboard" / "app.py") -> Iterator[str]:
    """Address of a Streamlit of our own, with the dashboard or another script."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    command += ["--server.port", str(port), "--server.address", "127.0.0.1", "--server.headless", "true"]
    command += ["--server.fileWatcherType", "none", "--browser.gatherUsageStats", "false"]  # as the dashboard's own
    own = {"DKD_API_URL": url, "DKD_API_TOKEN": served.ADMIN_TOKEN, "DKD_HOME": str(folder)}
    process = subprocess.Popen(
        command, env=os.environ | own, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
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
    """Seconds to the first trace, or what else is waited for, of visits one after the other in a new window, the first
    of them without anything kept."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    found: list[float] = []
    try:
        page = context.new_page()
        for _ in range(times):
            page.goto("about:blank")
            began = time.perf_counter()
            page.goto(address, wait_until="commit")
            page.wait_for_function(until, timeout=60_000)
            found.append(time.perf_counter() - began)
    finally:
        context.close()
    return found


def arrivals(chromium: Browser, address: str, feeder: Feeder, claim: Claim, rounds: int) -> list[float]:
    """Seconds from sending an epoch's metrics to seeing them, at moments that know nothing of the page's ticks."""
    context = chromium.new_context(viewport={"width": 1440, "height": 900})
    found: list[float] = []
    try:
        page = context.new_page()
        page.goto(f"{address}/run?id={claim.run_id}")
        page.wait_for_function(_SHOWN, arg=5, timeout=60_000)
        pause = random.Random(7)
        for epoch in range(6, 6 + rounds):
            time.sleep(0.5 + pause.random() * 1.5)
            began = time.perf_counter()
            feeder.epochs(claim, epoch, epoch)
            page.wait_for_function(_SHOWN, arg=epoch, timeout=60_000)
            found.append(time.perf_counter() - began)
    finally:
        context.close()
    return found


def summary(times: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times)
    return {
        "n": len(ordered),
        "p50": statistics.median(ordered),
        "p95": ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))],
        "max": ordered[-1],
    }


def streamlit_alone(chromium: Browser, url: str, folder: Path, visits: int) -> dict[str, dict[str, float]]:
    """The same visits to scripts that ask nobody for anything."""
    found: dict[str, dict[str, float]] = {}
    for name, (line, seen) in _STREAMLIT.items():
        script = folder / f"{len(found)}.py"
        script.write_text(f"import streamlit as st\n{line}\n", encoding="utf-8")
        with dashboard(url, folder, script) as address:
            visit(chromium, address, seen)
            found[f"Streamlit, {name}"] = summary([visit(chromium, address, seen)[0] for _ in range(visits)])
    return found


def measure(visits: int, rounds: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            served.backend(folder) as url,
            Client(url, served.ADMIN_TOKEN) as client,
            WorkerClient(url, served.WORKER_TOKEN) as worker,
            dashboard(url, folder) as address,
            browser.browser() as chromium,
        ):
            feeder = Feeder(worker)
            ended, experiment, running = fill(client, feeder)
            pages = {
                "Run, ended": f"run?id={ended}",
                "Run, training": f"run?id={running.run_id}",
                "Compare": f"compare?experiment={experiment}",
            }
            for path in pages.values():  # modules are imported at the first visit of all
                visit(chromium, f"{address}/{path}")
            found: dict[str, dict[str, float]] = {}
            for page, path in pages.items():
                pairs = [visit(chromium, f"{address}/{path}", times=2) for _ in range(visits)]
                found[f"First curves: {page}"] = summary([first for first, _ in pairs])
                found[f"First curves, been here before: {page}"] = summary([again for _, again in pairs])
            found["A metric on the screen"] = summary(arrivals(chromium, address, feeder, running, rounds))
            return found | streamlit_alone(chromium, url, folder, visits)


def report(found: dict[str, dict[str, float]]) -> str:
    lines = [
        "# The dashboard, end to end",
        "",
        f"{machine.describe()}. A real backend on SQLite with {RUNS:,} runs of {EPOCHS} epochs, Streamlit and headless "
        "Chromium, all on this machine. First curves: from the start of a visit, in a new window with an empty cache, "
        "to the first drawn trace; the server has been visited before. Been here before: the same once more, with the "
        "files that the browser has kept. A metric: from the moment at which a worker begins to send it to the chart "
        "that has it, at random moments between the page's ticks. Streamlit: the same visits to a script of one line "
        "that asks no backend, until what it shows is there. Made by `python -m benchmarks.dashboard`.",
        "",
        "| | n | p50 (s) | p95 (s) | max (s) | bar (s) |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for what, item in found.items():
        bar = next((f"{bar:g}" for start, bar in _BARS.items() if what.startswith(start)), "–")
        lines.append(
            f"| {what} | {item['n']:.0f} | {item['p50']:.2f} | {item['p95']:.2f} | {item['max']:.2f} | {bar} |"
        )
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--visits", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--write", action="store_true", help="into benchmarks/results")
    given = parser.parse_args(arguments)
    found = measure(given.visits, given.rounds)
    print(report(found))
    if given.write:
        (RESULTS / "dashboard.md").write_text(report(found), encoding="utf-8")
        content = {"machine": machine.describe(), "runs": RUNS, "epochs": EPOCHS, "seconds": found}
        (RESULTS / "dashboard.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
