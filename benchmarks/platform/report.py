"""The figures as files: JSON for programs, Markdown for people."""

from __future__ import annotations

import json
import platform
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.platform import compare, growth
from benchmarks.platform.compare import MEASURES, Measure, Round
from benchmarks.platform.fill import LONG_POINTS, POINTS_EACH, RUNS_EACH

RESULTS = Path(__file__).parents[1] / "results"

_COMPARED = """# The backend against MLflow's server

{rounds} rounds in turn on one machine ({machine}), a new database for each; medians of the rounds,
in brackets the least and the greatest. `python -m benchmarks.platform compare` makes this file.

| | MLflow {version} | DKD Lab | times as good | bar ({bar:g} ×) |
|---|---:|---:|---:|---|
{rows}

How:

- Both servers as they are meant to be run: `mlflow server` with its defaults (uvicorn, four processes), our backend
  as `dkd up` starts it (`python -m backend migrate`, `serve`: one process), with tokens checked at every request.
  MLflow has no tokens here.
- Durability is the same: both on SQLite with `synchronous=FULL`, so that what was answered outlives a power cut.
  MLflow keeps SQLite's default rollback journal, ours is a write-ahead log.
- One client for both: a socket and a parser in C (`httptools`), on one kept-open connection, a request in one write.
  Python's `http.client` takes 0.2 ms more for itself with each request, which would be counted as the servers'.
  Bodies are encoded before the clock starts; it stops with the last byte of the answer. Nothing is downsampled, and
  every point that comes back is counted.
- The client has its kernel acknowledge at once (`TCP_QUICKACK`). MLflow's server sends an answer in two writes and, of
  several processes as it is, without `TCP_NODELAY`: the second would wait 40 ms for the kernel's delayed
  acknowledgement, and a post take 52 ms instead of a fourth of that. Other clients on a kept-open connection see that.
- The points are the same: MLflow's `runs/log-batch` takes metrics, our worker protocol takes events of the same steps
  and values. A batch is 1,000 steps of one metric. {writers} writers each send {writes} posts to a run of their own; an
  error of any would end the benchmark.
- Reading is a request a run on both sides (`metrics/get-history`; `/runs/ID/metrics`).
- A run that MLflow makes has ten tags in one `runs/create`; one of ours has its whole spec, checked. MLflow cannot
  make runs in bulk, so ours are held against its one by one.
- Cold start is from the first command to the first answered list, in an empty folder, schema included.
"""

_GROWN = """# How the backend answers as its database grows

p95 over HTTP in milliseconds (p50 in brackets), one reader, tokens checked; {machine}.
The bar is {bar} ms. `python -m benchmarks.platform growth` makes this file.

| | {header} |
|---|{rule}|
{rows}

How:

- Every run has {points:,} points in five series of 200, so {few:,} runs have {few_points:,} and {many:,} runs
  {many_points:,}; besides them one run of each database has a series of {long:,}. An experiment has {each} runs (seven
  methods over seven seeds, and a teacher of its own); of 20 students one has failed and one is queued; a run has 200
  log lines.
- Filled through the project's own tables; measured over HTTP on `python -m backend serve`, {requests} requests of a
  kind ({few_requests} for the last two), runs and experiments drawn at random.
- PostgreSQL is version 15 with its default settings but `fsync=off`, which reading does not see; analysed after it was
  filled, as its autovacuum does.
"""


def compared(rounds: Sequence[tuple[Round, Round]], version: str) -> None:
    """Write platform.json and platform.md from the rounds of both servers."""
    theirs, own = [one for one, _ in rounds], [other for _, other in rounds]
    medians = compare.medians(theirs), compare.medians(own)
    data = {
        "machine": machine.describe(),
        "mlflow": version,
        "sqlite": sqlite3.sqlite_version,
        "medians": {"mlflow": medians[0], "dkd": medians[1]},
        "rounds": {"mlflow": theirs, "dkd": own},
    }
    _write("platform", data)
    rows = "\n".join(_row(measure, theirs, own) for measure in MEASURES)
    text = _COMPARED.format(
        rounds=len(rounds),
        machine=machine.describe(),
        version=version,
        bar=compare.BAR,
        rows=rows,
        writers=compare.WRITERS,
        writes=compare.WRITES,
    )
    (RESULTS / "platform.md").write_text(text, encoding="utf-8")


def grown(found: Mapping[str, Mapping[int, Mapping[str, growth.Shown]]]) -> None:
    """Write growth.json and growth.md; ``found`` is by database, by number of runs, by request."""
    data = {
        "machine": machine.describe(),
        "python": platform.python_version(),
        "p50_p95_ms": {
            kind: {str(runs): {title: asdict(shown) for title, shown in one.items()} for runs, one in sizes.items()}
            for kind, sizes in found.items()
        },
    }
    _write("growth", data)
    columns = [(kind, runs) for kind, sizes in found.items() for runs in sizes]
    titles = list(found[columns[0][0]][columns[0][1]])
    rows = "\n".join(
        f"| {title} | " + " | ".join(_shown(found[kind][runs][title]) for kind, runs in columns) + " |"
        for title in titles
    )
    few, many = growth.SIZES
    text = _GROWN.format(
        machine=machine.describe(),
        bar=growth.BAR_MS,
        header=" | ".join(f"{_NAMES[kind]}, {runs:,} runs" for kind, runs in columns),
        rule="|".join("---:" for _ in columns),
        rows=rows,
        points=POINTS_EACH,
        few=few,
        few_points=few * POINTS_EACH,
        many=many,
        many_points=many * POINTS_EACH,
        long=LONG_POINTS,
        each=RUNS_EACH,
        requests=growth.REQUESTS,
        few_requests=growth.REQUESTS // 4,
    )
    (RESULTS / "growth.md").write_text(text, encoding="utf-8")


_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def _shown(shown: growth.Shown) -> str:
    mark = "**" if shown.p95 > growth.BAR_MS else ""
    return f"{mark}{shown.p95:.1f}{mark} ({shown.p50:.1f})"


def _row(measure: Measure, theirs: Sequence[Round], own: Sequence[Round]) -> str:
    other = measure.against or measure.key
    ours = compare.medians(own)[measure.key]
    ratio = measure.ratio(compare.medians(theirs)[other], ours)
    shown = _range(theirs, other) if not measure.against else f"{_range(theirs, other)}, one by one"
    verdict = "met" if ratio >= compare.BAR else "**missed**"
    return f"| {measure.title}, {measure.unit} | {shown} | {_range(own, measure.key)} | {ratio:.1f} | {verdict} |"


def _range(rounds: Sequence[Round], key: str) -> str:
    values = [one[key] for one in rounds]
    return f"{_short(compare.medians(rounds)[key])} ({_short(min(values))}–{_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _write(name: str, data: Mapping[str, Any]) -> None:
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
