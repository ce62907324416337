"""A lab at scale: claims, heartbeats, reports and open pages against real backends on PostgreSQL.

    python -m benchmarks scale [--reduced] [--workers N] … [--write]

Starts PostgreSQL and the backends on private ports, fills the queue, lets simulated workers and open pages send their
requests for the given time, and stops. The simulated clients are threads of this process, which shares the machine with
the servers. ``--write`` stores the tables in ``benchmarks/results/scale.{md,json}``. Exits with 1 if a run was lost or
ran twice.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

from backend.db import Database, migrate
from benchmarks.machine import describe
from benchmarks.platform.servers import start_backend
from benchmarks.scale import report
from benchmarks.scale.audit import audit
from benchmarks.scale.dashboards import OpenPage
from benchmarks.scale.load import REDUCED, Load, Measurements
from benchmarks.scale.memory import MemoryRecorder
from benchmarks.scale.queue import fill
from benchmarks.scale.workers import Outcomes, Worker
from tests.services import postgres_database, postgres_server

RESULTS = Path(__file__).parents[1] / "results"
_SAMPLE_SECONDS = 2.0


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    load, options = _parse(arguments)
    found = measure(load, options.beside)
    text = report.markdown(found)
    print(text)
    if options.write:
        (RESULTS / "scale.md").write_text(text, encoding="utf-8")
        (RESULTS / "scale.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if any(count for name, count in found["audit"].items() if name.endswith("_wrong")):
        sys.exit(1)


def measure(load: Load, beside: str = "") -> dict[str, Any]:
    """Run the lab and return what was measured.

    Raises:
        tests.services.ServiceMissing: There is no PostgreSQL on this machine.
    """
    with ExitStack() as stack:
        server = stack.enter_context(postgres_server())
        url = stack.enter_context(postgres_database(server.url))
        database = Database(url)
        stack.callback(database.dispose)
        migrate.upgrade(database)
        fill(database, load)
        _say(f"{load.queued:,} runs are queued")
        # All clients have one address and two tokens here, which the limits are not made for.
        changes = {
            "DKD_RATE_PER_TOKEN": "0",
            "DKD_RATE_PER_ADDRESS": "0",
            "DKD_MAX_TOKEN_SLOTS": str(max(load.slots, 1)),
            "DKD_HEARTBEAT_SECONDS": str(load.heartbeat_seconds),
        }
        folders = [
            Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dkd-scale-"))) for _ in range(load.replicas)
        ]
        servers = [stack.enter_context(start_backend(folder, url, changes)) for folder in folders]
        measured, outcomes, stop = Measurements(), Outcomes(), threading.Event()
        memory = MemoryRecorder([one.pid for one in servers], _SAMPLE_SECONDS)
        threads = [threading.Thread(target=memory.record, args=(stop,))]
        for number in range(load.workers):
            slots = load.slots // load.workers + (number < load.slots % load.workers)
            worker = Worker(number, slots, servers[number % len(servers)], load, measured, outcomes)
            threads.append(threading.Thread(target=worker.run, args=(stop,)))
        for number in range(load.dashboards):
            page = OpenPage(number, servers[number % len(servers)], load, measured)
            threads.append(threading.Thread(target=page.show, args=(stop,)))
        for thread in threads:
            thread.start()
        _say(f"{load.workers} workers and {load.dashboards} pages send requests")
        time.sleep(load.seconds)
        stop.set()
        for thread in threads:
            thread.join()
        return report.result(load, measured, memory, audit(database, load, outcomes), describe(), beside)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr)


def _parse(arguments: list[str] | None) -> tuple[Load, argparse.Namespace]:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks scale", description=__doc__.splitlines()[0] if __doc__ else None
    )
    parser.add_argument("--reduced", action="store_true", help="a small lab with the whole queue, in about 5 minutes")
    parser.add_argument("--write", action="store_true", help="write the tables to benchmarks/results")
    parser.add_argument("--beside", default="", help="what else ran on the machine, for the table")
    for field in fields(Load):
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=type(field.default),
            help=f"by default {field.default:g}, reduced {REDUCED.get(field.name, field.default):g}",
        )
    options = parser.parse_args(arguments)
    values = dict(REDUCED) if options.reduced else {}
    values |= {
        field.name: getattr(options, field.name) for field in fields(Load) if getattr(options, field.name) is not None
    }
    if any(value < 1 for name, value in values.items() if not name.endswith("seconds")):
        parser.error("numbers must be at least 1")
    return Load(**values), options  # type: ignore[arg-type]
