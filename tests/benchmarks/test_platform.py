"""The platform benchmark asks the backend what it means to ask; its tables say what was measured."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path

import pytest

from backend.db import Database, migrate
from benchmarks.platform import compare, fill, growth, report
from benchmarks.platform.compare import MEASURES
from benchmarks.platform.servers import ours
from benchmarks.platform.sides import SERIES, Ours


def test_a_small_round_against_the_backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"POSTS": 3, "WRITERS": 2, "WRITES": 2, "RUNS": 2, "POINTS": 20, "BATCH": 10, "LISTED": 4, "REPEATS": 1}
    for name, value in small.items():
        monkeypatch.setattr(compare, name, value)
    found = compare.round_of(ours, Ours)
    assert found.keys() == {measure.key for measure in MEASURES}
    assert min(found.values()) > 0


def test_what_was_posted_comes_back_whole(tmp_path: Path) -> None:
    with ours(tmp_path) as started:
        side = Ours(started)
        (run,) = side.ready_runs(1)
        for number in range(2):
            with closing(side.writer()) as connection:
                connection.send(side.post(run, range(number * 5, number * 5 + 5), [SERIES], number))
        with closing(started.connect()) as connection:
            assert side.count(connection.ask(side.read(run, SERIES))) == 10


def test_a_filled_database_answers_every_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(growth, "REQUESTS", 8)
    monkeypatch.setattr(fill, "LONG_POINTS", 3000)
    url = f"sqlite:///{tmp_path / 'filled.sqlite3'}"
    database = Database(url)
    migrate.upgrade(database)
    fill.fill(database, 2 * fill.RUNS_EACH)
    database.dispose()
    with ours(tmp_path, url) as started:
        shown = growth.requests(started)
    assert all(0 < one.p50 <= one.p95 for one in shown.values())


def test_the_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    theirs = dict.fromkeys((measure.key for measure in MEASURES if measure.key != "bulk"), 10.0)
    own = {measure.key: 60.0 if measure.more else 4.0 for measure in MEASURES}
    report.compared([(theirs, own)] * 3, "0")
    text = (tmp_path / "platform.md").read_text()
    assert "| 1,000-point batches, points/s | 10 (10–10) | 60 (60–60) | 6.0 | met |" in text
    assert "| List 200 runs, ms | 10 (10–10) | 4 (4–4) | 2.5 | **missed** |" in text
    assert json.loads((tmp_path / "platform.json").read_text())["medians"]["dkd"] == own
    report.grown(
        {
            kind: {100: {"A list": growth.Shown(1, 201)}, 10_000: {"A list": growth.Shown(2, 3)}}
            for kind in growth.DATABASES
        }
    )
    assert (
        "| A list | **201.0** (1.0) | 3.0 (2.0) | **201.0** (1.0) | 3.0 (2.0) |" in (tmp_path / "growth.md").read_text()
    )
