"""The platform benchmark sends what it claims to send, and its tables show what was measured."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from backend.db import Database, migrate
from benchmarks.platform import compare, fill, growth, load, tables
from benchmarks.platform.compare import MEASURES
from benchmarks.platform.servers import start_backend
from benchmarks.platform.workloads import SERIES, BackendWorkload


def test_small_round_measures_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"POSTS": 3, "WRITERS": 2, "WRITES": 2, "RUNS": 2, "POINTS": 20, "BATCH": 10, "LISTED": 4, "REPEATS": 1}
    for name, value in small.items():
        monkeypatch.setattr(compare, name, value)
    measures = compare.measure_server(start_backend, BackendWorkload)
    assert measures.keys() == {measure.key for measure in MEASURES}
    assert min(measures.values()) > 0


def test_load_measures_every_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "TRAININGS", 3)
    monkeypatch.setattr(load, "SECONDS", 2)
    latencies = load.report_latencies()
    assert len(latencies) == 3 * 2 * load.REPORTS_PER_SECOND
    assert 0 < min(latencies) <= load.percentile_95(latencies) <= max(latencies)


def test_posted_points_can_all_be_read(tmp_path: Path) -> None:
    with start_backend(tmp_path) as server:
        workload = BackendWorkload(server)
        (run,) = workload.make_runs(1)
        for number in range(2):
            with closing(workload.connect_writer()) as connection:
                connection.send(workload.post(run, range(number * 5, number * 5 + 5), [SERIES], number))
        with closing(server.connect()) as connection:
            assert workload.count_points(connection.send_json(workload.read(run, SERIES))) == 10


def test_filled_database_answers_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "REQUESTS", 8)
    monkeypatch.setattr(fill, "LONG_POINTS", 3000)
    url = f"sqlite:///{tmp_path / 'filled.sqlite3'}"
    database = Database(url)
    migrate.upgrade(database)
    fill.fill(database, 2 * fill.RUNS_PER_EXPERIMENT)
    database.dispose()
    with start_backend(tmp_path, url) as server:
        latencies = growth.measure_requests(server)
    assert all(0 < latency.p50 <= latency.p95 for latency in latencies.values())


def test_tables_show_medians_ranges_and_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    mlflow = dict.fromkeys((measure.key for measure in MEASURES if measure.key != "bulk"), 10.0)
    backend = {measure.key: 120.0 if measure.more_is_better else 4.0 for measure in MEASURES} | {compare.LOAD: 21.0}
    tables.write_comparison([(mlflow, backend)] * 3, "0")
    text = (tmp_path / "platform.md").read_text()
    assert "| 1,000-point batches, points/s | 10 (10–10) | 120 (120–120) | 12.0 | 12 ×, met |" in text
    assert "| Post of five metrics, p50, ms | 10 (10–10) | 4 (4–4) | 2.5 | 4 ×, **missed** |" in text
    assert "| Report under load, p95, ms | 21 (21–21) | 20 ms, **missed** |" in text
    assert json.loads((tmp_path / "platform.json").read_text())["medians"]["dkd"] == backend
    tables.write_growth(
        {
            kind: {100: {"A list": growth.Latency(1, 201)}, 10_000: {"A list": growth.Latency(2, 3)}}
            for kind in growth.DATABASES
        }
    )
    assert (
        "| A list | **201.0** (1.0) | 3.0 (2.0) | **201.0** (1.0) | 3.0 (2.0) |" in (tmp_path / "growth.md").read_text()
    )
