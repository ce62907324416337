"""Writes the figures as files: JSON for programs, Markdown for people."""

from __future__ import annotations

import json
import platform
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.platform import compare, growth, load
from benchmarks.platform.compare import MEASURES, Measure, Round
from benchmarks.platform.fill import LONG_POINTS, POINTS_PER_RUN, RUNS_PER_EXPERIMENT

RESULTS = Path(__file__).parents[1] / "results"

_COMPARISON = """# The backend against MLflow's server

{rounds} rounds in turn on one machine ({machine}), a new database for each. The table shows the medians of the rounds,
and in brackets the smallest and the largest value. `python -m benchmarks.platform compare` writes this file.

| | MLflow {version} | DKD Lab | times as good | bar |
|---|---:|---:|---:|---|
{rows}

And the backend alone, while {trainings} trainings each report five metrics {per_second} times a second for {seconds} s,
all on {cores} cores:

| | DKD Lab | bar |
|---|---:|---|
{load_row}

How it is measured:

- Both servers run as in ordinary use: `mlflow server` with its defaults (uvicorn, four processes), the backend as
  `dkd up` starts it (`python -m backend migrate`, `serve`: one process), which checks a token with every request.
  MLflow has no tokens here.
- Durability is the same: both run on SQLite with `synchronous=FULL`, so that whatever was answered survives a power
  failure. MLflow keeps SQLite's default rollback journal; the backend uses a write-ahead log.
- Both servers have the same client: a socket and a parser in C (`httptools`), one keep-alive connection, one write per
  request. Python's `http.client` takes 0.2 ms more per request, which would count as the servers' time. Bodies are
  encoded before the clock starts; it stops with the last byte of the answer. Nothing is downsampled, and every point
  that comes back is counted.
- The client has its kernel acknowledge at once (`TCP_QUICKACK`). MLflow's server sends an answer in two writes and,
  with several processes, without `TCP_NODELAY`: the second write would wait 40 ms for the kernel's delayed
  acknowledgement, and a post would take 52 ms instead of a fourth of that. Other clients on a keep-alive connection see
  that delay.
- The points are the same: MLflow's `runs/log-batch` takes metrics, the worker protocol takes events with the same steps
  and values. A batch is 1,000 steps of one metric. {writers} writers send {writes} posts each, to a run of their own;
  an error of any of them would end the benchmark.
- Reading is one request per run on both servers (`metrics/get-history`; `/runs/ID/metrics`).
- A run on MLflow's server has ten tags in one `runs/create`; a run of the backend has its full spec, validated. MLflow
  cannot make several runs in one request, so the bulk row compares with making them one by one.
- The cold start lasts from the first command to the first answered list, in an empty folder, schema included.
- Under load, every report is due at a fixed time, and its latency counts from that time; the client shares the cores.
"""

_GROWTH = """# How the backend answers as its database grows

p95 over HTTP in milliseconds (p50 in brackets), one reader, tokens checked; {machine}.
The bar is {bar} ms. `python -m benchmarks.platform growth` writes this file.

| | {header} |
|---|{rule}|
{rows}

How it is measured:

- Every run has {points:,} points in five series of 200, so {few:,} runs have {few_points:,} and {many:,} runs
  {many_points:,}; in addition, one run of each database has a series of {long:,}. An experiment has {each} runs (seven
  methods over seven seeds, and a teacher of its own); of 20 students one has failed and one is queued; a run has 200
  log lines.
- The database is filled through the project's own tables and measured over HTTP on `python -m backend serve`:
  {requests} requests of each kind ({few_requests} for the last two), with runs and experiments drawn at random.
- PostgreSQL is version 15 with its default settings except `fsync=off`, which does not affect reading. It is analysed
  after it has been filled, as its autovacuum would do.
"""


def write_comparison(rounds: Sequence[tuple[Round, Round]], mlflow_version: str) -> None:
    """Write platform.json and platform.md.

    Args:
        rounds: The measures of MLflow's server and of the backend in each round.
    """
    mlflow, backend = [one for one, _ in rounds], [other for _, other in rounds]
    data = {
        "machine": machine.describe(),
        "mlflow": mlflow_version,
        "sqlite": sqlite3.sqlite_version,
        "medians": {"mlflow": compare.medians(mlflow), "dkd": compare.medians(backend)},
        "rounds": {"mlflow": mlflow, "dkd": backend},
    }
    _write_json("platform", data)
    text = _COMPARISON.format(
        rounds=len(rounds),
        machine=machine.describe(),
        version=mlflow_version,
        rows="\n".join(_measure_row(measure, mlflow, backend) for measure in MEASURES),
        load_row=_load_row(backend),
        trainings=load.TRAININGS,
        per_second=load.REPORTS_PER_SECOND,
        seconds=load.SECONDS,
        cores=load.CORES,
        writers=compare.WRITERS,
        writes=compare.WRITES,
    )
    (RESULTS / "platform.md").write_text(text, encoding="utf-8")


def write_growth(latencies: Mapping[str, Mapping[int, Mapping[str, growth.Latency]]]) -> None:
    """Write growth.json and growth.md.

    Args:
        latencies: By database, by number of runs, by kind of request.
    """
    data = {
        "machine": machine.describe(),
        "python": platform.python_version(),
        "p50_p95_ms": {
            kind: {str(runs): {title: asdict(item) for title, item in one.items()} for runs, one in sizes.items()}
            for kind, sizes in latencies.items()
        },
    }
    _write_json("growth", data)
    columns = [(kind, runs) for kind, sizes in latencies.items() for runs in sizes]
    titles = list(latencies[columns[0][0]][columns[0][1]])
    rows = "\n".join(
        f"| {title} | " + " | ".join(_latency_cell(latencies[kind][runs][title]) for kind, runs in columns) + " |"
        for title in titles
    )
    few, many = growth.SIZES
    text = _GROWTH.format(
        machine=machine.describe(),
        bar=growth.BAR_MS,
        header=" | ".join(f"{_DATABASE_NAMES[kind]}, {runs:,} runs" for kind, runs in columns),
        rule="|".join("---:" for _ in columns),
        rows=rows,
        points=POINTS_PER_RUN,
        few=few,
        few_points=few * POINTS_PER_RUN,
        many=many,
        many_points=many * POINTS_PER_RUN,
        long=LONG_POINTS,
        each=RUNS_PER_EXPERIMENT,
        requests=growth.REQUESTS,
        few_requests=growth.REQUESTS // 4,
    )
    (RESULTS / "growth.md").write_text(text, encoding="utf-8")


_DATABASE_NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}


def _latency_cell(latency: growth.Latency) -> str:
    mark = "**" if latency.p95 > growth.BAR_MS else ""
    return f"{mark}{latency.p95:.1f}{mark} ({latency.p50:.1f})"


def _measure_row(measure: Measure, mlflow: Sequence[Round], backend: Sequence[Round]) -> str:
    other = _range(mlflow, measure.mlflow_key or measure.key)
    if measure.mlflow_key:
        other += ", one by one"
    ratio = measure.ratio(compare.medians(mlflow), compare.medians(backend))
    bar = _bar(f"{measure.bar:g} ×", met=ratio >= measure.bar)
    return f"| {measure.title}, {measure.unit} | {other} | {_range(backend, measure.key)} | {ratio:.1f} | {bar} |"


def _load_row(backend: Sequence[Round]) -> str:
    bar = _bar(f"{load.BAR_MS} ms", met=compare.medians(backend)[compare.LOAD] < load.BAR_MS)
    return f"| Report under load, p95, ms | {_range(backend, compare.LOAD)} | {bar} |"


def _bar(text: str, *, met: bool) -> str:
    return f"{text}, met" if met else f"{text}, **missed**"


def _range(rounds: Sequence[Round], key: str) -> str:
    values = [one[key] for one in rounds]
    return f"{_short(compare.medians(rounds)[key])} ({_short(min(values))}–{_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _write_json(name: str, data: Mapping[str, Any]) -> None:
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
