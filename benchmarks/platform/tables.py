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

Both servers were measured in {rounds} rounds, in turn on one machine ({machine}), each time with a new database.
The table shows the median of the rounds, and in brackets the smallest and the largest value.
`python -m benchmarks.platform compare` writes this file.

| | MLflow {version} | DKD Lab | times as good | target |
|---|---:|---:|---:|---|
{rows}

The next table shows the backend alone, while {trainings} trainings each report five metrics {per_second} times a
second for {seconds} s, all on {cores} cores:

| | DKD Lab | target |
|---|---:|---|
{load_row}

How it is measured:

- Both servers run as in ordinary use. MLflow is started by `mlflow server` with its defaults (uvicorn, four
  processes) and uses no tokens. The backend is started as by `dkd up` (`python -m backend migrate`, then `serve`,
  one process) and checks a token with every request.
- Durability is the same: both use SQLite with `synchronous=FULL`, so every acknowledged write survives a power
  failure. MLflow uses SQLite's default rollback journal, and the backend a write-ahead log.
- The same client measures both servers. It uses a socket and a parser in C (`httptools`), one keep-alive
  connection, and one write per request. Python's `http.client` takes 0.2 ms more per request, which would count as
  the servers' time. Bodies are encoded before the clock starts, and the clock stops at the last byte of the answer.
  Nothing is downsampled, and every returned point is counted.
- The client's kernel acknowledges packets at once (`TCP_QUICKACK`). MLflow's server sends an answer in two writes
  and, with several processes, without `TCP_NODELAY`. Without quick acknowledgements the second write would wait 40
  ms for the client's delayed acknowledgement, and a post would take 52 ms instead of a fourth of that. Other
  clients on a keep-alive connection have this delay.
- Both servers receive the same points: MLflow's `runs/log-batch` as metrics, and the worker protocol as events with
  the same steps and values. A batch has 1,000 steps of one metric. {writers} writers send {writes} posts each, and
  each writer has its own run. An error of any writer ends the benchmark.
- Reading needs one request per run on both servers (`metrics/get-history` and `/runs/ID/metrics`).
- On MLflow's server, one `runs/create` creates a run with ten tags. On the backend, a run has its complete spec,
  which is validated. MLflow cannot create several runs in one request, so the row for bulk creation compares with
  creating them one by one.
- The cold start is the time from the first command in an empty folder to the first answered list. It includes the
  creation of the schema.
- Under load, every report has a fixed due time, and its latency is measured from that time. The client runs on the
  same cores.
"""

_GROWTH = """# How the backend answers as its database grows

Each cell contains the p95 latency over HTTP in milliseconds (p50 in brackets), with one reader whose token is
checked. Machine: {machine}. The target is {target} ms. `python -m benchmarks.platform growth` writes this file.

| | {header} |
|---|{rule}|
{rows}

How it is measured:

- Every run has {points:,} points in five series of 200, so {few:,} runs have {few_points:,} and {many:,} runs
  {many_points:,}; in addition, one run of each database has a series of {long:,}. An experiment has {each} runs
  (seven methods over seven seeds, and a teacher of its own); of 20 students one has failed and one is queued; a run
  has 200 log lines.
- The database is filled through the project's own tables and measured over HTTP on `python -m backend serve`:
  {requests} requests of each kind ({few_requests} for the last two), with runs and experiments drawn at random.
- PostgreSQL is version 15 with its default settings except `fsync=off`, which does not affect reading. It is
  analysed after it has been filled, as its autovacuum would do.
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
        target=growth.TARGET_MS,
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
    mark = "**" if latency.p95 > growth.TARGET_MS else ""
    return f"{mark}{latency.p95:.1f}{mark} ({latency.p50:.1f})"


def _measure_row(measure: Measure, mlflow: Sequence[Round], backend: Sequence[Round]) -> str:
    other = _range(mlflow, measure.mlflow_key or measure.key)
    if measure.mlflow_key:
        other += ", one by one"
    ratio = measure.ratio(compare.medians(mlflow), compare.medians(backend))
    target = _target(f"{measure.target:g} ×", met=ratio >= measure.target)
    return f"| {measure.title}, {measure.unit} | {other} | {_range(backend, measure.key)} | {ratio:.1f} | {target} |"


def _load_row(backend: Sequence[Round]) -> str:
    target = _target(f"{load.TARGET_MS} ms", met=compare.medians(backend)[compare.LOAD] < load.TARGET_MS)
    return f"| Report under load, p95, ms | {_range(backend, compare.LOAD)} | {target} |"


def _target(text: str, *, met: bool) -> str:
    return f"{text}, met" if met else f"{text}, **missed**"


def _range(rounds: Sequence[Round], key: str) -> str:
    values = [one[key] for one in rounds]
    return f"{_short(compare.medians(rounds)[key])} ({_short(min(values))}–{_short(max(values))})"


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _write_json(name: str, data: Mapping[str, Any]) -> None:
    (RESULTS / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
