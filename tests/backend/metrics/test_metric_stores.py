"""Metrics and logs: inserted, read completely, reduced and incrementally."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from backend.db import Database, models
from backend.metrics import point_store
from core.protocol.public import MetricsReply
from tests.backend import rows
from tests.backend.rows import metrics


def _read(
    database: Database, run_id: str, names: list[str] | None = None, since: int = 0, max_points: int = 1000
) -> MetricsReply:
    with database.read() as session:
        run = session.get_one(models.Run, run_id)
        return point_store.metrics_reply(session, run, names, since, max_points)


def _points(reply: MetricsReply) -> dict[str, dict[int, float]]:
    return {series.name: dict(zip(series.step, series.value, strict=True)) for series in reply.series}


def _latest(database: Database, run_id: str) -> dict[str, tuple[int, float]]:
    with database.read() as session:
        latest_rows = session.query(models.MetricLatest, models.MetricName).join(
            models.MetricName, models.MetricName.id == models.MetricLatest.name_id
        )
        return {
            name.name: (latest.step, point_store.decode(latest.value, latest.kind))
            for latest, name in latest_rows.filter(models.MetricLatest.run_id == run_id)
        }


def test_inserted_points_are_read_back(database: Database) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(
        database, run_id, metrics(10, {"train/loss": 2.0, "lr": 0.1}), metrics(20, {"train/loss": 1.0}, seq=2)
    )
    reply = _read(database, run_id)
    assert _points(reply) == {"lr": {10: 0.1}, "train/loss": {10: 2.0, 20: 1.0}}
    loss = reply.series[1]
    assert (loss.epoch, loss.elapsed, loss.resolution, loss.low, loss.high) == ([1.0, 2.0], [0.1, 0.2], 1, None, None)
    assert reply.cursor == 1
    assert _points(_read(database, run_id, names=["lr", "no/such"])) == {"lr": {10: 0.1}}
    assert _latest(database, run_id) == {"lr": (10, 0.1), "train/loss": (20, 1.0)}


def test_nonfinite_values_are_stored(database: Database, api: TestClient) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(
        database,
        run_id,
        metrics(1, {"a": math.nan, "b": math.inf, "c": -math.inf}),
        metrics(2, {"a": 1.0, "b": math.nan, "c": 0.0}, seq=2),
    )
    values = {series["name"]: series["value"] for series in api.get(f"/api/v1/runs/{run_id}/metrics").json()["series"]}
    assert values == {"a": ["NaN", 1.0], "b": ["Infinity", "NaN"], "c": ["-Infinity", 0.0]}
    reply = MetricsReply.model_validate(api.get(f"/api/v1/runs/{run_id}/metrics").json())
    assert math.isnan(reply.series[0].value[0])
    assert math.isnan(_latest(database, run_id)["b"][1])


def test_repeated_points_change_nothing(database: Database) -> None:
    run_id = rows.one_run(database)
    batch = (metrics(1, {"x": 1.0, "y": math.nan}), metrics(2, {"x": 2.0}, seq=2))
    rows.insert_records(database, run_id, *batch)
    before = _read(database, run_id)
    rows.insert_records(database, run_id, *batch)
    again = _read(database, run_id, since=before.cursor)
    assert again.cursor == 2
    assert again.series == []
    assert str(_points(_read(database, run_id))) == str(_points(before))


def test_changed_point_replaces_the_old_one_and_is_sent_again(database: Database) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(database, run_id, metrics(1, {"x": 1.0}), metrics(2, {"x": 2.0}, seq=2))
    # The later of two points for one step is stored.
    rows.insert_records(database, run_id, metrics(2, {"x": 5.0}, seq=3), metrics(2, {"x": 6.0}, seq=4))
    assert _points(_read(database, run_id, since=1)) == {"x": {2: 6.0}}
    assert _points(_read(database, run_id)) == {"x": {1: 1.0, 2: 6.0}}
    assert _latest(database, run_id) == {"x": (2, 6.0)}


def test_late_points_are_not_missed(database: Database) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(database, run_id, metrics(100, {"x": 1.0}))
    cursor = _read(database, run_id).cursor
    rows.insert_records(database, run_id, metrics(50, {"x": 0.5}, seq=2))
    news = _read(database, run_id, since=cursor)
    assert _points(news) == {"x": {50: 0.5}}
    assert _latest(database, run_id) == {"x": (100, 1.0)}
    assert _read(database, run_id, since=news.cursor).series == []


def test_batches_without_metrics_do_not_increment_ingest(database: Database) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(database, run_id, rows.log("hello"))
    rows.insert_records(database, run_id)
    assert _read(database, run_id).cursor == 0


def test_runs_have_separate_points(database: Database) -> None:
    ids = list(rows.run_ids(database, rows.experiment(database)).values())
    rows.insert_records(database, ids[0], metrics(1, {"x": 1.0}))
    rows.insert_records(database, ids[1], metrics(1, {"x": 2.0}), metrics(2, {"z": 3.0}, seq=2))
    assert _points(_read(database, ids[0])) == {"x": {1: 1.0}}
    assert _points(_read(database, ids[1])) == {"x": {1: 2.0}, "z": {2: 3.0}}


@pytest.mark.parametrize("max_points", [1, 7, 64, 999])
def test_buckets_agree_with_numpy(database: Database, max_points: int) -> None:
    run_id = rows.one_run(database)
    steps = np.arange(5, 1005)
    values = np.random.default_rng(1).normal(size=1000)
    rows.insert_records(
        database, run_id, *(metrics(int(step), {"x": float(value)}) for step, value in zip(steps, values, strict=True))
    )
    (series,) = _read(database, run_id, max_points=max_points).series
    width = series.resolution
    assert width & (width - 1) == 0
    assert max_points / 2 - 2 < len(series.step) <= max_points
    assert series.low is not None
    assert series.high is not None
    for index, bucket in enumerate(np.unique(steps // width)):
        inside = steps // width == bucket
        assert series.step[index] == steps[inside].max()
        assert series.epoch[index] == pytest.approx(steps[inside].max() / 10)
        assert series.value[index] == pytest.approx(values[inside].mean())
        assert series.low[index] == values[inside].min()
        assert series.high[index] == values[inside].max()


def test_each_series_has_its_own_resolution(database: Database) -> None:
    run_id = rows.one_run(database)
    records = [metrics(step, {"fast": 1.0} | ({"slow": 1.0} if step % 100 == 0 else {})) for step in range(1, 1001)]
    rows.insert_records(database, run_id, *records)
    fast, slow = _read(database, run_id, max_points=100).series
    assert (fast.name, fast.resolution, fast.low is not None) == ("fast", 16, True)
    assert (slow.name, slow.resolution, slow.low) == ("slow", 1, None)
    assert slow.step == list(range(100, 1001, 100))


def test_incremental_reads_are_limited_too(database: Database) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(database, run_id, metrics(1, {"x": 0.0}))
    rows.insert_records(database, run_id, *(metrics(step, {"x": float(step)}) for step in range(1000, 2000)))
    (series,) = _read(database, run_id, since=1, max_points=50).series
    assert len(series.step) <= 50
    assert series.step[-1] == 1999
    assert series.low is not None
    assert series.low[0] == 1000


def _bucket(database: Database, *values: float) -> tuple[float, float, float]:
    run_id = rows.one_run(database)
    rows.insert_records(database, run_id, *(metrics(step, {"x": value}) for step, value in enumerate(values)))
    (series,) = _read(database, run_id, max_points=1).series
    assert series.low is not None
    assert series.high is not None
    return series.value[0], series.low[0], series.high[0]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, math.nan, 3.0], "(nan, 1.0, 3.0)"),
        ([1.0, math.inf], "(inf, 1.0, inf)"),
        ([1.0, -math.inf], "(-inf, -inf, 1.0)"),
        ([math.inf, -math.inf], "(nan, -inf, inf)"),
        ([math.nan, math.nan], "(nan, nan, nan)"),
        ([math.nan, math.inf], "(nan, inf, inf)"),
    ],
)
def test_bucket_shows_nonfinite_values(database: Database, values: list[float], expected: str) -> None:
    assert str(_bucket(database, *values)) == expected


def test_null_characters_in_names_are_escaped(database: Database) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(database, run_id, metrics(1, {"a\0b": 1.0}), rows.log("x\0y", 2))
    assert _points(_read(database, run_id)) == {"a\\x00b": {1: 1.0}}


@pytest.mark.parametrize(
    ("query", "path"),
    [
        ({"since": -1}, "since"),
        ({"max_points": 0}, "max_points"),
        ({"since": 2**60}, "since"),
        ({"since": "x"}, "since"),
        ({"name": "nope"}, "name"),
    ],
)
def test_invalid_queries_are_refused_with_their_path(
    database: Database, api: TestClient, query: dict[str, Any], path: str
) -> None:
    answer = api.get(f"/api/v1/runs/{rows.one_run(database)}/metrics", params=query)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["errors"][0]["path"].endswith(path)


def test_metrics_of_an_unknown_run_are_404(api: TestClient) -> None:
    for part in ("metrics", "logs", "events"):
        for run_id in ("nosuchrun", "no%00such"):
            answer = api.get(f"/api/v1/runs/{run_id}/{part}")
            assert answer.status_code == 404
            assert answer.json()["detail"].startswith("there is no run 'no")


def test_metric_name_with_a_null_character_is_refused(database: Database, api: TestClient) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(database, run_id, metrics(1, {"x": 1.0}))
    assert api.get(f"/api/v1/runs/{run_id}/metrics?names=y&names=x").json()["series"][0]["name"] == "x"
    assert api.get(f"/api/v1/runs/{run_id}/metrics?names=%00&names=x").json()["errors"][0]["path"] == "names"


def _lines(api: TestClient, run_id: str, **query: int) -> list[tuple[int, int, str]]:
    lines = api.get(f"/api/v1/runs/{run_id}/logs", params=query).json()["lines"]
    return [(line["number"], line["attempt"], line["message"]) for line in lines]


def test_log_lines_are_numbered_over_attempts(database: Database, api: TestClient) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(database, run_id, rows.log("a", 1, 1.0), metrics(1, {"x": 1.0}, seq=2), rows.log("b", 3, 2.0))
    rows.insert_records(database, run_id, rows.log("c", 4, 3.0))
    # The second attempt resumes from a checkpoint after "b" and repeats the journal up to it.
    rows.insert_records(
        database, run_id, rows.log("a", 1, 1.0), rows.log("b", 3, 2.0), rows.log("d", 4, 9.0), attempt=2
    )
    assert _lines(api, run_id) == [(1, 1, "a"), (2, 1, "b"), (3, 1, "c"), (4, 2, "d")]
    assert _lines(api, run_id, after=2) == [(3, 1, "c"), (4, 2, "d")]
    assert _lines(api, run_id, limit=2) == [(1, 1, "a"), (2, 1, "b")]
    assert _lines(api, run_id, tail=2) == [(3, 1, "c"), (4, 2, "d")]
    assert _lines(api, run_id, tail=3, after=3) == [(4, 2, "d")]
    assert _lines(api, run_id, after=4) == []


def test_one_attempt_may_log_the_same_line_twice(database: Database, api: TestClient) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(database, run_id, rows.log("again", 1, 5.0), rows.log("again", 2, 5.0))
    assert [message for _, _, message in _lines(api, run_id)] == ["again", "again"]


def test_log_lines_have_time_and_level(database: Database, api: TestClient) -> None:
    run_id = rows.one_run(database)
    rows.insert_records(database, run_id, rows.log("x" * 30_000, 1, 1_700_000_000.25), rows.log("y", 2, 1e300))
    first, second = api.get(f"/api/v1/runs/{run_id}/logs").json()["lines"]
    assert first["time"] == "2023-11-14T22:13:20.250000Z"
    assert first["level"] == "info"
    assert first["message"].endswith("… (cut)")
    assert second["time"].startswith("9999-12-31T23:59:59")


class TestSearch:
    """The search of a log of 600 lines, of which every hundredth is a warning."""

    @pytest.fixture
    def run_id(self, database: Database) -> str:
        run_id = rows.one_run(database)
        lines = [
            rows.log(f"100 % of Batch_{number}", number, 1e9 + number, "info" if number % 100 else "warning")
            for number in range(1, 601)
        ]
        rows.insert_records(database, run_id, *lines)
        return run_id

    @staticmethod
    def read(api: TestClient, run_id: str, **query: Any) -> tuple[list[int], int | None]:
        answer = api.get(f"/api/v1/runs/{run_id}/logs", params=query)
        assert answer.status_code == 200, answer.text
        return [line["number"] for line in answer.json()["lines"]], answer.json()["total"]

    def test_text_is_found_in_any_case(self, api: TestClient, run_id: str) -> None:
        assert self.read(api, run_id, search="BATCH_59", count=True)[0] == [59, *range(590, 600)]

    def test_signs_of_patterns_are_plain_text(self, api: TestClient, run_id: str) -> None:
        assert self.read(api, run_id, search="100 % of batch_7", limit=2)[0] == [7, 70]
        assert self.read(api, run_id, search="batch%7")[0] == []
        assert self.read(api, run_id, search="batch-7")[0] == []

    def test_levels_and_text_hold_together(self, api: TestClient, run_id: str) -> None:
        assert self.read(api, run_id, level="warning", count=True) == ([100, 200, 300, 400, 500, 600], 6)
        assert self.read(api, run_id, level=["warning", "error"], search="batch_5", count=True) == ([500], 1)

    def test_pages_lead_back_and_the_count_is_of_the_whole_log(self, api: TestClient, run_id: str) -> None:
        assert self.read(api, run_id, level="warning", tail=2, count=True) == ([500, 600], 6)
        assert self.read(api, run_id, level="warning", tail=2, before=500, count=True) == ([300, 400], 6)
        assert self.read(api, run_id, level="warning", tail=2, before=100, count=True) == ([], 6)

    def test_lines_are_counted_only_if_asked(self, api: TestClient, run_id: str) -> None:
        assert self.read(api, run_id, limit=1) == ([1], None)
        assert self.read(api, run_id, limit=1, count=True) == ([1], 600)

    @pytest.mark.parametrize(
        ("query", "path"),
        [
            ({"level": "loud"}, "level.0"),
            ({"before": 0}, "before"),
            ({"search": "x" * 201}, "search"),
            ({"search": "a\0b"}, "search"),
        ],
    )
    def test_bad_input_is_refused(self, api: TestClient, run_id: str, query: dict[str, Any], path: str) -> None:
        answer = api.get(f"/api/v1/runs/{run_id}/logs", params=query)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["path"].endswith(path)
